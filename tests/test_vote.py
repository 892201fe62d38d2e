"""Votes: what neighbours say, calibrated on the index itself, or why they say nothing."""

import json
import uuid
from pathlib import Path

import numpy as np
import pytest
from factories import PLANTED_FACTS, PLANTED_FIELDS, Run, near, planted
from hypothesis import given
from hypothesis import strategies as st

from cxrsearch.clinical.expression import Equals
from cxrsearch.errors import IndexUnavailable, InputError
from cxrsearch.imaging.places import Parts
from cxrsearch.imaging.radiograph import Radiograph
from cxrsearch.retrieval.own_patient import OwnPatient
from cxrsearch.retrieval.search import Hit, LeftOut, Query, QueryImage, Result
from cxrsearch.retrieval.warnings import warnings_about
from cxrsearch.statistics import Figure, difference, wilson
from cxrsearch.store.contract import Point
from cxrsearch.store.edge import EdgeStore
from cxrsearch.voting.calibration import Calibration, Kernel, likely
from cxrsearch.voting.fit import calibrate
from cxrsearch.voting.vote import Voter, ballot, count


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[EdgeStore, Calibration]:
    store = planted(tmp_path_factory.mktemp("planted") / "index")
    return store, calibrate(store, [])


def test_a_probability_is_what_was_planted(calibrated: tuple[EdgeStore, Calibration]) -> None:
    store, calibration = calibrated
    for cluster, value in ((0, "died"), (1, "survived")):
        vote = count(store, near(cluster, 77), PLANTED_FIELDS["outcome"], calibration)
        assert vote.abstains == ()
        assert vote.shares[0].value == value
        assert vote.shares[0].probability == pytest.approx(0.85, abs=0.1)
        assert vote.shares[0].low < 0.85 < vote.shares[0].high  # type: ignore[operator]
        assert sum(share.probability or 0 for share in vote.shares) == pytest.approx(1)
        assert {share.value: share.base for share in vote.shares} == pytest.approx(
            {"died": 0.5, "survived": 0.5}, abs=0.05
        )


def test_figures_are_those_of_patients_held_out(calibrated: tuple[EdgeStore, Calibration]) -> None:
    _, calibration = calibrated
    outcome, icu = calibration.fields["outcome"], calibration.fields["icu"]
    assert outcome.patients == (200, 200, 200)
    assert outcome.useful
    assert outcome.figures["Brier"].value == pytest.approx(2 * 0.85 * 0.15, abs=0.06)
    assert outcome.figures["ECE"].value < 0.08
    assert outcome.figures["coverage"].value >= 0.84
    # What has nothing to do with the picture is not sold as if it had.
    assert not icu.useful
    assert icu.figures["Brier"].value == pytest.approx(icu.figures["Brier of the base rate"].value, abs=0.03)


@pytest.mark.slow
def test_the_likely_values_hold_the_true_one_nine_times_of_ten(tmp_path: Path) -> None:
    """Split conformal prediction promises 90 % on average over draws; each draw's own coverage varies around that."""
    covered = []
    for seed in range(6):
        store = planted(tmp_path / str(seed), patients=450, purity=0.7, seed=seed)
        covered.append(calibrate(store, [], seed).fields["outcome"].figures["coverage"].value)
        store.close()
    assert np.mean(covered) >= 0.86


def test_the_same_seed_calibrates_the_same(calibrated: tuple[EdgeStore, Calibration]) -> None:
    store, calibration = calibrated
    assert calibrate(store, []) == calibration
    assert calibrate(store, [], seed=1) != calibration


def test_a_calibration_survives_being_stored(calibrated: tuple[EdgeStore, Calibration]) -> None:
    _, calibration = calibrated
    assert Calibration.from_json(json.loads(json.dumps(calibration.as_json()))) == calibration
    for broken in ({"format": 1}, {**calibration.as_json(), "novelty": "x"}, {**calibration.as_json(), "format": 99}):
        with pytest.raises(IndexUnavailable, match="calibration is damaged"):
            Calibration.from_json(broken)


def test_reasons_to_abstain(calibrated: tuple[EdgeStore, Calibration]) -> None:
    store, calibration = calibrated
    outcome = PLANTED_FIELDS["outcome"]
    far = count(store, near(9, 1), outcome, calibration)
    assert any("too far" in reason for reason in far.abstains)
    assert all(share.probability is None for share in far.shares)
    assert sum(share.patients for share in far.shares) == 20  # what was counted is still shown
    few = count(store, near(0, 1), outcome, calibration, others=Equals("patient", ("P0", "P2", "P4")))
    assert any("too few neighbours: 3 patients" in reason for reason in few.abstains)
    one_site = count(store, near(0, 1), outcome, calibration, others=Equals("site", ("Daegu",)))
    assert any("all neighbours are from one site (Daegu), which has 3" in reason for reason in one_site.abstains)
    wanted = count(store, near(0, 1), outcome, calibration, where=Equals("site", ("Daegu",)))
    assert wanted.abstains == ()  # the cohort is of one site because it was asked for
    assert "not calibrated" in count(store, near(0, 1), outcome, None).abstains[0]


def test_a_patient_has_one_voice(tmp_path: Path) -> None:
    store = EdgeStore.create(tmp_path / "index", PLANTED_FACTS)
    loud = [
        Point(str(uuid.UUID(int=n + 1)), {"patient": "LOUD", "outcome": "died"}, near(0, n, 0.01)) for n in range(30)
    ]
    others = [
        Point(str(uuid.UUID(int=n + 100)), {"patient": f"P{n}", "outcome": "survived"}, near(0, n + 100, 0.3))
        for n in range(6)
    ]
    store.upsert(loud + others)
    vote = count(store, near(0, 5, 0.01), PLANTED_FIELDS["outcome"], None)
    assert {share.value: share.patients for share in vote.shares} == {"died": 1, "survived": 6}
    store.close()


def test_a_rare_value_counts_by_how_much_more_often_it_is_here() -> None:
    """Three voters of ten for a value that one in a hundred has say more than three for one that half have."""
    sharp, tally = Kernel(reach=1.0, prior=1.0, sharpness=2.0), np.array([3.0, 7.0])
    rare, half = (sharp.probabilities(tally, np.array([base, 1 - base]))[0] for base in (0.01, 0.5))
    assert rare > half
    assert sharp.probabilities(np.zeros(2), np.array([0.01, 0.99]))[0] == pytest.approx(0.01)


@pytest.mark.parametrize(("share", "hits", "warned"), [(0.5, 10, True), (0.5, 4, False), (0.9, 10, False)])
def test_hits_of_one_site_are_warned_of_unless_that_is_chance(
    tmp_path: Path, share: float, hits: int, warned: bool
) -> None:
    """``share`` of 40 images are of the site of all hits. A picture of few pixels is warned of too."""
    store = EdgeStore.create(tmp_path / "index", PLANTED_FACTS)
    sites = ["Daegu" if n < 40 * share else "Milan" for n in range(40)]
    store.upsert(
        [
            Point(str(uuid.UUID(int=n + 1)), {"patient": f"P{n}", "site": site}, near(int(site == "Milan"), n))
            for n, site in enumerate(sites)
        ]
    )
    found = store.query(near(0, 77), hits)
    assert {hit.payload["site"] for hit in found} == {"Daegu"}
    image, vector = Radiograph(np.zeros((64, 64), dtype=np.float32), "", "png"), near(0, 77)
    places = vector[:, None, None]
    asked = QueryImage(Path("q.png"), image, image.pixels, vector, places, OwnPatient(), None)
    query = Query(asked, LeftOut(), vector, Parts(places))
    result = Result(query, [Hit(n, hit.score, hit.payload, hit.id) for n, hit in enumerate(found, start=1)])
    lines = warnings_about(result, store, None)
    assert any(f"all {hits} hits with a known site are of one: Daegu" in line for line in lines) is warned
    assert any("the query is only 64 pixels" in line for line in lines)
    store.close()


voters = st.lists(
    st.builds(Voter, st.floats(-1, 1), st.lists(st.sampled_from("abc"), min_size=1, unique=True).map(tuple)),
    max_size=20,
)
kernels = st.builds(Kernel, st.sampled_from([0.01, 0.5, float("inf")]), st.floats(0.1, 20), st.floats(0.5, 2))


@given(voters, kernels)
def test_probabilities_add_up_whoever_votes(asked: list[Voter], kernel: Kernel) -> None:
    scores, says = ballot(asked, "abc")
    assert np.allclose(says.sum(axis=1), 1)
    said = kernel.probabilities(kernel.weights(scores) @ says, np.array([0.7, 0.2, 0.1]))
    assert said.sum() == pytest.approx(1)
    assert said.min() >= 0
    assert (np.diff(kernel.weights(np.sort(scores))) >= 0).all()  # the nearer of two never weighs less
    chosen = likely(said, 0.3)
    assert chosen[said.argmax()]
    assert chosen[said >= 0.3].all()
    assert not chosen[(said < 0.3) & (said < said.max())].any()


@given(st.integers(0, 300), st.integers(1, 300), st.integers(0, 300), st.integers(1, 300))
def test_intervals_hold_what_they_are_of(a: int, of_a: int, b: int, of_b: int) -> None:
    a, b = min(a, of_a), min(b, of_b)
    low, high = wilson(a, of_a)
    assert 0 <= low <= a / of_a + 1e-9
    assert a / of_a - 1e-9 <= high <= 1
    below, above = difference(a, of_a, b, of_b)
    assert -1 - 1e-9 <= below <= a / of_a - b / of_b + 1e-9
    assert a / of_a - b / of_b - 1e-9 <= above <= 1 + 1e-9


def test_intervals_of_the_literature() -> None:
    """Newcombe 1998: 81 of 263 by Wilson (Table I), and 56/70 against 48/80 (Table II, a, method 10)."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert difference(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=1e-4)


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cxrsearch.cli.app import run
    from indexer.phantoms import write_cohort

    folder = tmp_path_factory.mktemp("hundred")
    toml = write_cohort(folder / "set", patients=100, size=96)
    assert run(["index", str(toml), "--index", str(folder / "index")]) == 0
    return folder


def test_a_figure_is_written_with_its_interval_in_one_way() -> None:
    assert Figure(0.8734, 0.851, 0.8936).written() == "0.873 (0.851 to 0.894)"
    assert Figure(-0.1, -0.25, 0.05).written("+.0%") == "-10% (-25% to +5%)"


def test_calibrate_then_vote_then_info(cxrsearch: Run, hundred: Path) -> None:
    index, image = hundred / "index", next((hundred / "set").rglob("*.dcm"))
    before = json.loads(cxrsearch("search", image, "--index", index, "--vote", "finding", "--format", "json").out)
    assert "not calibrated" in before[0]["vote"]["abstains"][0]
    assert "not calibrated" in cxrsearch("info", "--index", index).out
    ran = cxrsearch("calibrate", "--index", index)
    assert ran.code == 0, ran.err
    assert "finding" in ran.out
    assert "outcome" in ran.out
    (after,) = json.loads(cxrsearch("search", image, "--index", index, "--vote", "finding", "--format", "json").out)
    vote = after["vote"]
    assert vote["abstains"] == []
    assert vote["coverage"] == 0.9
    assert sum(share["probability"] for share in vote["shares"]) == pytest.approx(1)
    assert sum(share["base"] for share in vote["shares"]) == pytest.approx(1)
    table = cxrsearch("search", image, "--index", index, "--vote", "finding").out
    assert "in the cohort" in table
    assert "likely at 90%" in table
    assert "on 34 patients of the index held out" in table or "on 33 patients of the index held out" in table
    told = cxrsearch("info", "--index", index).out
    assert "95 % of the index's patients have another" in told
    assert "Brier of the base rate" in told


def test_a_calibration_moves_with_the_index(cxrsearch: Run, hundred: Path, tmp_path: Path) -> None:
    assert cxrsearch("calibrate", "--index", hundred / "index").code == 0
    assert cxrsearch("backup", hundred / "index", tmp_path / "file").code == 0
    assert cxrsearch("restore", tmp_path / "file", tmp_path / "again").code == 0
    facts = [
        json.loads((folder / "index.json").read_text("utf-8")) for folder in (hundred / "index", tmp_path / "again")
    ]
    assert facts[0]["calibration"] == facts[1]["calibration"] is not None


def test_too_few_patients_to_calibrate(cxrsearch: Run, index: Path, tmp_path: Path) -> None:
    ran = cxrsearch("calibrate", "--index", index)
    assert (ran.code, "only 24 patients are in this index; 60 are needed" in ran.err) == (4, True)
    store = planted(tmp_path / "few", patients=59)
    with pytest.raises(InputError, match="only 59 patients"):
        calibrate(store, [])
    store.close()


def test_a_number_is_not_voted_on(cxrsearch: Run, cohort: Path, index: Path) -> None:
    image = next(cohort.parent.rglob("*.dcm"))
    ran = cxrsearch("search", image, "--index", index, "--vote", "age")
    assert (ran.code, "--vote age: is of type integer" in ran.err) == (2, True)


def test_a_field_the_encoder_learnt_is_said_to_be(tmp_path: Path) -> None:
    store = planted(tmp_path / "index", patients=90)
    assert calibrate(store, ["set", "other"]).learnt_from == ("set",)
    store.close()
