"""What is written is whole or not there."""

import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cxrsearch import files
from cxrsearch.errors import IndexUnavailable, InputError


@contextmanager
def disk_with_room_for(bytes_: int) -> Iterator[None]:
    """No file grows beyond this, as on a full disk: the kernel refuses to write more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_file_and_no_half_of_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    with disk_with_room_for(1000), pytest.raises(InputError, match=r"page\.html: cannot be written"):
        files.write(path, "x" * 5000)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_work_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as draft:
        draft.write_text(str(1 / len(draft.read_text())))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["missing/page.html", "file/page.html", "folder"])
def test_a_place_that_cannot_be_written_is_the_users_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        files.write(tmp_path / place, "text")
    with pytest.raises(IndexUnavailable), files.replacing(tmp_path / place, failure=IndexUnavailable):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_fault_of_another_file_is_not_blamed_on_this_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="other"), files.replacing(tmp_path / "list.jsonl"):
        (tmp_path / "other").read_bytes()


def test_a_private_file_is_readable_by_its_owner_only_whatever_was_left_there(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    for old in (path, tmp_path / "export.csv.new"):
        old.write_text("old")
        old.chmod(0o666)
    files.write(path, "new", private=True)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o600)
