"""Why a hit is a hit: maps that add up to the score, shares, regions, examples."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import Run, image_of
from hypothesis import given
from hypothesis import strategies as st

from cxrsearch.imaging.places import shares
from cxrsearch.imaging.radiograph import Radiograph
from cxrsearch.imaging.regions import INSIDE_BORDER, WHOLE, Region, cover
from cxrsearch.retrieval.explanation import Explanation, border_warnings


def search(cxrsearch: Run, *arguments: object) -> dict[str, Any]:
    ran = cxrsearch("search", *arguments, "--format", "json")
    assert ran.code == 0, ran.err
    (result,) = json.loads(ran.out)
    return dict(result)


@pytest.mark.parametrize("region", [[], ["--region", "0,0.2,0.5,0.9"]])
def test_both_maps_of_every_hit_add_up_to_its_score(
    cxrsearch: Run, cohort: Path, index: Path, region: list[str]
) -> None:
    found = search(cxrsearch, image_of(cohort), "--index", index, "-k", 12, "--explain", *region)
    assert len(found["hits"]) == 12
    for hit in found["hits"]:
        why = hit["explanation"]
        assert np.sum(why["query_map"]) == pytest.approx(hit["score"], abs=2e-4)
        assert np.sum(why["hit_map"]) == pytest.approx(hit["score"], abs=2e-4)
        for side in ("query_shares", "hit_shares"):
            assert sum(why[side].values()) == pytest.approx(1.0, abs=1e-4)
        assert why["from_original"] is not bool(region)  # a region search looks at thumbnails


def test_a_map_of_a_thumbnail_adds_up_to_nearly_the_score(cxrsearch: Run, tmp_path: Path) -> None:
    from indexer.phantoms import write_cohort

    toml, index = write_cohort(tmp_path / "set", patients=6, size=320), tmp_path / "index"
    assert cxrsearch("index", toml, "--index", index).code == 0
    query = next(toml.parent.rglob("*.dcm")).rename(tmp_path / "query.dcm")
    for original in toml.parent.rglob("*.dcm"):
        original.unlink()
    found = search(cxrsearch, query, "--index", index, "--explain")
    assert len(found["hits"]) >= 5
    for hit in found["hits"]:
        assert hit["explanation"]["from_original"] is False
        assert np.sum(hit["explanation"]["query_map"]) == pytest.approx(hit["score"], abs=0.08)


def test_a_region_outside_a_region_has_no_part_in_the_score(cxrsearch: Run, cohort: Path, index: Path) -> None:
    found = search(cxrsearch, image_of(cohort), "--index", index, "-k", 3, "--explain", "--region", "0,0,0.4,1")
    for hit in found["hits"]:
        for side in ("query_map", "hit_map"):
            places = np.array(hit["explanation"][side])
            outside = int(np.ceil(0.4 * places.shape[1]))
            assert np.abs(places[:, outside:]).max() < 1e-6
            assert np.abs(places[:, :outside]).max() > 1e-3


def test_a_region_finds_what_is_like_that_region(cxrsearch: Run, tmp_path: Path) -> None:
    """A clear half beside one full of opacities: by the left half more clear phantoms are found than by the right."""
    from PIL import Image

    from indexer.phantoms import draw

    folder = tmp_path / "set"
    folder.mkdir()
    pictures = [(draw(("No Finding", "COVID-19")[n % 2], 50 + n, size=320) * 255).astype("uint8") for n in range(12)]
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number:02d}.png")
    (folder / "set.toml").write_text('name = "set"\n[images]\nglob = "*.png"\n', "utf-8")
    assert cxrsearch("index", folder / "set.toml", "--index", tmp_path / "index").code == 0
    middle = pictures[0].shape[1] // 2
    Image.fromarray(np.hstack([pictures[2][:, :middle], pictures[5][:, middle:]])).save(tmp_path / "both.png")
    alike = {}
    for region in ("0,0,0.5,1", "0.5,0,1,1"):
        found = search(cxrsearch, tmp_path / "both.png", "--index", tmp_path / "index", "--region", region)
        alike[region] = sum(int(hit["path"][:2]) % 2 for hit in found["hits"][:5])
    assert alike["0,0,0.5,1"] < alike["0.5,0,1,1"]


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ("0,0,1", "write it as x0,y0,x1,y1"),
        ("a,b,c,d", "write it as x0,y0,x1,y1"),
        ("0,0,2,1", "from 0 (left, top) to 1"),
        ("0.5,0,0.5,1", "right of x0"),
        ("nan,0,1,1", "from 0 (left, top) to 1"),
    ],
)
def test_a_region_that_is_none(cxrsearch: Run, cohort: Path, index: Path, region: str, message: str) -> None:
    ran = cxrsearch("search", image_of(cohort), "--index", index, "--region", region)
    assert (ran.code, message in ran.err) == (2, True)


def test_examples_move_the_answer_and_are_left_out_themselves(cxrsearch: Run, cohort: Path, index: Path) -> None:
    query, other = image_of(cohort), image_of(cohort, 20)
    plain = search(cxrsearch, query, "--index", index, "-k", 20)
    itself = search(cxrsearch, query, "--index", index, "-k", 20, "--like", query)
    assert [hit["path"] for hit in itself["hits"]] == [hit["path"] for hit in plain["hits"]]
    assert [hit["score"] for hit in itself["hits"]] == pytest.approx([h["score"] for h in plain["hits"]], abs=1e-4)
    liked = search(cxrsearch, query, "--index", index, "-k", 30, "--like", other)
    disliked = search(cxrsearch, query, "--index", index, "-k", 30, "--unlike", other)
    assert len(liked["query"]["left_out"]) == 2
    owners = {hit["patient"] for hit in liked["hits"] + disliked["hits"]}
    assert not owners & set(liked["query"]["left_out"])
    assert [h["path"] for h in liked["hits"]] != [h["path"] for h in disliked["hits"]]
    for found in (liked, disliked):
        assert all(-1.0001 <= hit["score"] <= 1.0001 for hit in found["hits"])


def test_examples_and_a_region_do_not_go_together(cxrsearch: Run, cohort: Path, index: Path) -> None:
    ran = cxrsearch(
        "search", image_of(cohort), "--index", index, "--region", "0,0,1,0.5", "--like", image_of(cohort, 3)
    )
    assert (ran.code, "--region goes with one image" in ran.err) == (2, True)


def test_an_example_that_cannot_be_read_is_named(cxrsearch: Run, cohort: Path, index: Path, tmp_path: Path) -> None:
    ran = cxrsearch("search", image_of(cohort), "--index", index, "--like", tmp_path / "nowhere.png")
    assert (ran.code, "nowhere.png: does not exist" in ran.err) == (4, True)


def test_a_hit_that_is_mostly_border_is_warned_of() -> None:
    square = Radiograph(np.zeros((100, 100), dtype=np.float32), "", "png")
    ring = np.ones((16, 16), dtype=np.float32)
    ring[1:-1, 1:-1] = 0
    middle = 1 - ring
    assert shares(ring, square).border == pytest.approx(1.0)  # type: ignore[union-attr]
    assert shares(middle, square).border == pytest.approx(0.0, abs=1e-6)  # type: ignore[union-attr]
    assert shares(-ring, square) is None
    bordered = Explanation(ring, middle, shares(ring, square), shares(middle, square), True)
    inner = Explanation(middle, middle, shares(middle, square), shares(middle, square), True)
    (line,) = border_warnings([inner, None, bordered])
    assert line.startswith("hit 3: 100% of this score comes from the image's border")


parts = st.floats(0, 1, allow_nan=False)
sides = st.integers(1, 3000)


@given(sides, sides, parts, st.integers(1, 12))
def test_parts_of_a_picture_add_up_to_it(width: int, height: int, cut: float, grid: int) -> None:
    whole = cover(WHOLE, width, height, (grid, grid))
    assert whole.min() >= 0
    assert whole.max() <= 1 + 1e-6
    left, right = (cover(Region(a, 0, b, 1), width, height, (grid, grid)) for a, b in ((0, cut), (cut, 1)))
    assert np.allclose(left + right, whole, atol=1e-5)
    inside = cover(INSIDE_BORDER, width, height, (grid, grid)).sum()
    assert inside / whole.sum() == pytest.approx((14 / 16) ** 2, rel=1e-4)
