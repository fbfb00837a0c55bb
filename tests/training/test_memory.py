"""When memory runs out: what is freed, in which order it is tried again, and what is remembered."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
import torch
from fake_gpu import FakeGpu
from torch import Tensor, nn
from toy import CPU as DEVICE
from toy import config, job, model

from autotl import models
from autotl.data import device_memory, resident
from autotl.data.resident import ResidentTensor
from autotl.errors import OutOfMemory, find_device_fault
from autotl.tasks import numbered_classes
from autotl.training import ComputeSettings, fine_tune, memory
from autotl.training.memory import (
    MicroBatches,
    build_model,
    convert_out_of_memory,
    retry_when_out_of_memory,
)

CPU = torch.device("cpu")


@pytest.fixture
def no_garbage_collection(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only reference counts free memory, also where ``memory`` collects garbage."""
    monkeypatch.setattr(memory.gc, "collect", lambda: 0)
    gc.disable()
    yield
    gc.enable()


def hold(bytes: int = 10) -> ResidentTensor:
    """Make some data resident, which are held by what this returns."""
    held = resident.allocate((bytes,), CPU)
    assert held is not None
    return held


class Refusing:
    """Doubles a batch, where there is memory for it.

    Attributes:
        sizes: The sizes of the batches that it was called with.
    """

    def __init__(self, most: Callable[[], int]) -> None:
        self.most, self.sizes = most, list[int]()

    def __call__(self, batch: Tensor) -> Tensor:
        self.sizes.append(len(batch))
        if len(batch) > self.most():
            raise torch.OutOfMemoryError("no memory is left")
        return 2 * batch


def test_a_batch_is_halved_until_it_fits_and_the_size_is_remembered() -> None:
    double, micro_batches, batch = Refusing(lambda: 3), MicroBatches(), torch.arange(10)
    assert torch.equal(micro_batches.map(double, batch), 2 * batch)
    assert double.sizes == [10, 5, 2, 2, 2, 2, 2]
    double.sizes.clear()
    assert torch.equal(micro_batches.map(double, batch[:5]), 2 * batch[:5])
    assert double.sizes == [2, 2, 1]


def test_what_was_computed_before_memory_ran_out_is_kept() -> None:
    double = Refusing(lambda: 4 if len(double.sizes) == 1 else 2)  # another process takes some
    batch = torch.arange(10)
    assert torch.equal(MicroBatches(4).map(double, batch), 2 * batch)
    assert double.sizes == [4, 4, 2, 2, 2]


def test_a_batch_that_fits_is_computed_as_it_is() -> None:
    seen: list[Tensor] = []
    batch = torch.arange(4)
    MicroBatches().map(lambda part: (seen.append(part), part)[1], batch)
    assert seen[0] is batch
    empty = batch[:0]
    assert len(MicroBatches().map(lambda part: part, empty)) == 0


def test_a_single_image_that_does_not_fit_is_an_error() -> None:
    for call in (
        lambda refusing: MicroBatches().map(refusing, torch.zeros(3)),
        lambda refusing: MicroBatches().run(lambda parts: refusing(torch.zeros(3)), 3, CPU),
    ):
        with pytest.raises(OutOfMemory, match="a single image does not fit") as raised:
            call(Refusing(lambda: 0))
        assert raised.value.__context__ is None  # and with it nothing that was computed


def test_resident_data_is_given_up_before_a_batch_is_halved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = FakeGpu(monkeypatch, memory=80)
    held = [hold(), hold()]
    double, micro_batches = (
        Refusing(lambda: 2 if resident.resident_bytes(CPU) else 8),
        MicroBatches(),
    )
    micro_batches.map(double, torch.arange(8))
    assert (double.sizes, micro_batches.size) == ([8, 8], None)
    assert not any(tensor.is_resident for tensor in held)
    assert gpu.emptied == 1
    held = [hold()]
    parts: list[int] = []

    def in_four_parts(count: int) -> int:
        parts.append(count)
        if count < 4:
            raise torch.OutOfMemoryError("no memory is left")
        return count

    assert micro_batches.run(in_four_parts, 8, CPU) == 4
    assert parts == [1, 1, 2, 4]
    assert (micro_batches.size, gpu.emptied) == (2, 4)


class FailingBackward(torch.autograd.Function):
    """Remembers the tensors of its graph, and runs out of memory in the backward pass."""

    saved: ClassVar[list[weakref.ref[Tensor]]] = []
    error: ClassVar[str] = "CUDA out of memory"

    @staticmethod
    def forward(ctx: Any, batch: Tensor) -> Tensor:
        ctx.batch = batch.clone()  # only the graph holds it
        FailingBackward.saved.append(weakref.ref(ctx.batch))
        return batch * 1.0

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        if len(ctx.batch) > 2:
            raise RuntimeError(FailingBackward.error)
        return gradients[0]


@pytest.mark.parametrize("error", ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_a_failed_graph_is_freed_before_the_next_attempt(
    no_garbage_collection: None, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    FailingBackward.saved.clear()
    monkeypatch.setattr(FailingBackward, "error", error)
    weights = torch.ones(4, 3, requires_grad=True)
    graphs: list[weakref.ref[Tensor]] = []

    def step(parts: int) -> Tensor:
        alive = [ref for ref in (*graphs, *FailingBackward.saved) if ref() is not None]
        assert not alive, "the graph of the failed attempt is still in memory"
        weights.grad = None
        for part in weights.tensor_split(parts):
            hidden = FailingBackward.apply(part.exp())
            graphs.append(weakref.ref(hidden))
            loss = hidden.square().sum()
            loss.backward()
            del loss, hidden
        assert weights.grad is not None
        return weights.grad

    gradient = MicroBatches().run(step, 4, CPU)
    torch.testing.assert_close(gradient, torch.full((4, 3), 2 * torch.e**2))
    assert len(FailingBackward.saved) == 3


@pytest.mark.parametrize("entry", ["retry", "convert", "map"])
def test_a_failed_forward_pass_is_freed(no_garbage_collection: None, entry: str) -> None:
    made: list[weakref.ref[Tensor]] = []
    freed: list[bool] = []

    def layer(batch: Tensor) -> Tensor:
        hidden = batch.exp()
        made.append(weakref.ref(hidden))
        try:
            raise torch.OutOfMemoryError("no memory is left")
        except torch.OutOfMemoryError as error:
            # As a plugin might: the first error, which has a graph in its frames, is the context.
            raise RuntimeError("CUDA out of memory, again") from error

    def compute(batch: Tensor) -> Tensor:
        freed.extend(ref() is None for ref in made)
        return layer(batch)

    batch = torch.ones(2, 3, requires_grad=True)
    attempts: dict[str, Callable[[], object]] = {
        "retry": lambda: retry_when_out_of_memory(lambda: compute(batch), CPU, "the model"),
        "convert": lambda: convert_out_of_memory("the model", CPU)(compute)(batch),
        "map": lambda: MicroBatches().map(compute, batch),
    }
    with pytest.raises(OutOfMemory):
        attempts[entry]()
    assert all(freed)
    assert made
    assert all(ref() is None for ref in made)


def test_an_error_that_someone_keeps_does_not_keep_the_graph(no_garbage_collection: None) -> None:
    kept: list[Exception] = []
    made: list[weakref.ref[Tensor]] = []

    def fail() -> None:
        hidden = torch.ones(3)
        made.append(weakref.ref(hidden))
        error = torch.OutOfMemoryError("no memory is left")
        kept.append(error)
        raise error

    def fail_again() -> None:
        try:
            fail()
        except torch.OutOfMemoryError:
            raise RuntimeError("CUDA out of memory, again") from None

    with pytest.raises(OutOfMemory):
        retry_when_out_of_memory(fail_again, CPU, "the model")
    assert [ref() for ref in made] == [None, None]
    assert kept[0].__traceback__ is not None  # its lines are still known


def test_other_errors_are_raised_at_once() -> None:
    calls: list[int] = []

    def fail(batch: object = None) -> Any:
        calls.append(1)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    for call in (
        lambda: MicroBatches().map(fail, torch.zeros(4)),
        lambda: MicroBatches().run(fail, 4, CPU),
        lambda: retry_when_out_of_memory(fail, CPU, "the model"),
    ):
        with pytest.raises(RuntimeError, match="mat1"):
            call()
    assert len(calls) == 3


def test_a_model_is_built_again_without_resident_data(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu(monkeypatch, memory=80)
    held, built = hold(), models.build_model(config(), numbered_classes(3), None, DEVICE)
    attempts: list[bool] = []

    def build(*args: Any) -> models.Model:
        attempts.append(resident.resident_bytes(CPU) > 0)
        if attempts[-1]:
            raise torch.OutOfMemoryError("no memory is left")
        return built

    monkeypatch.setattr(models, "build_model", build)
    assert build_model(config(), numbered_classes(3), None, DEVICE) is built
    assert attempts == [True, False]
    assert not held.is_resident
    monkeypatch.setattr(models, "build_model", lambda *_: torch.empty(1 << 60))
    with pytest.raises(OutOfMemory, match="the model does not fit"):
        build_model(config(), numbered_classes(3), None, DEVICE)


def test_large_batches_of_inference_are_halved_before_anything_resident_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeGpu(monkeypatch, memory=1 << 30)
    network, failures = model(), list[int]()

    def refuse(_: nn.Module, batch: tuple[Tensor]) -> None:
        if not network.training and len(batch[0]) > 24:
            failures.append(len(batch[0]))
            raise torch.OutOfMemoryError("CUDA out of memory")

    network.backbone.register_forward_pre_hook(refuse)
    run = job(3, compute=ComputeSettings(inference_factor=3))
    for _ in fine_tune(network, config(freeze="full"), run):
        assert resident.resident_bytes(CPU) > 0
    assert failures == [36]  # it is known in the next epochs


@pytest.mark.parametrize("is_lost", [False, True])
def test_an_error_of_a_library_tells_no_lost_gpu_until_it_is_asked(
    monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    def synchronize(device: torch.device) -> None:
        assert device == CPU
        if is_lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def fail(batch: Tensor) -> Tensor:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`")

    monkeypatch.setattr(device_memory, "synchronize", synchronize)
    for attempt in (
        lambda: MicroBatches().map(fail, torch.ones(2)),
        lambda: MicroBatches().run(lambda parts: fail(torch.ones(2)), 2, CPU),
        lambda: retry_when_out_of_memory(lambda: fail(torch.ones(2)), CPU, "the model"),
    ):
        with pytest.raises(RuntimeError) as raised:
            attempt()
        assert bool(find_device_fault(raised.value)) == is_lost
