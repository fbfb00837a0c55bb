"""The benchmarks of speed run on a CPU with tiny images; their table says which goals are met."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "studies" / "benchmarks"))

import gpu_speed
import gpu_table
import speed

import autotl
from autotl import events, study
from autotl.space import registry


def import_gpu() -> Any:
    """Import ``gpu.py`` under another name, because a module of the tests has it."""
    spec = importlib.util.spec_from_file_location(
        "gpu_benchmark", Path(speed.__file__).with_name("gpu.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


gpu = import_gpu()


def run_in_this_process(command: list[str], **_: Any) -> CompletedProcess[str]:
    """Run the first trial's script without a search, but with its arguments and its listener."""
    printed: list[float] = []
    _, _, script, *arguments = command

    def leave(status: int) -> NoReturn:
        raise SystemExit(status)

    def search(data: str, listener: Any, **options: Any) -> None:
        study.configure(data, options)  # refuses what it does not know
        listener(events.TrialFinished(1, "complete", "", 0.5, 1.0))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["-c", *arguments])
        patch.setattr(os, "_exit", leave)
        patch.setattr(autotl, "search", search)
        with pytest.raises(SystemExit):
            exec(script, {"print": lambda seconds, flush: printed.append(seconds)})
    return CompletedProcess(command, 0, f"{printed[0]}\n", "")


def test_the_benchmark_of_a_gpu_runs_and_measures_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu.subprocess, "run", run_in_this_process)
    out = tmp_path / "results" / "gpu.json"
    options = ["--device", "cpu", "--precision", "float32", "--quick", "--out", str(out)]
    assert gpu.main(options) == 0
    results = json.loads(out.read_text())
    [(name, measured)] = results["architectures"].items()
    for kind in ("plain", "autotl", "bare"):
        assert measured[kind]["training"] > 0
    assert 0 < measured["autotl"]["in_steps"] <= 1
    assert len(results["list"]["configurations"]) == results["list"]["planned"] == 5
    assert results["list"]["frozen"]["trials"] >= 1
    assert list(results["missing"]) == [f"{name}, compiled"]  # it takes too long for a test
    table = capsys.readouterr().out
    assert "5 configurations" in table
    assert "frozen trials a minute" in table
    assert "first trial's result" in table


def test_the_benchmark_of_a_list_of_trainings_runs(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugins = registry.load([images / "tiny_plugin.py"])
    monkeypatch.setattr(speed, "PLUGINS", plugins)
    options = ["--size", "16", "--batch", "8", "--epochs", "1", "--images", "16", "--seeds", "1"]
    options += ["--workers", "0"]
    speed.main([str(images / "photos"), "--backbone", "tiny", "--quick", *options])
    printed = capsys.readouterr().out
    assert "x over naive" in printed
    assert "inside forward, backward and step" in printed


def results_of(**list_seconds: list[float]) -> dict[str, Any]:
    """Results of one architecture and of three configurations."""
    return {
        "architectures": {
            "resnet50": {
                "plain": {
                    "training": 1000.0, "compiled": 1200.0, "inference_files": 10.0,
                    "peak_gib": 2.0,
                },
                "autotl": {
                    "training": 1800.0, "in_steps": 0.97, "inference": 30.0,
                    "inference_files": 20.0, "peak_gib": 3.0,
                },
                "bare": {"training": 2000.0, "any_kernels": 2100.0, "inference": 40.0},
            }
        },
        "list": {
            "configurations": ["linear_probe a", "linear_probe b", "full"], "planned": 3,
            "seconds": list_seconds, "accuracy": {"plain": [0.5], "autotl": [0.5]},
            "frozen": {"trials": 10, "seconds": 1.0},
        },
        "busy": {"architecture": "resnet50", "percent": 91.0, "by": "nvidia-smi"},
        "first_trial": 12.0,
        "check": 3.0,
    }  # fmt: skip


def test_goals_are_compared_with_the_faster_plain_loop() -> None:
    results = results_of(plain=[10.0, 6.0, 24.0], autotl=[1.0, 0.1, 3.9])
    rows = {row[0]: row[1:] for row in gpu_table.make_rows(results)}
    training = rows["resnet50: training, images/s"]
    assert training[0] == "1,000 (1,200)"
    assert training[3:] == ("1.5", "0.90", ">= 0.95 of bare: missed")
    assert rows["resnet50: peak memory, GiB"][3:] == ("", "", "")
    inside = rows["resnet50: forward, backward and step, % of an epoch"]
    assert inside[-1] == ">= 95: met"
    assert rows["3 configurations, whole time, s"][3::2] == ("8.0", ">= 8 x: met")
    frozen = rows["frozen trials a minute, after the first"]
    assert frozen == ("10", "600", "", "60.0", "", ">= 50 x: met")
    assert ">= 90: met" in rows["GPU busy in fine-tuning resnet50 (nvidia-smi), %"]


def test_the_list_has_as_many_images_as_there_is_time_for() -> None:
    def choose(seconds: float) -> int:
        benchmark = object.__new__(gpu.Benchmark)
        benchmark.quick, benchmark.end = False, time.monotonic() + seconds
        benchmark.bench = SimpleNamespace(epochs=3, batch=64)
        speeds = {"plain": {"training": 5000.0}, "autotl": {"training": 2500.0}}
        benchmark.results = {"architectures": {gpu.PACKAGED: speeds}}
        count: int = benchmark.plan_list()
        return count

    assert choose(-10.0) == 8 * 64  # at least these, however late it is
    fixed = gpu.COMPILE_SECONDS + 20 * gpu.TRIAL_SECONDS
    images = choose(fixed + 105.0)
    passes = 3 * images
    trained = 20 * 1.25 * passes / 5000 + gpu.FULL_TRIALS * passes / 2500
    assert 80 < trained < 100


def test_intervals_that_overlap_count_once() -> None:
    assert gpu_speed.union([(5.0, 9.0), (0.0, 2.0), (1.0, 3.0), (6.0, 7.0)]) == 7.0
