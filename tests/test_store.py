"""The contract every engine keeps: Qdrant Edge, a server on loopback, and a real one where there is one."""

import dataclasses
import http.server
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_loopback import loopback

from cxrsearch.clinical.expression import And, Compare, Contains, Equals, Expression, Mentions, Missing, Not, Or, words
from cxrsearch.clinical.fields import Field, FieldType, Payload, Scalar, values_of
from cxrsearch.errors import IndexInUse, IndexUnavailable, InputError, ModelMismatch, UsageError
from cxrsearch.store import open_store
from cxrsearch.store.contract import DatasetFacts, IndexFacts, Point, VectorStore
from cxrsearch.store.edge import EdgeStore
from cxrsearch.store.server import ServerStore
from cxrsearch.text import clean

D = 8
FIELDS = {
    field.name: field
    for field in (
        Field("site", FieldType.KEYWORD),
        Field("finding", FieldType.KEYWORD, several=True),
        Field("age", FieldType.INTEGER),
        Field("temperature", FieldType.FLOAT),
        Field("icu", FieldType.BOOLEAN),
        Field("study_date", FieldType.DATE),
        Field("notes", FieldType.TEXT),
    )
}
FACTS = IndexFacts("model-a", "f" * 64, D, FIELDS, {"set": DatasetFacts("hospital", "/data")})


def unit(*seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = np.random.default_rng(seed).normal(size=D)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def point(number: int, **payload: Any) -> Point:
    return Point(str(uuid.UUID(int=number + 1)), payload, unit(number))


@pytest.fixture(params=["edge", "loopback", pytest.param("server", marks=pytest.mark.docker)], scope="module")
def make(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], VectorStore]]:
    """Makes an empty index on the engine under test."""
    if request.param == "edge":
        yield lambda: EdgeStore.create(tmp_path_factory.mktemp("edge") / "index", FACTS)
        return
    if request.param == "loopback":
        with loopback() as server:
            yield lambda: ServerStore.connect(f"{server.url}/{uuid.uuid4().hex}", FACTS)
        return
    new_address = request.getfixturevalue("server_address")
    yield lambda: ServerStore.connect(new_address(), FACTS)


@pytest.fixture
def store(make: Callable[[], VectorStore]) -> Iterator[VectorStore]:
    opened = make()
    yield opened
    opened.close()


def ids(points: Any) -> list[str]:
    return sorted(p.id for p in points)


def test_what_is_stored_comes_back(store: VectorStore) -> None:
    payload: Payload = {
        "site": "Ost/Süd",
        "finding": ["COVID-19", "ARDS"],
        "age": 61,
        "temperature": 38.5,
        "icu": False,
        "study_date": "2020-03-01",
        "notes": "Intubated; [bold]no[/bold]",
        "_row": "x",
    }
    stored = [point(0, **payload), point(1)]
    store.upsert(stored)
    found = {p.id: p for p in store.scroll(vectors=True)}
    assert found[stored[0].id].payload == payload
    assert found[stored[1].id].payload == {}
    for p in stored:
        assert p.vector is not None
        np.testing.assert_allclose(found[p.id].vector, p.vector, atol=1e-6)
    assert store.count() == 2


def test_upsert_replaces_and_set_payload_keeps_the_vector(store: VectorStore) -> None:
    store.upsert([point(0, age=1, site="a")])
    store.upsert([point(0, age=2)])
    assert [p.payload for p in store.scroll()] == [{"age": 2}]
    store.set_payloads({point(0).id: {"icu": True}})
    (kept,) = store.scroll(vectors=True)
    assert kept.payload == {"icu": True}
    np.testing.assert_allclose(kept.vector, unit(0), atol=1e-6)
    assert ids(store.scroll(Equals("icu", (True,)))) == [kept.id]


def test_a_payload_of_a_point_that_was_deleted_since_ends_nothing(store: VectorStore) -> None:
    store.upsert([point(n, age=n) for n in (1, 3)])
    store.set_payloads({point(n).id: {"age": n + 10} for n in range(5)})
    assert sorted(p.payload["age"] for p in store.scroll()) == [11, 13]


def test_words_of_a_keyword_are_whole_and_in_any_case(store: VectorStore) -> None:
    sites = ["Bern", "North West", "westend", "west b"]
    store.upsert([point(number, site=site) for number, site in enumerate(sites)])
    for text, expected in {"west": [1, 3], "West north": [1], "orth": [], "B/": [3], "bern": [0]}.items():
        assert ids(store.scroll(Contains("site", text))) == sorted(point(number).id for number in expected), text
    assert store.count(Not(Contains("site", "orth"))) == 4


def test_query_gives_cosines_best_first(store: VectorStore) -> None:
    store.upsert([point(n, age=n) for n in range(50)])
    hits = store.query(unit(7), 5)
    expected = sorted((float(unit(7) @ unit(n)) for n in range(50)), reverse=True)[:5]
    assert [hit.score for hit in hits] == pytest.approx(expected, abs=1e-5)
    assert hits[0].payload == {"age": 7}
    filtered = store.query(unit(7), 5, Compare("age", ">=", 40))
    assert len(filtered) == 5
    assert all(int(hit.payload["age"]) >= 40 for hit in filtered)  # type: ignore[arg-type]


def test_recommend_sums_similarities_to_the_likes_less_the_unlikes(store: VectorStore) -> None:
    stored = [point(n, site="Daegu" if n % 2 else "Milan") for n in range(50)]
    store.upsert(stored)
    likes, unlikes = [unit(3), unit(7)], [unit(11)]
    wish = sum(likes) - sum(unlikes)
    for where in (None, Equals("site", ("Daegu",))):
        among = [p for p in stored if where is None or p.payload["site"] == "Daegu"]
        expected = sorted(((float(p.vector @ wish), p.id) for p in among), reverse=True)[:5]  # type: ignore[operator]
        found = store.recommend(likes, unlikes, 5, where)
        assert [hit.id for hit in found] == [id for _, id in expected]
        assert [hit.score for hit in found] == pytest.approx([score for score, _ in expected], abs=1e-5)
    assert [hit.id for hit in store.recommend(likes[:1], [], 1)] == [point(3).id]


def test_values_are_counted_in_a_filtered_cohort(store: VectorStore) -> None:
    store.upsert([point(n, site="ab"[n % 2], age=n) for n in range(10)])
    assert dict(store.values("site", Compare("age", ">=", 7))) == {"b": 2, "a": 1}


def test_booleans_are_counted_as_booleans(store: VectorStore) -> None:
    store.upsert([point(n, icu=n < 3) for n in range(10)])
    assert {key: number for key, number in store.values("icu").items() if isinstance(key, bool)} == {True: 3, False: 7}


def test_scroll_pages_through_everything_with_chosen_fields(store: VectorStore) -> None:
    store.upsert([point(n, age=n, site="x") for n in range(2300)])
    seen = list(store.scroll(fields=["age"]))
    assert sorted(int(p.payload["age"]) for p in seen) == list(range(2300))  # type: ignore[arg-type]
    assert all(set(p.payload) == {"age"} for p in seen)


def test_values_counts_each_value_of_a_list(store: VectorStore) -> None:
    store.upsert([point(0, finding=["A", "B"]), point(1, finding=["A"]), point(2)])
    assert store.values("finding") == {"A": 2, "B": 1}


def test_delete_says_how_many_and_leaves_the_rest(store: VectorStore) -> None:
    store.upsert([point(n, patient="P" if n < 3 else "Q") for n in range(5)])
    assert store.delete(Equals("patient", ("P",))) == 3
    assert store.delete(Equals("patient", ("P",))) == 0
    assert ids(store.scroll()) == ids([point(3), point(4)])


@pytest.mark.parametrize(
    "vector",
    [
        np.full(D, np.nan, np.float32),
        np.full(D, np.inf, np.float32),
        np.zeros(D, np.float32),
        np.ones(D, np.float32),
        np.array([1.0], np.float32),
        None,
    ],
    ids=["nan", "inf", "zero", "not unit", "wrong size", "none"],
)
def test_a_vector_that_is_none_is_refused_and_nothing_is_stored(store: VectorStore, vector: Any) -> None:
    with pytest.raises(ValueError, match="point"):
        store.upsert([point(0), Point(str(uuid.UUID(int=9)), {}, vector)])
    assert store.count() == 0


def test_facts_are_kept_and_a_new_dataset_adds_its_fields(store: VectorStore) -> None:
    assert store.facts == FACTS
    more = store.facts.declaring("b", DatasetFacts("other", "/b"), {"crp": Field("crp", FieldType.FLOAT)})
    store.declare(more)
    assert store.facts == more
    store.upsert([point(0, crp=4.5)])
    assert store.count(Compare("crp", ">", 4)) == 1


def test_a_field_cannot_change_its_type() -> None:
    with pytest.raises(InputError, match="'age' is a integer in this index and a keyword in dataset 'b'"):
        FACTS.declaring("b", DatasetFacts("n", "/"), {"age": Field("age", FieldType.KEYWORD)})


def test_another_model_is_refused_by_name() -> None:
    with pytest.raises(ModelMismatch, match=r"made by model model-a \(ffff.*not by model-b \(eeee"):
        FACTS.check_model("model-b", "e" * 64)


# ------------------------------------------------------- expressions mean the same everywhere

TEXT = st.text("abAB éÉß漢0-/'\"", max_size=6).map(clean)
KEYWORD = st.one_of(st.sampled_from(["a", "B", "COVID-19", "ARDS", "é"]), TEXT).filter(bool)
DATES = st.dates().map(lambda day: day.isoformat()) | st.sampled_from(["2020-02-29", "2020-03-01"])
NUMBERS = st.integers(-5, 5) | st.sampled_from([2**40, -(2**40)])
FLOATS = st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, 0.1, 38.5])
NOTES = st.lists(st.sampled_from(["intubated", "Was", "ICU,", "été", "x-ray", "漢字"]), min_size=1, max_size=4).map(
    " ".join
)
PAYLOADS = st.fixed_dictionaries(
    {},
    optional={
        "site": KEYWORD,
        "finding": st.lists(KEYWORD, min_size=1, max_size=3, unique=True),
        "age": NUMBERS,
        "temperature": FLOATS,
        "icu": st.booleans(),
        "study_date": DATES,
        "notes": NOTES,
        "_affirmed_notes": NOTES,
    },
)
ORDER = st.sampled_from(["<", "<=", ">", ">="])
LEAVES: st.SearchStrategy[Expression] = st.one_of(
    st.builds(Equals, st.sampled_from(["site", "finding"]), st.lists(KEYWORD, min_size=1, max_size=3).map(tuple)),
    st.builds(Equals, st.just("age"), st.lists(NUMBERS.map(float), min_size=1, max_size=3).map(tuple)),
    st.builds(Equals, st.just("temperature"), st.tuples(FLOATS)),
    st.builds(Equals, st.just("icu"), st.tuples(st.booleans())),
    st.builds(Equals, st.just("study_date"), st.lists(DATES, min_size=1, max_size=2).map(tuple)),
    st.builds(Compare, st.sampled_from(["age", "temperature"]), ORDER, NUMBERS.map(float) | FLOATS),
    st.builds(Compare, st.just("study_date"), ORDER, DATES),
    st.builds(Mentions, st.just("notes"), NOTES.filter(words)),
    st.builds(Contains, st.sampled_from(["notes", "site", "finding"]), (NOTES | TEXT).filter(words)),
    st.builds(Missing, st.sampled_from(sorted(FIELDS))),
)
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=1, max_size=3).map(tuple)),
    ),
    max_leaves=8,
)


def holds(expression: Expression, payload: Payload) -> bool:
    """What an expression means, in plain Python."""
    match expression:
        case And(parts):
            return all(holds(part, payload) for part in parts)
        case Or(parts):
            return any(holds(part, payload) for part in parts)
        case Not(part):
            return not holds(part, payload)
        case Missing(field):
            return field not in payload
        case Equals(field, wanted):
            return any(value in wanted for value in values_of(payload, field))
        case Contains(field, text):
            return any(set(words(text)) <= set(words(str(value))) for value in values_of(payload, field))
        case Mentions(field, text):
            return holds(Contains(f"_affirmed_{field}", text), payload)
        case Compare(field, operator, bound):
            compare: Callable[[Scalar, Any], bool] = {
                "<": lambda a, b: a < b,
                "<=": lambda a, b: a <= b,
                ">": lambda a, b: a > b,
                ">=": lambda a, b: a >= b,
            }[operator]
            return any(compare(value, bound) for value in values_of(payload, field))


@pytest.fixture(scope="module")
def shared_store(make: Callable[[], VectorStore]) -> Iterator[VectorStore]:
    """One index for all examples of the property: each example empties it first."""
    opened = make()
    yield opened
    opened.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(payloads=st.lists(PAYLOADS, min_size=1, max_size=12), expressions=st.lists(EXPRESSIONS, min_size=1, max_size=5))
def test_every_engine_gives_the_rows_plain_python_gives(
    shared_store: VectorStore, payloads: list[Payload], expressions: list[Expression]
) -> None:
    shared_store.delete(Not(Equals("path", ("never",))))
    points = [point(number, **payload) for number, payload in enumerate(payloads)]
    shared_store.upsert(points)
    for expression in expressions:
        expected = ids(p for p in points if holds(expression, p.payload))
        assert ids(shared_store.scroll(expression)) == expected
        assert shared_store.count(expression) == len(expected)
        assert ids(shared_store.query(unit(0), 20, expression)) == expected


# ------------------------------------------------------------------ the folder


def test_readers_keep_what_they_opened_while_one_writer_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    writer = EdgeStore.create(folder, FACTS)
    writer.upsert([point(0)])
    before = EdgeStore.open(folder)
    with pytest.raises(IndexInUse, match="being written by another process"):
        EdgeStore.open(folder, write=True)
    writer.close()
    first, second = EdgeStore.open(folder), EdgeStore.open(folder)
    assert (before.count(), first.count(), second.count()) == (0, 1, 1)
    held = sorted(path.name for path in (folder / "shard").iterdir())
    for reader in (before, first, second):
        reader.close()
    EdgeStore.open(folder, write=True).close()  # the next writer removes what nobody holds any more
    assert [path.name for path in (folder / "shard").iterdir()] == held[-1:]


def test_a_folder_that_is_no_index_says_so(tmp_path: Path) -> None:
    with pytest.raises(IndexUnavailable, match="no such index"):
        EdgeStore.open(tmp_path / "nowhere")
    with pytest.raises(IndexUnavailable, match="not a cxrsearch index"):
        EdgeStore.open(tmp_path)
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(IndexUnavailable, match="holds other files"):
        EdgeStore.create(tmp_path, FACTS)


def test_an_index_half_made_by_a_killed_process_is_made_again(tmp_path: Path) -> None:
    EdgeStore.create(tmp_path / "index", FACTS).close()
    (tmp_path / "index" / "index.json").unlink()
    made = EdgeStore.create(tmp_path / "index", dataclasses.replace(FACTS, model="b"))
    assert made.facts.model == "b"
    made.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 99}', "index format '99', this version reads format 2"),
        ("{}", "not a cxrsearch index"),
        ("[" * 100_000, "damaged"),
        ('{"format": 1}', "Index the images again into a new index"),
        ('{"format": 2}', "damaged"),
        ("\xff", "damaged"),
    ],
)
def test_settings_of_another_format_or_damaged(tmp_path: Path, text: str, message: str) -> None:
    EdgeStore.create(tmp_path / "index", FACTS).close()
    (tmp_path / "index" / "index.json").write_text(text, "utf-8")
    with pytest.raises(IndexUnavailable, match=message):
        EdgeStore.open(tmp_path / "index")


def test_a_shard_that_is_gone_or_damaged(tmp_path: Path) -> None:
    import shutil

    EdgeStore.create(tmp_path / "index", FACTS).close()
    (tmp_path / "index" / "shard" / "1" / "edge_config.json").write_text("{", "utf-8")
    with pytest.raises(IndexUnavailable, match=r"shard/1/edge_config\.json: damaged"):
        EdgeStore.open(tmp_path / "index")
    shutil.rmtree(tmp_path / "index" / "shard")
    with pytest.raises(IndexUnavailable, match=r"shard/1/edge_config\.json: missing"):
        EdgeStore.open(tmp_path / "index")


# ------------------------------------------------------------------ the server


@pytest.mark.parametrize(
    "address", ["http://host:6333", "http://host:6333/a/b", "ftp://host/x", "http://host:port/x", "http:///x"]
)
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(UsageError, match="http://host:6333/collection"), open_store(address):
        pass


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="CXRSEARCH_QDRANT_API_KEY") as caught, open_store("http://u:secret@host/x"):
        pass
    assert "secret" not in str(caught.value)


def test_a_server_that_does_not_answer_is_named_after_some_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxrsearch.store.nodes.PAUSES", (0.01, 0.01))
    with (
        pytest.raises(IndexUnavailable, match=r"127.0.0.1:9/x: the server does not answer \(tried 3 times\)"),
        open_store("http://127.0.0.1:9/x"),
    ):
        pass


class _Answers(http.server.BaseHTTPRequestHandler):
    """A server with one answer to everything."""

    status = 401

    def do_GET(self) -> None:
        if self.status == 0:
            time.sleep(3)
        self.send_response(self.status or 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "the server answered 401 Unauthorized. Set CXRSEARCH_QDRANT_API_KEY."),
        (500, "the server answered 500"),
        (0, r"gave no answer in time \(tried 2 times\)"),
    ],
)
def test_a_server_that_refuses_or_is_too_slow(monkeypatch: pytest.MonkeyPatch, status: int, message: str) -> None:
    monkeypatch.setattr("cxrsearch.store.nodes.PAUSES", (0.01,))
    monkeypatch.setenv("CXRSEARCH_QDRANT_TIMEOUT", "1")
    monkeypatch.setattr(_Answers, "status", status)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(IndexUnavailable, match=message), open_store(f"http://127.0.0.1:{server.server_port}/x"):
            pass
    finally:
        server.shutdown()
        server.server_close()


def test_scores_of_edge_are_exact_on_a_small_index(tmp_path: Path) -> None:
    store = EdgeStore.create(tmp_path / "index", FACTS)
    store.upsert([point(n) for n in range(500)])
    store.optimise()
    exact = sorted((float(unit(3) @ unit(n)) for n in range(500)), reverse=True)[:20]
    assert [hit.score for hit in store.query(unit(3), 20)] == pytest.approx(exact, abs=1e-5)
    assert math.isclose(store.query(unit(3), 1)[0].score, 1.0, abs_tol=1e-5)
    store.close()
