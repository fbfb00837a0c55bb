"""The ``data`` commands, as a user types them."""

from __future__ import annotations

import os
from pathlib import Path

from command_line import run
from images import write_images


def test_data_check_counts_images_and_names_problems(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", count=6)
    (tmp_path / "photos/red/torn.jpg").write_bytes(b"\xff\xd8\xff")
    result = run("data", "check", tmp_path / "photos")
    assert result.exit_code == 0
    assert "red/torn.jpg" in result.stdout
    assert "18 images of 3 classes" in result.stdout


def test_data_check_prints_file_names_that_are_not_text(tmp_path: Path) -> None:
    write_images(tmp_path / "photos")
    broken = tmp_path / "photos" / "red" / os.fsdecode(b"caf\xe9\x1b[31m.png")
    broken.write_bytes(b"no image")
    result = run("data", "check", tmp_path / "photos")
    assert result.exit_code == 0
    assert "caf\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[31m.png" in result.output
