"""Which files below a folder are listed as images, and what is said about the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autotl import image_files
from autotl.image_files import describe_unread, list_images


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def listed(root: Path) -> list[str]:
    return [path.as_posix() for path in list_images(root).images]


def problems(root: Path) -> dict[str, str]:
    return {name: problem for name, problem, _ in describe_unread(list_images(root))}


def test_images_are_listed_at_any_depth_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.PNG", "b/1.jpg", "a/deep/er/x.jp2", "a/y.tga", "z.heic")
    assert listed(tmp_path) == ["a/deep/er/x.jp2", "a/y.tga", "b/1.jpg", "b/2.PNG", "z.heic"]
    assert [str(p) for p in list_images(tmp_path).folders] == ["a", "a/deep", "a/deep/er", "b"]


def test_folders_of_systems_are_left_out_and_named_once(tmp_path: Path) -> None:
    systems = ("@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "#recycle")
    touch(tmp_path, "a/1.png", ".cache/1.png", ".ipynb_checkpoints/1.png", "a/._1.png")
    touch(tmp_path, *(f"{s}/1.png" for s in (*systems, "__MACOSX")), "a/@eaDir/1.png/THUMB.png")
    touch(tmp_path, "a/Thumbs.db", "desktop.ini")
    assert listed(tmp_path) == ["a/1.png"]
    assert set(problems(tmp_path)) == {*systems, "__MACOSX"}
    assert problems(tmp_path)["@eaDir"] == "a folder of the system: @eaDir, a/@eaDir"


def test_a_folder_may_be_named_like_an_image(tmp_path: Path) -> None:
    touch(tmp_path, "x.png/1.png")
    assert listed(tmp_path) == ["x.png/1.png"]


def test_every_real_folder_is_listed_once(tmp_path: Path) -> None:
    touch(tmp_path, "data/real/1.png", "data/other/2.png", "outside/3.png")
    data = tmp_path / "data"
    for name, target in {
        "data/a_link": data / "real",  # earlier in the order than the folder itself
        "data/real/loop": data,
        "data/real/loop2": data / "other",
        "data/other/loop": data / "real",
        "data/up": tmp_path,
        "data/root": Path("/"),
        "data/more": tmp_path / "outside",
        "outside/back": data,
    }.items():
        (tmp_path / name).symlink_to(target, target_is_directory=True)
    assert listed(data) == ["more/3.png", "other/2.png", "real/1.png"]
    found = problems(data)
    assert found["a_link"] == "the same folder as real"
    assert found["real/loop"] == "the same folder as the data"
    assert found["root"] == found["up"] == "a link to a folder that contains the data"


def test_what_is_no_file_is_named_and_never_opened(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "a" / "lost.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a" / "self.png").symlink_to(tmp_path / "a" / "self.png")
    assert listed(tmp_path) == ["a/1.png"]
    found = problems(tmp_path)
    assert set(found) == {"a/pipe.png", "a/zero.png", "a/lost.png", "a/self.png"}
    assert "pipe, socket or device" in found["a/pipe.png"]
    assert found["a/lost.png"] == "a link to nothing"


def test_other_files_are_counted_by_suffix_with_the_possible_images_first(tmp_path: Path) -> None:
    touch(tmp_path, *(f"a/{i}.DCM" for i in range(7)), "a/notes.txt", "a/IMG_1", "a/1.png")
    issues = list(describe_unread(list_images(tmp_path)))
    assert [name for name, _, _ in issues] == ["no suffix", "*.dcm", "*.txt"]
    _, problem, action = issues[1]
    assert problem == "7 files (DICOM): a/0.DCM, a/1.DCM, a/2.DCM, a/3.DCM, a/4.DCM and 2 more"
    assert image_files.CONVERT in action


def test_a_root_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        list_images(tmp_path / "nowhere")
