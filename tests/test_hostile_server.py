"""What a broken or hostile Qdrant server can answer, and what becomes of it: a sentence, in bounded time and memory."""

import gzip
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from factories import Run
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException

from cxrsearch.errors import IndexUnavailable
from cxrsearch.model_card import DEFAULT_MODEL, read_card
from cxrsearch.store import open_store
from cxrsearch.store.collection_facts import records
from cxrsearch.store.contract import DatasetFacts, IndexFacts
from cxrsearch.store.edge import EdgeStore
from cxrsearch.store.refusals import NoAnswer
from cxrsearch.store.server_writes import fault_of
from cxrsearch.store.transport import LONGEST_ANSWER, Unacceptable

CARD = read_card(DEFAULT_MODEL)
FACTS = IndexFacts(CARD.name, CARD.fingerprint, CARD.dimensions, {}, {"set": DatasetFacts("hospital", "/data")})
VECTOR = [1.0] + [0.0] * (CARD.dimensions - 1)
UUIDS = [f"00000000-0000-5000-8000-{number:012x}" for number in range(2000)]


def point(number: int, **other: Any) -> dict[str, Any]:
    payload = {"dataset": "set", "path": f"{number}.png", "width": 9, "height": 9, "image_sha256": "0", "picture": "0"}
    found = {"id": UUIDS[number], "version": 1, "score": 0.5, "payload": payload, "vector": VECTOR}
    return found | {"payload": payload | other.pop("payload", {})} | other


class Server(http.server.BaseHTTPRequestHandler):
    """Answers as a Qdrant server of one collection does, but for what ``answers`` has, by the end of the path. A
    function there sends its answer itself."""

    answers: dict[str, Any]
    facts: dict[str, Any]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path = self.path.split("?")[0]
        known = {
            "query": {"points": [point(0)]},
            "scroll": {"points": [point(0), point(1)], "next_page_offset": None},
            "count": {"count": 2},
            "facet": {"hits": []},
            "chest": self.collection(),
        } | self.answers
        if path.endswith("batch"):  # what is known of a query's patient, here nothing, and what is nearest
            known["batch"] = [{"points": []}, known["query"]][-len(json.loads(body)["searches"]) :]
        answer = next((answer for end, answer in known.items() if path.endswith(end)), [])
        if callable(answer):
            answer(self)
        else:
            self.send(json.dumps({"result": answer, "status": "ok", "time": 0.0}).encode())

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def send(self, content: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in {"content-length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def collection(self) -> dict[str, Any]:
        config = {
            "params": {"vectors": {"size": CARD.dimensions, "distance": "Dot"}},
            "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10},
            "optimizer_config": {
                "deleted_threshold": 0.2,
                "vacuum_min_vector_number": 1,
                "default_segment_number": 0,
                "flush_interval_sec": 5,
            },
            "metadata": {"cxrsearch": self.facts},
        }
        return {
            "status": "green",
            "optimizer_status": "ok",
            "segments_count": 1,
            "payload_schema": {},
            "config": config,
        }


Serve = Callable[..., str]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """``serve(query=..., facts=...)`` gives the address of an index on a server that answers so."""
    monkeypatch.setenv("CXRSEARCH_QDRANT_TIMEOUT", "2")
    running = []

    def start(facts: dict[str, Any] | None = None, **answers: Any) -> str:
        kind = type("Answering", (Server,), {"answers": answers, "facts": facts or FACTS.as_json()})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_port}/chest"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def asked(address: str, limit: int = 3) -> Any:
    with open_store(address) as store:
        return store.query(np.array(VECTOR, np.float32), limit)


def test_no_more_hits_than_asked_for_and_best_first(serve: Serve, cxrsearch: Run, cohort: Path) -> None:
    address = serve(query={"points": [point(n, score=n / 1000) for n in range(900)]})
    assert [hit.id for hit in asked(address)] == [UUIDS[n] for n in (899, 898, 897)]
    ran = cxrsearch("search", next(cohort.parent.rglob("*.dcm")), "--index", address, "-k", 3, "--format", "json")
    assert ran.code == 0, ran.err
    assert len(json.loads(ran.out)[0]["hits"]) == 3


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_no_number_is_refused(serve: Serve, cxrsearch: Run, cohort: Path, score: float) -> None:
    address = serve(query={"points": [point(0), point(1, score=score)]})
    ran = cxrsearch("search", next(cohort.parent.rglob("*.dcm")), "--index", address)
    assert (ran.code, ran.out) == (5, "")
    assert "a score that is no number" in ran.err


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("width", "wide", "width: a text, not an integer"),
        ("width", True, "width: true or false, not an integer"),
        ("width", -5, "width: below 1"),
        ("height", 2**62, "height: an integer beyond 2"),
        ("projection", "upside down", "projection: neither frontal nor lateral"),
        ("path", {"a": [1]}, "path: an object, not a text"),
        ("path", ["a", 1], "path: an integer, not a text"),
        ("patient", 7, "patient: an integer, not a text"),
        ("age", float("nan"), "age: a number, not a finite number"),
        ("day", "soon", "day: a text, not a date"),
    ],
)
def test_a_value_of_another_type_is_named(serve: Serve, name: str, value: Any, message: str) -> None:
    kinds = {"age": "float", "day": "date"}
    fields = {n: {"type": kind, "several": False, "later": False} for n, kind in kinds.items()}
    facts = FACTS.as_json() | {"fields": fields}
    wrong = {"points": [point(0, payload={name: value})], "next_page_offset": None}
    address = serve(facts, query=wrong, scroll=wrong)
    with pytest.raises(IndexUnavailable, match=message):
        asked(address)
    with pytest.raises(IndexUnavailable, match=message), open_store(address) as store:
        list(store.scroll())


def test_what_the_index_does_not_declare_is_left_aside(serve: Serve) -> None:
    address = serve(query={"points": [point(0, payload={"other": {"a": [1]}, "study": None}), point(1, payload={})]})
    assert set(asked(address)[0].payload) == {"dataset", "path", "width", "height", "image_sha256", "picture"}
    nothing = [{"id": 7, "version": 1, "score": 0.5, "payload": None}]
    assert asked(serve(query={"points": nothing}))[0].payload == {}


@pytest.mark.parametrize("vector", [None, {"a": VECTOR}, [1.0], [*VECTOR[:-1], float("nan")], [VECTOR]])
def test_a_copy_of_vectors_that_are_none_is_refused_and_leaves_nothing(
    serve: Serve, cxrsearch: Run, tmp_path: Path, vector: Any
) -> None:
    address = serve(scroll={"points": [point(0), point(1, vector=vector)], "next_page_offset": None})
    ran = cxrsearch("copy", address, tmp_path / "copy")
    assert (ran.code, len(ran.err.splitlines())) == (5, 1), ran.err
    assert not (tmp_path / "copy").exists()


def test_a_copy_of_ids_and_fields_that_are_none_is_refused(serve: Serve, cxrsearch: Run, tmp_path: Path) -> None:
    with_ids = serve(scroll={"points": [point(0, id=7)], "next_page_offset": None})
    ran = cxrsearch("copy", with_ids, tmp_path / "copy")
    assert (ran.code, "whose id is none of cxrsearch's" in ran.err) == (5, True)
    fields = {"<b>\x1b[31m": {"type": "keyword", "several": False, "later": False}}
    ran = cxrsearch("copy", serve(FACTS.as_json() | {"fields": fields}), tmp_path / "copy")
    assert (ran.code, "'<b> [31m' of what is copied is no name" in ran.err) == (5, True), ran.err
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    "page", [[point(0), point(1)], [point(n) for n in range(1000)], []], ids=["short", "full", "empty"]
)
def test_a_server_that_pages_for_ever_is_found_out(serve: Serve, page: list[Any]) -> None:
    address = serve(scroll={"points": page, "next_page_offset": UUIDS[1]})
    with pytest.raises(IndexUnavailable, match="page after page, without end"), open_store(address) as store:
        list(store.scroll())


@pytest.mark.parametrize("count", [-5, 10**12])
def test_a_count_that_cannot_be_is_refused(serve: Serve, cxrsearch: Run, count: int) -> None:
    ran = cxrsearch("info", "--index", serve(count={"count": count}))
    assert (ran.code, f"a count of {count} images" in ran.err) == (5, True)
    address = serve(facet={"hits": [{"value": "a", "count": count}]})
    with pytest.raises(IndexUnavailable, match="a count of"), open_store(address) as store:
        store.values("dataset")


@pytest.mark.parametrize(
    "facts",
    [
        None,
        [],
        {"format": 2},
        FACTS.as_json() | {"dimensions": 10**9},
        FACTS.as_json() | {"dimensions": float("inf")},
        FACTS.as_json() | {"fields": {"site": {"type": "keyword", "several": 1}}, "datasets": 5},
    ],
)
def test_facts_that_are_none_are_refused(serve: Serve, cxrsearch: Run, facts: Any) -> None:
    address = serve(chest=None) if facts is None else serve({"wrong": facts} if isinstance(facts, list) else facts)
    ran = cxrsearch("info", "--index", address)
    assert (ran.code, len(ran.err.splitlines())) == (5, 1), ran.err


def test_an_index_that_says_it_has_other_vectors_than_its_model_gives_is_refused(
    serve: Serve, cxrsearch: Run, cohort: Path
) -> None:
    address = serve(FACTS.as_json() | {"dimensions": CARD.dimensions // 2})
    ran = cxrsearch("search", next(cohort.parent.rglob("*.dcm")), "--index", address)
    assert (ran.code, "its settings are damaged" in ran.err) == (5, True)


def test_what_is_no_answer_of_qdrant_is_a_sentence(serve: Serve, cxrsearch: Run) -> None:
    for content in (b"\x00\xff<html>", b"[" * 10_000, b"", b"{}", b'{"result": []}', b"1e999"):
        ran = cxrsearch("info", "--index", serve(chest=lambda handler, content=content: handler.send(content)))
        assert ran.code == 5, (content[:20], ran.err)
        assert "the server answered what Qdrant does not" in ran.err


def test_the_reason_of_a_server_is_cut_and_cleaned(serve: Serve, cxrsearch: Run) -> None:
    def refuse(handler: Any) -> None:
        handler.send_response(500, "bad\x1b[31m" + "A" * 3000)
        handler.send_header("content-length", "0")
        handler.end_headers()

    ran = cxrsearch("info", "--index", serve(chest=refuse))
    assert ran.code == 5
    assert len(ran.err) < 300
    assert "\x1b" not in ran.err


def drip(handler: Any) -> None:
    """An answer that is always about to come."""
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    with_patience(handler, b" ")


def drip_a_header(handler: Any) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nx: ")
    with_patience(handler, b"a")


def with_patience(handler: Any, part: bytes) -> None:
    try:
        for _ in range(200):
            handler.wfile.write(part)
            handler.wfile.flush()
            time.sleep(0.3)
    except OSError:
        pass


@pytest.mark.parametrize("how", [drip, drip_a_header])
def test_a_server_that_drips_is_left_after_the_time_of_a_request(
    serve: Serve, cxrsearch: Run, monkeypatch: pytest.MonkeyPatch, how: Callable[[Any], None]
) -> None:
    monkeypatch.setenv("CXRSEARCH_QDRANT_TIMEOUT", "1")
    began = time.monotonic()
    ran = cxrsearch("info", "--index", serve(chest=how))
    assert (ran.code, "gave no answer in time (tried 2 times)" in ran.err) == (5, True)
    assert time.monotonic() - began < 10


def flood(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("connection", "close")
    handler.end_headers()
    try:
        for _ in range(4 * LONGEST_ANSWER // 2**20):
            handler.wfile.write(b"[" * 2**20)
    except OSError:
        pass


def test_an_answer_without_end_is_not_read_to_its_end(
    serve: Serve, cxrsearch: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXRSEARCH_QDRANT_TIMEOUT", "60")
    ran = cxrsearch("info", "--index", serve(chest=flood))
    assert (ran.code, "the server sent an answer of more than 128 MiB" in ran.err) == (5, True)


def test_a_compressed_answer_is_not_unpacked(serve: Serve, cxrsearch: Run) -> None:
    asked_for = []

    def pack(handler: Any) -> None:
        asked_for.append(handler.headers["accept-encoding"])
        handler.send(gzip.compress(b" " * 10**6), content_encoding="gzip")

    ran = cxrsearch("info", "--index", serve(chest=pack))
    assert (ran.code, "the server sent a compressed answer" in ran.err) == (5, True)
    assert asked_for == ["identity"]


def test_an_honest_server_is_copied_whole(serve: Serve, cxrsearch: Run, tmp_path: Path) -> None:
    pages = iter([([point(n) for n in range(1000)], UUIDS[1000]), ([point(n) for n in range(1000, 1500)], None)] * 2)

    def page(handler: Any) -> None:
        points, offset = next(pages)
        answer = {"result": {"points": points, "next_page_offset": offset}, "status": "ok", "time": 0.0}
        handler.send(json.dumps(answer).encode())

    ran = cxrsearch("copy", serve(scroll=page), tmp_path / "copy")
    assert ran.code == 0, ran.err
    store = EdgeStore.open(tmp_path / "copy")
    assert store.count() == 1500
    store.close()


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("127.0.0.2", True)])
def test_a_key_over_plain_http_to_another_machine_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, host: str, warned: bool
) -> None:
    monkeypatch.setattr("cxrsearch.store.nodes.PAUSES", ())
    monkeypatch.setenv("CXRSEARCH_QDRANT_API_KEY", "the-key")
    with pytest.raises(IndexUnavailable), open_store(f"http://{host}:9/chest"):
        pass
    assert (f"the API key goes to {host} unencrypted" in caplog.text) is warned
    assert "the-key" not in caplog.text


class Refused(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "for a \x1breason"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            Refused(grpc.StatusCode.RESOURCE_EXHAUSTED),
            "the server refused (resource_exhausted): for a reason. Too many",
        ),
        (ResourceExhaustedResponse("", 5), "the server is too busy. Too many requests for this collection: try again"),
        (ResponseHandlingException(Unacceptable("sent too much")), "the server sent too much. Is it a Qdrant server?"),
        (ResponseHandlingException(ValueError("JSON")), "the server answered what Qdrant does not."),
    ],
)
def test_faults_of_writing_are_sentences(error: Exception, text: str) -> None:
    fault = fault_of(error, "http://host/chest")
    assert isinstance(fault, IndexUnavailable)
    assert str(fault).startswith(f"http://host/chest: {text}")


@pytest.mark.parametrize(
    ("error", "too_late"),
    [
        (Refused(grpc.StatusCode.UNAVAILABLE), False),
        (Refused(grpc.StatusCode.DEADLINE_EXCEEDED), True),
        (ResponseHandlingException(httpx.ConnectError("")), False),
        (ResponseHandlingException(httpx.ReadTimeout("")), True),
    ],
)
def test_what_was_not_answered_may_be_asked_again(error: Exception, too_late: bool) -> None:
    fault = fault_of(error, "http://host/chest")
    assert isinstance(fault, NoAnswer)
    assert fault.too_late is too_late


def test_an_error_that_is_no_servers_is_left_alone() -> None:
    assert fault_of(MemoryError(), "http://host/chest") is None


@pytest.mark.parametrize("answer", [None, 0.5, "x", [[]], [None], [{"id": None, "score": 1}], [{"id": {}, "score": 1}]])
def test_points_of_another_shape_are_a_sentence(serve: Serve, answer: Any) -> None:
    found = {"points": answer, "next_page_offset": None}
    address = serve(query=found, scroll=found, facet={"hits": answer}, count={"count": answer})
    with open_store(address) as store:
        for ask in (
            lambda: store.query(np.array(VECTOR, np.float32), 3),
            lambda: list(store.scroll()),
            store.count,
            lambda: store.values("dataset"),
        ):
            with pytest.raises(IndexUnavailable, match="the server answered"):
                ask()


@pytest.mark.parametrize("value", [None, [], ["a"], {}, {"a": 1}])
def test_a_value_that_is_none_is_not_counted(serve: Serve, value: Any) -> None:
    address = serve(facet={"hits": [{"value": value, "count": 1}]})
    with open_store(address) as store, pytest.raises(IndexUnavailable, match="a count of dataset without a value"):
        store.values("dataset")


@pytest.mark.parametrize("name", ["metadata", "strict_mode_config", "optimizer_config"])
def test_settings_of_another_shape_are_a_sentence(serve: Serve, name: str) -> None:
    for wrong in ([1], 5, "x"):
        config = {"metadata": {"cxrsearch": FACTS.as_json()}, name: wrong}
        with (
            pytest.raises(IndexUnavailable, match="answered what Qdrant does not"),
            open_store(serve(chest={"config": config})),
        ):
            pass


@pytest.mark.parametrize("record", [None, 5, "{", "5", "[]", '{"position": NaN}', '{"position": 1e999}', "[" * 9999])
@pytest.mark.parametrize("key", ["cxrsearch.dataset.set", "cxrsearch.field.site"])
def test_records_of_an_index_that_are_none_are_refused(serve: Serve, key: str, record: Any) -> None:
    address = serve(chest={"config": {"metadata": records(FACTS) | {key: record}}})
    with pytest.raises(IndexUnavailable, match="its settings are damaged"), open_store(address):
        pass


@pytest.mark.parametrize("limit", [0, -5, "x", 1.5, True, [], None])
def test_limits_that_are_none_are_passed_over(serve: Serve, limit: Any) -> None:
    strict = {"enabled": True, "max_query_limit": limit, "search_max_hnsw_ef": limit, "upsert_max_batchsize": limit}
    config = {"metadata": records(FACTS), "strict_mode_config": strict}
    with open_store(serve(chest={"config": config})) as store:
        assert len(list(store.scroll())) == 2
