"""Queries that are no chest radiograph, or like nothing in the archive; and how near is near."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from factories import Run, image_of
from PIL import Image

from cxrsearch.voting.nearness import Nearness
from indexer.phantoms import draw, write_dicom


@pytest.mark.parametrize(("keyword", "value"), [("Modality", "CT"), ("Modality", "MG"), ("BodyPartExamined", "HAND")])
def test_a_query_of_another_kind_is_refused_unless_insisted_on(
    cxrsearch: Run, index: Path, tmp_path: Path, keyword: str, value: str
) -> None:
    file = tmp_path / "query.dcm"
    write_dicom(file, draw("Pneumonia", 1))
    dataset: Any = pydicom.dcmread(file)
    setattr(dataset, keyword, value)
    dataset.save_as(file)
    for command in (("search", file), ("cohort", "--similar-to", file)):
        ran = cxrsearch(*command, "--index", index)
        assert (ran.code, "--any-body-part searches with it all the same" in ran.err) == (4, True)
        assert cxrsearch(*command, "--index", index, "--any-body-part").code == 0


def test_a_far_query_says_so_first_and_gets_no_vote(cxrsearch: Run, index: Path, tmp_path: Path) -> None:
    file = tmp_path / "noise.png"
    noise = np.random.default_rng(0).integers(0, 255, (100, 300), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    ran = cxrsearch("search", file, "--index", index, "--vote", "outcome")
    assert ran.code == 0
    assert ran.out.startswith("warning: this image is far from everything in the index")
    assert ran.out.count("far from everything") == 2  # and as the reason of the vote
    assert "no probability: this image is far" in ran.out
    assert "weight" not in ran.out
    assert "the query is only 100 pixels" in ran.out
    (result,) = json.loads(cxrsearch("search", file, "--index", index, "--vote", "outcome", "--format", "json").out)
    assert result["standing"]["is_far"] is True
    assert result["vote"]["shares"] == []


def test_a_score_is_ranked_among_the_archives_own(cxrsearch: Run, cohort: Path, index: Path) -> None:
    """Learnt at the end of index, of nearest other patients; a better score never ranks lower."""
    (result,) = json.loads(cxrsearch("search", image_of(cohort), "--index", index, "--format", "json", "-k", 30).out)
    assert result["standing"]["is_far"] is False
    ranks = [hit["nearer_than"] for hit in result["hits"]]
    assert ranks == sorted(ranks, reverse=True)
    assert 0 <= ranks[-1] < ranks[0] <= 1
    facts = json.loads((index / "index.json").read_text("utf-8"))["nearness"]
    assert facts["sampled"] == facts["images"] == 32
    assert "nearer than" in cxrsearch("search", image_of(cohort), "--index", index).out
    (same,) = json.loads(
        cxrsearch("search", image_of(cohort), "--index", index, "--format", "json", "--same-patient", "-k", 1).out
    )
    assert same["hits"][0]["nearer_than"] == 1


@pytest.mark.parametrize("option", ["--region", "--like", "--unlike"])
def test_a_vote_on_less_or_more_than_the_whole_image_abstains(
    cxrsearch: Run, cohort: Path, index: Path, option: str
) -> None:
    value = "0,0,0.5,1" if option == "--region" else image_of(cohort, 5)
    ran = cxrsearch(
        "search", image_of(cohort), option, value, "--index", index, "--vote", "outcome", "--format", "json"
    )
    (result,) = json.loads(ran.out)
    assert any("not the whole image" in reason for reason in result["vote"]["abstains"])
    assert all(share["probability"] is None for share in result["vote"]["shares"])
    assert "nearer_than" not in result["hits"][0]


def test_a_score_that_is_one_of_the_archives_own_pairs_has_one_rank_on_every_engine() -> None:
    """Engines add up in their own order, and each image of two that are nearest to each other gives the pair again."""
    percentiles = (*np.linspace(0.1, 0.49, 40), *np.full(21, 0.5), *np.linspace(0.51, 0.9, 40))
    nearness = Nearness("2026-11-30", 100, 100, tuple(map(float, percentiles)))
    assert {nearness.rank(score) for score in (0.4999995, 0.5, 0.5000005)} == {0.4}
    assert (nearness.rank(0.0), nearness.rank(0.505), nearness.rank(1.0)) == (0.0, 0.61, 1.0)
