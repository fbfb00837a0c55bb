"""The repeats of the final selection: contenders retrained on the same resamples and seeds.

Each repeat is stored when it is completed, so that an interrupted final selection can be continued.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from autotl import data, events, training
from autotl.data import Indices, Resample
from autotl.errors import DataError, Diverged, OutOfTime, StoreError, find_device_fault
from autotl.events import Listener
from autotl.models import Model, ensemble
from autotl.search.budget import SLACK, Budget
from autotl.search.context import TrainingContext
from autotl.search.ranking import contender as to_contender
from autotl.search.selection_budget import (
    FEWEST_REPEATS,
    MOST_REPEATS,
    Field,
    SelectionBudget,
)
from autotl.selection.stored_repeats import Result, Stored, StoredRepeats
from autotl.store import (
    Contender,
    Member,
    RepeatFacts,
    RepeatPlan,
    RepeatRow,
    Store,
    Worker,
)

WAIT_SECONDS = 0.5
"""The pause before a worker looks again whether others have completed a repeat."""


class Repeats:
    """The repeats of one final selection.

    Args:
        store: The database.
        context: The context of all trainings of the study.
        selection: Predicts how long the end of the search takes.
        budget: The wall-clock budget.
        listener: Called with the events of the progress.
        worker: This process as a worker of the study.

    Attributes:
        contenders: The trials in the final selection that have not dropped out.
        dropped: Trials that did not complete two repeats in time, with the repeats that they have.
        count: Number of repeats that all contenders have completed.
        models: The model of the last repeat by trial, on the CPU.
    """

    def __init__(
        self,
        store: Store,
        context: TrainingContext,
        selection: SelectionBudget,
        budget: Budget,
        listener: Listener,
        worker: Worker,
    ) -> None:
        self.store, self.context, self.selection = store, context, selection
        self.worker = worker
        self.budget, self.listener = budget, listener
        self.settings, self.dataset = context.settings, context.dataset
        self.metric = context.metric
        self.contenders: list[Contender] = []
        self.dropped: list[Contender] = []
        self.count = 0
        self.models: dict[int, Model] = {}
        self._results: dict[int, dict[int, Result]] = defaultdict(dict)  # by trial and repeat
        self._soup_members: list[int] = []
        self._soup_results: dict[int, Result] = {}
        self._stored = StoredRepeats(store, self.settings, listener)
        self._failed: set[tuple[int, int]] = set()

    # ---------------------------------------------------------------- results

    def completed(self) -> list[Contender]:
        """Return the contenders with all their results, which are those of the first repeats.

        Some have more than ``count`` repeats, and those that were dropped have fewer.
        """
        contenders = [*self.contenders, *self.dropped]
        return [
            self._with_results(c, self._results[c.lead], len(self._results[c.lead]))
            for c in contenders
        ]

    def soup(self) -> Contender | None:
        """Return the soup, if it was scored in the first ``count`` repeats; else None."""
        numbers = self._soup_members
        if len(numbers) < 2 or any(n not in self._soup_results for n in range(self.count)):
            return None
        if not {c.lead for c in self.contenders}.issuperset(numbers):
            return None  # a member has dropped out
        members = tuple(Member(trial=n, weight=1 / len(numbers)) for n in numbers)
        soup = Contender(kind="soup", members=members, role="soup")
        return self._with_results(soup, self._soup_results, self.count)

    def validation_indices(self, number: int) -> Indices:
        """Return the indices of the validation examples of a repeat."""
        return data.resample(self.dataset, number, self.settings.seed).validation

    def trained_in_same_repeat(self, trials: Sequence[int]) -> bool:
        """Whether the last models of these trials are of the same repeat."""
        return len({max(self._results[trial]) for trial in trials}) == 1

    def last_repeat(self, trials: Sequence[int]) -> int | None:
        """Return the repeat whose models of all these trials are in ``models``; None without."""
        if not set(trials) <= self.models.keys() or not self.trained_in_same_repeat(trials):
            return None
        return max(self._results[trials[0]])

    def _with_results(
        self, contender: Contender, results: Mapping[int, Result], count: int
    ) -> Contender:
        done = [results[number] for number in range(count)]
        own = self._results if contender.kind == "soup" else {contender.lead: results}
        seconds = sum(
            result.seconds for trial in contender.trials for result in own[trial].values()
        )
        return contender.model_copy(
            update={
                "scores": tuple(result.score for result in done),
                "predictions": tuple(result.predictions for result in done),
                "seconds": seconds,
            }
        )

    # ---------------------------------------------------------------- running repeats

    def run(self) -> Iterator[int]:
        """Run repeats of all contenders while there is time; yield ``count`` after each.

        A contender that does not complete one of the first two repeats drops out. A later repeat
        that some contender does not complete counts for the others. If there is no time for two
        repeats of two contenders, nothing is trained.
        """
        field, deadline = self._choose_field()
        # The best contender and the baselines are trained first, in case the time ends early.
        others = sorted(field.contenders[1:], key=lambda c: c.role == "finalist")
        self.contenders = [*field.contenders[:1], *others]
        self._share(field.repeats, deadline)
        try:
            yield from self._run(field, deadline)
        finally:
            self._share(0, deadline)

    def _run(self, field: Field, deadline: float) -> Iterator[int]:
        stored = self._stored.read()
        most = field.repeats if self.budget.seconds is None else MOST_REPEATS
        for number in range(most):
            late = time.monotonic() + self._predicted_seconds(stored, number) > deadline
            if len(self.contenders) < 2 or (late and number >= field.repeats):
                return
            if number >= field.repeats:
                self._share(number + 1, deadline)
            before = list(self.contenders)
            is_completed = self._repeat(number, stored, field, deadline)
            if len(self.contenders) < 2 and self.count >= FEWEST_REPEATS:
                self.contenders = before  # the result of the earlier repeats remains
                return
            if not is_completed:
                return
            self.count = number + 1
            yield self.count

    def _choose_field(self) -> tuple[Field, float]:
        """Return the contenders and the deadline, a value of ``time.monotonic``."""
        self.budget.reserved_repeats = 0.0
        finish = self._finish_seconds(self.selection.leaderboard.finalists(1))
        field = self._field_within(self.budget.left - finish)
        later = self._finish_seconds(field.contenders)
        if later > finish:  # another contender may win that takes longer to refit
            finish = later
            field = self._field_within(self.budget.left - finish)
        return field, time.monotonic() + self.budget.left - finish

    def _field_within(self, seconds: float) -> Field:
        """Return the contenders that can be repeated in ``seconds``, with slack if possible."""
        field = self.selection.choose_field(seconds / SLACK)
        return field if field.contenders else self.selection.choose_field(seconds)

    def _finish_seconds(self, contenders: Sequence[Contender]) -> float:
        """Return the maximum seconds from the last repeat to the report, over all contenders."""
        return max(map(self.selection.finish_seconds, contenders), default=0.0)

    def _repeat(self, number: int, stored: Stored, field: Field, deadline: float) -> bool:
        """Run one repeat; return whether it is completed."""
        try:
            self._train_all(number, stored, deadline)
            if number == 0 and self._add_contenders(field, deadline):
                self._share(field.repeats, deadline)
                self._train_all(number, stored, deadline)
        except OutOfTime:
            return self.count < FEWEST_REPEATS and self._drop_unfinished(number)
        except DataError as error:
            text = f"the final selection ended after {number} repeats: {error}"
            self.listener(events.Note(text, warning=True))
            return False
        return True

    def _drop_unfinished(self, number: int) -> bool:
        """Drop the contenders that did not complete a repeat; return whether two are left."""
        done = [c for c in self.contenders if number in self._results[c.lead]]
        text = f"there was no time for {FEWEST_REPEATS} repeats of the final selection"
        if enough := len(done) >= 2:
            dropped = ", ".join(c.name for c in self.contenders if c not in done)
            text += f" with {dropped}"
            others = [c for c in self.contenders if c not in done and self._results[c.lead]]
            self.contenders, self.dropped = done, [*self.dropped, *others]
        self.listener(events.Note(text, warning=True))
        return enough

    def _add_contenders(self, field: Field, deadline: float) -> bool:
        """Add contenders if the first repeat was faster than predicted; return whether any were.

        A repeat is faster than predicted if the features of its frozen prefixes are cached.
        """
        if self.budget.seconds is None:
            return False
        planned = sum(map(self.selection.seconds, field.contenders))
        took = sum(self._results[c.lead][0].seconds for c in self.contenders)
        if not 0 < took < planned:
            return False
        left = (deadline - time.monotonic()) * planned / took
        trials = [c.lead for c in field.contenders]
        larger = self.selection.choose_field(planned + left).contenders
        more = [c for c in larger if c.lead not in trials]
        self.contenders += more
        return bool(more)

    def _predicted_seconds(self, stored: Stored, number: int) -> float:
        """Return the predicted seconds of a repeat, from the earlier repeats."""
        return SLACK * sum(
            max((result.seconds for result in self._results[c.lead].values()), default=0.0)
            for c in self.contenders
            if ("trial", c.lead, number) not in stored
        )

    def _train_all(self, number: int, stored: Stored, deadline: float) -> None:
        """Train all contenders on the resample of one repeat; a contender that fails drops out.

        What other workers train is read when they have stored it.

        Raises:
            OutOfTime: The deadline passed.
        """
        resample = data.resample(self.dataset, number, self.settings.seed)
        left = list(self.contenders)
        while left:
            before = len(left)
            for contender in list(left):
                done = len(self.contenders) - len(left)
                name = f"final selection, repeat {number + 1}"
                self.listener(events.Stage(name, done, len(self.contenders)))
                if self._is_done(contender, resample, stored) or self._try_to_train(
                    contender, resample, deadline
                ):
                    left.remove(contender)
            if len(left) == before:
                if time.monotonic() > deadline:
                    raise OutOfTime("other workers did not complete the repeat in time")
                time.sleep(WAIT_SECONDS)
            stored = self._stored.read() if left else stored
        self._score_soup(resample, stored)

    def _is_done(self, contender: Contender, resample: Resample, stored: Stored) -> bool:
        """Whether the result of a repeat is known; it is loaded if it is stored."""
        if resample.number in self._results[contender.lead]:
            return True
        row = stored.get(("trial", contender.lead, resample.number))
        return row is not None and self._load(contender, row, resample)

    def _try_to_train(self, contender: Contender, resample: Resample, deadline: float) -> bool:
        """Train a contender on a resample; return False if another worker is doing so."""
        with self._claim(contender, resample.number) as is_free:
            if not is_free:
                return False
            if self._is_done(contender, resample, self._stored.read()):
                return True
            try:
                self._train(contender, resample, deadline)
            except (OutOfTime, StoreError):
                raise
            except Exception as error:  # an error in one contender must not end the selection
                if find_device_fault(error):
                    raise
                text = f"{contender.name} dropped out: {error or type(error).__name__}"
                self.listener(events.Note(text, warning=True))
                self.contenders = [c for c in self.contenders if c.lead != contender.lead]
            return True

    # ---------------------------------------------------------------- other workers

    def help(self) -> bool:
        """Train one repeat for the worker that runs the final selection, if there is one to train.

        Returns:
            Whether there was one.
        """
        plan = self.store.study(self.settings.name).repeat_plan or RepeatPlan()
        left = math.inf if plan.ends is None else plan.ends - self.store.now()
        stored, rows = self._stored.read(), self.selection.leaderboard.rows
        for number, lead in itertools.product(range(plan.repeats), plan.contenders):
            if ("trial", lead, number) in stored or (lead, number) in self._failed:
                continue
            contender = to_contender(rows[lead])
            with self._claim(contender, number) as is_free:
                if not is_free or ("trial", lead, number) in self._stored.read():
                    continue
                self.listener(events.Stage(f"final selection, repeat {number + 1} of trial {lead}"))
                resample = data.resample(self.dataset, number, self.settings.seed)
                try:
                    self._train(contender, resample, time.monotonic() + left)
                except StoreError:
                    raise
                except Exception as error:  # the other worker meets it too, and reports it
                    if find_device_fault(error):
                        raise
                    self._failed.add((lead, number))
                return True
        return False

    @contextmanager
    def _claim(self, contender: Contender, number: int) -> Iterator[bool]:
        """Yield whether this worker may train a repeat, which no other one trains meanwhile."""
        lease = f"repeat {number} of trial {contender.lead}"
        is_free = self.worker.try_lease(lease)
        try:
            yield is_free
        finally:
            if is_free:
                self.worker.release(lease)

    def _share(self, repeats: int, deadline: float) -> None:
        """Let other workers help with so many repeats of the contenders."""
        left = deadline - time.monotonic()
        plan = RepeatPlan(
            contenders=[c.lead for c in self.contenders] if repeats else [],
            repeats=repeats,
            ends=None if math.isinf(left) else self.store.now() + left,
        )
        self.store.update_study(self.settings.name, repeat_plan=plan)

    # ---------------------------------------------------------------- one repeat

    def _train(self, contender: Contender, resample: Resample, deadline: float) -> None:
        """Retrain a contender with the settings of its trial, score it, and store the result."""
        number, row = resample.number, self.selection.leaderboard.rows[contender.lead]
        began = time.monotonic()
        config = self.context.config(row)
        model = self.context.build(config, resample)
        job = self.context.retraining(row, model, resample=resample)
        job.deadline = deadline
        for epoch in training.fine_tune(model, config, job):
            last = epoch
        if not np.isfinite(last.score):  # such as the AUROC of a split with one class
            raise Diverged(f"its score is {last.score} in repeat {number + 1}")
        assert last.predictions is not None  # a resample has a validation split
        self.models[contender.lead] = model.cpu()
        result = Result(last.score, time.monotonic() - began, last.predictions)
        self._results[contender.lead][number] = result
        facts = RepeatFacts()
        if self.dataset.validation_has_labels:
            targets = self.dataset.targets[resample.validation]
            details = self.dataset.task.details(targets, last.predictions)
            facts = RepeatFacts(confusion_matrix=details.get("confusion_matrix"))
        self._stored.add("trial", contender.lead, number, result, facts)

    def _load(self, contender: Contender, row: RepeatRow, resample: Resample) -> bool:
        """Load a repeat that is stored; return whether its predictions still exist."""
        result = self._stored.load(row, resample)
        if result is None:
            return False
        self.models.pop(contender.lead, None)  # the model is of an earlier repeat
        self._results[contender.lead][row.repeat] = result
        return True

    # ---------------------------------------------------------------- the soup

    def _score_soup(self, resample: Resample, stored: Stored) -> None:
        """Score the mean of the weights of the contenders with the same architecture, if any.

        The members are chosen before any score of a repeat is known, so that the scores are not
        biased by the choice.
        """
        number, members = resample.number, self._same_architecture()
        if members != self._soup_members:  # a contender was added or has dropped out
            self._soup_results.clear()
        self._soup_members = members
        lead = members[0] if members else -1
        row = stored.get(("soup", lead, number))
        if row and row.facts.members == members and (result := self._stored.load(row, resample)):
            self._soup_results[number] = result
            return
        trained = [
            self.models[n] for n in members if n in self.models and number in self._results[n]
        ]
        if len(trained) < 2 or len(trained) < len(members):
            return
        if not all(ensemble.have_same_shapes(trained[0], other) for other in trained):
            return
        began = time.monotonic()
        model = ensemble.average_weights(trained).to(self.context.device.torch_device)
        batches = self.context.batches_of(model, resample.validation)
        predictions = training.predict(model, batches, self.context.device)
        targets = self.dataset.targets[resample.validation]
        score = self.metric.score(targets, predictions)
        result = Result(score, time.monotonic() - began, predictions)
        self._soup_results[number] = result
        self._stored.add("soup", lead, number, result, RepeatFacts(members=members))

    def _same_architecture(self) -> list[int]:
        """Return the trials of the best finalist and of those with its backbone and head."""
        finalists = [c for c in self.contenders if c.role != "linear_probe"]

        def architecture(contender: Contender) -> tuple[object, list[str]]:
            config = contender.config or {}
            return config["backbone"], list(config["head"])

        return [c.lead for c in finalists if architecture(c) == architecture(finalists[0])]
