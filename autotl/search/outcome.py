"""How a trial ended: with a model or an error, its status, and whether the search can go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna

from autotl.errors import (
    AutoTLError,
    GpuError,
    StoreError,
    TrialStopped,
    describe_device_fault,
    find_device_fault,
    is_machine_fault,
)
from autotl.models import Model
from autotl.scoring.metrics import Predictions
from autotl.search.folds import CrossValidated
from autotl.training import Epoch


@dataclass(frozen=True)
class TrialModel:
    """The trained model of the best trial, which is used if there is no time for a refit."""

    number: int
    model: Model


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial: a model and its epochs, or an error.

    With folds, the epochs are those of the first fold.
    """

    model: Model | None = None
    error: BaseException | None = None
    epochs: tuple[Epoch, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # by field of store.TrialFacts
    cross_validated: CrossValidated | None = None

    @property
    def score(self) -> float | None:
        """The score of the last epoch, or of all folds; None if the trial did not complete."""
        if self.model is None:
            return None
        return self.cross_validated.score if self.cross_validated else self.epochs[-1].score

    @property
    def predictions(self) -> Predictions | None:
        """The predictions that were scored."""
        if self.cross_validated:
            return self.cross_validated.predictions
        return self.epochs[-1].predictions


def classify(error: BaseException | None, *, retried: bool = False) -> tuple[str, str]:
    """Return the status and the reason of a trial that ended with ``error``.

    A trial in which the GPU fails is retried once, and then never again, because it may be the
    cause itself.
    """
    match error:
        case None:
            return "complete", ""
        case _ if fault := find_device_fault(error):
            reason = str(fault).partition("\n")[0]
            if retried:
                return "crashed", f"the GPU failed in it twice: {reason}"
            return "interrupted", f"the GPU failed: {reason}"
        case optuna.TrialPruned():
            return "pruned", str(error)
        case TrialStopped():
            return error.status, str(error)
        case KeyboardInterrupt():
            return "interrupted", "Ctrl-C"
        case _ if is_machine_fault(error):  # it says nothing about the trial, which is retried
            return "interrupted", str(error)
        case AutoTLError():
            return "failed", str(error)
        case _:  # an error in one trial must not end the search
            return "failed", f"{type(error).__name__}: {error}"


def search_error(fault: BaseException, trial: int | None = None) -> AutoTLError:
    """Return the error that ends the search because of a fault of the machine."""
    error: AutoTLError
    if device_fault := find_device_fault(fault):
        error = GpuError(describe_device_fault(device_fault, trial))
        error.__cause__ = fault
        return error
    if isinstance(fault, AutoTLError):
        return fault
    error = StoreError(f"the search ended: {fault}; repeat the command when that is solved")
    error.__cause__ = fault
    return error
