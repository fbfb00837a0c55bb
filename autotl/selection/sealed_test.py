"""The sealed test split: score the model in the run folder on it, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotl import events, training
from autotl.artifact import model_folder
from autotl.data import Indices
from autotl.evaluation import error_analysis
from autotl.events import Listener
from autotl.scoring import intervals, majority
from autotl.scoring.metrics import Predictions, Targets
from autotl.search.budget import Budget
from autotl.search.context import TrainingContext
from autotl.store import Contender, ImageRow, Store, TestResult, TestRow
from autotl.tasks import rescale

FEWEST_TESTED = 100
"""The minimum number of test images that are scored, whatever that takes."""

MAX_SALIENCY_SECONDS = 10.0
"""The maximum time for saliency maps of misclassified images, in seconds."""


class SealedTest:
    """The test split of a study, each use of which is stored before it happens.

    Args:
        store: The database.
        context: The context of all trainings of the study.
        budget: The wall-clock budget.
        listener: Called with the events of the progress.
    """

    def __init__(
        self, store: Store, context: TrainingContext, budget: Budget, listener: Listener
    ) -> None:
        self.store, self.context = store, context
        self.budget, self.listener = budget, listener
        self.settings, self.dataset = context.settings, context.dataset
        self.name = context.settings.name

    @property
    def exists(self) -> bool:
        """Whether there is a test split."""
        return len(self.dataset.indices("test")) > 0

    def result(
        self, contender: Contender, *, refitted: bool, config: Mapping[str, Any] | None = None
    ) -> TestResult | None:
        """Return the last test result of a contender, or None.

        Args:
            contender: The contender.
            refitted: Whether the model that was tested must be refitted, or must not be.
            config: The configuration of a student, which belongs to its identity.
        """
        results = [
            row.result
            for row in self.store.tests(self.name)
            if row.done and _is_of(row, contender, config) and row.result.refitted == refitted
        ]
        return results[-1] if results else None

    def was_tested(self, contender: Contender) -> bool:
        """Whether a contender has a test result."""
        tests = self.store.tests(self.name)
        return any(row.done and row.contender.id == contender.id for row in tests)

    def may_open(self, winner: Contender, config: Mapping[str, Any] | None = None) -> bool:
        """Whether the test split may be used for this winner, or for this student.

        It may not if it was used for another one and ``retest`` is off: a model that is chosen
        among several test results has a biased test score. Winners and students are not chosen
        among each other.

        Args:
            winner: The winner, or the student.
            config: The configuration of a student, which belongs to its identity.
        """
        others = [
            row.contender
            for row in self.store.tests(self.name)
            if (row.contender.kind == "student") == (winner.kind == "student")
            and not _is_of(row, winner, config)
        ]
        if not others or self.settings.retest:
            return self.exists
        names = sorted({c.name for c in others} - {winner.name}) or [f"another {winner.name}"]
        text = (
            f"{winner.name} was not tested, because the test split was already used for "
            f"{', '.join(names)}; to use it again, add --retest (the report will mention it)"
        )
        self.listener(events.Note(text, warning=True))
        return False

    def run(
        self,
        winner: Contender,
        config: Mapping[str, Any],
        *,
        refit_seconds: float,
        refitted: bool,
        predicted: float = 0.0,
        folder: str = "model",
    ) -> TestResult:
        """Score a model in the run folder, with the same calibration as ``autotl predict``.

        Args:
            winner: The contender that the model belongs to; the student that it taught.
            config: The configuration of its trial with the largest weight, or of the student.
            refit_seconds: Duration of the refit.
            refitted: Whether the model was refitted.
            predicted: The predicted seconds of scoring all test images. If there is no time for
                that, a random sample of them is scored.
            folder: The name of the model folder.

        Raises:
            ArtifactError: The model cannot be loaded.
        """
        indices = self._affordable_indices(predicted)
        self.listener(events.Stage("opening the test split"))
        opening = self.store.open_test(self.name, winner, config)
        path = self.settings.folder / folder
        predictor = model_folder.load(path, self.context.registry, self.context.device)
        batches = self.context.batches_of(predictor.network, indices)
        raw = training.predict(predictor.network, batches, predictor.device)
        predictions = rescale(self.dataset.task, raw, predictor.temperature)
        targets = self.dataset.targets[indices]
        result = TestResult(
            **self._scores(
                targets, predictions, np.array(self.dataset.units)[indices], predictor.calibration
            ),
            refit_seconds=refit_seconds,
            refitted=refitted,
        )
        if winner.kind != "student":  # the report shows the mistakes of the winner
            mistakes = error_analysis.find_mistakes(
                self.dataset, indices, predictions, predictor.calibration
            )
            seconds = min(MAX_SALIENCY_SECONDS, self.budget.left - self.budget.fixed / 2)
            mistakes = error_analysis.add_saliency(mistakes, self.dataset, predictor, seconds)
            self.store.set_images(self.name, [ImageRow(**m) for m in mistakes], opening)
        self.store.close_test(opening, result)
        return result

    def _affordable_indices(self, predicted: float) -> Indices:
        """Return the indices of the test images, or of a random sample for which there is time."""
        indices, budget = self.dataset.indices("test"), self.budget
        available = max(budget.test_seconds(predicted), budget.left - budget.fixed / 2)
        if predicted <= available:
            return indices
        count = max(FEWEST_TESTED, int(len(indices) * available / predicted))
        if count >= len(indices):
            return indices
        nouns = self.dataset.kind.nouns
        text = f"{count:,} of {len(indices):,} test {nouns} are scored; there is no time for all"
        self.listener(events.Note(text, warning=True))
        random = np.random.default_rng(self.settings.seed)
        sample: Indices = np.sort(random.permutation(indices)[:count])
        return sample

    def _scores(
        self,
        targets: Targets,
        predictions: Predictions,
        units: NDArray[np.int64],
        calibration: Mapping[str, Any],
    ) -> dict[str, Any]:
        metric, task = self.context.metric, self.dataset.task
        low, high = intervals.score_interval(metric, targets, predictions, units)
        constant = task.constant(self.dataset.targets[self.dataset.indices("train")])
        baseline = majority.compare_with_constant(metric, targets, predictions, constant, units)
        return {
            "score": metric.score(targets, predictions),
            "low": low,
            "high": high,
            "n": len(targets),
            **task.details(targets, predictions, calibration),
            "majority": asdict(baseline) if baseline else None,
        }


def _is_of(row: TestRow, contender: Contender, config: Mapping[str, Any] | None) -> bool:
    """Whether a test was of a contender, and of this configuration unless that is None."""
    return row.contender.id == contender.id and config in (None, row.config)
