"""Importing and calling AutoTL leave the process as it was: it may be a user's notebook."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from images import FAST, write_images, write_plugin
from toy import CPU, model

import autotl
from autotl.cli import process
from autotl.models import fast_inference
from autotl.study import StudyConfig

STATE = """
import ctypes, os, random, sys, warnings
import numpy, optuna, torch
def state():
    backends = torch.backends
    return {
        "torch RNG": torch.get_rng_state().tolist(),
        "numpy RNG": str(numpy.random.get_state()),
        "random": str(random.getstate()),
        "cudnn": [backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic],
        "tf32": [backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision()],
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()),
        "grad": torch.is_grad_enabled(),
        "optuna": optuna.logging.get_verbosity(),
        "environment": dict(os.environ),
        "warnings": str(warnings.filters),
    }
"""


def state() -> dict[str, Any]:
    """Everything global that a library call could change."""
    names: dict[str, Any] = {}
    exec(STATE, names)
    current: dict[str, Any] = names["state"]()
    return current


@pytest.fixture(autouse=True)
def _no_malloc_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        pytest.fail("a library call changed the malloc policy of the process")

    monkeypatch.setattr(process, "keep_freed_memory", refuse)


def assert_unchanged(call: Callable[[], object]) -> None:
    random.seed(5)
    np.random.seed(6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        before = state()
        call()
        after = state()
    assert {key for key in before if before[key] != after[key]} == set()


def test_importing_changes_nothing() -> None:
    # Other libraries add filters of warnings when they are imported.
    others = "alembic, plotly, safetensors, scipy.stats, sklearn.utils, sqlalchemy, timm"
    code = f"{STATE}\nimport {others}\nbefore = state()\nimport autotl, autotl.engine\n"
    code += "import autotl.artifact.model_folder, autotl.report.dashboard\n"
    code += "import autotl_plugins.backbones\n"
    code += "after = state()\nprint({k for k in before if before[k] != after[k]})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_search_and_a_saved_model_change_nothing(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", count=8)
    options = {**FAST, "backbone": ["tiny"], "plugin": [write_plugin(tmp_path)], "trials": 4}
    folder = tmp_path / "runs"
    # Libraries that are loaded on the way set variables and filters of their own.
    autotl.search(tmp_path / "photos", study="first", out=folder, **options)

    assert_unchanged(lambda: autotl.search(tmp_path / "photos", out=folder, **options))

    def predict() -> None:
        model = autotl.load(folder / "photos" / "model", plugin=options["plugin"])
        model.predict([tmp_path / "photos" / "red" / "0.png"])

    assert_unchanged(predict)


def test_a_search_that_fails_changes_nothing(
    tmp_path: Path, settings: Callable[..., StudyConfig]
) -> None:
    plugins = settings().plugin

    def fail() -> None:
        with pytest.raises(autotl.AutoTLError):
            autotl.search(
                tmp_path / "photos", backbone=["tiny"], plugin=plugins, max_parameters=10, trials=1,
                out=tmp_path / "runs", device="cpu",
            )  # fmt: skip

    assert_unchanged(fail)


def test_optuna_is_silent_during_a_search_only(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], settings: Callable[..., StudyConfig]
) -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    try:
        chosen = settings(trials=1)
        autotl.search(
            chosen.data, backbone=["tiny"], plugin=chosen.plugin, trials=1, out=chosen.out, **FAST
        )
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
    finally:
        optuna.logging.set_verbosity(before)
    assert "Trial 0" not in capfd.readouterr().err


def test_compiling_a_forward_pass_changes_nothing() -> None:
    pytest.importorskip("openvino")
    network, images = model().eval(), torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    images[1:] = torch.arange(3)[:, None, None, None] * 80

    def compile_and_run() -> None:
        fast_inference.compile_forward(network, network, images, CPU)(images)

    modules = set(sys.modules)
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    assert_unchanged(compile_and_run)
    assert not {name for name in set(sys.modules) - modules if "telemetry" in name} - {
        "openvino.tools.ovc.telemetry_params",
        "openvino.tools.ovc.telemetry_stub",
        "openvino.tools.ovc.telemetry_utils",
    }
    if affinity:
        assert os.sched_getaffinity(0) == affinity
    assert not network.training
