"""The input size and the number of examples that a budget and the source images allow."""

from __future__ import annotations

from typing import Any

import pytest
from images import image_input

from autotl import Example, backbone
from autotl.data import IMAGES, Source, image_kind
from autotl.errors import Incompatible, StudyError
from autotl.search import input_plan
from autotl.search.budget import Budget
from autotl.search.input_plan import InputPlan, plan_inputs
from autotl.space.space import Space
from autotl.study import StudyConfig

NATIVE = 224
CPU: Any = None


@backbone
def net() -> Any: ...


class Machine:
    """A machine with a known speed, on which nothing is measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.milliseconds = 10.0  # of a forward pass at the native size
        self.decoding = 0.001
        self.side = 500
        self.fixed_size = self.broken = False
        monkeypatch.setattr(input_plan.training, "measure_forward", self.measure)
        monkeypatch.setattr(input_plan.models, "build_backbone", self.build)
        monkeypatch.setattr(input_plan.data, "measure_opening", lambda *_: self.decoding)
        monkeypatch.setattr(image_kind, "image_side", self.measure_side)
        monkeypatch.setattr("time.monotonic", lambda: 0.0)

    def measure_side(self, item: Any) -> int:
        if not self.side:
            raise ValueError("not an image that Pillow can read")
        return self.side

    def build(self, choice: Any, size: int | None) -> Any:
        if self.broken:
            raise Incompatible("it cannot be built")
        return None, image_input(size or NATIVE)

    def measure(self, choice: Any, size: int, device: Any) -> tuple[float, int]:
        if self.fixed_size and size != NATIVE:
            raise RuntimeError("shapes do not fit")
        return self.milliseconds / 1000 * (size / NATIVE) ** 2, size

    def plan(
        self, budget: float | None, count: int = 1000, unlabelled: int = 0, **settings: Any
    ) -> InputPlan:
        examples = [Example(str(i), None, str(i % 10)) for i in range(count)]
        space = Space({"backbone": (net,)})
        config = StudyConfig(data="x", **settings)
        extra = tuple(Example(f"u{i}", None, "") for i in range(unlabelled))
        source = Source(examples, [], IMAGES, unlabelled=extra)
        return plan_inputs(config, space, source, CPU, Budget(budget))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_with_enough_time_nothing_is_limited(machine: Machine) -> None:
    assert machine.plan(600) == InputPlan()
    assert machine.plan(None) == InputPlan()


def test_the_largest_size_is_chosen_at_which_there_is_time_for_fine_tuning(
    machine: Machine,
) -> None:
    sizes = [machine.plan(seconds).size or NATIVE for seconds in range(600, 45, -5)]
    assert sizes == sorted(sizes, reverse=True)
    assert set(sizes) == {224, 192, 160, 128}
    plan = machine.plan(60)
    assert plan.size == 160
    [reason] = plan.reasons
    assert "160 px instead of 224 px, because there is no time for fine-tuning" in reason


def test_without_time_for_fine_tuning_it_is_the_largest_for_the_features(machine: Machine) -> None:
    # 40 % of the usable time; at 128 px fine-tuning would take 23 s of 70 %
    sizes = [machine.plan(seconds).size for seconds in (36, 30, 25, 20, 15)]
    assert sizes == [None, 192, 160, 128, 96]
    assert machine.plan(15).examples is None


def test_the_size_that_the_user_gives_stands(machine: Machine) -> None:
    assert machine.plan(60, image_size=(128,)) == InputPlan()
    assert machine.plan(60, image_size=(128, 160)) == InputPlan()


def test_small_images_are_enlarged_eightfold_at_most(machine: Machine) -> None:
    for side, size in ((8, 64), (16, 128), (28, None), (3, 64), (0, None)):
        machine.side = side
        for budget in (600, None):
            plan = machine.plan(budget)
            assert plan.size == size, side
            assert any("tell no more" in reason for reason in plan.reasons) == bool(size)


def test_without_time_for_all_images_a_part_is_used(machine: Machine) -> None:
    machine.decoding = 0.01
    plan = machine.plan(40, count=5000)
    assert plan.size == 64
    assert plan.examples == int(0.4 * 35 / (2 * 0.01 + 0.01 * (64 / NATIVE) ** 2))
    assert plan.reasons[1].startswith(f"{plan.examples} of 5,000 images are used")


def test_a_budget_that_is_too_short_is_refused_with_one_that_is_not(machine: Machine) -> None:
    machine.decoding = 0.5
    with pytest.raises(StudyError, match=r"is too short: .* give --budget (\d+)s or more") as error:
        machine.plan(20)
    enough = int(str(error.value).split("--budget ")[1].split("s")[0])
    assert enough > 20
    assert machine.plan(enough).examples
    with pytest.raises(StudyError):
        machine.plan(enough - 10)


def test_a_backbone_of_one_size_keeps_it(machine: Machine) -> None:
    machine.fixed_size = True
    assert machine.plan(60) == InputPlan()
    machine.side = 8
    assert machine.plan(None) == InputPlan()


def test_a_backbone_that_cannot_be_built_is_left_to_its_trials(machine: Machine) -> None:
    machine.broken = True
    assert machine.plan(60) == InputPlan()


def test_a_size_that_is_a_value_of_the_backbone_is_timed_as_it_is(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = machine.plan(60)
    monkeypatch.setattr(  # whatever size is asked for
        input_plan.training,
        "measure_forward",
        lambda choice, size, device: (machine.milliseconds / 1000 * (96 / NATIVE) ** 2, 96),
    )
    monkeypatch.setattr(input_plan._Timer, "accepts", lambda self, size: True)
    assert machine.plan(60) == expected


def test_unlabelled_examples_are_limited_before_labelled_ones(machine: Machine) -> None:
    assert machine.plan(600, unlabelled=5000).unlabelled is None
    plan = machine.plan(600, unlabelled=500_000)
    assert plan.examples is None
    assert plan.unlabelled is not None
    assert 0 < plan.unlabelled < 500_000
    assert "of 500,000 unlabelled images are used; there is no time" in plan.reasons[-1]
    short = machine.plan(60, count=100_000, unlabelled=10)
    assert short.examples is not None
    assert short.unlabelled == 0
