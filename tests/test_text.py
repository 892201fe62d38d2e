"""Searching by a text, with the text encoder of an imported model; no torch in the process that searches."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from factories import Run, image_of, points
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import cxrsearch as package
from cxrsearch.errors import UsageError
from cxrsearch.text_encoder import encode_text
from cxrsearch.tokenizer import MERGES, Cleaning, TextFormat, load_tokenizer
from trainer.importing.folder import import_model

VISION = {"image_size": 64, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
WORDS = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}


def saved(folder: Path, text: dict[str, Any]) -> Any:
    """An open_clip model of random weights, saved as its own library saves one."""
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    config = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": text}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}), "utf-8")
    made = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False).eval()
    save_file(made.state_dict(), folder / "open_clip_model.safetensors")
    return made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of an imported open_clip model, and the model."""
    folder = tmp_path_factory.mktemp("clip")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXRSEARCH_MODELS", str(folder / "models"))
        made = saved(folder / "clip", WORDS)
        imported = import_model(f"local-dir:{folder / 'clip'}", "tiny")
    assert imported.text_agreement is not None
    assert imported.text_agreement >= 0.9999
    return imported.folder, made


@pytest.fixture(scope="module")
def clip_index(model: tuple[Path, Any], cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cxrsearch.cli.app import run

    index = tmp_path_factory.mktemp("texts") / "index"
    assert run(["index", str(cohort), "--index", str(index), "--model", str(model[0]), "--workers", "1"]) == 0
    return index


def expected_vector(model: Any, tokens: Any) -> Any:
    with torch.inference_mode():
        return torch.nn.functional.normalize(model.encode_text(tokens), dim=1)[0].numpy()


SIMPLE = open_clip.SimpleTokenizer(context_length=16)
MERGES_FILE = "".join(f"{first} {second}\n" for first, second in SIMPLE.bpe_ranks).encode()
BOTH = {
    one: (
        open_clip.SimpleTokenizer(context_length=16, clean=one),
        load_tokenizer(TextFormat(16, MERGES, one), MERGES_FILE),
    )
    for one in Cleaning
}
PIECES = st.sampled_from(["<end_of_text>", "<START_OF_TEXT>", "don't", "2.5cm", "&lt;b&gt;", "é", "naïve", "  ", "\n"])


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(max_size=12) | PIECES, max_size=6).map(" ".join), st.sampled_from(Cleaning))
def test_tokens_are_those_of_open_clip(text: str, cleaning: Cleaning) -> None:
    theirs, ours = BOTH[cleaning]
    found = ours(text)
    assert found.numbers == theirs(text)[0].tolist()
    assert found.length == len(theirs.encode(text)) + 2


def test_a_text_finds_the_nearest_images(
    cxrsearch: Run, model: tuple[Path, Any], clip_index: Path, tmp_path: Path
) -> None:
    folder, network = model
    text = "=bilateral <b>consolidation</b>\u202e [red]\x1b"
    report = tmp_path / "page.html"
    options = ["--index", clip_index, "--model", folder, "--text", text]
    ran = cxrsearch("search", *options, "-k", 3, "--format", "json", "--report", report)
    assert ran.code == 0, ran.err
    (found,) = json.loads(ran.out)
    seen = "=bilateral <b>consolidation</b> [red]"
    assert found["query"] == {"text": seen}
    vectors = {id: point.vector for id, point in points(clip_index).items()}
    wanted = expected_vector(network, SIMPLE(seen))
    scores = sorted((float(np.asarray(vector) @ wanted) for vector in vectors.values()), reverse=True)
    assert [hit["score"] for hit in found["hits"]] == pytest.approx(scores[:3], abs=1e-4)
    assert found["standing"] == {"nearest": None, "novelty": None, "is_far": False}
    assert "scores of a text" in " ".join(found["warnings"])
    page = report.read_text("utf-8")
    assert "&lt;b&gt;consolidation" in page
    assert "<b>consolidation" not in page
    assert cxrsearch("search", *options, "--where", "age < 0").code == 0
    assert seen in cxrsearch("search", *options, "-k", 1).out
    assert f"'{seen}" in cxrsearch("search", *options, "-k", 1, "--format", "csv").out  # no formula


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--text", ""), "is empty"),
        (("--text", "\x07\u200b"), "is empty"),
        (("--text", "a" * 4001), "at most 4000"),
        (("--text", "x", "--explain"), "places of an image"),
        (("--text", "x", "--region", "0,0,1,1"), "places of an image"),
        (("--text", "x", "--vote", "outcome"), "images as queries"),
        (("--text", "x", "--like", "a.png"), "image to search with"),
        (("--text", "x", "--same-patient"), "image to search with"),
        (("--text", "x", "--dataset", "phantoms"), "goes with IMAGE"),
        (("--text", "x", "a.png"), "one of the two"),
        ((), "one of the two"),
    ],
)
def test_what_cannot_be_asked_of_a_text_is_a_sentence(
    cxrsearch: Run, model: tuple[Path, Any], clip_index: Path, options: tuple[str, ...], message: str
) -> None:
    ran = cxrsearch("search", *options, "--index", clip_index, "--model", model[0])
    assert ran.code == 2
    assert message in " ".join(ran.err.replace("│", " ").split())


def test_a_model_without_text_says_what_to_do(cxrsearch: Run, index: Path) -> None:
    ran = cxrsearch("search", "--text", "consolidation", "--index", index)
    assert ran.code == 2
    assert "model cxr-1 has no text encoder" in ran.err
    assert "models import" in ran.err


def test_texts_in_python_and_tokens_that_are_not_read(model: tuple[Path, Any], clip_index: Path) -> None:
    with package.open(clip_index, model=model[0]) as archive:
        hits = archive.search(text="effusion " * 20, k=2)
        assert (len(hits), hits.query) == (2, "effusion " * 19 + "effusion")
        assert hits.warnings[0] == "the model reads 16 tokens: the last 26 of 42 were not read"
        assert "query: effusion" in hits._repr_html_()
        with pytest.raises(UsageError, match="vote"):
            hits.vote("outcome")
        with pytest.raises(UsageError, match="one of the two"):
            archive.search("a.png", text="x")


def test_a_text_needs_no_torch(model: tuple[Path, Any]) -> None:
    code = f"""
import sys
from pathlib import Path
from cxrsearch.text_encoder import work
list(work(Path({str(model[0])!r}))("consolidation"))
print([name for name in ("torch", "open_clip", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_text_encoder_that_is_another_is_refused(
    cxrsearch: Run, model: tuple[Path, Any], clip_index: Path, tmp_path: Path
) -> None:
    import shutil

    folder = Path(shutil.copytree(model[0], tmp_path / "model"))
    with (folder / "merges.txt").open("a") as file:
        file.write("a b\n")
    ran = cxrsearch("search", "--text", "x", "--index", clip_index, "--model", folder)
    assert (ran.code, "wrong sha256" in ran.err) == (4, True)
    (folder / "merges.txt").unlink()
    ran = cxrsearch("search", "--text", "x", "--index", clip_index, "--model", folder)
    assert (ran.code, "missing" in ran.err) == (4, True)


def test_the_tokenizer_of_a_hugging_face_tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As BiomedCLIP has one: all of it in the folder, no network."""
    from transformers import BertConfig, BertTokenizerFast

    monkeypatch.setenv("CXRSEARCH_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "bio"
    folder.mkdir()
    own = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "bilateral", "consolid", "##ation", "no", "nodule", "2", "."]
    (folder / "vocab.txt").write_text("\n".join(own) + "\n", "utf-8")
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    BertConfig(vocab_size=len(own), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
               max_position_embeddings=32).save_pretrained(folder)  # fmt: skip
    text = {
        "hf_model_name": str(folder),
        "hf_tokenizer_name": str(folder),
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 12,
    }
    network = saved(folder, text)
    # The hub's own name stands in the settings of a folder that was brought by hand.
    settings_file = folder / "open_clip_config.json"
    config = json.loads(settings_file.read_text("utf-8"))
    config["model_cfg"]["text_cfg"]["hf_model_name"] = "nobody/nowhere"
    settings_file.write_text(json.dumps(config), "utf-8")
    imported = import_model(f"local-dir:{folder}", "bio")
    assert imported.without_text == ""
    assert imported.text_agreement is not None
    assert imported.text_agreement >= 0.9999
    theirs = open_clip.get_tokenizer(f"local-dir:{folder}")
    for words in ("Bilateral consolidation", "no nodule 2.5 " * 9):
        found = encode_text(imported.folder, words)
        assert found.embedding @ expected_vector(network, theirs(words)) >= 0.9999
    assert os.listdir(imported.folder).count("tokenizer.json") == 1


def test_an_image_is_still_searched_by(cxrsearch: Run, model: tuple[Path, Any], clip_index: Path, cohort: Path) -> None:
    ran = cxrsearch("search", image_of(cohort), "--index", clip_index, "--model", model[0], "-k", 2)
    assert ran.code == 0, ran.err
