"""Errors: the tree that users can resolve, the tree that ends trials, and suggestions of names."""

from __future__ import annotations

import inspect

import pytest
import torch

from autotl import errors
from autotl.errors import (
    AutoTLError,
    DataError,
    PluginError,
    StoreError,
    TrialStopped,
    did_you_mean,
)

CLASSES = [
    c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == "autotl.errors"
]


def test_every_error_is_in_exactly_one_of_the_two_trees() -> None:
    for error in CLASSES:
        assert issubclass(error, AutoTLError) != issubclass(error, TrialStopped), error


def test_the_docstring_lists_every_error_class() -> None:
    assert errors.__doc__ is not None
    listed = {w for w in errors.__doc__.split() if w.isidentifier() and hasattr(errors, w)}
    assert listed == {c.__name__ for c in CLASSES}


def test_every_way_to_stop_a_trial_has_its_own_status() -> None:
    statuses = [c.status for c in CLASSES if issubclass(c, TrialStopped)]
    assert len(set(statuses)) == len(statuses)
    assert TrialStopped.status == "failed"


@pytest.mark.parametrize(
    ("name", "names", "expected"),
    [
        ("liner", ["mlp", "linear"], "did you mean 'linear'?"),
        ("x", ["mlp", "linear"], "there are linear, mlp"),
        ("x", [], "there are none"),
        ("x", [f"name{i:02}" for i in range(12)], "name11"),
        ("x", [f"name{i:02}" for i in range(13)], "there are 13, such as name00, name01"),
    ],
)
def test_did_you_mean_suggests_a_similar_name_or_lists_them(
    name: str, names: list[str], expected: str
) -> None:
    assert expected in did_you_mean(name, (n for n in names))


def test_did_you_mean_stays_short_with_many_names() -> None:
    assert len(did_you_mean("?", [f"name{i}" for i in range(1000)])) < 100


@pytest.mark.parametrize(
    ("error", "is_fault"),
    [
        (OSError(28, "No space left on device"), True),
        (OSError(5, "Input/output error"), True),
        (DataError("x.png: the file is missing"), True),
        (StoreError("the database is locked"), True),
        (FileNotFoundError(2, "No such file"), False),
        (PluginError("no such plugin"), False),
        (RuntimeError("boom"), False),
        (RuntimeError("CUDA error: unspecified launch failure"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
        (None, False),
    ],
)
def test_a_fault_of_the_machine_is_told_from_one_of_a_trial(
    error: Exception | None, is_fault: bool
) -> None:
    assert errors.is_machine_fault(error) == is_fault


@pytest.mark.parametrize(
    ("message", "is_fault"),
    [
        ("CUDA error: an illegal memory access was encountered\nCompile with ...", True),
        ("CUDA error: device-side assert triggered", True),
        ("CUDA error: unspecified launch failure", True),
        ("CUDA error: uncorrectable ECC error encountered", True),
        ("CUDA error: the launch timed out and was terminated", True),
        ("CUDA driver error: device not ready", True),
        ("HIP error: the operation cannot be performed in the present state", True),
        ("device lost", True),
        ("CUDA error: out of memory", False),
        ("CUDA driver error: out of memory", False),
        ("CUDA error: invalid configuration argument", False),
        ("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx(handle)`", False),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", False),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`", False),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", False),  # the next call tells
        ("CUDA out of memory. Tried to allocate 2.00 GiB", False),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_a_gpu_that_cannot_be_used_further_is_recognised(message: str, is_fault: bool) -> None:
    assert (errors.find_device_fault(RuntimeError(message)) is not None) == is_fault
    assert errors.find_device_fault(PluginError(message)) is None  # it is about something else


def test_the_fault_of_a_gpu_is_found_behind_other_errors() -> None:
    fault = RuntimeError("CUDA error: device-side assert triggered")
    caused, raised_after = errors.Incompatible("no map"), ValueError("in a finally block")
    caused.__cause__ = raised_after.__context__ = fault
    assert errors.find_device_fault(caused) is fault
    assert errors.find_device_fault(raised_after) is fault
    loop, other = RuntimeError("one"), RuntimeError("other")
    loop.__cause__, other.__cause__ = other, loop
    assert errors.find_device_fault(loop) is None


def test_the_message_names_the_trial_and_what_to_do() -> None:
    fault = RuntimeError(
        "CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`"
    )
    text = errors.describe_device_fault(fault, 7)
    assert "failed in trial 7 (CUDA error: device-side assert triggered)" in text
    assert "trial 7 itself may be the cause" in text
    assert "CUDA_LAUNCH_BLOCKING=1" in text
    assert "may be the cause" not in errors.describe_device_fault(fault)
    other = errors.describe_device_fault(RuntimeError("CUDA error: unspecified launch failure"), 7)
    assert "may be the cause" not in other
