"""The fit of a head within a deadline: not begun if it takes too long, or interrupted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy import config, job, model

from autotl import head, training
from autotl.errors import OutOfTime
from autotl.training import fine_tune, head_fit


class Clock:
    """A clock that only a fit moves, by a second for each example."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        for module in (training.loop, training.job, head_fit):
            monkeypatch.setattr(module, "time", clock)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(head_fit, "FEWEST_EXAMPLES", 3)
    return Clock(monkeypatch)


class SlowHead(nn.Linear):
    """Takes its examples one after the other."""

    begin: Callable[[], None]
    each: Callable[[], None]

    def fit(self, features: Tensor, labels: Tensor) -> None:
        self.begin()
        for _ in range(len(labels)):
            self.each()


def slow_head(each: Callable[[], None]) -> tuple[Any, list[int]]:
    """A plugin of heads, and the list of the numbers of examples that their fits have taken."""
    fits: list[int] = []

    def begin() -> None:
        fits.append(0)

    def take() -> None:
        each()
        fits[-1] += 1

    @head
    def slow(features: int, classes: int) -> nn.Module:
        layer = SlowHead(features, classes)
        layer.begin, layer.each = begin, take  # functions are not copied with a model
        return layer

    return slow, fits


def fit(plugin: Any, **changes: Any) -> None:
    """Train a probe of the head on the 36 images of three classes."""
    network = model(head=plugin)
    list(fine_tune(network, config(head=plugin), job(1, **changes)))


def tick(clock: Clock) -> Callable[[], None]:
    def tick() -> None:
        clock.now += 1.0

    return tick


def test_a_fit_that_would_take_too_long_is_not_begun(clock: Clock) -> None:
    plugin, fits = slow_head(tick(clock))
    with pytest.raises(OutOfTime, match=r"fitting the head would take 36\.0 s, and 3\d\.0 s"):
        fit(plugin, deadline=40.0)
    assert len(fits) == 2
    assert fits[0] < 4  # to import what a fit needs
    assert 4 <= fits[1] <= 4 + 3  # an eighth of the images, and one of each class
    clock.now = 0.0
    fits.clear()
    fit(plugin, deadline=60.0)
    assert fits[2:] == [36]


def test_an_earlier_fit_tells_how_long_the_next_takes(clock: Clock) -> None:
    plugin, fits = slow_head(tick(clock))
    measured: dict[str, Any] = {}
    fit(plugin, deadline=100.0, measured_costs=measured)
    assert list(measured.values()) == [{"seconds": 36.0, "examples": 36}]
    fits.clear()
    with pytest.raises(OutOfTime, match=r"would take 36\.0 s, and 30\.0 s are left"):
        fit(plugin, deadline=clock.now + 30.0, measured_costs=measured)
    assert fits == []
    fit(plugin, deadline=clock.now + 40.0, measured_costs=measured)
    assert fits == [36]


def test_a_fit_is_interrupted_when_the_deadline_passes(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_fit, "FEWEST_EXAMPLES", 1000)  # nothing is known before
    plugin, fits = slow_head(tick(clock))
    with pytest.raises(OutOfTime, match="ended inside an epoch"):
        fit(plugin, deadline=10.0)
    assert fits == [10]
    assert sys.getprofile() is None


def test_a_solver_of_a_library_is_interrupted(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = iter(range(10_000))
    monkeypatch.setattr(training.job, "time", SimpleNamespace(monotonic=lambda: next(readings)))
    with pytest.raises(OutOfTime):
        fit("logistic_regression", deadline=2_000.0)
    assert 2_000 < next(readings) < 2_010  # not at its end, when it would be out of time as well


def test_ctrl_c_ends_a_fit(clock: Clock) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    plugin, fits = slow_head(interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(plugin, deadline=1e9)
    assert len(fits) == 1
    assert sys.getprofile() is None


def test_a_process_that_is_profiled_stays_so(clock: Clock) -> None:
    def profile(*_: Any) -> None:
        return

    plugin, fits = slow_head(tick(clock))
    sys.setprofile(profile)
    try:
        fit(plugin, deadline=1e9)
        assert sys.getprofile() is profile
    finally:
        sys.setprofile(None)
    assert fits[-1] == 36


def test_without_a_deadline_nothing_is_timed(clock: Clock) -> None:
    plugin, fits = slow_head(tick(clock))
    measured: dict[str, Any] = {}
    fit(plugin, measured_costs=measured)
    assert fits == [36]
    assert measured == {}


def test_the_part_that_is_timed_has_every_class() -> None:
    labels = torch.tensor([0] * 500 + [1] + [2] * 499)
    part = head_fit._choose_part(labels)
    assert labels[part].unique().tolist() == [0, 1, 2]
    assert 125 <= len(part) <= 128
