"""The task of a training without labels: all examples are alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

from autotl.space.task import Label
from autotl.tasks.classification import Classification

ANY: Final = "any"
"""The label of every example."""


class WithoutLabels(Classification):
    """One class for all examples, whatever their labels are, so that no label can have an effect.

    A training has targets, and splits have strata; all of them are 0.
    """

    name = "without labels"
    has_classes = False

    def parse(self, label: Label) -> str:
        """Return the same text for every label."""
        return ANY

    def names(self, label: str) -> Sequence[str]:
        """Return no class: the data need not have two."""
        return ()

    def fit(self, labels: Sequence[str], outputs: Sequence[str]) -> Self:
        """Return the task with its one class."""
        return type(self)((ANY,))
