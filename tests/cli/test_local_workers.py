"""How workers on one machine are planned and started; ``test_workers`` runs them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autotl import models, study
from autotl.cli import local_workers
from autotl.errors import StudyError

URL = "postgresql+psycopg://me:secret@host/studies"


def settings(**options: object) -> study.StudyConfig:
    return study.configure("sklearn:digits", options)


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(models, "count_gpus", lambda: 0)


@pytest.mark.parametrize(
    ("workers", "device", "gpus", "per_gpu", "devices", "threads"),
    [
        ("auto", "auto", 0, 1, ["auto"] * 2, 4),
        ("auto", "cpu", 4, 1, ["cpu"] * 2, 4),
        ("auto", "auto", 4, 1, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"], 2),
        ("auto", "cuda", 2, 2, ["cuda:0", "cuda:1", "cuda:0", "cuda:1"], 2),
        ("auto", "cuda:1", 4, 2, ["cuda:1", "cuda:1"], 4),
        ("3", "auto", 2, 1, ["cuda:0", "cuda:1", "cuda:0"], 2),
        ("1", "auto", 2, 1, ["auto"], 8),
        ("16", "cpu", 0, 1, ["cpu"] * 16, 1),
    ],
)
def test_workers_get_devices_and_threads(
    workers: str,
    device: str,
    gpus: int,
    per_gpu: int,
    devices: list[str],
    threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(models, "count_gpus", lambda: gpus)
    plan = local_workers.plan(settings(device=device), workers, per_gpu)
    assert (list(plan.devices), plan.threads) == (devices, threads)


@pytest.mark.parametrize("workers", ["0", "-1", "two", ""])
def test_what_is_no_number_is_refused(workers: str) -> None:
    with pytest.raises(StudyError, match="not a number of workers"):
        local_workers.plan(settings(), workers, 1)


def test_a_password_is_not_on_the_command_line() -> None:
    given = settings(storage=URL, out=Path("shared"))
    words = local_workers.command(given, "cuda:1")
    assert "secret" not in " ".join(words)
    assert local_workers.environment(given)["AUTOTL_STORAGE"] == URL
    assert words[words.index("--device") + 1] == "cuda:1"
    assert words[words.index("--out") + 1] == "shared"
