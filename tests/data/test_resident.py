"""Resident data: how much of it there may be, and what is given up for what."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from fake_gpu import CPU, FakeGpu
from torch import Tensor

from autotl.data import resident
from autotl.data.resident import ResidentTensor


def allocate(bytes: int) -> ResidentTensor | None:
    return resident.allocate((bytes,), CPU)


def require(bytes: int) -> ResidentTensor:
    allocated = allocate(bytes)
    assert allocated is not None
    return allocated


def test_nothing_is_resident_on_a_cpu() -> None:
    assert resident.budget(CPU) == 0
    assert allocate(1) is None
    assert not resident.release(CPU)


def test_half_of_what_is_free_or_resident_may_be_resident(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(monkeypatch, memory=80)
    assert resident.budget(CPU) == 40
    assert allocate(41) is None
    first = require(30)
    assert (resident.resident_bytes(CPU), resident.budget(CPU)) == (30, 40)
    second = require(10)
    assert first.is_resident
    assert second.is_resident
    gpu.memory = 50  # another process takes the others
    assert resident.budget(CPU) == 25
    assert allocate(26) is None
    assert first.is_resident


def test_what_was_used_least_recently_is_given_up_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeGpu(monkeypatch, memory=80)
    first, second, third = require(10), require(10), require(10)
    assert first.get() is not None
    fourth = require(25)  # 5 more than there are after the first that is given up
    assert [t.is_resident for t in (first, second, third, fourth)] == [True, False, False, True]
    assert second.get() is None
    assert resident.resident_bytes(CPU) == 35


def test_data_that_die_free_their_memory_without_a_garbage_collection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeGpu(monkeypatch, memory=80)

    class Owner:
        def __init__(self) -> None:
            self.data = resident.allocate((40,), CPU, self.save)

        def save(self, tensor: Tensor, in_use: bool) -> bool:
            return True

    gc.disable()
    try:
        owner = Owner()
        assert owner.data is not None
        tensor = weakref.ref(owner.data.get())  # type: ignore[arg-type]
        assert resident.resident_bytes(CPU) == 40
        del owner
        assert tensor() is None
        assert resident.resident_bytes(CPU) == 0
        given_up = require(40)
        tensor = weakref.ref(given_up.get())  # type: ignore[arg-type]
        assert given_up.release(in_use=True)
        assert tensor() is None
    finally:
        gc.enable()


def test_everything_is_given_up_when_memory_runs_out_and_less_is_allowed_for_some_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeGpu(monkeypatch, memory=80)
    held = [require(10), require(20)]
    assert resident.release(CPU)
    assert not any(tensor.is_resident for tensor in held)
    assert resident.budget(CPU) == 20
    assert not resident.release(CPU)  # nothing is left
    assert resident.budget(CPU) == 20
    resident.relax(CPU)
    assert resident.budget(CPU) == 40
    resident.relax(CPU)
    assert resident.budget(CPU) == 40


def test_data_for_which_there_is_no_other_place_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu(monkeypatch, memory=80)

    class Owner:
        place = False

        def save(self, tensor: Tensor, in_use: bool) -> bool:
            assert len(tensor) == 30
            return self.place

    owner = Owner()
    only_copy = resident.allocate((30,), CPU, owner.save)
    assert only_copy is not None
    assert allocate(20) is None
    assert not resident.release(CPU)
    assert only_copy.is_resident
    owner.place = True
    assert resident.release(CPU)
    assert not only_copy.is_resident


def test_memory_in_pieces_that_are_too_small_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu(monkeypatch, memory=80)

    def fail(*args: object, **options: object) -> Tensor:
        raise torch.OutOfMemoryError("no piece is large enough")

    monkeypatch.setattr(torch, "empty", fail)
    assert allocate(10) is None


def test_resident_data_can_be_written_to_whatever_mode_they_were_made_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeGpu(monkeypatch, memory=80)
    with torch.inference_mode():
        tensor = require(10).get()
    assert tensor is not None
    tensor.zero_()
