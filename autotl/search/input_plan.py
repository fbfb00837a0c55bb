"""The size of the input images and the number of examples, if the budget or the images limit them.

A forward and a backward pass take a time in proportion to the number of pixels. Three epochs of
fine-tuning at the size that a backbone was pretrained with give a better model than twice as many
at half the size, so a smaller size is chosen only where there is no time for these. Where there is
no time for fine-tuning at any size that is worth it, the largest size is chosen at which the
features of all images can be computed; where that is too slow, a part of the images is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from autotl import data, models, training
from autotl.data import ImageInput, Source
from autotl.data.image_kind import SMALLEST, STEP
from autotl.errors import StudyError
from autotl.models import Device
from autotl.search.budget import Budget
from autotl.space.input_kind import InputKind
from autotl.space.space import Choice, Space
from autotl.study import StudyConfig

SMALLEST_TRAINED = 128
"""The smallest input size that is worth fine-tuning: at 96 px, six epochs were no better than a
linear probe at 224 px."""

TRAINING_PASSES = 7
"""Cost of fine-tuning the last blocks for three epochs and of a refit, in forward passes over all
examples, of which about two thirds are training images."""

FOLD_PASSES = 4
"""The same with folds, for each of them: k folds and a refit train k times on all images but those
of the test split, one split and a refit do so 1.8 times."""

TRAINING_FRACTION = 0.7
"""The fraction of the usable time that this may take at the size that is chosen."""

OPENINGS = 2
"""How many times an image is decoded: to check it, and to pack it."""

FEATURES_FRACTION = 0.4
"""The fraction of the usable time in which the images are decoded and their features computed."""


@dataclass(frozen=True)
class InputPlan:
    """How much of the data a study uses.

    Attributes:
        size: Side of the input images in pixels; None for the size of each backbone.
        examples: Number of examples; None for all.
        reasons: Why it is not all, for the user; empty if it is.
        unlabelled: Number of examples without a label; None for all.
    """

    size: int | None = None
    examples: int | None = None
    reasons: tuple[str, ...] = ()
    unlabelled: int | None = None


def plan_inputs(
    settings: StudyConfig,
    space: Space,
    source: Source,
    device: Device,
    budget: Budget,
) -> InputPlan:
    """Choose the input size and the number of examples of a new study.

    Without a budget, only what the examples show limits the input size, so that the choice does not
    depend on the speed of the machine. The size is searched for images alone: other backbones have
    the size that suffices for the examples.

    Args:
        settings: The settings of the study; a size in them stands.
        space: The search space; the first backbone is timed.
        source: The examples, not opened yet.
        device: The device on which the models are trained.
        budget: The wall-clock budget.

    Raises:
        StudyError: The budget is too short even for a few examples at the smallest size.
    """
    if budget.seconds is None and settings.image_size:
        return InputPlan()
    plugin = space.find("backbone", space.default_order("backbone")[0])
    kind, items = source.kind, data.draw_items(source.examples)
    opening = OPENINGS * data.measure_opening(items, kind)
    try:
        timer = _Timer(Choice(plugin, plugin.defaults), settings.size, device)
        useful = None if settings.image_size else kind.useful_size(items, timer.expects)
        if budget.seconds is None and (useful is None or useful >= timer.native):
            return InputPlan()
        timer.seconds(timer.native)
    except Exception:  # its trials will report why it cannot be built
        return InputPlan()
    size, reason = timer.native, ""
    if useful is not None and useful < size and timer.accepts(useful):
        size, reason = useful, f"larger inputs tell no more about these {kind.nouns}"
    if budget.seconds is None:
        return _make_plan(timer, size, reason, kind)
    if not settings.image_size and timer.is_image:
        passes = FOLD_PASSES * settings.folds if settings.folds else TRAINING_PASSES
        smaller = _largest_size(timer, size, opening, len(source.examples), budget, passes)
        if smaller < size and timer.accepts(smaller):
            size, reason = smaller, "there is no time for fine-tuning at that size"
    seconds = opening + timer.seconds(size)
    count = _count_affordable(seconds, source, budget)
    plan = _make_plan(timer, size, reason, kind)
    plan = _limit_unlabelled(plan, seconds, source, budget, count)
    if count is None:
        return plan
    total = len(source.examples)
    note = f"{count:,} of {total:,} {kind.nouns} are used; there is no time for all"
    return replace(plan, examples=count, reasons=(*plan.reasons, note))


def _limit_unlabelled(
    plan: InputPlan, seconds: float, source: Source, budget: Budget, labelled: int | None
) -> InputPlan:
    """Limit the examples without a label to those for which there is time beside the others.

    Args:
        plan: The plan so far.
        seconds: Seconds to decode one example and to compute its features.
        source: The examples.
        budget: The wall-clock budget.
        labelled: The number of labelled examples for which there is time; None for all.
    """
    total = len(source.unlabelled)
    affordable = int(FEATURES_FRACTION * budget.usable() / seconds) - len(source.examples)
    count = max(0, affordable) if labelled is None else 0
    if count >= total:
        return plan
    nouns = f"unlabelled {source.kind.nouns}"
    note = f"{count:,} of {total:,} {nouns} are used; there is no time for all"
    return replace(plan, unlabelled=count, reasons=(*plan.reasons, note))


class _Timer:
    """Predicts the time of a forward pass from a measurement at one size.

    Args:
        choice: The backbone.
        size: Size of the inputs; None for the size that it was pretrained with.
        device: The device.

    Attributes:
        expects: The input of the backbone.
        native: Its size.
        is_image: Whether it is that of images, whose size is one of two sides.
    """

    def __init__(self, choice: Choice, size: int | None, device: Device) -> None:
        self.expects = models.build_backbone(choice, size)[1]
        self.native = self.expects.size
        self.is_image = isinstance(self.expects, ImageInput)
        self._choice, self._device = choice, device
        self._per_number: float | None = None

    def accepts(self, size: int) -> bool:
        """Whether the backbone takes inputs of this size."""
        try:
            return training.measure_forward(self._choice, size, self._device)[1] == size
        except Exception:  # a backbone of one size may fail in many ways
            return False

    def seconds(self, size: int) -> float:
        """Return the seconds of a forward pass of one example of this size."""
        if self._per_number is None:
            self._per_number = self._measure(
                min(2 * SMALLEST, self.native) if self.is_image else self.native
            )
        return self._per_number * (size * size if self.is_image else size)

    def _measure(self, size: int) -> float:
        """Return the seconds of a forward pass, for each pixel of an image, or in units of size."""
        try:
            seconds, measured = training.measure_forward(self._choice, size, self._device)
        except Exception:
            if size == self.native:
                raise
            return self._measure(self.native)
        return seconds / (measured**2 if self.is_image else measured)


def _make_plan(timer: _Timer, size: int, reason: str, kind: InputKind) -> InputPlan:
    """Return the plan with all examples; without a ``reason`` the size is that of the backbone."""
    if not reason:
        return InputPlan()
    unit = "px" if timer.is_image else kind.unit
    text = f"the input size is {size} {unit} instead of {timer.native} {unit}, because {reason}"
    return InputPlan(size, reasons=(text,))


def _largest_size(
    timer: _Timer, largest: int, opening: float, examples: int, budget: Budget, passes: int
) -> int:
    """Return the largest size at which there is time for fine-tuning, or else for the features.

    Args:
        timer: Predicts the time of a forward pass.
        largest: The largest size to choose, in pixels.
        opening: Seconds to open an image.
        examples: The number of examples.
        budget: The wall-clock budget.
        passes: Cost of fine-tuning in forward passes over all examples.
    """
    usable = budget.usable()
    sizes: list[int] = [largest, *range((largest - 1) // STEP * STEP, SMALLEST - 1, -STEP)]
    for size in sizes:
        seconds = examples * passes * timer.seconds(size)
        if size >= min(SMALLEST_TRAINED, largest) and seconds <= TRAINING_FRACTION * usable:
            return size
    for size in sizes:
        if examples * (opening + timer.seconds(size)) <= FEATURES_FRACTION * usable:
            return size
    return sizes[-1]


def _count_affordable(seconds: float, source: Source, budget: Budget) -> int | None:
    """Return the number of examples for which there is time; None for all.

    Args:
        seconds: Seconds to decode one example and to compute its features.
        source: The examples.
        budget: The wall-clock budget.

    Raises:
        StudyError: There is no time for ``data.FEWEST_PER_CLASS`` examples of each class.
    """
    examples = source.examples
    classes = len(set(data.rarest_labels(examples, source.task)))
    fewest = min(len(examples), data.FEWEST_PER_CLASS * classes)
    count = int(FEATURES_FRACTION * budget.usable() / seconds)
    if count < fewest:
        needed = budget.spent + budget.fixed + seconds * fewest / FEATURES_FRACTION
        raise StudyError(
            f"the budget is too short: {budget.spent:.0f} s are spent, and the shortest search on "
            f"these {source.kind.nouns} takes {needed - budget.spent:.0f} s more; give --budget "
            f"{5 * math.ceil(needed / 5)}s or more"
        )
    return count if count < len(examples) else None
