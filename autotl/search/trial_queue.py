"""The queue of trials: what a worker tries next.

All workers of a study choose from one queue, one at a time: who holds the lease ``QUEUE`` takes
over the trials of workers that have died, draws the next configuration and adds its trial to the
store, which takes some milliseconds. Training happens outside of the lease.
"""

from __future__ import annotations

import math
import time

import optuna
from optuna.trial import TrialState

from autotl.errors import OutOfTime
from autotl.search import resume, sampler
from autotl.search.budget import PROBING_FRACTION, Budget
from autotl.search.leaderboard import Leaderboard
from autotl.search.portfolio import Portfolio, Recipe
from autotl.search.resume import PROBED_WITH, RECIPE
from autotl.search.screening import Screening
from autotl.search.selection_budget import SelectionBudget
from autotl.space import space
from autotl.space.space import Config, Space
from autotl.store import QUEUE, SCREENING, Store, TrialFacts, Worker
from autotl.study import StudyConfig

HEADS = 8
"""The number of heads that are trained on a frozen backbone in one pass."""

Begun = tuple[optuna.Trial, Config]
"""A trial that has begun, and its configuration."""


class TrialQueue:
    """Begins the trials of one worker.

    Args:
        store: The database.
        study: Optuna's study.
        space: The search space.
        settings: The settings of the study.
        leaderboard: The trials so far.
        portfolio: The recipes.
        budget: The wall-clock budget.
        worker: This process as a worker of the study.
        screening: Compares backbones on samples.

    Attributes:
        probing_seconds: The time that this worker has spent on probing backbones.
    """

    def __init__(
        self,
        store: Store,
        study: optuna.Study,
        space: Space,
        settings: StudyConfig,
        leaderboard: Leaderboard,
        portfolio: Portfolio,
        budget: Budget,
        worker: Worker,
        screening: Screening,
    ) -> None:
        self.store, self.study, self.space, self.settings = store, study, space, settings
        self.leaderboard, self.portfolio = leaderboard, portfolio
        self.budget, self.worker, self.screening = budget, worker, screening
        self.selection = SelectionBudget(leaderboard, budget, len(space.plugins["freeze"]) > 1)
        self.probing_seconds = 0.0

    def compare_backbones(self, after: str) -> None:
        """Compare the backbones on samples, if that is to precede the next trial.

        While another worker does, ``begin_next`` begins cheap trials of the first backbone.

        Args:
            after: The status of the last trial of this worker.
        """
        if not self._awaits_screening(after) or not self.worker.try_lease(SCREENING):
            return
        try:
            began = time.monotonic()
            if self.screening.facts is None:
                self.screening.run()
                self.probing_seconds += time.monotonic() - began
        finally:
            self.worker.release(SCREENING)

    def _awaits_screening(self, after: str) -> bool:
        if not self.screening.is_possible or self.screening.facts or after == OutOfTime.status:
            return False
        with self.worker.lease(QUEUE):
            self._take_over()
            if self.has_all_trials() or self.selection.is_over() or self._has_waiting():
                return False
            return self.screening.precedes(self._recommend())

    def begin_next(self, after: str) -> Begun | None:
        """Begin the next trial; None if none may begin now.

        Args:
            after: The status of the last trial of this worker.
        """
        with self.worker.lease(QUEUE):
            self._take_over()
            if self.has_all_trials() or (self.selection.is_over() and not self._compares()):
                return None
            self._enqueue_next(after)
            return self._begin()

    def _compares(self) -> bool:
        """Whether a recipe of the comparison has not been tried, for which time is reserved."""
        is_left = self.portfolio.comparison_is_left(self.leaderboard.recipes)
        return is_left and self.budget.usable() > 0

    def others_run(self) -> bool:
        """Whether trials of other workers are running, whose result may change what is next."""
        with self.worker.lease(QUEUE):
            self._take_over()
        return bool(self.leaderboard.running)

    def has_all_trials(self) -> bool:
        """Whether the maximum number of trials have finished or are running."""
        most = self.settings.trials
        count = self.leaderboard.finished + len(self.leaderboard.running)
        return most is not None and count >= most

    def begin_other_heads(self, first: Begun) -> list[Begun]:
        """Begin trials that share a frozen backbone, with other heads and optimizers."""
        trial, config = first
        count = HEADS
        same = ("backbone", "augment", "balance", "unlabelled", "freeze")
        drawn = trial.params.items()
        shared = {n: v for n, v in drawn if n in same or n.split(".")[0] in same[:-1]}
        takes = config["head"].plugin.takes
        heads = [p.name for p in self.space.plugins["head"] if p.takes == takes]
        with self.worker.lease(QUEUE):
            self.leaderboard.refresh()
            if self.settings.trials is not None:  # leave trials for the sampler
                most, running = self.settings.trials, len(self.leaderboard.running)
                left = most - self.leaderboard.finished - max(0, running - 1)  # without ``first``
                count = min(count, most // 4, left)
            group = []
            for i in range(count - 1):
                params = {**shared, "head": heads[i % len(heads)]}
                self.study.enqueue_trial(params, user_attrs={PROBED_WITH: trial.number})
                group.append(self._begin())
                self.leaderboard.refresh()
        return group

    def leads_heads(self, trial: optuna.Trial) -> bool:
        """Whether other heads are trained together with that of a trial."""
        return self.portfolio.leads_heads(trial.user_attrs.get(RECIPE, ()))

    def _take_over(self) -> None:
        """Read the trials, and end those of workers that have died, so that they are retried."""
        self.worker.bury()
        self.leaderboard.refresh()
        rows, unfinished = self.leaderboard.rows, (TrialState.RUNNING,)
        # A worker tells Optuna last. What it has not told, it may still tell while it lives.
        late = [
            trial
            for trial in self.study.get_trials(deepcopy=False, states=unfinished)
            if trial.number not in rows or rows[trial.number].status != "running"
        ]
        if not late:
            return
        living = {self.worker.number, *(row.number for row in self.worker.others())}
        for trial in late:
            row = rows.get(trial.number)
            if row is None or row.worker not in living:
                resume.end_trial(self.study, self.store, trial, row)
        self.leaderboard.refresh()

    def _enqueue_next(self, after: str) -> None:
        """Enqueue the next recipe, unless a trial is waiting or all recipes were tried.

        After a trial that was out of time, a cheap one is enqueued instead.
        """
        recipe: Recipe | None
        if after == OutOfTime.status:
            recipe = (), self.portfolio.cheapest_parameters(self.leaderboard.representatives)
        elif not (recipe := self._next_recipe()):
            return
        if self._has_waiting():
            return
        names, params = recipe
        self.study.enqueue_trial(params, user_attrs={RECIPE: list(names)} if names else None)

    def _next_recipe(self) -> Recipe | None:
        recipe = self._recommend()
        if not self.screening.precedes(recipe):
            return recipe
        # Another worker compares the backbones. The features of the first one are cached.
        params = self.portfolio.cheapest_parameters(self.leaderboard.representatives)
        return (), {"backbone": self.portfolio.first_probe[0], **params}

    def _recommend(self) -> Recipe | None:
        """Return the next recipe of the portfolio, though backbones may have to be compared."""
        probing = self.probing_seconds < PROBING_FRACTION * (self.budget.seconds or math.inf)
        board = self.leaderboard
        return self.portfolio.next_recipe(
            board.representatives, board.recipes, probing=probing, screening=self.screening.facts
        )

    def _has_waiting(self) -> bool:
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _begin(self) -> Begun:
        """Draw the configuration of the next trial, and add the trial to the store.

        Its sampler is seeded by the seed of the study and the number of earlier trials, so that an
        interrupted study continues with the same trials as one without an interruption. The
        leaderboard must be up to date.
        """
        number = len(self.leaderboard.rows) - self.leaderboard.interrupted
        screened = self.screening.facts
        self.study.sampler = sampler.make_sampler(
            (self.settings.seed * 10_007 + number) % 2**32,
            {"backbone": screened.left_out} if screened else {},
        )
        trial = self.study.ask()
        with self.store.storage.together():
            config = self.space.suggest(trial)
        recipe = trial.user_attrs.get(RECIPE, [])
        self.store.begin_trial(
            self.settings.name,
            trial.number,
            space.to_json(config),
            self.settings.epochs,
            TrialFacts(recipe=recipe, is_default=self.portfolio.is_default(recipe)),
            worker=self.worker.number,
        )
        return trial, config
