"""A small student that the winner of a study teaches (knowledge distillation).

What that is worth is measured first: a teacher that was trained as the winner was, but on a part of
the examples, teaches the student on the same part, and both are scored on the others, next to the
same model trained on the labels alone. Then the refitted winner teaches the student on train +
validation, which is saved in a model folder of its own and tested.

Unlabelled examples are labelled by the teacher: with few labels they say much more about what the
teacher has learned than its predictions for examples that it was trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from autotl import data, events, models, training
from autotl.artifact import model_folder
from autotl.data import Resample
from autotl.errors import OutOfTime, TrialStopped
from autotl.events import Listener
from autotl.models import Model
from autotl.scoring.metrics import Predictions
from autotl.search.budget import SLACK, Budget
from autotl.search.context import TrainingContext
from autotl.search.leaderboard import Leaderboard
from autotl.search.selection_budget import SelectionBudget
from autotl.search.student import choose_student
from autotl.selection.final_selection import FinalSelection, OutOfSample
from autotl.selection.prediction_costs import add_latencies
from autotl.selection.refit import combine
from autotl.selection.run_folder import RunFolder
from autotl.selection.sealed_test import SealedTest
from autotl.selection.standings import Comparer
from autotl.selection.student_plan import (
    StudentPlan,
    Work,
    plan_in_time,
    plan_without_limit,
)
from autotl.space import space
from autotl.space.space import Config
from autotl.store import Contender, Standing, Store, StudentFacts, StudentScores
from autotl.training import Teacher
from autotl.training.teacher import TEMPERATURE, WEIGHT

FOLDER = "student"
"""The name of the student's model folder in the run folder."""

MOST_UNLABELLED = 10
"""The maximum number of unlabelled examples for each labelled one."""

SPLITS = -1
"""The number of the resample that consists of the splits of the search, whose seed is its own."""


@dataclass(frozen=True)
class _Lesson:
    """A teacher that was trained on the training examples of a resample alone."""

    teacher: Model
    resample: Resample


class Distillation:
    """The last step of a search: the winner teaches a student.

    Args:
        store: The database.
        context: The context of all trainings of the study.
        leaderboard: The trials.
        selection: The final selection, which has models trained on a part of the examples.
        folder: The run folder, with the refitted winner.
        test: The test split.
        budget: The wall-clock budget.
        listener: Called with the events of the progress.
        require_lease: Called before something is saved; raises an error if another worker finishes
            the study.
    """

    def __init__(
        self,
        store: Store,
        context: TrainingContext,
        leaderboard: Leaderboard,
        selection: FinalSelection,
        folder: RunFolder,
        test: SealedTest,
        budget: Budget,
        listener: Listener,
        require_lease: Callable[[], None],
    ) -> None:
        self.store, self.context, self.leaderboard = store, context, leaderboard
        self.selection, self.folder, self.test = selection, folder, test
        self.costs = SelectionBudget(leaderboard, budget)
        self.budget, self.listener, self.require_lease = budget, listener, require_lease
        self.settings, self.dataset = context.settings, context.dataset
        self.name, self.metric = context.settings.name, context.metric
        self.unlabelled = np.empty(0, np.int64)  # until it is planned how many
        self.taught = context  # with the unlabelled examples

    def run(self) -> None:
        """Let the winner in the run folder teach the student of the settings, if there is one.

        A student of an earlier run stays if it would be the same. Without a refitted winner, or
        without time, a note says so.
        """
        self.budget.release_student()
        if not self.settings.student:
            return
        saved = self.folder.saved()
        if saved is None:
            self._warn("there is no refitted winner")
            return
        facts = self.store.study(self.name)
        may_mirror = facts.mirroring is None or facts.mirroring.survives
        config = choose_student(self.settings, self.context.registry, may_mirror=may_mirror)
        signature = self._signature(saved.contender, config)
        student = facts.student
        with self.budget.stage("student"):
            if student and student.signature == signature and self._path.is_dir():
                self.listener(events.Note("the winner taught its student in an earlier run"))
            else:
                try:
                    student = self._teach(saved.contender, config, signature)
                except TrialStopped as stop:
                    self._warn(str(stop))
                    return
            if student.test is None:
                self._test(student)

    def _usable_unlabelled(self) -> data.Indices:
        """Return the unlabelled examples that may train the last model."""
        return self.dataset.unlabelled_beside(np.empty(0, np.int64))

    def _add_unlabelled(self, count: int) -> None:
        """Train students on so many unlabelled examples, drawn at random."""
        if count:
            random = np.random.default_rng(self.settings.seed)
            self.unlabelled = np.sort(random.permutation(self._usable_unlabelled())[:count])
            joined = data.join_unlabelled(self.dataset, self.unlabelled)
            self.taught = replace(self.context, dataset=joined, _batches={}, _packed={})

    def _with_unlabelled(self, resample: Resample) -> Resample:
        """Return a resample that trains with the unlabelled examples that it may use, too."""
        usable = self.dataset.unlabelled_beside(resample.validation)
        positions = np.flatnonzero(np.isin(self.unlabelled, usable))
        own = len(self.dataset.examples) + positions
        return replace(resample, train=np.concatenate([resample.train, own]))

    @property
    def _path(self) -> Path:
        return self.settings.folder / FOLDER

    def _warn(self, reason: str) -> None:
        self.listener(events.Note(f"no student was taught: {reason}", warning=True))

    def _signature(self, winner: Contender, config: Config) -> str:
        """Return a digest of everything that a student depends on but the time."""
        settings = self.settings
        values = [
            winner.reference(),
            space.to_json(config),
            [settings.student_size, settings.size, settings.epochs],
            [TEMPERATURE, WEIGHT],
            self.context.decisive_settings(),
            self.dataset.identity,
        ]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    # ---------------------------------------------------------------- teaching

    def _teach(self, winner: Contender, config: Config, signature: str) -> StudentFacts:
        """Measure what the teacher is worth, teach the student on train + validation, and save it.

        Raises:
            TrialStopped: A training stopped early, or there is no time for it.
        """
        lesson = self._lesson(winner)
        plan = self._plan(winner, config, lesson.resample)
        self._add_unlabelled(plan.unlabelled)
        own = self._with_unlabelled(lesson.resample)
        # Without unlabelled examples an epoch is shorter; the number of steps is to be the same.
        epochs = round(plan.epochs * len(own.train) / len(lesson.resample.train))
        alone = self._train(config, replace(plan, epochs=epochs), lesson.resample, None)[1]
        teacher = self._ask(lesson.teacher, config, plan, own.train)
        taught = self._train(config, plan, own, teacher)[1]
        assert alone is not None
        assert taught is not None  # a resample has validation examples
        scores = self._compare(winner, lesson, taught, alone)
        out_of_sample = OutOfSample(lesson.resample.validation, np.arange(len(taught)) % 2, taught)
        calibration = self.selection.calibrate(out_of_sample)
        refitted = self._load_winner()
        every = self.taught.dataset.indices(*self.dataset.refit_splits)
        teacher = self._ask(refitted, config, plan, every)
        student, _ = self._train(config, plan, None, teacher)
        contender = _as_contender(winner)
        timed = add_latencies(
            [contender, winner], [student, refitted], self.context.device, self.budget
        )
        facts = StudentFacts(
            teacher=Contender(kind=winner.kind, members=winner.members),
            signature=signature,
            backbone=config["backbone"].name,
            config=space.to_json(config),
            size=student.expects.size,
            epochs=plan.epochs,
            views=teacher.views,
            unlabelled=len(self.unlabelled),
            temperature=teacher.temperature,
            weight=teacher.weight,
            scores=scores,
            calibration=calibration,
            parameters=models.count_parameters(student),
            teacher_parameters=models.count_parameters(refitted),
            latency=timed[0].latency,
            teacher_latency=timed[1].latency,
            test_seconds=plan.test_seconds,
        )
        self.require_lease()
        self.folder.save_student(self._path, student, config, facts)
        self.store.update_study(self.name, student=facts)
        return facts

    def _load_winner(self) -> Model:
        """Return the refitted winner in the run folder, on the device."""
        path = self.settings.folder / "model"
        return model_folder.load(path, self.context.registry, self.context.device).network

    def _ask(
        self, model: Model, config: Config, plan: StudentPlan, indices: data.Indices
    ) -> Teacher:
        """Compute what a teacher predicts for the views of the examples at ``indices``."""
        self.listener(events.Stage("predicting with the teacher"))
        return training.teach(
            model,
            config["augment"],
            self.taught.batches_of(model, indices),
            self.context.device,
            plan.views,
            self._check_time,
            unlabelled=indices >= len(self.dataset.examples),
        )

    def _check_time(self) -> None:
        if self.budget.left < self.budget.fixed / 2:
            raise OutOfTime("the time budget ended")
        self.listener(events.StepCompleted())

    def _train(
        self, config: Config, plan: StudentPlan, resample: Resample | None, teacher: Teacher | None
    ) -> tuple[Model, Predictions | None]:
        """Train the student on a resample, or on train + validation.

        Args:
            config: The configuration of the student.
            plan: How it is trained.
            resample: The examples; None for train + validation.
            teacher: What it learns from besides the labels; None for the labels alone.

        Returns:
            The model, and its predictions for the validation examples of the resample.
        """
        name = "training the student" + ("" if teacher else " on the labels alone")
        self.listener(events.Stage(name, 0, plan.epochs))
        context = self.taught if teacher else self.context
        model = context.build(config, resample, self.settings.student_size)
        splits = () if resample else self.dataset.refit_splits
        job = context.job(
            model,
            *splits,
            epochs=plan.epochs,
            views=plan.views,
            resample=resample,
            compute=plan.compute,
        )
        job = replace(job, teacher=teacher, deadline=self.budget.refit_deadline(plan.test_seconds))
        predictions = None
        for epoch in training.fine_tune(model, config, job):
            self.listener(events.Stage(name, epoch.number, plan.epochs))
            predictions = epoch.predictions
        return model, predictions

    # ---------------------------------------------------------------- what it is worth

    def _lesson(self, winner: Contender) -> _Lesson:
        """Return a teacher that was trained as the winner was, on a part of the examples.

        It is the model of a repeat or of the trial, if this run trained it, or else trained here.

        Raises:
            OutOfTime: There is no time for that.
        """
        device, repeats = self.context.device.torch_device, self.selection.repeats
        number = repeats.last_repeat(winner.trials)
        if number is not None:
            trained = [repeats.models[trial] for trial in winner.trials]
            resample = data.resample(self.dataset, number, self.settings.seed)
            return _Lesson(combine(winner, trained).to(device), resample)
        if model := self.selection.model_of_best(winner):
            return _Lesson(model.to(device), self._resample((self.settings.folds or 1) - 1))
        needed, left = SLACK * self.costs.seconds(winner), self.budget.usable()
        if needed > left / 2:
            raise OutOfTime(f"its teacher would take {needed:.0f} s, and {left:.0f} s are left")
        resample, trained = self._resample(0), []
        for trial in winner.trials:
            self.listener(events.Stage(f"retraining trial {trial} as a teacher"))
            row = self.leaderboard.rows[trial]
            config = self.context.config(row)
            member = self.context.build(config, resample)
            job = self.context.retraining(row, member, resample=resample)
            job.deadline = self.budget.refit_deadline()
            for _ in training.fine_tune(member, config, job):
                pass
            trained.append(member)
        return _Lesson(combine(winner, trained).to(device), resample)

    def _resample(self, fold: int) -> Resample:
        """Return the splits on which trials are scored: a fold, if there are folds."""
        if self.dataset.folds is not None:
            return data.fold(self.dataset, fold)
        train, validation = (self.dataset.indices(split) for split in ("train", "validation"))
        return Resample(SPLITS, train, validation)

    def _plan(self, winner: Contender, config: Config, resample: Resample) -> StudentPlan:
        """Plan the three trainings of the student in the time that is left.

        Raises:
            OutOfTime: There is not enough time.
        """
        dataset = self.dataset
        every = len(dataset.indices(*dataset.refit_splits))
        work = Work(
            epochs=self.settings.epochs,
            part=len(resample.train),
            every=every,
            unlabelled=min(len(self._usable_unlabelled()), MOST_UNLABELLED * every),
            outputs=dataset.task.num_logits,
            test=len(dataset.indices("test")),
        )
        if self.budget.seconds is None:
            return plan_without_limit(work)
        model = self.context.build(config, resample, self.settings.student_size)
        views = work.count_views(0)
        job = self.context.job(model, epochs=work.epochs, views=views, resample=resample)
        cost = training.measure_cost(model, config, job)
        rows = (self.leaderboard.rows[trial] for trial in winner.trials)
        seconds = sum(row.facts.ms_per_item or 0.0 for row in rows) / 1000
        return plan_in_time(work, cost, seconds, self.budget.refit, self.budget.usable())

    def _compare(
        self, winner: Contender, lesson: _Lesson, taught: Predictions, alone: Predictions
    ) -> StudentScores:
        """Compare the teacher, the student, and the same model without a teacher."""
        indices, metric = lesson.resample.validation, self.metric
        batches = self.context.batches_of(lesson.teacher, indices)
        teacher = training.predict(lesson.teacher, batches, self.context.device)
        targets = self.dataset.targets[indices]
        contenders = [
            Contender(
                members=winner.members,
                scores=(metric.score(targets, predictions),),
                predictions=(predictions,),
            )
            for predictions in (teacher, taught, alone)
        ]
        comparer = Comparer(self.dataset, metric, [indices])
        to_teacher = _standings(comparer, contenders, 0)
        to_alone = _standings(comparer, contenders, 2)
        means = [standing.score.mean for standing in to_alone]
        gap = metric.gain(means[0], means[2])
        return StudentScores(
            n=len(indices),
            teacher=to_alone[0].score,
            student=to_alone[1].score,
            alone=to_alone[2].score,
            to_alone=to_alone[1].difference,
            to_teacher=to_teacher[1].difference,
            fraction_kept=metric.gain(means[1], means[2]) / gap if gap > 0 else None,
        )

    # ---------------------------------------------------------------- the test

    def _test(self, student: StudentFacts) -> None:
        """Test the student once, under the rules for winners, and store the result."""
        contender = _as_contender(student.teacher)
        config = {**student.config, "size": student.size}
        result = self.test.result(contender, refitted=True, config=config)
        if result is None:
            if not self.test.may_open(contender, config):
                return
            self.require_lease()
            with self.budget.stage("test"):
                result = self.test.run(
                    contender,
                    config,
                    refit_seconds=0.0,
                    refitted=True,
                    predicted=student.test_seconds,
                    folder=FOLDER,
                )
        student = student.model_copy(update={"test": result})
        self.store.update_study(self.name, student=student)
        self.folder.write_student_card(self._path, student)


def _as_contender(winner: Contender) -> Contender:
    """Return the contender that a student of a winner is in the test."""
    return Contender(kind="student", members=winner.members)


def _standings(comparer: Comparer, contenders: list[Contender], reference: int) -> list[Standing]:
    """Return the standings of contenders relative to one of them."""
    compared = comparer.compare(contenders, len(contenders), reference)
    return [contender.standing for contender in compared.contenders if contender.standing]
