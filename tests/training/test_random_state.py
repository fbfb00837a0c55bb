"""Training leaves the random numbers and settings of the host process as they were."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import toy
from torch import nn

from autotl import augment, head
from autotl.models import Device, Model
from autotl.space.space import Choice
from autotl.training import fine_tune
from autotl.training.cost import measure_cost
from autotl.training.latency import measure_latency
from autotl.training.probes import (
    extract_backbone_features,
    keeps_backbone_frozen,
    train_probes,
)
from autotl.training.random_state import RandomState, seed_torch, torch_seeded

CPU = torch.device("cpu")
GPU = torch.device("cuda")
DEVICES = [CPU, pytest.param(GPU, marks=pytest.mark.gpu)]


@head
def drawing(features: int, classes: int) -> nn.Module:
    """A head that draws from all generators, when it is made and in every batch."""

    class Drawing(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            draw(CPU)
            return super().forward(x)

    draw(CPU)
    return Drawing(features, classes)


@augment
def shifting(size: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """An augmentation that draws from all generators."""
    return lambda images: images.roll(int(4 * draw(CPU)[0]), -1)


CHOSEN: dict[str, Any] = {"freeze": "full", "head": drawing, "augment": shifting}
PROBE: dict[str, Any] = {"head": drawing, "augment": shifting}


def draw(device: torch.device) -> tuple[float, ...]:
    """A number from each global generator."""
    numbers = torch.rand(1), torch.rand(1, device=device)
    return (*map(float, numbers), float(np.random.randn()), random.random())


def host_state() -> tuple[Any, ...]:
    """The states of all global generators, and the flags of kernels, to be compared with ``==``."""
    numpy: Any = np.random.get_state()
    cudnn = torch.backends.cudnn
    return (
        torch.get_rng_state().tolist(),
        [state.tolist() for state in torch.cuda.get_rng_state_all()],
        (numpy[1].tolist(), *numpy[2:]),
        random.getstate(),
        (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
        torch.get_float32_matmul_precision(),
    )


@pytest.fixture(autouse=True)
def host_has_drawn() -> None:
    """Leave every generator in the middle of its stream, NumPy's with a cached second normal."""
    draw(CPU)
    if torch.cuda.is_available():
        draw(GPU)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_states_are_kept_apart(device: torch.device) -> None:
    ours = RandomState(Device(device, None), 1)
    before = host_state()
    with ours.active():
        first = draw(device)
    assert host_state() == before
    draw(device)  # the host goes on
    between = host_state()
    with ours.active():
        second = draw(device)
    assert host_state() == between
    assert first != second
    other = RandomState(Device(device, None), 1)
    with other.active():
        assert [draw(device)[:2], draw(device)[:2]] == [first[:2], second[:2]]


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_the_host_state_returns_after_an_error(device: torch.device) -> None:
    before = host_state()
    for context in (RandomState(Device(device, None), 0).active(), torch_seeded(device, 1, 2)):
        with contextlib.suppress(ValueError), context:
            torch.rand(1, device=device)
            raise ValueError("stop")
        assert host_state() == before


def test_the_seed_is_that_of_torch_manual_seed() -> None:
    with RandomState(toy.CPU, 7).active():
        ours = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(ours, torch.rand(3))


def test_every_number_changes_the_seed() -> None:
    states = []
    for numbers in ((1, 2), (2, 1), (1, 3), (1,)):
        with torch_seeded(CPU):
            seed_torch(CPU, *numbers)
            states.append(float(torch.rand(1)))
    assert len(set(states)) == 4


class FakeMps:
    """``torch.mps`` with a generator whose state is one number, which each draw increases."""

    def __init__(self) -> None:
        self.state, self.seeds = 40, []

    def manual_seed(self, seed: int) -> None:
        self.seeds.append(seed)
        self.state = seed

    def get_rng_state(self) -> torch.Tensor:
        return torch.tensor([self.state])

    def set_rng_state(self, state: torch.Tensor) -> None:
        [self.state] = state.tolist()


@pytest.fixture
def mps(monkeypatch: pytest.MonkeyPatch) -> FakeMps:
    fake = FakeMps()
    for name in ("manual_seed", "get_rng_state", "set_rng_state"):
        monkeypatch.setattr(torch.mps, name, getattr(fake, name))
    return fake


def test_the_generator_of_mps_is_kept_apart(mps: FakeMps) -> None:
    device = torch.device("mps")
    state, host = RandomState(Device(device, None), 7), torch.get_rng_state()
    assert mps.seeds[-1] == 7
    assert mps.state == 40
    for first in (7, 9):  # it continues where it was
        with state.active():
            assert mps.state == first
            mps.state += 2  # what is drawn
            torch.rand(3)
        assert mps.state == 40
        assert torch.equal(torch.get_rng_state(), host)
    with state.torch_active():
        assert mps.state == 11
    assert [len(s) for s in state.torch_states] == [len(host), 1]
    restored = RandomState(Device(device, None), 0)
    restored.torch_states = state.torch_states  # as from a checkpoint
    with restored.active():
        assert mps.state == 11
    assert mps.state == 40


def test_the_generator_of_mps_is_seeded_with_that_of_the_cpu(mps: FakeMps) -> None:
    device, host = torch.device("mps"), torch.get_rng_state()
    with contextlib.suppress(ValueError), torch_seeded(device, 1, 2):
        assert torch.initial_seed() == mps.state == mps.seeds[-1]
        seed_torch(device, 1, 3)
        assert torch.initial_seed() == mps.state == mps.seeds[-1] != mps.seeds[-2]
        raise ValueError("stop")
    assert mps.state == 40
    assert torch.equal(torch.get_rng_state(), host)


def fine_tuned() -> Iterator[Any]:
    model, config = toy.model(**CHOSEN), toy.config(**CHOSEN)
    return fine_tune(model, config, toy.job(3))


def probed() -> Iterator[Any]:
    configs = [toy.config(**PROBE), toy.config(augment=shifting), toy.config(**PROBE)]
    return train_probes(toy.model(**PROBE), configs, toy.job(3))


@pytest.mark.parametrize("begin", [fine_tuned, probed])
def test_a_training_leaves_the_host_state_alone_at_every_epoch(
    begin: Callable[[], Iterator[Any]],
) -> None:
    running = begin()
    for _ in range(3):
        before = host_state()
        next(running)
        assert host_state() == before
        draw(CPU)  # between two epochs
    before = host_state()
    assert next(running, None) is None
    assert host_state() == before
    running = begin()
    next(running)
    before = host_state()
    running.close()  # type: ignore[attr-defined]
    assert host_state() == before


@pytest.mark.parametrize("begin", [fine_tuned, probed])
def test_draws_of_the_host_change_no_result(begin: Callable[[], Iterator[Any]]) -> None:
    def results(drawing: bool) -> str:
        torch.manual_seed(int(drawing))
        random.seed(0)  # of Python and NumPy the training begins with a copy
        np.random.seed(0)
        epochs = []
        for epoch in begin():
            if drawing:
                draw(CPU)
            for result in epoch if isinstance(epoch, list) else [epoch]:
                done = getattr(result, "epoch", result)
                epochs.append((done.loss, done.score, done.predictions.tolist()))
        return str(epochs)

    assert results(True) == results(False)


def test_measurements_leave_the_host_state_alone() -> None:
    model, config, job = toy.model(**CHOSEN), toy.config(**CHOSEN), toy.job(2)
    before = host_state()
    measure_cost(model, config, job)
    assert host_state() == before
    measure_latency(Choice(toy.toy, {}), None, toy.CPU)
    assert host_state() == before
    extract_backbone_features(toy.model(), toy.config(augment=shifting), job)
    assert host_state() == before
    assert keeps_backbone_frozen(toy.model(), toy.config(), 2)
    assert not keeps_backbone_frozen(toy.model(), toy.config(freeze="lora"), 2)
    assert host_state() == before


def test_a_training_that_fails_leaves_the_host_state_alone() -> None:
    @head
    def failing(features: int, classes: int) -> nn.Module:
        """A head that draws, then fails."""

        class Failing(nn.Linear):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                draw(CPU)
                raise RuntimeError("boom")

        return Failing(features, classes)

    model: Model = toy.model(head=failing)
    before = host_state()
    with pytest.raises(RuntimeError, match="boom"):
        next(fine_tune(model, toy.config(head=failing), toy.job(1)))
    assert host_state() == before
