"""What notes affirm and deny: ``mentions`` finds what is there, ``contains`` warns where it finds what is not."""

import json
from pathlib import Path

import numpy as np
import pytest
from factories import Run, points
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cxrsearch.clinical.expression import words
from indexer import negation

NOTES = [
    "No pleural effusion. Heart size normal.",
    "Right pleural effusion, no pneumothorax.",
    "No focal consolidation, effusion or pneumothorax.",
    "Without effusion.",
    "",
]
MAPPING = """
name = "notes"
images = { table = "facts.csv", path = "{file}" }
fields.notes = { column = "notes", type = "text", language = "en" }
privacy.free_text = true
"""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(len(NOTES)):
        picture = np.random.default_rng(number).integers(0, 255, (160, 160), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.png")
    rows = [f'{number}.png,"{note}"' for number, note in enumerate(NOTES)]
    (folder / "facts.csv").write_text("\n".join(["file,notes", *rows]), "utf-8")
    (folder / "set.toml").write_text(MAPPING, "utf-8")
    return folder / "set.toml"


def found(cxrsearch: Run, index: Path, where: str) -> list[str]:
    ran = cxrsearch("cohort", "--index", index, "--where", where, "--format", "json")
    assert ran.code == 0, ran.err
    return sorted(row["path"] for row in json.loads(ran.out))


def test_mentions_finds_what_a_note_affirms(cxrsearch: Run, dataset: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    assert cxrsearch("index", dataset, "--index", index).code == 0
    assert found(cxrsearch, index, 'notes mentions "effusion"') == ["1.png"]
    assert found(cxrsearch, index, 'not notes mentions "effusion"') == ["0.png", "2.png", "3.png", "4.png"]
    assert found(cxrsearch, index, 'notes mentions "heart"') == ["0.png"]
    contains = cxrsearch("cohort", "--index", index, "--where", 'notes contains "effusion"')
    assert "3 of 4 images whose notes contains" in contains.err
    assert 'notes mentions "effusion" leaves them out' in contains.err
    assert "_affirmed" not in contains.out
    search = cxrsearch(
        "search", dataset.parent / "4.png", "--index", index, "--where", 'notes contains "effusion"', "--format", "json"
    )
    assert any("have it denied there" in warning for warning in json.loads(search.out)[0]["warnings"])


DENIED = """
No evidence of effusion. | NO EFFUSION. | Negative for effusion. | Patient denies effusion. | CT to rule out effusion.
Effusion was ruled out. | The effusion has resolved. | Complete resolution of the left effusion. | Free of effusion.
There is no longer an effusion. | Effusion is no longer seen. | Nodule, no-effusion. | Effusion not recognizable.
No consolidation, effusion or pneumothorax. | Disappearance of the effusion.
"""
AFFIRMED = """
No change in the effusion. | No interval change in the right effusion. | Unchanged effusion. | No fever. Effusion.
Effusion has not resolved. | An effusion cannot be excluded. | Cannot exclude effusion. | Not without effusion.
Not only effusion but also pneumothorax. | No doubt that there is an effusion. | No improvement of the effusion.
No evidence of resolution of the effusion. | Improvement of the effusion. | High resolution CT: effusion.
Partial resolution of the effusion. | No nodule but effusion.
"""


def test_what_a_note_denies_is_not_affirmed_and_what_it_does_not_deny_is() -> None:
    for notes, expected in ((DENIED, False), (AFFIRMED, True)):
        for note in notes.strip().replace("\n", "|").split("|"):
            assert ("effusion" in words(str(negation.affirmed(note)))) is expected, note


def test_where_denials_were_not_read_mentions_says_so(
    cxrsearch: Run, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "index"
    with monkeypatch.context() as without:
        without.setattr(negation, "installed", lambda: False)
        ran = cxrsearch("index", dataset, "--index", index)
    assert "pip install 'cxrsearch[notes]'" in ran.err
    refused = cxrsearch("cohort", "--index", index, "--where", 'notes mentions "effusion"')
    assert (refused.code, "of 4 images it is not known what notes denies" in refused.err) == (2, True)
    again = cxrsearch("index", dataset, "--index", index)  # now it is installed
    assert again.out.startswith("0 indexed, 5 updated")
    assert found(cxrsearch, index, 'notes mentions "effusion"') == ["1.png"]


def test_mentions_is_for_text(cxrsearch: Run, dataset: Path, tmp_path: Path) -> None:
    assert cxrsearch("index", dataset, "--index", tmp_path / "index").code == 0
    ran = cxrsearch("cohort", "--index", tmp_path / "index", "--where", 'path mentions "effusion"')
    assert (ran.code, "mentions is for text fields" in ran.err) == (2, True)


def test_what_is_affirmed_goes_with_the_image(cxrsearch: Run, dataset: Path, tmp_path: Path) -> None:
    assert cxrsearch("index", dataset, "--index", tmp_path / "index").code == 0
    payloads = [point.payload for point in points(tmp_path / "index").values()]
    assert {str(p.get("_affirmed_notes")) for p in payloads if p["path"] == "3.png"} == {"Without"}
    assert cxrsearch("copy", tmp_path / "index", tmp_path / "copy").code == 0
    assert found(cxrsearch, tmp_path / "copy", 'notes mentions "effusion"') == ["1.png"]


@settings(max_examples=60, deadline=None)
@example("0T")  # which are two of spaCy's words
@example("cannot exclude a 5mm nodule")
@given(st.text(max_size=200))
def test_only_words_of_the_note_are_affirmed(note: str) -> None:
    assert set(words(str(negation.affirmed(note)))) <= set(words(note))
