"""The kernels of CUDA: what holds inside, and that the host process has its settings back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import torch
from toy import CPU, config, job, model

from autotl.models import Device
from autotl.training import ComputeSettings, cuda_kernels, fine_tune
from autotl.training.random_state import RandomState

CUDA, TF32 = torch.device("cuda"), Device(torch.device("cuda"), torch.bfloat16, tf32=True)
BACKENDS: list[Any] = [
    torch.backends.cuda.matmul,
    *(getattr(torch.backends.cudnn, name, None) for name in ("conv", "rnn")),
    getattr(torch.backends.mkldnn, "matmul", None),
]
NEWER = [each for each in BACKENDS if hasattr(each, "fp32_precision")]


def older_flags() -> tuple[Any, ...]:
    backends = torch.backends
    return (
        backends.cudnn.benchmark,
        backends.cudnn.deterministic,
        backends.cuda.matmul.allow_tf32,
        backends.cudnn.allow_tf32,
        torch.get_float32_matmul_precision(),
    )


def newer_flags() -> list[str]:
    return [each.fp32_precision for each in NEWER]


@pytest.fixture(autouse=True)
def _host_flags() -> Iterator[None]:
    older, newer = older_flags(), newer_flags()
    yield
    cudnn = torch.backends.cudnn
    cudnn.benchmark, cudnn.deterministic = older[:2]
    torch.set_float32_matmul_precision(older[4])
    cudnn.allow_tf32 = older[3]
    for each, value in zip(NEWER, newer, strict=True):
        each.fp32_precision = value
    assert (older_flags(), newer_flags()) == (older, newer)


@pytest.mark.parametrize("matmul", ["highest", "high", "medium"])
@pytest.mark.parametrize("convolutions", [True, False])
@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_that_of_the_device_inside_and_the_hosts_afterwards(
    matmul: str, convolutions: bool, tf32: bool
) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cudnn.benchmark = convolutions
    before = older_flags(), newer_flags()
    with suppress(ValueError), cuda_kernels(Device(CUDA, None, tf32)):
        inside = older_flags()
        raise ValueError("stop")
    assert inside == (False, True, tf32, tf32, "high" if tf32 else "highest")
    assert (older_flags(), newer_flags()) == before


@pytest.mark.skipif(not NEWER, reason="this version of torch has only the older settings")
@pytest.mark.parametrize(
    "values", [("tf32", "ieee", "tf32", "bf16"), ("none", "ieee", "ieee", "none")]
)
def test_a_host_with_the_newer_settings_of_tf32_has_them_back(values: tuple[str, ...]) -> None:
    for each, value in zip(NEWER, values, strict=True):
        each.fp32_precision = value
    before = newer_flags()
    with cuda_kernels(TF32):
        assert older_flags()[2:] == (True, True, "high")  # PyTorch's own code can read them
    assert newer_flags() == before == list(values)


def test_on_the_cpu_nothing_changes() -> None:
    torch.backends.cudnn.benchmark = True
    before = older_flags(), newer_flags()
    with cuda_kernels(CPU, benchmark=False), RandomState(CPU, 0).active():
        assert (older_flags(), newer_flags()) == before


@pytest.mark.parametrize("benchmark", [True, False])
def test_cudnn_is_deterministic_and_times_only_if_it_is_told_to(benchmark: bool) -> None:
    torch.backends.cudnn.benchmark = not benchmark
    with cuda_kernels(TF32, benchmark):
        assert older_flags()[:2] == (benchmark, True)
        with cuda_kernels(TF32):
            assert older_flags()[:2] == (False, True)
        assert older_flags()[:2] == (benchmark, True)


def test_the_device_of_a_search_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = [torch.device("cuda:0")]

    @contextmanager
    def enter(device: torch.device) -> Iterator[None]:
        current.append(device)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", enter)
    with cuda_kernels(Device(torch.device("cuda:1"), None)):
        assert current[-1] == torch.device("cuda:1")
    with cuda_kernels(TF32):  # that is the current one already
        assert current == [torch.device("cuda:0")]


@pytest.mark.parametrize("benchmark", [True, False])
def test_a_training_uses_the_setting_that_was_measured(
    monkeypatch: pytest.MonkeyPatch, benchmark: bool
) -> None:
    used: list[tuple[Device, bool]] = []

    @contextmanager
    def record(device: Device, benchmark: bool = False) -> Iterator[None]:
        used.append((device, benchmark))
        yield

    monkeypatch.setattr("autotl.training.random_state.cuda_kernels", record)
    compute = ComputeSettings(cudnn_benchmark=benchmark)
    list(fine_tune(model(), config(), job(1, compute=compute)))
    assert set(used) == {(CPU, benchmark)}
