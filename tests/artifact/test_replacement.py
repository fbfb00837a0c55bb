"""Replacing a model folder: one that loads is there at any time, and nothing of others is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from autotl.artifact import replacement
from autotl.errors import StoreError

CONFIG = {"schema": 1, "backbone": {}, "head": {}, "classes": ["a"], "input": {}}


def write_model(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").write_text(version)
    (folder / "README.md").write_text(version)
    return folder


def version(folder: Path) -> str:
    """The version of the model that ``load`` would read."""
    return (replacement.current(folder) / "model.safetensors").read_text()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_model_folder_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for number in "12":
        assert replacement.replace(write_model(tmp_path / "new", number), folder) is None
        assert version(folder) == number
        assert names(tmp_path) == {"model"}


@pytest.mark.parametrize("content", ["photos", "file", "other config", "damaged config", "link"])
def test_what_is_not_a_model_folder_is_not_touched(tmp_path: Path, content: str) -> None:
    folder, new = tmp_path / "model", write_model(tmp_path / "new", "1")
    if content == "file":
        folder.write_text("mine")
    elif content == "link":
        folder.symlink_to(tmp_path / "nowhere")
    else:
        folder.mkdir()
        (folder / "0.png").write_bytes(b"png")
        texts = {"other config": '{"architecture": "resnet18"}', "damaged config": "{"}
        if content in texts:
            (folder / "config.json").write_text(texts[content])
    before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
    with pytest.raises(StoreError, match=r"not a model folder that AutoTL wrote.*--study"):
        replacement.replace(new, folder)
    assert {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")} == before


def test_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    replacement.replace(write_model(tmp_path / "new", "1"), tmp_path / "model")
    assert version(tmp_path / "model") == "1"
    assert names(tmp_path) == {"model"}


def test_an_older_model_with_other_files_is_kept(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "1")
    for number in "23":
        (folder / "model.onnx").write_text("export of the older one")
        earlier = replacement.replace(write_model(tmp_path / "new", number), folder)
        assert earlier
        assert (earlier / "model.onnx").read_text() == "export of the older one"
        assert version(earlier) == str(int(number) - 1)
        assert version(folder) == number
    assert names(tmp_path) == {"model", "model-old", "model-old-2"}


def test_a_link_to_a_model_folder_is_replaced_but_not_what_it_points_to(tmp_path: Path) -> None:
    target = write_model(tmp_path / "elsewhere", "1")
    (tmp_path / "model").symlink_to(target)
    replacement.replace(write_model(tmp_path / "new", "2"), tmp_path / "model")
    assert version(tmp_path / "model") == "2"
    assert version(target) == "1"


class Stop(BaseException):
    """As if the process were killed, if nothing catches it."""


@pytest.mark.parametrize("step", [1, 2])
def test_an_error_at_any_step_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    folder, new = write_model(tmp_path / "model", "1"), write_model(tmp_path / "new", "2")
    rename, steps = Path.rename, [0]

    def rename_until(path: Path, target: Path) -> Path:
        steps[0] += 1
        if steps[0] == step:
            raise Stop
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_until)
    with pytest.raises(Stop):
        replacement.replace(new, folder)
    assert version(folder) == "1"
    assert names(tmp_path) == {"model", "new"}


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_kill_at_any_step_leaves_a_model_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    folder, new = write_model(tmp_path / "model", "1"), write_model(tmp_path / "new", "2")
    steps = [0]

    def counted(function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            steps[0] += 1
            if steps[0] >= step:  # nothing more happens, not even a rollback
                raise Stop
            return function(*args, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", counted(Path.rename))
        patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
        with pytest.raises(Stop):
            replacement.replace(new, folder)
    assert version(folder) == ("2" if step == 3 else "1")
    replacement.restore(folder)
    assert version(folder) == ("2" if step == 3 else "1")
    assert names(tmp_path) - {"new"} == {"model"}
