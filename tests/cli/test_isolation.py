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
    assert all(row.reason == "its process ended: crash: SIGSEGV" for row in crashed)
    assert [row for row in rows if row.status == "complete"]
    file = tmp_path / "runs/photos/crash.txt"
    place = f"(crash: SIGSEGV in crashing_plugin.py, line 11; see {file})"
    assert f"{place}; the search continues in another one" in done.stderr
    assert "crashing_plugin.py" in file.read_text()
    assert (tmp_path / "runs/photos/model/model.safetensors").is_file()


def test_a_gpu_that_fails_ends_one_process(words: list[str], tmp_path: Path) -> None:
    heads = ("--head=linear", "--head=faulty", "--trials=4")
    done = subprocess.run(command(*words, *heads), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = Store(f"sqlite:///{tmp_path}/runs/autotl.db").trials("photos")
    statuses = [row.status for row in rows if "faulty" in row.config["head"]]
    assert statuses[:2] == ["interrupted", "crashed"], "it is repeated once"
    assert "ended with its process (the GPU failed in crashing_plugin.py, line 19" in done.stderr
    assert "an illegal memory access" in done.stderr
    assert "repeat the command" not in done.stderr, "the supervisor does that"
    assert (tmp_path / "runs/photos/model/model.safetensors").is_file()


def test_a_search_that_only_crashes_ends(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "MAX_TRIAL_CRASHES", 2)
    settings = study.configure(str(tmp_path / "photos"), {"out": tmp_path / "runs"})
    arguments = [*words, "--head=crashing", "--trials=9", "--isolate"]
    with pytest.raises(SearchError, match=r"trial 1 ended .* 2 times without a complete trial"):
        isolation.run(settings, arguments, time.monotonic())
    summary = json.loads((tmp_path / "runs/photos/summary.json").read_text())
    assert summary["study"] == "photos"


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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_both_processes_stop_and_continue_together(words: list[str], tmp_path: Path) -> None:
    database = tmp_path / "runs/autotl.db"
    with subprocess.Popen(command(*words, "--head=linear", "--trials=1000")) as process:
        while not database.exists() or not _complete(database):
            assert process.poll() is None
            time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        pids = [process.pid, *map(int, children.split())]
        assert len(pids) == 2
        for number, stopped in ((signal.SIGTSTP, True), (signal.SIGCONT, False)) * 2:
            process.send_signal(number)
            while any((_state(pid) == "T") != stopped for pid in pids):
                time.sleep(0.01)
        process.send_signal(signal.SIGTSTP)
        while _state(pids[1]) != "T":
            time.sleep(0.01)
        process.kill()
    while _state(pids[1]) not in ("", "Z"):  # nobody could continue it
        time.sleep(0.01)


def _state(pid: int) -> str:
    """The state of a process, such as T for stopped; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs POSIX")
def test_a_hangup_that_is_ignored_does_not_end_the_search(words: list[str], tmp_path: Path) -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        process = subprocess.Popen(command(*words, "--head=linear", "--trials=3"))
    finally:
        signal.signal(signal.SIGHUP, previous)
    with process:
        while not (tmp_path / "runs/autotl.db").exists():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGHUP)
        assert process.wait() == 0


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
    ("options", "expected"), [({"budget": 100.0}, 100.0), ({}, 600.0), ({"trials": 3}, None)]
)
def test_all_processes_share_one_budget(
    tmp_path: Path, options: dict[str, Any], expected: float | None
) -> None:
    settings = study.configure(str(tmp_path), {**FAST, **options})
    assert isolation._budget(settings) == expected


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (-11, "SIGSEGV"),
        (-250, "signal 250"),
        (0xC0000005, "exit status 0xc0000005"),
        (0, "exit status 0"),
    ],
)
def test_a_crash_is_described(status: int, text: str) -> None:
    assert isolation._describe(status) == text


def test_a_crash_before_any_trial_ends_with_its_place(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text("import ctypes\nctypes.string_at(0)\n")
    done = subprocess.run(
        command(*words, f"--plugin={tmp_path / 'late.py'}"), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "the search ended with its process (crash: SIGSEGV in late.py, line 2; see" in last
    assert "2 times without a complete trial" in last


def test_a_plugin_that_ends_the_process_is_a_crash(words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "leaving.py"
    file.write_text(
        CRASHING.replace("ctypes.string_at(0)", "os._exit(0)")
        .replace("import ctypes", "import os")
        .replace("def crashing", "def leaving")
    )
    heads = ("--head=linear", "--head=leaving", "--trials=3", f"--plugin={file}")
    done = subprocess.run(
        command(*[word for word in words if "crashing_plugin" not in word], *heads),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "(crash: exit status 0; see" in done.stderr or "(crash: exit status 0)" in done.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX")
def test_the_search_ends_if_its_supervisor_is_killed(words: list[str], tmp_path: Path) -> None:
    database = tmp_path / "runs/autotl.db"
    with subprocess.Popen(command(*words, "--head=linear", "--trials=1000")) as process:
        while not database.exists() or not _complete(database):
            assert process.poll() is None
            time.sleep(0.1)
        process.kill()
    summary = tmp_path / "runs/photos/summary.json"
    deadline = time.monotonic() + 60
    while not summary.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert json.loads(summary.read_text())["artifact"] == "model"


def test_a_signal_in_the_first_moment_ends_the_search(words: list[str]) -> None:
    with subprocess.Popen(command(*words, "--head=linear", "--trials=1000")) as process:
        time.sleep(0.6)
        process.terminate()
        assert process.wait() in (130, -signal.SIGTERM)
