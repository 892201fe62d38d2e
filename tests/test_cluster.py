"""An index on a cluster: nodes that are away, frozen, behind or of another cluster; replicas; what is forgotten.

Several servers of qdrant_loopback.py with one client stand for its nodes; benchmarks/cluster_soak.py has real ones.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import Run
from qdrant_loopback import Loopback, loopback

from cxrsearch.clinical.expression import Equals
from cxrsearch.errors import IndexUnavailable, UsageError
from cxrsearch.store import create_store, is_same, open_store
from cxrsearch.store.address import parse_address
from cxrsearch.store.contract import DatasetFacts, IndexFacts, Point
from cxrsearch.store.placement import Placement

ROOT = Path(__file__).parent.parent
D = 4
FACTS = IndexFacts("model-a", "f" * 64, D, {}, {"one": DatasetFacts("hospital", "", place="p1")})
NOWHERE = "127.0.0.1:9"
VECTOR = np.eye(D, dtype=np.float32)[0]


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxrsearch.store.nodes.PAUSES", (0.01,))
    monkeypatch.setattr("cxrsearch.store.rest.HURRIED_SECONDS", 0.5)
    monkeypatch.setattr("cxrsearch.store.members._HEARD_SECONDS", 0.3)
    monkeypatch.setattr("cxrsearch.store.server_erasure._BEGINS_WITHIN", 0.0)


@pytest.fixture
def nodes() -> Iterator[list[Loopback]]:
    """Three nodes of one cluster."""
    with ExitStack() as stack:
        first = stack.enter_context(loopback())
        yield [first, *(stack.enter_context(loopback(first.client)) for _ in range(2))]


def address(*nodes: Loopback | str, collection: str = "chest") -> str:
    return f"http://{','.join(one if isinstance(one, str) else one.url[7:] for one in nodes)}/{collection}"


def image(number: int, **payload: Any) -> Point:
    return Point(f"00000000-0000-0000-0000-{number:012d}", payload, np.eye(D, dtype=np.float32)[number % D])


def silent(node: Loopback) -> None:
    """As one that was killed: every request ends without an answer."""
    node.refuse = lambda method, path, body: (503, b"")


def say(nodes: list[Loopback], states: dict[tuple[int, int], str], away: int | None = None) -> None:
    """Have every node say which shards there are on which of the peers 1, 2, 3, and in which state."""
    uris = {number: f"http://node-{number}:6335/" for number in (1, 2, 3)}
    for number, node in enumerate(nodes, start=1):
        node.cluster = {
            "status": "enabled",
            "peer_id": number,
            "peers": {str(peer): {"uri": uri} for peer, uri in uris.items()},
            "message_send_failures": {} if away is None else {uris[away]: {"count": 3}},
        }
        listed = [{"shard_id": shard, "peer_id": peer, "state": state} for (shard, peer), state in states.items()]
        node.shards = {
            "peer_id": number,
            "local_shards": [one for one in listed if one["peer_id"] == number],
            "remote_shards": [one for one in listed if one["peer_id"] != number],
            "shard_transfers": [],
        }


WHOLE = {(0, 1): "Active", (0, 2): "Active", (1, 2): "Active", (1, 3): "Active"}

# ------------------------------------------------------------------ the address


def test_an_address_names_the_nodes_of_a_cluster() -> None:
    found = parse_address("https://a:6333,b,[::1]:7000/chest?grpc=6334")
    assert found.urls == ("https://a:6333", "https://b:6333", "https://[::1]:7000")
    assert (found.place, found.grpc_port) == ("https://a:6333,b:6333,[::1]:7000/chest", 6334)


@pytest.mark.parametrize(
    "wrong",
    [
        "http://a:6333,https://b:6333/chest",
        "http://a:6333,,b:6333/chest",
        "http://a:6333,/chest",
        "http://a,b:port/chest",
        "http://a:6333,a:6333/chest",
        "http://a:6333,a/chest",
    ],
)
def test_addresses_of_nodes_that_are_none(wrong: str) -> None:
    with pytest.raises(UsageError, match=r"a cluster|twice"):
        parse_address(wrong)


def test_a_password_for_one_of_the_nodes_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="CXRSEARCH_QDRANT_API_KEY") as caught:
        parse_address("http://a:6333,user:secret@b:6333/chest")
    assert "secret" not in str(caught.value)


def test_an_index_is_the_same_whichever_of_its_nodes_are_named(tmp_path: Path) -> None:
    assert is_same("http://a,b,c/chest", "http://c:6333/chest")
    assert not is_same("http://a,b/chest", "http://c/chest")
    assert not is_same("http://a,b/chest", "http://a,b/other")
    assert not is_same("http://a/chest", str(tmp_path))
    assert is_same(str(tmp_path), f"{tmp_path}/../{tmp_path.name}/")


def test_a_key_that_goes_to_several_machines_unencrypted_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXRSEARCH_QDRANT_API_KEY", "the-key")
    with pytest.raises(IndexUnavailable) as caught, open_store("http://127.0.0.1:9,127.0.0.2:9,127.0.0.3:9/chest"):
        pass
    assert "the API key goes to 127.0.0.2, 127.0.0.3 unencrypted" in caplog.text
    assert "the-key" not in caplog.text + str(caught.value)
    assert "none of the 3 nodes answers" in str(caught.value)


# ------------------------------------------------------------------ nodes that are away


def test_the_next_node_is_asked_and_written_to_where_one_is_away(nodes: list[Loopback]) -> None:
    with create_store(address(*nodes), FACTS) as store:
        store.upsert([image(0)])
    with open_store(address(NOWHERE, *nodes[1:])) as store:
        assert store.count() == 1
        store.upsert([image(1)])
        silent(nodes[1])  # in the middle
        store.upsert([image(2)])
        assert store.query(VECTOR, 1)[0].id == image(0).id
        assert store.count() == 3


def test_a_node_that_takes_connections_and_does_not_answer_is_left_soon(nodes: list[Loopback]) -> None:
    with create_store(address(*nodes), FACTS) as store:
        store.upsert([image(0)])
    with socket.socket() as frozen:
        frozen.bind(("127.0.0.1", 0))
        frozen.listen()
        began = time.monotonic()
        with open_store(address(f"127.0.0.1:{frozen.getsockname()[1]}", *nodes)) as store:
            assert store.count() == 1
            store.replication()
        assert time.monotonic() - began < 5
        frozen.setblocking(False)
        frozen.accept()[0].close()
        frozen.accept()[0].close()
        with pytest.raises(BlockingIOError):  # what it knows was asked once: each time costs a time-out
            frozen.accept()


def test_a_node_that_took_long_for_one_request_is_asked_what_it_knows(nodes: list[Loopback]) -> None:
    """It was passed over for a while, and a patient forgotten without a look at the replicas."""
    say(nodes, WHOLE)
    with create_store(address(*nodes), FACTS) as store:
        store.upsert([image(0)])
        for node in nodes:
            node.refuse = lambda method, path, body: time.sleep(0.7) if path.endswith("points/count") else None
        assert store.count() == 1
        found = store.replication()
    assert found is not None
    assert (found.is_whole, found.unanswered) == (True, ())


def test_nodes_that_do_not_say_whether_they_are_a_cluster_are_one(nodes: list[Loopback]) -> None:
    with create_store(address(*nodes), FACTS) as store:
        store.upsert([image(0, patient="P")])
        for node in nodes:
            node.refuse = lambda method, path, body: time.sleep(0.7) if path == "/cluster" else None
        with pytest.raises(IndexUnavailable, match=r"does not answer, and may hold this patient\. Nothing was deleted"):
            store.erase(Equals("patient", ("P",)), store.facts)
        assert store.count() == 1
        for node in nodes:
            node.refuse = lambda method, path, body: None
        assert store.count() == 1


def test_a_node_that_has_not_caught_up_is_not_asked(nodes: list[Loopback]) -> None:
    with create_store(address(*nodes), FACTS) as store:
        store.upsert([image(0)])
    nodes[0].asked.clear()
    nodes[0].refuse = lambda method, path, body: (503, b"") if path == "/readyz" else None
    with open_store(address(*nodes)) as store:
        assert store.count() == 1
    assert set(nodes[0].asked) <= {"GET /readyz", "GET /collections/chest"}
    assert not [one for one in nodes[0].asked if "points" in one]


def test_a_node_that_was_wiped_is_passed_over(nodes: list[Loopback]) -> None:
    with create_store(address(*nodes), FACTS) as store:
        store.upsert([image(0)])
    with loopback() as wiped, open_store(address(wiped, *nodes), write=True) as store:
        assert store.count() == 1
        assert wiped.client.get_collections().collections == []


def test_a_failure_of_one_node_is_no_answer_of_all(nodes: list[Loopback]) -> None:
    with create_store(address(*nodes), FACTS) as store:
        store.upsert([image(0)])
        failing = json.dumps({"status": {"error": "shard 0 has no active replica"}}).encode()
        nodes[0].refuse = lambda method, path, body: (500, failing) if "points" in path else None
        assert store.count() == 1
        for node in nodes:
            node.refuse = nodes[0].refuse
        with pytest.raises(IndexUnavailable, match=r"no active replica\. A node of the server is away"):
            store.count()


def test_an_index_that_no_node_has_is_not_there(nodes: list[Loopback]) -> None:
    with pytest.raises(IndexUnavailable, match="no such index"), open_store(address(*nodes)):
        pass
    with pytest.raises(IndexUnavailable, match="no such index"), open_store(address(*nodes[:2], NOWHERE)):
        pass


def test_an_index_is_not_made_while_most_nodes_are_away(nodes: list[Loopback]) -> None:
    """A node that lost its data and began a cluster of its own would be given a second index of the name."""
    with (
        pytest.raises(IndexUnavailable, match="of 3 nodes only 1 answered, and has no such index"),
        create_store(address(NOWHERE, nodes[0], "127.0.0.1:10"), FACTS),
    ):
        pass
    assert nodes[0].client.get_collections().collections == []


# ------------------------------------------------------------------ nodes of another cluster


@pytest.fixture
def other(nodes: list[Loopback]) -> Iterator[Loopback]:
    """A server with another index of the same name as the nodes have."""
    with create_store(address(*nodes), FACTS) as store:
        store.upsert([image(0)])
    with loopback() as server:
        with create_store(address(server), FACTS):
            pass
        yield server


def test_a_node_of_another_cluster_is_found_before_anything_is_written(nodes: list[Loopback], other: Loopback) -> None:
    for given in (address(nodes[0], other), address(other, nodes[0])):
        with pytest.raises(IndexUnavailable, match="has another index of this name"), open_store(given, write=True):
            pass


def test_a_node_of_another_cluster_is_not_asked_instead(nodes: list[Loopback], other: Loopback) -> None:
    with open_store(address(nodes[0], other)) as store:
        silent(nodes[0])
        with pytest.raises(IndexUnavailable, match=f"{other.url} has another index"):
            store.query(VECTOR, 1)
    with (
        pytest.raises(IndexUnavailable, match="has another index of this name"),
        open_store(address(NOWHERE, other, nodes[1])),
    ):
        pass
    assert not [one for one in other.asked if "query" in one]


def test_an_index_on_nodes_of_two_clusters_is_not_made(nodes: list[Loopback]) -> None:
    with (
        loopback() as other,
        pytest.raises(IndexUnavailable, match="does not have the index that was just made"),
        create_store(address(nodes[0], other), FACTS),
    ):
        pass
    assert nodes[0].client.get_collections().collections == []


# ------------------------------------------------------------------ replicas


def test_replicas_and_shards_are_asked_for_and_kept(
    nodes: list[Loopback], cxrsearch: Run, index: Path, tmp_path: Path
) -> None:
    there = address(*nodes)
    assert cxrsearch("copy", index, there, "--replicas", 2, "--shards", 6).code == 0
    made = next(
        body for ask, body in zip(nodes[0].asked, nodes[0].bodies, strict=True) if ask == "PUT /collections/chest"
    )
    assert (made["shard_number"], made["replication_factor"], made["write_consistency_factor"]) == (6, 2, 1)
    with open_store(there) as store:
        assert store.facts.placement == Placement(6, 2)
    assert cxrsearch("copy", there, tmp_path / "folder").code == 0
    assert cxrsearch("copy", tmp_path / "folder", address(*nodes, collection="again"), "--replicas", 3).code == 0
    with open_store(address(*nodes, collection="again")) as store:
        assert store.facts.placement == Placement(6, 3)


@pytest.mark.parametrize(("replicas", "acknowledging"), [(None, None), (1, 1), (2, 1), (3, 2), (4, 3), (5, 3)])
def test_a_write_waits_for_a_majority_that_is_left_when_a_node_is_lost(replicas: Any, acknowledging: Any) -> None:
    assert Placement(6, replicas).acknowledging == acknowledging


def test_an_index_that_is_there_keeps_its_replicas(nodes: list[Loopback], cxrsearch: Run, cohort: Path) -> None:
    there = ("index", cohort, "--index", address(*nodes), "--workers", 1, "--limit", 2)
    assert cxrsearch(*there, "--replicas", 2).code == 0
    assert cxrsearch(*there, "--replicas", 2).code == 0
    ran = cxrsearch(*there, "--replicas", 3)
    assert (ran.code, "--replicas 3: the index is there, made with 2" in ran.err) == (2, True), ran.err


def test_a_folder_has_no_replicas(cxrsearch: Run, cohort: Path, index: Path, tmp_path: Path) -> None:
    for ran in (
        cxrsearch("index", cohort, "--index", tmp_path / "new", "--replicas", 2),
        cxrsearch("copy", index, tmp_path / "new", "--shards", 2),
    ):
        assert (ran.code, "is a folder; give the address of a cluster" in ran.err) == (2, True), ran.err
    assert not (tmp_path / "new").exists()


def test_info_and_doctor_say_which_replicas_are_dead_and_what_to_do(
    nodes: list[Loopback], cxrsearch: Run, index: Path
) -> None:
    there = address(*nodes)
    say(nodes, WHOLE)
    assert cxrsearch("copy", index, there).code == 0
    ran = cxrsearch("info", "--index", there)
    assert "cluster     2 shards" in ran.out
    assert "one replica on 3 nodes: with any of them lost" in ran.out
    say(nodes, WHOLE | {(0, 2): "Dead", (1, 2): "Dead", (1, 3): "Partial"}, away=2)
    ran = cxrsearch("info", "--index", there, "--format", "json")
    said = json.loads(ran.out)["cluster"]
    assert [one["shard"] for one in said["dead"]] == [0, 1, 1]
    ran = cxrsearch("doctor", "--index", there)
    words = " ".join(ran.out.replace("|", " ").split())
    assert ran.code == 4
    assert "shards 1 have no live replica" in words
    assert "restore a backup" in words


@pytest.mark.parametrize("format", ["table", "json"])
def test_info_of_an_index_with_a_dead_shard_says_what_the_matter_is(
    nodes: list[Loopback], cxrsearch: Run, index: Path, format: str
) -> None:
    there = address(nodes[0], nodes[2])
    assert cxrsearch("copy", index, there).code == 0
    say(nodes, {(0, 1): "Active", (1, 2): "Dead"}, away=2)
    for node in nodes:
        node.refuse = lambda method, path, body: (500, b"") if path.endswith(("count", "facet")) else None
    ran = cxrsearch("info", "--index", there, "--format", format)
    assert (ran.code, ran.out) == (5, "")
    assert "shards 1 have no live replica: whoever asks gets an error: start their nodes again" in ran.err
    assert "node 2 (http://node-2:6335/) is away" in ran.err


def test_a_server_that_is_no_cluster_has_nothing_to_say_of_replicas(
    nodes: list[Loopback], cxrsearch: Run, index: Path
) -> None:
    assert cxrsearch("copy", index, address(nodes[0])).code == 0
    assert "cluster" not in cxrsearch("info", "--index", address(nodes[0])).out
    nodes[0].refuse = lambda method, path, body: (403, b"") if path.endswith("cluster") else None  # to this key
    assert cxrsearch("info", "--index", address(nodes[0])).code == 0


@pytest.mark.parametrize("wrong", [[], {"status": "enabled"}, {"status": "enabled", "peers": {"x": {}}, "peer_id": 1}])
def test_a_cluster_that_says_nonsense_of_itself_is_a_sentence(
    nodes: list[Loopback], cxrsearch: Run, index: Path, wrong: Any
) -> None:
    assert cxrsearch("copy", index, address(nodes[0])).code == 0
    nodes[0].cluster = wrong
    ran = cxrsearch("info", "--index", address(nodes[0]))
    assert len(ran.err.splitlines()) <= 1


# ------------------------------------------------------------------ what is forgotten


@pytest.mark.parametrize("dead", ["replica", "node", "address"])
def test_nobody_is_forgotten_while_a_replica_is_away(nodes: list[Loopback], dead: str) -> None:
    """It would come back with the images, after cxrsearch had said that they are gone."""
    say(nodes, WHOLE)
    there = address(*nodes)
    with create_store(there, FACTS) as store:
        store.upsert([image(0, patient="P"), image(1, patient="Q")])
    match dead:
        case "replica":
            say(nodes, WHOLE | {(1, 3): "Dead"})
        case "node":
            say(nodes, WHOLE, away=3)
            there = address(*nodes[:2])
        case "address":
            there = address(*nodes[:2], NOWHERE)
    with open_store(there, write=True) as store:
        facts = dataclasses.replace(store.facts, forgotten=frozenset({"token"}))
        with pytest.raises(IndexUnavailable, match="Nothing was deleted, and the patient is not gone") as caught:
            store.erase(Equals("patient", ("P",)), facts)
        assert "\n" not in str(caught.value)
        assert (store.count(), store.facts.forgotten) == (2, frozenset())
    say(nodes, WHOLE)
    with open_store(address(*nodes), write=True) as store:
        assert store.erase(Equals("patient", ("P",)), facts) == 1


def test_forgetting_with_a_key_that_may_not_see_the_cluster_says_that_a_replica_may_come_back(
    nodes: list[Loopback], cxrsearch: Run, index: Path
) -> None:
    there = address(nodes[0])
    assert cxrsearch("copy", index, there).code == 0
    nodes[0].refuse = lambda method, path, body: (403, b"") if path == "/cluster" else None
    assert "a replica was away" not in cxrsearch("forget", "PH0001", "--index", there).err
    nodes[0].replicas = 2
    ran = cxrsearch("forget", "PH0000", "--index", there)
    assert ran.code == 0
    assert "does not say whether a replica was away, which may still hold this patient: run cxrsearch doctor" in ran.err


def test_a_node_that_is_lost_meanwhile_is_said_and_forgetting_can_be_ended(
    nodes: list[Loopback], cxrsearch: Run, index: Path
) -> None:
    there = address(*nodes)
    say(nodes, WHOLE)
    assert cxrsearch("copy", index, there).code == 0
    with open_store(there) as store:
        patient = str(next(store.scroll()).payload["patient"])

    def lose(method: str, path: str, body: Any) -> None:
        if path.endswith("points/delete"):
            say(nodes, WHOLE | {(1, 3): "Dead"})

    for node in nodes:  # whichever is asked: a busy one is passed over
        node.refuse = lose
    ran = cxrsearch("forget", patient, "--index", there)
    assert ran.code == 5
    assert "deleted from the others, and the patient is not gone" in ran.err
    assert ran.out == ""
    for node in nodes:
        node.refuse = lambda method, path, body: None
    say(nodes, WHOLE)
    ran = cxrsearch("forget", patient, "--index", there)
    assert (ran.code, ran.out.startswith("deleted 0 images")) == (0, True), ran.err


# ------------------------------------------------------------------ what is started


@pytest.mark.parametrize("file", ["compose.yaml", "cluster.yaml"])
def test_what_docker_starts_needs_a_key_and_is_bound_to_this_machine(file: str) -> None:
    text = (ROOT / "docker" / file).read_text("utf-8")
    published = re.findall(r"\d+:6\d{3}\b", text)
    assert published
    assert text.count('"127.0.0.1:') == len(published)
    assert "API_KEY:?" in text


def test_certificates_are_of_one_authority_whose_key_is_gone(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    script = shutil.copy(ROOT / "docker" / "certificates.sh", tmp_path)
    subprocess.run(["sh", script], check=True)
    for node in ("node-a", "node-b", "node-c"):
        folder = tmp_path / "tls" / node
        check = ["openssl", "verify", "-verify_hostname", node, "-CAfile", folder / "ca.pem", folder / "cert.pem"]
        subprocess.run(check, check=True, capture_output=True)
        assert (folder / "key.pem").stat().st_mode & 0o077 == 0
    assert not list((tmp_path / "tls").rglob("ca.key"))
    assert subprocess.run(["sh", script], check=False, capture_output=True).returncode == 1


@pytest.mark.slow
def test_a_cluster_of_real_nodes_loses_nothing() -> None:
    binary = os.environ.get("CXRSEARCH_TEST_QDRANT")
    if binary is None:
        pytest.skip("CXRSEARCH_TEST_QDRANT names no qdrant program")
    soak = [sys.executable, "-m", "benchmarks.cluster_soak", "--qdrant", binary, "--images", "3000"]
    done = subprocess.run(soak, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
