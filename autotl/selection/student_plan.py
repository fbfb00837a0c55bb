"""How a student is trained in the time that is left: epochs, views and unlabelled examples.

There are three trainings: of the student and of the same model without a teacher, on a part of the
examples, and at last of the student on train + validation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from autotl.errors import OutOfTime
from autotl.search.budget import SLACK
from autotl.training import ComputeSettings, Cost

FEWEST_EPOCHS, ENOUGH_EPOCHS = 1 / 4, 1 / 2
"""The minimum fraction of the epochs with which a student is trained, because with fewer it is
poor; and the fraction up to which there are unlabelled examples rather than more epochs."""

MOST_VIEWS, MOST_BYTES = 32, 2**30
"""The maximum number of views that a teacher predicts, and the maximum size of its predictions. Up
to that each epoch has a view of its own: with four views, a student was no better than alone."""

VIEWS_FRACTION = 0.4
"""The fraction of the time in which the teachers may predict views."""


@dataclass(frozen=True)
class StudentPlan:
    """How a student is trained, each time in the same way.

    Attributes:
        epochs: The number of epochs.
        views: The number of views of each example.
        unlabelled: The number of unlabelled examples.
        compute: The settings that were measured to be fastest.
        test_seconds: The predicted time of the test.
    """

    epochs: int
    views: int
    unlabelled: int = 0
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    test_seconds: float = 0.0


@dataclass(frozen=True)
class Work:
    """What is to be done, without the unlabelled examples.

    Attributes:
        epochs: The number of epochs that is wanted.
        part: The number of training examples of the first two trainings.
        every: That of the last one.
        unlabelled: The number of unlabelled examples that may be used.
        outputs: The number of logits, each of which takes two bytes in a prediction.
        test: The number of test examples.
    """

    epochs: int
    part: int
    every: int
    unlabelled: int
    outputs: int
    test: int

    def count_views(self, unlabelled: int) -> int:
        """The number of views that are wanted, as far as there is memory for the predictions."""
        most = MOST_BYTES // (2 * (self.every + unlabelled) * self.outputs)
        return max(1, min(self.epochs, MOST_VIEWS, most))


def plan_without_limit(work: Work) -> StudentPlan:
    """Return the plan of a student for which there is as much time as it needs."""
    return StudentPlan(work.epochs, work.count_views(work.unlabelled), work.unlabelled)


def plan_in_time(
    work: Work, cost: Cost, teacher_seconds: float, refit_ratio: float, left: float
) -> StudentPlan:
    """Plan the trainings of a student in the time that is left.

    Args:
        work: What is to be done.
        cost: That of the student on the labelled examples of the first training.
        teacher_seconds: The time in which the teacher predicts an example.
        refit_ratio: How much longer the last training takes than the first.
        left: The time that is left, in seconds.

    Raises:
        OutOfTime: There is not enough time, not even without unlabelled examples.
    """
    test = cost.prediction_seconds * work.test
    left -= test
    fewest = max(1, round(FEWEST_EPOCHS * work.epochs))
    enough = max(fewest, round(ENOUGH_EPOCHS * work.epochs))
    needed = 0.0
    for unlabelled in _halve(work.unlabelled, work.part):
        view = (work.part + work.every + 2 * unlabelled) * teacher_seconds
        affordable = int(VIEWS_FRACTION * left / max(view, 1e-9))
        views = max(1, min(work.count_views(unlabelled), affordable))
        for epochs in range(work.epochs, (enough if unlabelled else fewest) - 1, -1):
            once = cost.training_seconds(epochs, views) * (1 + unlabelled / work.part)
            needed = SLACK * ((2 + refit_ratio) * once + view * min(views, epochs))
            if needed <= left:
                return StudentPlan(epochs, views, unlabelled, cost.compute, test)
    raise OutOfTime(f"{fewest} epochs would take {needed:.0f} s, and {left:.0f} s are left")


def _halve(unlabelled: int, labelled: int) -> Iterator[int]:
    """Yield numbers of unlabelled examples: all, half of them and so on, and at last none."""
    while unlabelled > labelled / 4:
        yield unlabelled
        unlabelled //= 2
    yield 0
