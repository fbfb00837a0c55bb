"""The end of a search: choose the winner, refit it, save its model, test it once, distil it."""

from __future__ import annotations

import time
from collections.abc import Mapping

from autotl import events
from autotl.errors import OutOfTime, StudyError, TrialStopped
from autotl.evaluation import error_analysis
from autotl.events import Listener
from autotl.models import Model
from autotl.search.budget import Budget
from autotl.search.context import TrainingContext
from autotl.search.leaderboard import Leaderboard
from autotl.search.outcome import TrialModel
from autotl.search.ranking import contender
from autotl.search.selection_budget import SelectionBudget
from autotl.selection.distillation import Distillation
from autotl.selection.final_selection import FinalSelection
from autotl.selection.prediction_costs import add_latencies
from autotl.selection.refit import refit
from autotl.selection.repeats import Repeats
from autotl.selection.run_folder import Evidence, RunFolder
from autotl.selection.sealed_test import SealedTest
from autotl.selection.trial_ensemble import choose_ensemble, is_within_limits
from autotl.store import FINISH, Contender, ImageRow, Store, Worker

ENDED_EARLY = "the search ended early"
"""Why a model was not refitted after an interruption or an error."""


class Finish:
    """The steps after the last trial, which produce the model of a study.

    Args:
        store: The database.
        context: The context of all trainings of the study.
        leaderboard: The trials.
        budget: The wall-clock budget.
        listener: Called with the events of the progress.
        best: The model of the best trial, if this run trained it.
        worker: This process as a worker of the study.
        versions: The versions of Python and of the libraries on which results depend.
    """

    def __init__(
        self,
        store: Store,
        context: TrainingContext,
        leaderboard: Leaderboard,
        budget: Budget,
        listener: Listener,
        best: TrialModel | None,
        worker: Worker,
        versions: Mapping[str, str],
    ) -> None:
        self.store, self.context, self.leaderboard = store, context, leaderboard
        self.budget, self.listener, self.best = budget, listener, best
        self.worker = worker
        self.plan = SelectionBudget(leaderboard, budget)
        self.repeats = Repeats(store, context, self.plan, budget, listener, worker)
        self.selection = FinalSelection(self.repeats, context, self.plan, budget, listener, best)
        self.folder = RunFolder(store, context, leaderboard.rows, versions)
        self.test = SealedTest(store, context, budget, listener)
        self.distillation = Distillation(
            store,
            context,
            leaderboard,
            self.selection,
            self.folder,
            self.test,
            budget,
            listener,
            self._require_lease,
        )

    def run(self) -> None:
        """Run the final selection, refit the winner, save its model, test it once, and distil it.

        If the winner was refitted and tested in an earlier run, its model stays.

        Raises:
            StudyError: The refit failed, and there is no other model of the winner.
        """
        try:
            self._choose()
            self.distillation.run()
        except (KeyboardInterrupt, Exception):
            self.try_to_save_best()
            raise

    def _choose(self) -> None:
        """Run the final selection; refit, save and test the winner, unless an earlier run did."""
        with self.budget.stage("selection"):
            self.selection.run()
        if self.selection.result is None and self._earlier_result_is_valid():
            text = "there was no time for a final selection; the result of the earlier one remains"
            self.listener(events.Note(text, warning=True))
            return
        winner = self._winner()
        saved = self.folder.saved()
        if saved and self._earlier_ensemble_is_better(saved.contender, winner):
            self.listener(events.Note("the ensemble of an earlier run is still the best"))
            return
        tested = self.test.result(winner, refitted=True) is not None
        if saved and saved.contender.id == winner.id and tested:
            self._update_evidence(winner)
            self.listener(events.Note(f"{winner.name} is still the best; its model remains"))
            return
        try:
            self._conclude(winner)
        except OutOfTime as error:  # an ensemble has no model before its refit
            text = f"the {winner.name} was not refitted ({error}); the best trial is the winner"
            self.listener(events.Note(text, warning=True))
            self._conclude(self._best_trial())

    def help(self) -> bool:
        """Train a repeat for the worker that finishes the study; return whether there was one."""
        return self.repeats.help()

    def _require_lease(self) -> None:
        """Check that no other worker finishes the study, because this one seemed to be dead.

        Raises:
            StudyError: Another worker does.
        """
        if self.worker.holder(FINISH) not in (None, self.worker.number):
            raise StudyError(
                "another worker finishes the study, because this one did not respond for a minute"
            )

    def try_to_save_best(self) -> None:
        """Save a model after an error; a second error is only reported."""
        try:
            self.save_best_so_far()
        except Exception as error:  # the first error is what the user must know
            reason = str(error) or type(error).__name__
            text = f"the best model so far was not saved: {reason}"
            self.listener(events.Note(text, warning=True))

    def save_best_so_far(self) -> None:
        """Save a model after an interruption, with the facts that belong to it.

        A model that an earlier run refitted stays. Otherwise the model of the best contender so far
        is saved, without a refit and without a test.
        """
        ranked, saved = self.leaderboard.ranked, self.folder.saved()
        if not ranked:
            return
        winner = self.selection.winner(default=self._best_trial())
        available = {row.number for row in ranked}
        if saved and available.issuperset(saved.contender.trials[:1]):
            if self.selection.result and saved.contender.id == winner.id:
                self._update_evidence(winner)
            return
        model = self.selection.model_of(winner) if self.selection.result else None
        if model:
            self.folder.save(winner, model, Evidence(self.selection.result), reason=ENDED_EARLY)
        elif self.best and self.best.number in available:
            row = self.leaderboard.rows[self.best.number]
            self.folder.save(contender(row), self.best.model, Evidence(), reason=ENDED_EARLY)

    def _winner(self) -> Contender:
        """Return the winner of the final selection, or of the search if there was none.

        Without a final selection it may be an ensemble of trials.
        """
        best = self._best_trial()
        if self.selection.result is None and self.context.settings.prefer == "accuracy":
            combination = choose_ensemble(
                self.store, self.context, self.leaderboard, self.plan, self.budget
            )
            best = combination or best
        return self.selection.winner(default=best)

    def _best_trial(self) -> Contender:
        return contender(self.leaderboard.winner())

    def _earlier_result_is_valid(self) -> bool:
        """Whether the final selection, the model and the test of an earlier run are valid."""
        saved = self.folder.saved()
        facts = self.store.study(self.context.settings.name)
        if not saved or not facts.selection:
            return False
        ranked = {row.number for row in self.leaderboard.ranked}
        return saved.contender.lead in ranked and self._was_tested(saved.contender)

    def _was_tested(self, winner: Contender) -> bool:
        """Whether a winner of an earlier run needs no test any more."""
        return self.test.was_tested(winner) or not self.test.exists

    def _earlier_ensemble_is_better(self, earlier: Contender, winner: Contender) -> bool:
        """Whether the ensemble of trials of an earlier run scores at least as well as a trial."""
        if earlier.kind != "ensemble" or winner.kind != "trial" or self.selection.result:
            return False
        ranked = {row.number for row in self.leaderboard.ranked}
        metric = self.context.metric
        is_valid = ranked.issuperset(earlier.trials) and self._was_tested(earlier)
        rows, settings = self.leaderboard.rows, self.context.settings
        if not is_valid or not is_within_limits(earlier, rows, self.store, settings):
            return False
        return metric.gain(winner.mean, earlier.mean) <= 0

    def _update_evidence(self, winner: Contender) -> None:
        """Store the new comparison; the model and its calibration do not change."""
        facts = self.store.study(self.context.settings.name)
        images = tuple(self.store.images(self.context.settings.name))
        evidence = Evidence(self.selection.result, facts.calibration, facts.out_of_sample, images)
        if winner.latency is None and facts.model:
            winner = winner.model_copy(update={"latency": facts.model.contender.latency})
        self.folder.store_evidence(winner, evidence, refitted=True)

    def _evidence(self, winner: Contender) -> Evidence:
        """Return the comparison, the calibration and possible label issues of a new winner."""
        dataset = self.context.dataset
        predictions = None
        if dataset.validation_has_labels:
            predictions = self.selection.out_of_sample(winner)
        if predictions is None:
            return Evidence(self.selection.result)
        issues = error_analysis.find_label_issues(
            dataset, predictions.indices, predictions.predictions
        )
        calibration = self.selection.calibrate(predictions)
        return Evidence(
            self.selection.result,
            calibration,
            self.selection.score_by_class(predictions, calibration),
            tuple(ImageRow(**issue) for issue in issues),
        )

    def _conclude(self, winner: Contender) -> None:
        """Refit the winner on train + validation, save the model, and test it once.

        Raises:
            OutOfTime: There was no time to refit an ensemble of trials.
        """
        with self.budget.stage("selection"):
            evidence = self._evidence(winner)
        began = time.monotonic()
        model, epochs, reason = self._refit(winner)
        refitted = bool(epochs)
        seconds = time.monotonic() - began
        self._require_lease()
        self.folder.save(winner, model, evidence, refit_epochs=epochs, reason=reason)
        if winner.latency is None:  # an error in its measurement cannot lose the model any more
            [winner] = add_latencies([winner], [model], self.context.device, self.budget)
            self.folder.store_evidence(winner, evidence, refitted=refitted, reason=reason)
        result = self.test.result(winner, refitted=refitted)  # of an earlier run
        if result is None and self.test.may_open(winner):
            row = self.leaderboard.rows[winner.lead]
            self._require_lease()
            with self.budget.stage("test"):
                result = self.test.run(
                    winner,
                    row.config,
                    refit_seconds=seconds,
                    refitted=refitted,
                    predicted=self.plan.whole_test_seconds(winner),
                )
        if result:
            self.folder.write_card(winner, result, refitted=refitted)

    def _refit(self, winner: Contender) -> tuple[Model, tuple[int, ...], str]:
        """Refit the winner, or use a model that was trained on a part of the data.

        Returns:
            The model, the epochs of the refit of each member, and why it was not refitted, in which
            case there are no epochs.

        Raises:
            StudyError: The refit failed, and there is no other model.
            OutOfTime: There was no time to refit an ensemble of trials.
        """
        fallback = self.selection.model_of(winner)
        combines_trials = winner.kind == "ensemble" and self.selection.result is None
        try:
            refitted = refit(
                winner,
                self.leaderboard.rows,
                self.context,
                self.plan,
                self.budget,
                self.listener,
                has_fallback=fallback is not None or combines_trials,
            )
        except TrialStopped as stop:
            if combines_trials:
                raise OutOfTime(str(stop)) from None
            if fallback is None:
                raise StudyError(f"the refit of {winner.name} stopped early: {stop}") from None
            text = (
                f"the winner was not refitted ({stop}); its model was trained on a part of the data"
            )
            self.listener(events.Note(text, warning=True))
            return fallback, (), str(stop)
        return refitted.model, refitted.epochs, ""
