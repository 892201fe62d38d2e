"""A large index gets a graph when a bulk job ends, knows what it misses, and is exact wherever that is not enough."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import Run, image_of
from qdrant_client import models
from qdrant_loopback import loopback

from cxrsearch.clinical.expression import And, Compare, Equals, Expression, Missing, Not, Or
from cxrsearch.clinical.fields import Field, FieldType
from cxrsearch.errors import IndexUnavailable
from cxrsearch.store import graph, new_store, open_store, problems, recall, shard
from cxrsearch.store.contract import DatasetFacts, IndexFacts, Point, VectorStore
from cxrsearch.store.edge import EdgeStore
from cxrsearch.store.graph import EXACT, FARTHEST, Effort, Graph
from cxrsearch.store.server import ServerStore

D = 16
FACTS = IndexFacts(
    "model", "f" * 64, D, {"site": Field("site", FieldType.KEYWORD)}, {"set": DatasetFacts("hospital", "")}
)
LARGE = 1_000  # points
MEASURED = Graph("2026-11-25", 1200, 200, Effort(128), {"10 of all": 0.9996, "10 of few": 0.9912}, 1.1, 29.0)


@pytest.fixture(autouse=True)
def _small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand points count as many, and a graph as fast, which over so few it need not be."""
    monkeypatch.setattr(graph, "EXACT_BELOW_KB", LARGE * D * 4 / 1024)
    monkeypatch.setattr(recall, "FASTER", 1e9)
    monkeypatch.setattr(recall, "SAMPLED", 40)


def some(first: int, count: int, alike: bool = False) -> list[Point]:
    """Points of few true dimensions, half of them of one site; or all of one place."""
    rng = np.random.default_rng(first)
    axes = np.random.default_rng(7).normal(size=(4, D))
    vectors = np.ones((count, D)) if alike else rng.normal(size=(count, 4)) @ axes
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return [
        Point(
            str(uuid.UUID(int=n + 1)),
            {"site": "ab"[n % 2], "dataset": "set", "patient": "P", "image_sha256": f"{n:064x}"},
            vectors[n - first],
        )
        for n in range(first, first + count)
    ]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EdgeStore]:
    made = EdgeStore.create(tmp_path / "index", FACTS)
    yield made
    made.close()


def builds(store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Fills as the store is asked to put its files in order: whether with a graph."""
    asked: list[bool] = []
    optimise = store.optimise
    monkeypatch.setattr(store, "optimise", lambda graph=False: (asked.append(graph), optimise(graph)))
    return asked


def test_a_graph_is_built_once_and_measured_on_the_index_itself(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = builds(store, monkeypatch)
    store.upsert(some(0, LARGE - 1))
    recall.settle(store)
    assert (store.facts.graph, store.in_graph(), asked) == (None, 0, [False])
    store.upsert(some(LARGE - 1, 1001))
    recall.settle(store)
    found = store.facts.graph
    assert found is not None
    assert (found.images, found.sampled, store.in_graph()) == (2000, recall.SAMPLED, 2000)
    assert set(found.recalls) == {"10 of all", "200 of all", "10 of half"}  # no fact is of few
    assert found.recall >= recall.ENOUGH
    assert found.effort.breadth in recall.BREADTHS
    assert asked == [False, True]
    for step in range(4):  # a little more each time: no new graph, and the new points are found all the same
        new = some(2000 + 50 * step, 50)
        store.upsert(new)
        recall.settle(store)
        assert new[7].vector is not None
        assert store.query(new[7].vector, 1)[0].id == new[7].id
    assert asked == [False, True]
    assert store.facts.graph is not None
    assert store.facts.graph.images in (2150, 2200)  # measured anew once it had changed by a twentieth
    store.upsert(some(2200, 300))
    recall.settle(store)
    assert (asked, store.in_graph()) == ([False, True, True], 2500)


def test_what_a_graph_finds_is_what_was_measured(store: EdgeStore) -> None:
    store.upsert(some(0, 2000))
    recall.settle(store)
    assert store.facts.graph is not None
    queries = [point.vector for point in some(9000, 50)]
    for where in (None, Equals("site", ("a",))):
        found = 0
        for query in queries:
            assert query is not None
            true = [hit.id for hit in store.query(query, 10, where, EXACT)]
            found += len(set(true) & {hit.id for hit in store.query(query, 10, where)})
            assert [one.id for one in store.query(query, 10, where)] == [
                one.id for one in store.query(query, 10, where)
            ]
        assert found / 500 >= recall.ENOUGH - 0.02
        far = FARTHEST + 1  # farther than was measured: compared one by one
        assert queries[0] is not None
        assert store.query(queries[0], far, where) == store.query(queries[0], far, where, EXACT)


def test_a_filter_of_two_facts_finds_as_much_as_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine has edges within a site and within a ward, and none within a ward of a site: 5 % were missed."""
    monkeypatch.setattr(shard, "FILTERED_EXACT_BELOW_KB", 1)
    facts = replace(FACTS, fields=FACTS.fields | {"ward": Field("ward", FieldType.KEYWORD)})
    with closing(EdgeStore.create(tmp_path / "index", facts)) as store:
        store.upsert(
            [
                replace(point, payload={**point.payload, "site": "abcd"[n % 4], "ward": "efgh"[n // 4 % 4]})
                for n, point in enumerate(some(0, 4000))
            ]
        )
        recall.settle(store)
        assert store.facts.graph is not None
        assert store.facts.graph.effort.breadth is not None
        assert store.facts.graph.recalls["10 of few by two facts"] >= recall.ENOUGH
        where, missed = And((Equals("site", ("a",)), Equals("ward", ("e",)))), 0
        for query in (point.vector for point in some(9000, 100)):
            assert query is not None
            found = {hit.id for hit in store.query(query, 10, where)}
            missed += sum(hit.id not in found for hit in store.query(query, 10, where, EXACT))
    assert missed <= 10  # of 1,000


@pytest.mark.parametrize(
    ("where", "acorn"),
    [
        (None, False),
        (Equals("site", ("a", "b")), False),
        (And((Compare("age", ">=", 40), Compare("age", "<", 50))), False),
        (And((Not(Equals("patient", ("P1",))), Not(Equals("picture", ("d",))), Equals("site", ("a",)))), False),
        (And((Equals("site", ("a",)), Equals("icu", (True,)))), True),
        (Or((Equals("site", ("a",)), Not(Missing("finding")))), True),
    ],
)
def test_filters_of_several_facts_go_by_acorn(where: Expression | None, acorn: bool) -> None:
    """By ACORN a filter of one fact takes ten times as long and finds no more: the own patient's is none."""
    assert graph.effort_for(MEASURED, 10, where) == Effort(128, acorn=acorn)
    assert graph.effort_for(MEASURED, FARTHEST + 1, where) == EXACT


def test_where_no_breadth_finds_enough_every_point_is_compared_and_that_is_said(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recall, "ENOUGH", 1.1)
    monkeypatch.setattr(recall, "BREADTHS", (16, 32))
    store.upsert(some(0, 1200))
    recall.settle(store)
    found = store.facts.graph
    assert found is not None
    assert (found.effort, graph.used(found, 10)) == (EXACT, None)
    assert graph.words(found, 1200, D).startswith("every image is compared, none is missed, in ")
    assert "of the true neighbours" in graph.words(found, 1200, D)
    assert graph.as_json(graph.used(found, 10)) == {"exact": True, "recall": 1.0}


def test_a_graph_that_is_not_faster_is_not_used(store: EdgeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "FASTER", 0.0)
    store.upsert(some(0, 1200))
    recall.settle(store)
    assert store.facts.graph is not None
    assert (store.facts.graph.effort, store.facts.graph.recall >= recall.ENOUGH) == (EXACT, True)


def test_a_graph_too_large_for_memory_is_walked_by_int8_and_ranked_and_measured_by_float32(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "INT8_FROM_KB", graph.EXACT_BELOW_KB)
    points = some(0, 2000)
    store.upsert(points)
    recall.settle(store)
    found = store.facts.graph
    assert found is not None
    assert (found.effort.int8, found.recall >= recall.ENOUGH, store.in_graph()) == (True, True, 2000)
    assert "int8 ranked again by float32" in graph.words(found, 2000, D)
    assert graph.as_json(found)["int8"] is True
    assert Graph.from_json(json.loads(json.dumps(replace(FACTS, graph=found).as_json()))["graph"]) == found
    new = some(2000, 50)  # not in the graph, and found by it all the same
    store.upsert(new)
    recall.settle(store)
    vectors = np.stack([point.vector for point in [*points, *new] if point.vector is not None])
    assert any(path.name.startswith("quantized") for path in store.folder.rglob("*"))
    for query in vectors[::100]:
        true = np.sort(vectors @ query)[::-1][:10]
        exact, walked = store.query(query, 10, effort=EXACT), store.query(query, 10)
        assert np.allclose([hit.score for hit in exact], true, atol=2e-6)  # int8 is off by 1e-2
        assert walked[0].score == exact[0].score


def test_where_int8_finds_too_little_the_vectors_themselves_are_compared(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "INT8_FROM_KB", graph.EXACT_BELOW_KB)
    points = some(0, 1200)
    near = np.eye(D, dtype=np.float32)[0] + 0.002 * np.random.default_rng(0).normal(size=(1200, D)).astype(np.float32)
    near /= np.linalg.norm(near, axis=1, keepdims=True)  # as good as one point, in steps of 1/127
    store.upsert([replace(point, vector=vector) for point, vector in zip(points, near, strict=True)])
    recall.settle(store)
    found = store.facts.graph
    assert found is not None
    assert (found.effort.int8, found.effort == EXACT or found.recall >= recall.ENOUGH) == (False, True)


def test_points_that_are_all_alike_are_all_found(store: EdgeStore) -> None:
    """Of equal scores any point is a true neighbour."""
    store.upsert(some(0, 1200, alike=True))
    recall.settle(store)
    assert store.facts.graph is not None
    assert store.facts.graph.recall == 1.0
    assert len(store.query(np.full(D, 0.25, np.float32), 10)) == 10


def test_an_index_of_one_file_or_of_none_known_is_compared_point_by_point(store: EdgeStore) -> None:
    """Nothing to draw a sample by: every point has the digest of one file, or none has a digest."""
    points = some(0, 1200)
    store.upsert([replace(point, payload={"image_sha256": "0"}) for point in points])
    recall.settle(store)
    assert store.facts.graph is not None
    assert store.facts.graph.sampled == recall.SAMPLED
    store.upsert([replace(point, payload={}) for point in points])
    assert recall.measure(store) is None


def test_a_copy_measures_for_itself_and_a_forgotten_patient_takes_the_graph_along(
    store: EdgeStore, tmp_path: Path
) -> None:
    store.upsert(some(0, 1200))
    recall.settle(store)
    assert store.facts.graph is not None
    with new_store(str(tmp_path / "copy"), store.facts) as copy:
        assert copy.facts.graph is None
        copy.upsert(some(0, 100))
    assert store.erase(Equals("image_sha256", (f"{5:064x}",)), store.facts) == 1
    assert (store.facts.graph, store.in_graph(), store.count()) == (None, 0, 1199)
    assert "a graph is built when the next cxrsearch index ends" in graph.words(None, 1199, D)
    recall.settle(store)
    assert store.in_graph() == 1199


WRITER = """
import sys
from pathlib import Path
from test_graph import D, FACTS, LARGE, EdgeStore, graph, recall, some
graph.EXACT_BELOW_KB, recall.FASTER = LARGE * D * 4 / 1024, 1e9
measure = recall.measure
recall.measure = lambda store: (print("measuring", flush=True), measure(store))[1]
store = EdgeStore.create(Path(sys.argv[1]), FACTS)
store.upsert(some(0, 3000))
print("building", flush=True)
recall.settle(store)
print("settled", flush=True)
"""


@pytest.mark.parametrize("stage", ["building", "measuring"])
def test_a_run_killed_while_it_builds_or_measures_lost_nothing_and_is_exact(tmp_path: Path, stage: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", WRITER, str(tmp_path / "index")]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert writer.stdout is not None
    while writer.stdout.readline().strip() != stage:
        assert writer.poll() is None
    time.sleep(0.1)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    found = EdgeStore.open(tmp_path / "index", write=True)
    assert (found.count(), found.facts.graph) == (3000, None)
    query = some(9000, 1)[0].vector
    assert query is not None
    assert found.query(query, 10) == found.query(query, 10, effort=EXACT)
    recall.settle(found)
    assert found.in_graph() == 3000
    assert found.facts.graph is not None
    found.close()
    assert list(problems(str(tmp_path / "index"))) == []


# ------------------------------------------------------------------ what is said of it


def first_of_csv(out: str) -> Any:
    return next(csv.DictReader(io.StringIO(out)))


def test_duplicates_say_what_a_graph_misses(cxrsearch: Run, index: Path) -> None:
    asked = ("duplicates", "--index", index)
    given = json.loads(cxrsearch(*asked, "--format", "json").out)
    assert (given["search"], given["without_picture"]) == ({"exact": True, "recall": 1.0}, 0)
    assert "found by a graph" not in cxrsearch(*asked).out
    with open_store(str(index), write=True) as store:
        store.declare(replace(store.facts, graph=MEASURED))
    given = json.loads(cxrsearch(*asked, "--format", "json").out)
    assert (given["search"]["exact"], given["search"]["recall"]) == (False, 0.9912)
    words = "found by a graph, which finds at least 99.1 % of the true neighbours in this index"
    assert words in cxrsearch(*asked).out


def test_search_info_and_doctor_say_what_a_graph_misses(cxrsearch: Run, cohort: Path, index: Path) -> None:
    def search(*options: object) -> Any:
        return json.loads(cxrsearch("search", image_of(cohort), "--index", index, "--format", "json", *options).out)[0]

    assert search()["search"] == {"exact": True, "recall": 1.0}
    assert "every image is compared, none is missed\n" in cxrsearch("info", "--index", index).out
    with open_store(str(index), write=True) as store:
        store.declare(replace(store.facts, graph=MEASURED))
    assert search()["search"] == {
        "exact": False, "recall": 0.9912, "breadth": 128, "acorn": False, "int8": False,
        "measured": "2026-11-25", "images": 1200,
    }  # fmt: skip
    for format, row_of in (("jsonl", lambda out: json.loads(out.splitlines()[0])), ("csv", first_of_csv)):
        out = cxrsearch("search", image_of(cohort), "--index", index, "--format", format).out
        assert float(row_of(out)["recall"]) == 0.9912
    assert search("--where", "age >= 1 and finding is not missing")["search"]["acorn"] is True
    assert search("--like", image_of(cohort, 1))["search"]["exact"] is True
    assert search("-k", FARTHEST + 1)["search"]["exact"] is True
    words = "finds at least 99.1 % of the true neighbours"
    assert f"found by a graph, which {words}" in cxrsearch("search", image_of(cohort), "--index", index).out
    told = cxrsearch("info", "--index", index).out
    assert f"a graph {words} (breadth 128; 1.1 ms in place of 29.0 ms" in told
    assert "measured on 200 of 1,200 images on 2026-11-25, which are 32 now)" in told
    given = json.loads(cxrsearch("info", "--index", index, "--format", "json").out)
    assert given["graph"]["recalls"] == MEASURED.recalls
    assert given["search"]["recall"] == 0.9912
    assert "index again: its end measures anew" in cxrsearch("doctor", "--index", index).out
    page = index.parent / "page.html"
    assert cxrsearch("search", image_of(cohort), "--index", index, "--report", page).code == 0
    assert words in page.read_text("utf-8")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("recalls", {}),
        ("recalls", {"x": 1.5}),
        ("milliseconds", float("nan")),
        ("effort", {"breadth": 0}),
        ("images", []),
    ],
)
def test_a_damaged_measure_is_damage(part: str, value: Any) -> None:
    data = replace(FACTS, graph=MEASURED).as_json()
    assert IndexFacts.from_json(json.loads(json.dumps(data)), "place").graph == MEASURED
    with pytest.raises(IndexUnavailable, match="its settings are damaged"):
        IndexFacts.from_json({**data, "graph": {**data["graph"], part: value}}, "place")


# ------------------------------------------------------------------ on a server


def test_a_server_that_builds_no_graph_stays_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxrsearch.store.server_graph._BEGINS_WITHIN", 0.0)
    monkeypatch.setattr("cxrsearch.store.server_graph._LOOK_EVERY", 0.0)
    with loopback() as server, new_store(f"{server.url}/chest", FACTS) as store:
        store.upsert(some(0, 1200))
        recall.settle(store)
        changed = [body for body, asked in zip(server.bodies, server.asked, strict=True) if "PATCH" in asked]
        assert {"indexing_threshold": 2} in [body.get("optimizers_config") for body in changed]
        assert store.facts.graph is None
        store.query(np.full(D, 0.25, np.float32), 10)
        assert server.bodies[-1]["params"] == {"exact": True}
        store.query(np.full(D, 0.25, np.float32), 10, effort=Effort(64, acorn=True))
        walked = {"hnsw_ef": 64, "acorn": {"enable": True}, "quantization": {"ignore": True}}
        assert server.bodies[-1]["params"] == walked


def test_a_server_is_asked_for_int8_in_memory_and_to_rank_again_as_far_as_it_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cxrsearch.store.server_graph._BEGINS_WITHIN", 0.0)
    monkeypatch.setattr("cxrsearch.store.server_graph._LOOK_EVERY", 0.0)
    monkeypatch.setattr(graph, "INT8_FROM_KB", graph.EXACT_BELOW_KB)
    for most, oversampling in ((None, graph.OVERSAMPLING), (1.5, 1.5)):
        with loopback() as server:
            server.strict = {"enabled": True, "search_max_oversampling": most}
            with new_store(f"{server.url}/chest", FACTS) as store:
                store.upsert(some(0, 1200))
                store.optimise(graph=True)
                changed = [body for body, asked in zip(server.bodies, server.asked, strict=True) if "PATCH" in asked]
                asked_for = models.UpdateCollection(**next(body for body in changed if "optimizers_config" in body))
                assert asked_for.quantization_config == models.ScalarQuantization(
                    scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
                )
                assert asked_for.vectors == {"": models.VectorParamsDiff(on_disk=True)}
                store.query(np.full(D, 0.25, np.float32), 10, effort=Effort(64, int8=True))
                assert models.SearchParams(**server.bodies[-1]["params"]) == models.SearchParams(
                    hnsw_ef=64,
                    quantization=models.QuantizationSearchParams(rescore=True, oversampling=oversampling),
                )


def test_a_server_that_forbids_exact_searches_is_given_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    with loopback() as server:
        server.strict = {"enabled": True, "search_allow_exact": False}
        with new_store(f"{server.url}/chest", FACTS) as store:
            store.upsert(some(0, 1200))
            recall.settle(store)
            changed = [body for body, asked in zip(server.bodies, server.asked, strict=True) if "PATCH" in asked]
            assert not any("optimizers_config" in body for body in changed)
            store.query(np.full(D, 0.25, np.float32), 10)
            assert server.bodies[-1]["params"] == {}


@pytest.mark.docker
@pytest.mark.parametrize("int8", [False, True])
def test_a_server_builds_a_graph_that_is_measured(
    server_address: Any, monkeypatch: pytest.MonkeyPatch, int8: bool
) -> None:
    if int8:
        monkeypatch.setattr(graph, "INT8_FROM_KB", graph.EXACT_BELOW_KB)
    store = ServerStore.connect(server_address(), FACTS)
    store.upsert(some(0, 1200))
    assert store.in_graph() == 0
    recall.settle(store)
    found = store.facts.graph
    assert found is not None
    assert (found.images, found.effort.breadth, store.in_graph()) == (1200, 64, 1200)
    assert found.effort.int8 == int8
    assert found.recall >= recall.ENOUGH
    query = some(9000, 1)[0].vector
    assert query is not None
    exact = store.query(query, 10, effort=EXACT)
    assert [hit.id for hit in store.query(query, 10)] == [hit.id for hit in exact]
    assert [hit.score for hit in store.query(query, 10)] == pytest.approx([hit.score for hit in exact], abs=1e-6)
    store.close()
