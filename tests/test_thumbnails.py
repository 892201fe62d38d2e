"""The small pictures beside an index: made, shown where originals are away, and gone when they have to be."""

import io
import json
import shutil
from pathlib import Path

import pytest
from factories import Run, points
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cxrsearch import settings
from cxrsearch.clinical.identity import load_identity
from cxrsearch.store.contract import Point
from cxrsearch.store.edge import EdgeStore
from cxrsearch.store.images import StoredImages
from cxrsearch.store.thumbnails import Thumbnails
from indexer.phantoms import write_cohort


def kept(index: Path) -> dict[str, Path]:
    return {path.stem: path for path in (index / "thumbnails").rglob("*.jpg")}


def test_every_image_has_one_without_metadata(index: Path) -> None:
    found = kept(index)
    assert found.keys() == points(index).keys()
    for path in found.values():
        assert path.stat().st_mode & 0o077 == 0
        picture = Image.open(path)
        assert (picture.format, picture.mode) == ("JPEG", "L")
        assert max(picture.size) <= 256
        assert not picture.getexif()
        assert set(picture.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def test_forgetting_and_pruning_take_them_along(cxrsearch: Run, tmp_path: Path) -> None:
    toml, index = write_cohort(tmp_path / "set", patients=9, size=96), tmp_path / "index"
    assert cxrsearch("index", toml, "--index", index).code == 0
    assert cxrsearch("forget", "PH0003", "--index", index).code == 0
    assert kept(index).keys() == points(index).keys()
    table = tmp_path / "set/clinical.csv"
    table.write_text("".join(line for line in table.open() if "PH0006" not in line), "utf-8")
    assert cxrsearch("index", toml, "--index", index, "--prune").code == 0
    assert kept(index).keys() == points(index).keys()
    assert len(kept(index)) == 8


def test_backup_and_copy_bring_them(cxrsearch: Run, index: Path, tmp_path: Path) -> None:
    assert cxrsearch("backup", index, tmp_path / "file").code == 0
    assert cxrsearch("restore", tmp_path / "file", tmp_path / "restored").code == 0
    assert cxrsearch("copy", index, tmp_path / "copied").code == 0
    wanted = {id: path.read_bytes() for id, path in kept(index).items()}
    for other in ("restored", "copied"):
        assert {id: path.read_bytes() for id, path in kept(tmp_path / other).items()} == wanted


def test_one_that_is_gone_is_made_again(cxrsearch: Run, cohort: Path, index: Path) -> None:
    lost = sorted(kept(index))[:3]
    for id in lost:
        kept(index)[id].unlink()
    ran = cxrsearch("index", cohort, "--index", index)
    assert ran.out.startswith("3 indexed, 0 updated, 29 unchanged")
    assert kept(index).keys() == points(index).keys()


def test_a_mapping_can_do_without(cxrsearch: Run, tmp_path: Path) -> None:
    toml, index = write_cohort(tmp_path / "set", patients=3, size=96), tmp_path / "index"
    toml.write_text(
        toml.read_text("utf-8").replace("free_text = true", "free_text = true\nthumbnails = false"), "utf-8"
    )
    assert cxrsearch("index", toml, "--index", index).code == 0
    assert kept(index) == {}


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    from cxrsearch.errors import IndexUnavailable

    (tmp_path / "thumbnails").write_text("a file where the folder should be")
    with pytest.raises(IndexUnavailable, match="thumbnails cannot be written"):
        Thumbnails(tmp_path / "thumbnails").put("00000000-0000-0000-0000-000000000001", b"")


def test_the_original_is_shown_while_it_is_there_and_the_same(cxrsearch: Run, tmp_path: Path) -> None:
    toml, index = write_cohort(tmp_path / "set", patients=3, size=320), tmp_path / "index"
    assert cxrsearch("index", toml, "--index", index).code == 0
    store = EdgeStore.open(index)
    try:
        stored = list(store.scroll())
        images = StoredImages(store)
        assert all((found := images.read(p.id, p.payload)) and found.original for p in stored)
        changed = tmp_path / "set" / str(stored[0].payload["path"])
        changed.write_bytes(changed.read_bytes() + b"x")
        found = images.read(stored[0].id, stored[0].payload)
        assert found is not None
        assert not found.original
        shutil.rmtree(index / "thumbnails")
        assert images.read(stored[0].id, stored[0].payload) is None
    finally:
        store.close()


@pytest.mark.parametrize(
    "path", ["../secret.png", "/etc/passwd", "../../../../etc/passwd", "a/../../secret.png", "link"]
)
def test_an_index_from_a_stranger_cannot_have_other_files_shown(index: Path, tmp_path: Path, path: str) -> None:
    """Its paths are data: what lies outside the dataset's folder is not read, however it is named."""
    import hashlib

    root = tmp_path / "root"
    root.mkdir()
    secret = tmp_path / "secret.png"
    Image.effect_noise((64, 64), 50).save(secret)
    (root / "link").symlink_to(secret)
    store = EdgeStore.open(index, write=True)
    try:
        from dataclasses import replace

        dataset = replace(store.facts.datasets["phantoms"], root=str(root))
        store.declare(replace(store.facts, datasets={"phantoms": dataset}))
        identity = load_identity(settings.key_file())
        assert identity is not None
        sha256 = identity.file(hashlib.sha256(secret.read_bytes()).hexdigest())
        payload = {"dataset": "phantoms", "path": path, "image_sha256": sha256}
        assert StoredImages(store).read("00000000-0000-0000-0000-000000000001", payload) is None
    finally:
        store.close()


@given(st.text(max_size=60))
def test_an_id_that_is_no_uuid_names_no_file(id: str) -> None:
    thumbnails = Thumbnails(Path("/nonexistent"))
    thumbnails.remove([id])
    assert thumbnails.get(id) is None
    thumbnails.put(id, b"")  # would fail if it tried to write


def test_a_damaged_thumbnail_is_no_picture(cxrsearch: Run, index: Path, cohort: Path) -> None:
    for path in kept(index).values():
        path.write_bytes(b"\xff\xd8\xff not a picture")
    image = sorted(cohort.parent.rglob("*.dcm"))[0]
    ran = cxrsearch("search", image, "--index", index, "--region", "0,0,1,0.5", "--format", "json")
    assert ran.code == 0
    assert len(json.loads(ran.out)[0]["hits"]) == 10  # from the originals


def test_a_point_written_by_hand_has_none(tmp_path: Path, index: Path) -> None:
    store = EdgeStore.open(index, write=True)
    try:
        point = next(iter(store.scroll(vectors=True)))
        new = Point("00000000-0000-0000-0000-000000000001", {"dataset": "phantoms"}, point.vector)
        store.upsert([new])
        assert StoredImages(store).read(new.id, new.payload) is None
        buffer = io.BytesIO()
        Image.new("L", (8, 8), 1).save(buffer, "PNG")
        store.thumbnails.put(new.id, buffer.getvalue())
        assert StoredImages(store).read(new.id, new.payload) is None  # blank
    finally:
        store.close()
