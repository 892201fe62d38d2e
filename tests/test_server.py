"""An index on one server: what its address means, two writers at once, order, refusals, and what is forgotten."""

from __future__ import annotations

import dataclasses
import json
import re
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from factories import Run
from PIL import Image
from qdrant_loopback import Loopback, loopback

from cxrsearch.clinical.expression import Contains, Equals
from cxrsearch.clinical.fields import Field, FieldType
from cxrsearch.errors import IndexUnavailable, InputError, UsageError
from cxrsearch.store import collection_facts, create_store, new_store, open_store
from cxrsearch.store.address import parse_address
from cxrsearch.store.answers import Answers
from cxrsearch.store.contract import DatasetFacts, IndexFacts, Point
from cxrsearch.store.graph import Effort
from cxrsearch.store.server import ServerStore
from cxrsearch.store.server_collection import ServerCollection
from cxrsearch.store.thumbnails import Thumbnails
from indexer.phantoms import write_cohort

D = 4
FACTS = IndexFacts(
    "model-a",
    "f" * 64,
    D,
    {name: Field(name, FieldType.KEYWORD) for name in ("site", "finding", "view", "city", "machine")},
    {"one": DatasetFacts("hospital", "/one", place="p1"), "a": DatasetFacts("hospital", "/a", place="p2")},
)


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback() as running:
        yield running


def image(number: int, **payload: Any) -> Point:
    vector = np.eye(D, dtype=np.float32)[number % D]
    return Point(str(uuid.UUID(int=number + 1)), payload, vector)


# ------------------------------------------------------------------ the address


def test_nothing_but_the_port_of_the_address_is_asked(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another server listened at 6334 of the same host, and was given the patients."""
    connected: list[int] = []
    connect = socket.socket.connect

    def watched(self: socket.socket, address: Any) -> None:
        connected.append(address[1])
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watched)
    monkeypatch.setattr("grpc.insecure_channel", lambda *_, **__: pytest.fail("gRPC was not asked for"))
    with create_store(f"{server.url}/chest", FACTS) as store:
        store.upsert([image(0, site="x")])
        assert store.count() == 1
    assert set(connected) == {int(server.url.rsplit(":", 1)[1])}


def test_a_port_where_nothing_listens_does_not_answer_though_another_does(
    server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxrsearch.store.nodes.PAUSES", ())
    with create_store(f"{server.url}/chest", FACTS):
        pass
    with pytest.raises(IndexUnavailable, match="does not answer"), open_store("http://127.0.0.1:9/chest"):
        pass


def test_grpc_is_used_where_its_port_is_given(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxrsearch.store.nodes.PAUSES", ())
    monkeypatch.setenv("CXRSEARCH_QDRANT_TIMEOUT", "1")
    with create_store(f"{server.url}/chest", FACTS):
        pass
    with open_store(f"{server.url}/chest?grpc=9") as store:
        assert store.count() == 0  # reading needs no gRPC
        with pytest.raises(IndexUnavailable, match=r"/chest: the server does not answer"):
            store.upsert([image(0)])


@pytest.mark.parametrize("query", ["grpc=", "grpc=x", "grpc=0", "grpc=70000", "port=6334", "grpc=1&x=2"])
def test_what_follows_the_address_is_a_grpc_port_or_an_error(query: str) -> None:
    with pytest.raises(UsageError, match=r"after \? comes grpc="):
        parse_address(f"http://host:6333/chest?{query}")


def test_an_address_of_ipv6_keeps_its_brackets() -> None:
    address = parse_address("http://[::1]:7333/chest?grpc=7334")
    assert (address.place, address.grpc_port, address.open_hosts) == ("http://[::1]:7333/chest", 7334, [])


def test_a_search_by_server_opens_it_with_one_request_and_does_not_load_the_client(
    server: Loopback, cxrsearch: Run, index: Path, cohort: Path
) -> None:
    assert cxrsearch("copy", index, f"{server.url}/chest").code == 0
    server.asked.clear()
    picture = next(cohort.parent.rglob("*.dcm"))
    code = f"""
import sys
from cxrsearch.cli.app import run
assert run(["search", {str(picture)!r}, "--index", "{server.url}/chest"]) == 0
print([name for name in ("qdrant_client", "grpc") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    once = ["GET /collections/chest", "POST /collections/chest/points/query/batch"]
    # Once more for copies of its patient's other images; and for whether all hits are of the archive's only view.
    known = [*once, "POST /collections/chest/points/query/batch", "POST /collections/chest/facet"]
    assert server.asked == known


def test_a_search_with_a_new_patients_image_is_two_requests(
    server: Loopback, cxrsearch: Run, index: Path, tmp_path: Path
) -> None:
    assert cxrsearch("copy", index, f"{server.url}/chest").code == 0
    grey = np.random.default_rng(0).integers(0, 255, (192, 192), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "new.png")
    for more in ((), ("-k", 3)):
        # Ten hits of one view: whether the archive has another one is asked too; three of one are no wonder.
        of_views = [] if more else ["POST /collections/chest/facet"]
        server.asked.clear()
        folder, there = (
            cxrsearch("search", tmp_path / "new.png", "--format", "json", *more, "--index", place)
            for place in (index, f"{server.url}/chest")
        )
        assert there.out == folder.out
        assert server.asked == ["GET /collections/chest", "POST /collections/chest/points/query/batch", *of_views]


def test_words_of_a_keyword_are_looked_for_by_its_values(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for a text, Qdrant 1.18.3 takes a keyword's words for a piece of it, in that case alone."""
    monkeypatch.setattr("cxrsearch.store.server._PAGE", 1)
    with create_store(f"{server.url}/chest", FACTS) as store:
        store.upsert([image(number, site=site) for number, site in enumerate(["Bern", "North West", "west b"])])
        found = [point.payload["site"] for point in store.scroll(Contains("site", "WEST"))]
    assert sorted(map(str, found)) == ["North West", "west b"]
    assert '"text"' not in json.dumps(server.bodies)
    asked = [request.rsplit("/", 1)[1] for request in server.asked]
    assert (asked.count("facet"), asked.count("scroll")) == (1, 2), "the values are asked for once, not for each page"


# ------------------------------------------------------------------ two writers at once


def test_declarations_of_two_writers_are_both_kept(server: Loopback) -> None:
    address = f"{server.url}/chest"
    with create_store(address, FACTS) as first, create_store(address, FACTS) as second:
        first.declare(first.facts.declaring("b", DatasetFacts("h", "/b"), {"fb": Field("fb", FieldType.KEYWORD)}))
        second.declare(second.facts.declaring("c", DatasetFacts("h", "/c"), {"fc": Field("fc", FieldType.FLOAT)}))
        first.declare(dataclasses.replace(first.facts, nearness={"x": 1}))
    with open_store(address) as store:
        assert list(store.facts.datasets) == ["one", "a", "b", "c"]
        assert list(store.facts.fields)[-2:] == ["fb", "fc"]
        assert store.facts.nearness == {"x": 1}


def test_a_patient_forgotten_while_another_process_declares_stays_forgotten(server: Loopback) -> None:
    address = f"{server.url}/chest"
    with create_store(address, FACTS) as first, create_store(address, FACTS) as second:
        first.declare(dataclasses.replace(first.facts, forgotten=frozenset({"token"})))
        second.declare(second.facts.declaring("b", DatasetFacts("h", "/b"), {}))
        assert second.facts.forgotten == {"token"}
        second.declare(dataclasses.replace(second.facts, forgotten=frozenset()))  # --again
    with open_store(address) as store:
        assert store.facts.forgotten == frozenset()


def test_two_datasets_of_one_name_declared_at_once_are_an_error(server: Loopback, monkeypatch: Any) -> None:
    address = f"{server.url}/chest"
    with create_store(address, FACTS) as first, create_store(address, FACTS) as second:
        ours = first.facts.declaring("b", DatasetFacts("h", "/b", place="here"), {})
        theirs = second.facts.declaring("b", DatasetFacts("h", "/other", place="there"), {})
        opened = ServerCollection.open

        def while_the_other_writes(collection: ServerCollection) -> IndexFacts:
            monkeypatch.setattr(ServerCollection, "open", opened)
            second.declare(theirs)
            return opened(collection)

        monkeypatch.setattr(ServerCollection, "open", while_the_other_writes)
        with pytest.raises(InputError, match="another process is indexing another dataset 'b'"):
            first.declare(ours)


def test_a_collection_that_another_process_is_making_is_waited_for(server: Loopback) -> None:
    address = f"{server.url}/chest"
    from qdrant_client import models

    vectors = models.VectorParams(size=D, distance=models.Distance.DOT)
    server.client.create_collection("chest", vectors, metadata={"cxrsearch": collection_facts.BEING_MADE})
    with pytest.raises(IndexUnavailable, match="is being made by another process"), open_store(address):
        pass

    def finish() -> None:
        time.sleep(0.5)
        server.client.update_collection("chest", metadata=collection_facts.records(FACTS))

    maker = threading.Thread(target=finish)
    maker.start()
    with create_store(address, dataclasses.replace(FACTS, model="other")) as store:
        assert store.facts == FACTS
    maker.join()


def test_a_collection_whose_maker_was_killed_is_finished(server: Loopback, monkeypatch: Any) -> None:
    from qdrant_client import models

    monkeypatch.setattr("cxrsearch.store.server_collection._MAKING_SECONDS", 0.3)
    vectors = models.VectorParams(size=D, distance=models.Distance.DOT)
    server.client.create_collection("chest", vectors, metadata={"cxrsearch": collection_facts.BEING_MADE})
    with create_store(f"{server.url}/chest", FACTS):
        pass
    with open_store(f"{server.url}/chest") as store:
        assert store.facts == FACTS


def test_many_writers_that_begin_at_once_all_declare(server: Loopback) -> None:
    failures: list[BaseException] = []

    def index(number: int) -> None:
        try:
            name = f"set{number}"
            facts = IndexFacts("m", "f" * 64, D, {}, {}).declaring(
                name, DatasetFacts("h", f"/{name}", place=name), {name: Field(name, FieldType.KEYWORD)}
            )
            with create_store(f"{server.url}/chest", facts) as store:
                declared = store.facts.declaring(name, facts.datasets[name], facts.fields)
                if declared != store.facts:
                    store.declare(declared)
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=index, args=(number,)) for number in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failures == []
    with open_store(f"{server.url}/chest") as store:
        assert set(store.facts.datasets) == set(store.facts.fields) == {f"set{number}" for number in range(6)}


def test_two_runs_at_once_beside_a_server_have_each_their_own_list(
    server: Loopback, cxrsearch_process: Run, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rejected.jsonl.999999999.new").write_text("of a process that was killed")
    ran: list[Any] = []
    index = ("index", cohort, "--index", f"{server.url}/chest", "--workers", 1, "--limit", 6)
    runs = [threading.Thread(target=lambda: ran.append(cxrsearch_process(*index))) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [one.code for one in ran] == [0, 0], ran
    assert [path.name for path in tmp_path.iterdir()] == ["rejected.jsonl"]


# ------------------------------------------------------------------ order


def test_facts_and_payloads_come_in_the_order_they_were_declared(server: Loopback) -> None:
    """The server on loopback gives objects in another order each time, as a real one does."""
    payload = {"city": "c", "machine": "m", "site": "s", "view": "v", "finding": "f"}
    with create_store(f"{server.url}/chest", dataclasses.replace(FACTS, nearness={"z": 1, "a": 2, "m": 3})) as store:
        store.upsert([image(0, **payload)])
    for _ in range(5):
        with open_store(f"{server.url}/chest") as store:
            assert list(store.facts.fields) == list(FACTS.fields)
            assert list(store.facts.datasets) == list(FACTS.datasets)
            assert json.dumps(store.facts.nearness) == '{"z": 1, "a": 2, "m": 3}'
            assert list(next(store.scroll()).payload) == list(FACTS.fields)
            assert list(store.query(np.eye(D, dtype=np.float32)[0], 1)[0].payload) == list(FACTS.fields)


def test_folder_and_server_give_the_same_bytes(
    server: Loopback, cxrsearch: Run, index: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXRSEARCH_THUMBNAILS", str(tmp_path / "thumbnails"))
    address = f"{server.url}/chest"
    assert cxrsearch("copy", index, address).code == 0
    picture = next(cohort.parent.rglob("*.dcm"))
    for arguments in (
        ("cohort", "--format", "csv"),
        ("cohort", "--format", "json", "--where", 'finding = "COVID-19"'),
        ("cohort", "--by", "finding", "--by", "site", "--format", "csv"),
        ("info", "--format", "jsonl"),
        ("search", picture, "--format", "csv", "-k", 12),
        ("search", picture, "--format", "json", "-k", 12),
    ):
        command, *rest = arguments
        folder, there = (cxrsearch(command, *rest, "--index", place) for place in (index, address))
        assert (folder.code, there.code) == (0, 0), there.err
        assert without_last_digits(there.out) == without_last_digits(folder.out), arguments


def without_last_digits(text: str) -> str:
    """Of scores: the server of these tests adds up in another order than the engine does."""
    return re.sub(r"\b0\.\d{4,}\b", lambda score: f"{float(score[0]):.4f}", text)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("status", "reason", "message"),
    [
        (
            500,
            "Service internal error: shard 0 is \x1b[31mdead",
            r"500 .*: Service internal error: shard 0 is \[31mdead and a",
        ),
        (500, "1 of 1 read operations failed: no replicas", "A node of the server is away or behind"),
        (400, "Help: Use strict mode filter", r"A limit of this collection \(strict mode\)"),
        (429, "Rate limiting exceeded", "try again later"),
        (403, "Forbidden", "Set CXRSEARCH_QDRANT_API_KEY"),
    ],
)
def test_the_servers_own_reason_is_shown_in_one_line_with_what_to_do(
    server: Loopback, cxrsearch: Run, status: int, reason: str, message: str
) -> None:
    with create_store(f"{server.url}/chest", FACTS):
        pass
    refused = json.dumps({"status": {"error": f"{reason}\nand a second line"}}).encode()
    server.refuse = lambda method, path, body: (status, refused) if path.endswith("/count") else None
    with open_store(f"{server.url}/chest") as store, pytest.raises(IndexUnavailable, match=message) as caught:
        store.count()
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert "and a second line" in str(caught.value)


def test_what_is_no_qdrant_server_is_named(server: Loopback) -> None:
    server.refuse = lambda method, path, body: (200, b"<html>a page</html>")
    with pytest.raises(IndexUnavailable, match="answered what Qdrant does not"), open_store(f"{server.url}/x"):
        pass


def test_a_key_that_may_only_read_is_refused_before_the_work(
    server: Loopback, cxrsearch: Run, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cxrsearch("copy", index, f"{server.url}/chest").code == 0
    monkeypatch.setenv("CXRSEARCH_QDRANT_API_KEY", "reader")
    server.refuse = lambda method, path, body: (403, b"") if method in ("PATCH", "PUT", "DELETE") else None
    server.asked.clear()
    for command in (("calibrate",), ("forget", "anybody")):
        ran = cxrsearch(*command, "--index", f"{server.url}/chest")
        assert ran.code == 5
        assert "does not allow this; use one that does" in ran.err
    assert [one for one in server.asked if "/points" in one] == []


def test_limits_of_a_strict_collection_are_kept(server: Loopback) -> None:
    server.strict = {"enabled": True, "max_query_limit": 3, "search_max_hnsw_ef": 100, "upsert_max_batchsize": 2}
    with create_store(f"{server.url}/chest", FACTS) as store:
        store.upsert([image(n, site="ab"[n % 2]) for n in range(7)])
        store.query(np.eye(D, dtype=np.float32)[0], 3, effort=Effort(256))
        asked = server.bodies[-1]
        assert (asked["params"]["hnsw_ef"], asked["limit"]) == (100, 3)
        assert len(list(store.scroll())) == 7
        assert store.values("site") == {"a": 4, "b": 3}
        with pytest.raises(UsageError, match="at most 3 images at once"):
            store.query(np.eye(D, dtype=np.float32)[0], 4)
        server.asked.clear()
        server.bodies.clear()
        assert store.values("site") == {"a": 4, "b": 3}
        assert server.asked == ["POST /collections/chest/facet"]
    sent = [body for ask, body in zip(server.asked, server.bodies, strict=True) if body and "points" in ask]
    assert all(len(body.get("points", [])) <= 2 and body.get("limit", 0) <= 3 for body in sent)


def test_limits_that_are_off_are_none(server: Loopback) -> None:
    server.strict = {"enabled": False, "max_query_limit": 3}
    with create_store(f"{server.url}/chest", FACTS) as store:
        store.upsert([image(n) for n in range(5)])
        assert len(store.query(np.eye(D, dtype=np.float32)[0], 5)) == 5


def test_values_of_which_there_are_very_many_are_counted_by_image(
    server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of four million different pictures are a longer answer than is read, and every index run failed."""
    with create_store(f"{server.url}/chest", FACTS) as store:
        store.upsert([image(n, site="abc"[n % 3]) for n in range(7)])
        assert store.values("site") == {"a": 3, "b": 2, "c": 2}
        assert server.bodies[-1]["limit"] <= 250_000
        store.values("picture")  # as every index run does: a million are no reason to read every image
        assert server.bodies[-1]["limit"] == 2_000_000
        monkeypatch.setattr("cxrsearch.store.server._MOST_VALUES", 2)
        monkeypatch.delattr(Answers, "values")  # of very many, each would be looked at for nothing
        assert store.values("site") == {"a": 3, "b": 2, "c": 2}
        monkeypatch.undo()
        assert store.values("site", Equals("site", ("a",))) == {"a": 3}


# ------------------------------------------------------------------ what is forgotten


def test_a_patient_forgotten_while_an_index_run_holds_his_images_stays_forgotten(
    server: Loopback, cxrsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run stored what it had in hand after his images were deleted, and later runs left him out in silence."""
    monkeypatch.setenv("CXRSEARCH_THUMBNAILS", str(tmp_path / "pictures"))
    monkeypatch.setattr("cxrsearch.store.server_erasure._BEGINS_WITHIN", 0.0)
    toml, address = write_cohort(tmp_path / "set", patients=3, size=96), f"{server.url}/chest"
    run = ("index", toml, "--index", address, "--workers", 1)
    assert cxrsearch(*run).code == 0
    for path in toml.parent.rglob("*.dcm"):  # other images of the same patients
        image = pydicom.dcmread(path)
        if image.file_meta.TransferSyntaxUID.is_compressed:
            image.decompress()
        image.PixelData = bytes(value ^ 1 for value in image.PixelData)
        image.save_as(path)
    stored = ServerStore.upsert

    def after_a_forget(store: ServerStore, points: list[Point]) -> None:
        monkeypatch.setattr(ServerStore, "upsert", stored)
        assert cxrsearch("forget", "PH0001", "--index", address).code == 0
        stored(store, points)

    monkeypatch.setattr(ServerStore, "upsert", after_a_forget)
    ran = cxrsearch(*run)
    assert (ran.code, "of forgotten patients were left out" in ran.out) == (0, True), ran.err
    with open_store(address) as store:
        assert len(store.facts.forgotten) == 1
        assert not [point for point in store.scroll() if "PH0001" in str(point.payload["path"])]
        assert set(store.thumbnails.ids()) == {point.id for point in store.scroll()}


def test_forgetting_takes_the_pictures_of_images_that_were_never_stored_on_a_server(
    server: Loopback, cxrsearch: Run, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of one who is not found stay: a mistyped number is no reason to go through the whole index."""
    monkeypatch.setattr("cxrsearch.store.server_erasure._BEGINS_WITHIN", 0.0)
    for setting in (str(tmp_path / "pictures"), "memory://orphans"):
        monkeypatch.setenv("CXRSEARCH_THUMBNAILS", setting)
        address = f"{server.url}/{setting.rpartition('/')[2]}"
        assert cxrsearch("copy", index, address).code == 0
        with open_store(address) as store:
            store.thumbnails.put(image(0).id, JPEG)
        for arguments, code in ((("PH0000", "--dry-run"), 0), (("PH9999",), 4)):
            assert cxrsearch("forget", *arguments, "--index", address).code == code
            with open_store(address) as store:
                assert store.thumbnails.has(image(0).id)
        assert cxrsearch("forget", "PH0000", "--index", address).code == 0
        with open_store(address) as store:
            assert set(store.thumbnails.ids()) == {point.id for point in store.scroll()}


@pytest.mark.parametrize("place", ["named by others", "shared", "own"])
def test_forgetting_leaves_what_may_be_no_picture_of_this_index(
    pictured: str, server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Of a folder that a server names, all other files were deleted; of one that two indexes share, the other's."""
    monkeypatch.setattr("cxrsearch.store.server_erasure._BEGINS_WITHIN", 0.0)
    (folder,) = (tmp_path / "pictures").iterdir()
    if place != "named by others":
        monkeypatch.setenv("CXRSEARCH_THUMBNAILS", str(tmp_path / "pictures"))
    if place == "shared":
        folder = folder.rename(tmp_path / "pictures" / "chest")
        server.client.update_collection("chest", metadata={collection_facts.THUMBNAILS: str(folder)})
    if place != "own":
        Thumbnails(folder).put(image(2).id, JPEG)
    note = folder / "notes" / "file.txt"
    note.parent.mkdir()
    note.write_text("somebody's")
    scroll = ServerStore.scroll

    def beside_an_index_run(store: ServerStore, *given: Any, **named: Any) -> Iterator[Point]:
        if not given:  # of all points
            Thumbnails(folder).put(image(3).id, JPEG)
        return scroll(store, *given, **named)

    with open_store(pictured) as store:
        assert store.thumbnails.folder == folder
        monkeypatch.setattr(ServerStore, "scroll", beside_an_index_run)
        store.erase(Equals("patient", ("P",)), store.facts)
    left = (1, 3) if place == "own" else (1, 2)
    assert list(Thumbnails(folder).ids()) == [image(n).id for n in left]
    assert note.exists()


@pytest.mark.parametrize(("images", "segments", "said"), [(250, 1, False), (99, 1, True), (250, 2, True)])
def test_a_segment_that_may_be_too_small_to_be_rewritten_is_said(
    server: Loopback, monkeypatch: pytest.MonkeyPatch, images: int, segments: int, said: bool
) -> None:
    monkeypatch.setattr("cxrsearch.store.server_erasure._BEGINS_WITHIN", 0.0)
    server.segments = segments
    with create_store(f"{server.url}/chest", FACTS) as store:
        store.upsert([image(n, patient="PQ"[n > 0]) for n in range(images + 1)])
        store.erase(Equals("patient", ("P",)), store.facts)
        assert ("no segment of fewer than 100 images" in " ".join(store.remains())) == said


def test_a_value_that_no_image_has_any_more_is_not_listed(server: Loopback) -> None:
    with create_store(f"{server.url}/chest", FACTS) as store:
        store.upsert([image(0, patient="P"), image(1, patient="Q")])
        gone = {"result": {"hits": [{"value": "P", "count": 0}, {"value": "Q", "count": 1}]}}
        server.refuse = lambda method, path, body: (200, json.dumps(gone).encode()) if path.endswith("/facet") else None
        assert store.values("patient") == {"Q": 1}


def test_forgetting_has_the_server_rewrite_its_files_and_says_what_it_keeps(
    server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxrsearch.store.server_erasure._BEGINS_WITHIN", 0.0)
    server.snapshots = ["chest-1.snapshot"]
    with create_store(f"{server.url}/chest", FACTS) as store:
        store.upsert([image(0, patient="P"), image(1, patient="Q")])
        assert store.remains() == ()
        facts = dataclasses.replace(store.facts, forgotten=frozenset({"token"}))
        assert store.erase(Equals("patient", ("P",)), facts) == 1
        said = " ".join(store.remains())
    changed = [body for ask, body in zip(server.asked, server.bodies, strict=True) if ask.startswith("PATCH")]
    eager, usual = (one["optimizers_config"]["deleted_threshold"] for one in changed if "optimizers_config" in one)
    assert eager == 0.0 < usual
    assert "wal/" in said
    assert "no segment of fewer than 100 images" in said
    assert "chest-1.snapshot" in said


# ------------------------------------------------------------------ thumbnails

JPEG = b"\xff\xd8\xff a picture"


@pytest.fixture
def pictured(server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an index whose maker keeps thumbnails in tmp_path/pictures; the setting is gone again."""
    with monkeypatch.context() as patch:
        patch.setenv("CXRSEARCH_THUMBNAILS", str(tmp_path / "pictures"))
        with create_store(f"{server.url}/chest", FACTS) as store:
            for one in (image(0, patient="P"), image(1, patient="Q")):
                store.thumbnails.put(one.id, JPEG)
                store.upsert([one])
    return f"{server.url}/chest"


def test_who_has_no_setting_sees_the_thumbnails_that_the_index_names(pictured: str) -> None:
    with open_store(pictured) as store:
        assert store.thumbnails.get(image(0).id) == JPEG
        store.thumbnails.put(image(2).id, JPEG)  # a stranger's server could name any folder
        assert store.thumbnails.get(image(2).id) is None
        store.upsert([image(1, patient="Q")])  # another image of that id, perhaps
        assert list(store.thumbnails.ids()) == [image(0).id]


def test_forgetting_deletes_thumbnails_where_the_index_has_them(pictured: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("cxrsearch.store.server_erasure._BEGINS_WITHIN", 0.0)
    with open_store(pictured) as store:
        assert store.erase(Equals("patient", ("P",)), store.facts) == 1
        assert list(store.thumbnails.ids()) == [image(1).id]


def test_forgetting_is_refused_where_thumbnails_would_stay(pictured: str, tmp_path: Path) -> None:
    (tmp_path / "pictures").rename(tmp_path / "elsewhere")
    with open_store(pictured) as store:
        with pytest.raises(IndexUnavailable, match="cannot be reached from here, and would stay"):
            store.erase(Equals("patient", ("P",)), store.facts)
        assert store.count() == 2


@pytest.mark.parametrize(
    "folder", ["relative/chest", "/etc", "", "/tmp/another", "/tmp/chest-old", "/tmp/chest-0123456789abcdef"]
)
def test_a_folder_that_is_none_of_this_index_is_not_touched(pictured: str, server: Loopback, folder: str) -> None:
    server.client.update_collection("chest", metadata={collection_facts.THUMBNAILS: folder})
    with open_store(pictured) as store:
        assert store.thumbnails.folder is None


def test_indexes_of_one_name_on_two_servers_have_each_their_own_pictures(
    pictured: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed on one server, or was forgotten there, took the other's pictures away."""
    monkeypatch.setenv("CXRSEARCH_THUMBNAILS", str(tmp_path / "pictures"))
    with loopback() as other:
        with pytest.raises(InputError):
            _copy_that_fails(f"{other.url}/chest")
        assert len(list((tmp_path / "pictures").iterdir())) == 1
        with create_store(f"{other.url}/chest", FACTS) as store:
            assert not store.thumbnails.has(image(0).id)
            store.upsert([image(0, patient="P")])
            store.thumbnails.put(image(0).id, JPEG)
            store.delete(Equals("patient", ("P",)))
    with open_store(pictured) as store:
        assert list(store.thumbnails.ids()) == [image(0).id, image(1).id]


def _copy_that_fails(address: str) -> None:
    with new_store(address, FACTS) as store:
        store.thumbnails.put(image(0).id, JPEG)
        raise InputError("as where what is stored is not what was read")


def test_an_index_of_an_older_version_keeps_the_place_of_its_pictures(
    pictured: str, server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXRSEARCH_THUMBNAILS", str(tmp_path / "pictures"))
    (newer,) = (tmp_path / "pictures").iterdir()
    older = newer.rename(tmp_path / "pictures" / "chest")
    server.client.update_collection("chest", metadata={collection_facts.THUMBNAILS: str(older)})
    with open_store(pictured, write=True) as store:
        store.declare(dataclasses.replace(store.facts, nearness={"x": 1}))
        assert store.thumbnails.get(image(0).id) == JPEG
    with open_store(pictured) as store:
        assert store.thumbnails.folder == older
    older.parent.rename(tmp_path / "mounted elsewhere")
    monkeypatch.setenv("CXRSEARCH_THUMBNAILS", str(tmp_path / "mounted elsewhere"))
    with open_store(pictured) as store:
        assert store.thumbnails.get(image(0).id) == JPEG


@pytest.fixture
def at_an_address(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """As ``pictured``, in a store of objects."""
    import fsspec

    with monkeypatch.context() as patch:
        patch.setenv("CXRSEARCH_THUMBNAILS", "memory://bucket/pictures/")
        with create_store(f"{server.url}/chest", FACTS) as store:
            for one in (image(0, patient="P"), image(1, patient="Q")):
                store.thumbnails.put(one.id, JPEG)
                store.upsert([one])
                assert store.thumbnails.has(one.id)
    yield f"{server.url}/chest"
    fsspec.filesystem("memory").store.clear()


def test_thumbnails_at_an_address_are_seen_copied_and_forgotten_by_everybody(
    at_an_address: str, server: Loopback, monkeypatch: Any, tmp_path: Path, cxrsearch: Run
) -> None:
    monkeypatch.setattr("cxrsearch.store.server_erasure._BEGINS_WITHIN", 0.0)
    first = image(0).id
    named = server.client.get_collection("chest").config.metadata[collection_facts.THUMBNAILS]
    assert re.fullmatch("memory://bucket/pictures/chest-[0-9a-f]{12}", named)
    assert cxrsearch("copy", at_an_address, tmp_path / "copied").code == 0
    assert cxrsearch("backup", at_an_address, tmp_path / "file").code == 0
    assert cxrsearch("restore", tmp_path / "file", tmp_path / "restored").code == 0
    for folder in ("copied", "restored"):
        assert len(list((tmp_path / folder / "thumbnails").rglob("*.jpg"))) == 2
    with open_store(at_an_address) as store:
        assert store.thumbnails.get(first) == JPEG
        store.thumbnails.put(image(2).id, JPEG)
        assert sorted(store.thumbnails.ids()) == sorted([first, image(1).id])
        assert store.erase(Equals("patient", ("P",)), store.facts) == 1
        assert (list(store.thumbnails.ids()), store.thumbnails.get(first)) == ([image(1).id], None)
        assert list(store.problems()) == []
    with open_store(at_an_address) as store:
        assert list(store.thumbnails.ids()) == [image(1).id]


def test_a_store_that_does_not_answer_costs_a_search_a_warning_and_forgetting_its_end(
    at_an_address: str, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    import fsspec

    def fails(*_: object, **__: object) -> None:
        raise ConnectionError("https://key:hunter2@bucket refused")

    for name in ("cat_file", "find", "rm"):
        monkeypatch.setattr(type(fsspec.filesystem("memory")), name, fails)
    with open_store(at_an_address) as store:
        assert [store.thumbnails.get(image(n).id) for n in (0, 1)] == [None, None]
        (said,) = [record.getMessage() for record in caplog.records if "no thumbnails" in record.getMessage()]
        assert re.search("memory://bucket/pictures/chest-[0-9a-f]{12}: no thumbnails .ConnectionError", said)
        with pytest.raises(IndexUnavailable, match="cannot be reached from here, and would stay") as refused:
            store.erase(Equals("patient", ("P",)), store.facts)
        assert store.count() == 2
    assert "hunter2" not in said + str(refused.value)


@pytest.mark.parametrize(
    "address",
    ["file:///etc", "s3://key:hunter2@bucket/x", "http://bucket/x", "s3://bucket/../x", "zip::s3://b/x", "s3://"],
)
def test_an_address_that_is_none_is_refused_unrepeated_and_never_asked(
    server: Loopback, pictured: str, monkeypatch: Any, address: str
) -> None:
    server.client.update_collection("chest", metadata={collection_facts.THUMBNAILS: f"{address}/chest"})
    with open_store(pictured) as store:  # a stranger's
        assert type(store.thumbnails) is Thumbnails
        assert store.thumbnails.folder is None
    monkeypatch.setenv("CXRSEARCH_THUMBNAILS", address)
    with (
        pytest.raises(UsageError, match="credentials go where the store's own tools look") as refused,
        open_store(pictured),
    ):
        pass
    assert "hunter2" not in str(refused.value)


# ------------------------------------------------------------------ copies


def test_a_copy_that_was_killed_is_no_index_and_the_next_one_begins_anew(server: Loopback, index: Path) -> None:
    address = f"{server.url}/chest"
    killed = ServerStore.connect(address, FACTS, unpublished=True)
    killed.upsert([image(0)])  # and no more: never closed
    with pytest.raises(IndexUnavailable, match="a copy or restore into it has not ended"), open_store(address):
        pass
    with new_store(address, FACTS) as store:
        store.upsert([image(1), image(2)])
    with open_store(address) as store:
        assert store.count() == 2


def test_the_last_of_two_copies_that_begin_is_kept_whole(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one dropped, as it failed, what the second had published. Its own error is what is seen."""
    monkeypatch.setenv("CXRSEARCH_THUMBNAILS", str(tmp_path))
    address, begun = f"{server.url}/chest", "another copy or restore into it has begun meanwhile"
    for ends_with, error in (("a batch", begun), ("its last line", begun), ("an error", "what is stored is not")):
        with pytest.raises((IndexUnavailable, InputError), match=error):
            _copy_beside_another(address, ends_with)
        with open_store(address) as store:
            assert sorted(point.id for point in store.scroll()) == [image(1).id, image(2).id]
            assert list(store.thumbnails.ids()) == [image(1).id]
        assert len(list(tmp_path.rglob("*.jpg"))) == 1
        server.client.delete_collection("chest")
        next(tmp_path.rglob("*.jpg")).unlink()


def _copy_beside_another(address: str, ends_with: str) -> None:
    with new_store(address, FACTS) as first:
        first.thumbnails.put(image(0).id, JPEG)
        first.upsert([image(0)])
        with new_store(address, FACTS) as second:
            second.thumbnails.put(image(1).id, JPEG)
            second.upsert([image(1), image(2)])
        if ends_with == "a batch":
            first.upsert([image(3)])
        if ends_with == "an error":
            raise InputError("as where what is stored is not what was read")


def test_pictures_of_a_copy_that_was_killed_go_when_the_next_one_begins(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXRSEARCH_THUMBNAILS", str(tmp_path))
    killed = ServerStore.connect(f"{server.url}/chest", FACTS, unpublished=True)
    killed.thumbnails.put(image(0).id, JPEG)
    with new_store(f"{server.url}/chest", FACTS) as store:
        assert list(tmp_path.rglob("*.jpg")) == []
        store.upsert([image(1)])


def test_a_collection_that_takes_longer_to_make_than_is_waited_is_our_own(
    server: Loopback, cxrsearch: Run, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request was made again, and its answer "already exists" taken for another process's collection."""
    monkeypatch.setenv("CXRSEARCH_QDRANT_TIMEOUT", "1")
    monkeypatch.setattr("cxrsearch.store.nodes.PAUSES", (0.8,))
    made: list[Any] = []

    def slow(method: str, path: str, body: Any) -> None:
        if (method, path) == ("PUT", "/collections/chest") and not made:
            made.append(server.client.create_collection("chest", **_asked(body)))
            time.sleep(1.5)

    server.refuse = slow
    assert cxrsearch("copy", index, f"{server.url}/chest").code == 0


def _asked(body: Any) -> Any:
    from qdrant_client import models

    asked = models.CreateCollection(**body)
    return {"vectors_config": asked.vectors, "metadata": asked.metadata}


def test_an_index_without_images_is_not_copied_into(
    server: Loopback, cxrsearch: Run, index: Path, tmp_path: Path
) -> None:
    """Its facts were replaced, and a copy that was killed left part of itself in an index that others read."""
    for target in (f"{server.url}/chest", str(tmp_path / "empty")):
        with create_store(target, FACTS):
            pass
        ran = cxrsearch("copy", index, target)
        assert (ran.code, "holds 0 images already; give a new index" in ran.err) == (2, True), ran.err
        with open_store(target) as store:
            assert (store.facts, store.count()) == (FACTS, 0)
