"""The model of the best trial, which is used if there is no time for a refit."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from autotl import training
from autotl.models import Model
from autotl.search.context import TrainingContext
from autotl.search.leaderboard import Leaderboard
from autotl.search.outcome import TrialModel
from autotl.store import Worker
from autotl.study import StudyConfig


def clear_models(settings: StudyConfig) -> None:
    """Delete the files of the best models of a study, which are those of one run."""
    shutil.rmtree(_folder(settings), ignore_errors=True)


def _folder(settings: StudyConfig) -> Path:
    return settings.out / "cache" / "models" / settings.name


class BestModel:
    """The model of the best trial of this run.

    It is in the memory of the worker that trained it. If there are other workers, it is also in a
    file for the worker that finishes the study, see ``clear_models``.

    Args:
        context: The context of all trainings of the study.
        leaderboard: The trials.
        worker: This process as a worker of the study.
    """

    def __init__(self, context: TrainingContext, leaderboard: Leaderboard, worker: Worker) -> None:
        self.context, self.leaderboard, self.worker = context, leaderboard, worker
        self._own: TrialModel | None = None

    def keep(self, trained: Iterable[tuple[int, Model | None]]) -> None:
        """Keep the model of a trial of this worker if it is the winner so far.

        Args:
            trained: Numbers of trials, and the models of those that completed.
        """
        if not self.leaderboard.ranked:
            return
        winner = self.leaderboard.winner().number
        for number, model in trained:
            if number != winner or model is None:
                continue
            if self._own:
                self._saved(self._own.number).delete()
            self._own = TrialModel(number, model.cpu())
            if self.worker.others():
                self._saved(number).save(model.state_dict(), {})

    def get(self) -> TrialModel | None:
        """Return the model of the winner so far, or that of an earlier winner of this worker."""
        if not self.leaderboard.ranked:
            return self._own
        winner = self.leaderboard.winner()
        if self._own and self._own.number == winner.number:
            return self._own
        saved = self._saved(winner.number)
        if saved.facts:
            model = self.context.build(self.context.config(winner))
            with suppress(ValueError, RuntimeError):  # it is damaged
                model.load_state_dict(saved.load())
                return TrialModel(winner.number, model.cpu())
        return self._own

    def _saved(self, number: int) -> training.Checkpoint:
        """The file of the model of a trial, which may not exist."""
        return training.Checkpoint(_folder(self.context.settings) / f"{number}.safetensors")
