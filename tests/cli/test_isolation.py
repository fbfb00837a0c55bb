"""``--isolate``: a crash costs one trial."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from images import FAST, write_images, write_plugin

from autotl import study
from autotl.cli import isolation
from autotl.errors import SearchError
from autotl.store import Store

CRASHING = '''
import ctypes
from torch import nn
from autotl import head


@head(order=2)
def crashing(features, classes):
    """A linear layer whose process crashes in the first training step."""
    layer = nn.Linear(features, classes)
    layer.register_full_backward_hook(lambda *_: ctypes.string_at(0))
    return layer


@head(order=2)
def faulty(features, classes):
    """A linear layer with which the GPU fails in the first training step."""
    def fail(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    layer = nn.Linear(features, classes)
    layer.register_full_backward_hook(fail)
    return layer
'''


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """The words of a quick search in which a head crashes."""
    write_images(tmp_path / "photos", 8)
    (tmp_path / "crashing_plugin.py").write_text(CRASHING)
    plugins = (write_plugin(tmp_path), tmp_path / "crashing_plugin.py")
    options = [f"--plugin={file}" for file in plugins]
    names = ("--backbone=tiny", "--freeze=linear_probe", "--augment=none", "--quiet")
    settings = (f"--out={tmp_path / 'runs'}", "--device=cpu", "--epochs=2", "--no-history")
    return ["search", str(tmp_path / "photos"), *options, *names, *settings]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "autotl", *words, "--isolate"]


def test_a_crash_costs_one_trial(words: list[str], tmp_path: Path) -> None:
    heads = ("--head=linear", "--head=crashing", "--trials=4")
    done = subprocess.run(command(*words, *heads), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = Store(f"sqlite:///{tmp_path}/runs/autotl.db").trials("photos")
    crashed = [row for row in rows if "crashing" in row.config["head"]]
    assert {row.status for row in crashed} == {"crashed"}
    assert all(row.reason == "its process crashed: SIGSEGV" for row in crashed)
    assert [row for row in rows if row.status == "complete"]
    file = tmp_path / "runs/photos/crash.txt"
    assert f"crashed (SIGSEGV, see {file}); the search continues" in done.stderr
    assert "crashing_plugin.py" in file.read_text()
    assert (tmp_path / "runs/photos/model/model.safetensors").is_file()


def test_a_gpu_that_fails_ends_one_process(words: list[str], tmp_path: Path) -> None:
    heads = ("--head=linear", "--head=faulty", "--trials=4")
    done = subprocess.run(command(*words, *heads), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = Store(f"sqlite:///{tmp_path}/runs/autotl.db").trials("photos")
    statuses = [row.status for row in rows if "faulty" in row.config["head"]]
    assert statuses[:2] == ["interrupted", "crashed"], "it is repeated once"
    assert "the search crashed (the GPU failed); the search continues" in done.stderr
    assert (tmp_path / "runs/photos/model/model.safetensors").is_file()


def test_a_search_that_only_crashes_ends(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "MAX_CRASHES", 2)
    settings = study.configure(str(tmp_path / "photos"), {"out": tmp_path / "runs"})
    with pytest.raises(SearchError, match=r"trial 1 crashed .* 2 times in a row"):
        isolation.run(settings, [*words, "--head=crashing", "--trials=9"], time.monotonic())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_search_with_its_best_model(
    words: list[str], tmp_path: Path, number: int
) -> None:
    with subprocess.Popen(command(*words, "--head=linear", "--trials=1000")) as process:
        database = tmp_path / "runs/autotl.db"
        while not database.exists() or not _complete(database):
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait() == 130
    summary = json.loads((tmp_path / "runs/photos/summary.json").read_text())
    assert summary["artifact"] == "model"


def _complete(database: Path) -> list[Any]:
    rows = Store(f"sqlite:///{database}").trials("photos")
    return [row for row in rows if row.status == "complete"]


def test_an_error_is_no_crash(tmp_path: Path) -> None:
    words = command("search", str(tmp_path / "nowhere"))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert "crashed" not in done.stderr


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"budget": 100.0}, ["--budget", "60s"]),
        ({"budget": 50.0}, ["--budget", "30s"]),
        ({}, ["--budget", "560s"]),
        ({"trials": 3}, []),
    ],
)
def test_the_next_process_has_the_rest_of_the_budget(
    tmp_path: Path, options: dict[str, Any], left: list[str]
) -> None:
    settings = study.configure(str(tmp_path), {**FAST, **options})
    assert isolation._remaining_budget(settings, time.monotonic() - 40) == left


@pytest.mark.parametrize(
    ("status", "crash", "text"),
    [
        (-11, True, "SIGSEGV"),
        (-250, True, "signal 250"),
        (0xC0000005, True, "exit status 0xc0000005"),
        (3, True, "the GPU failed"),
        (0, False, ""),
        (1, False, ""),
        (130, False, ""),
    ],
)
def test_a_signal_or_a_fault_is_a_crash(status: int, crash: bool, text: str) -> None:
    assert isolation._is_crash(status) == crash
    assert not crash or isolation._describe(status) == text
