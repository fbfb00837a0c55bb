"""Files that are complete or unchanged, and temporary files that do not stay."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autotl import files


def test_a_file_is_replaced_when_it_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    files.write_text(file, "old\n")
    files.write_text(file, "né\n")
    assert file.read_bytes() == "né\n".encode()
    with files.write_beside(file) as temporary:
        assert temporary.parent == tmp_path
        temporary.write_text("new")
        assert file.read_text(encoding="utf-8") == "né\n"
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def fill_disk(file: Path) -> None:
    with files.write_beside(file) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")


def test_after_an_error_a_file_is_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    files.write_text(file, "old")
    with pytest.raises(OSError, match="No space"):
        fill_disk(file)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_temporary_folder_is_removed_unless_it_was_moved(tmp_path: Path) -> None:
    with files.folder_beside(tmp_path / "model") as temporary:
        (temporary / "part").write_text("half")
    assert list(tmp_path.iterdir()) == []
    with files.folder_beside(tmp_path / "model") as temporary:
        temporary.rename(tmp_path / "model")
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from autotl import files\n"
        "target = Path(sys.argv[1]) / 'x'\n"
        "files.temporary_path(target).write_text('half')\n"
        "folder = files.temporary_path(target); folder.mkdir(); (folder / 'part').write_text('')\n"
        "os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False, timeout=60)
    assert len(list(tmp_path.iterdir())) == 2
    own = files.temporary_path(tmp_path / "x")
    own.write_text("being written")
    users = [tmp_path / "photo.jpg", tmp_path / "other.tmp", tmp_path / ".autotl-notes.tmp"]
    for file in users:
        file.write_text("")
    files.remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([own, *users])
    files.remove_leftovers(tmp_path / "missing")


def test_what_another_machine_left_is_removed_after_a_day(tmp_path: Path) -> None:
    left = tmp_path / ".autotl-00000000-1-00000000.tmp"
    left.write_text("half")
    files.remove_leftovers(tmp_path)
    assert left.exists()
    os.utime(left, (1, 1))
    files.remove_leftovers(tmp_path)
    assert not left.exists()


def test_removing_a_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    files.remove(tmp_path / "link")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("a", True),
        ("a/b/c", True),
        ("a/../a/b", True),
        ("link/b", True),
        ("ab", False),
        (".", False),
    ],
)
def test_a_path_within_a_folder(tmp_path: Path, path: str, inside: bool) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert files.is_within(tmp_path / path, tmp_path / "a") == inside


def test_a_locked_file_is_not_deleted(tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    file.write_bytes(b"abc")
    descriptor = files.lock(file, shared=True)
    assert descriptor is not None
    assert not files.delete_unused(file)
    os.close(descriptor)
    assert files.delete_unused(file)
    assert not file.exists()
