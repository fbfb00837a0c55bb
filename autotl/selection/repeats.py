"""The paired runs of the finals: the same seeds and divisions of the data for all candidates.

Each run is written down when it is over, and its answers are kept in the cache folder, so that
finals which were cut short go on where they were.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autotl import data, events, training
from autotl.data import Resample, Rows
from autotl.errors import DataError, Diverged, OutOfTime, StoreError
from autotl.models import Model, ensemble
from autotl.models.ensemble import SOUP
from autotl.scoring import metrics
from autotl.scoring.metrics import Probabilities
from autotl.search.budget import SLACK
from autotl.search.leaderboard import FEWEST_RUNS, MOST_RUNS
from autotl.search.trials import Trials
from autotl.store import FinalRow, TrialRow


@dataclass
class Candidate:
    """A trial in the finals, and what its runs gave, by their numbers."""

    trial: TrialRow
    role: str  # finalist, default_recipe or linear_probe
    ms_per_item: float | None
    scores: dict[int, float] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    answers: dict[int, Probabilities] = field(default_factory=dict)
    network: Model | None = None  # of its last run, on the CPU
    sees: list[Any] | None = None  # the side of its pictures and how they are resized

    @property
    def key(self) -> str:
        """What the database calls it."""
        return str(self.trial.number)

    @property
    def name(self) -> str:
        """What people call it."""
        return f"trial {self.trial.number}"


class Runs:
    """The runs of one study's finals.

    Attributes:
        candidates: Who takes part, and has not left.
        count: Runs that all of them have.
        soups: The scores of the soup by run, see ``ensemble.soup``, and ``poured`` its answers.
        members: Of the soup.
    """

    def __init__(self, trials: Trials) -> None:
        self.trials = trials
        self.candidates: list[Candidate] = []
        self.count = 0
        self.soups: dict[int, float] = {}
        self.poured: dict[int, Probabilities] = {}
        self.members: list[Candidate] = []
        self._folder = trials.settings.out / "cache" / "finals"

    def hold(self) -> Iterator[int]:
        """Run after run for all candidates, as long as there is time; yield how many all have.

        A run that some candidates did not get counts for none, but of the first two: those who did
        not get them leave. Where there is no time for two candidates in two runs nothing is run.
        """
        trials, budget = self.trials, self.trials.budget
        budget.runs = 0.0
        ending = self._ending(trials.leaderboard.finalists(1))
        entrants, fewest = self._entrants(budget.left - ending)
        if self._ending(entrants) > ending:  # another may win that takes longer to refit
            ending = self._ending(entrants)
            entrants, fewest = self._entrants(budget.left - ending)
        self.candidates = [self._candidate(row) for row in entrants]
        # Should the time end early, the best and the baselines have had their runs.
        self.candidates[1:] = sorted(self.candidates[1:], key=lambda c: c.role == "finalist")
        kept = {(row.candidate, row.run): row for row in trials.store.finals(trials.name)}
        deadline = time.monotonic() + budget.left - ending
        for number in range(fewest if budget.seconds is None else MOST_RUNS):
            late = time.monotonic() + self._next(kept, number) > deadline
            if len(self.candidates) < 2 or (late and number >= fewest):
                return
            before, over = list(self.candidates), False
            try:
                self._run(number, kept, deadline)
                if number == 0 and self._invite(entrants, deadline):
                    self._run(number, kept, deadline)
            except OutOfTime:
                over = True
                if self.count < FEWEST_RUNS:
                    over = not self._reduce(number)
            except DataError as error:
                over = True
                text = f"the finals ended after {number} runs: {error}"
                trials.listener(events.Note(text, warning=True))
            if len(self.candidates) < 2 and self.count >= FEWEST_RUNS:
                self.candidates, over = before, True  # what the runs before it found holds
            if over:
                return
            self.count = number + 1
            yield self.count

    def _reduce(self, number: int) -> bool:
        """Go on without those who did not get a run that is needed; whether enough are left."""
        reached = [c for c in self.candidates if number in c.scores]
        enough = len(reached) >= 2
        text = f"there was no time for {FEWEST_RUNS} runs of the finals"
        if enough:
            left = ", ".join(c.name for c in self.candidates if c not in reached)
            text += f" with {left}"
            self.candidates = reached
        self.trials.listener(events.Note(text, warning=True))
        return enough

    def held(self, number: int) -> Rows:
        """The pictures that score a run."""
        return data.resample(self.trials.dataset, number, self.trials.settings.seed).validation

    def _candidate(self, row: TrialRow) -> Candidate:
        known = self.trials.leaderboard.baselines()
        role = "finalist"
        if row.number in known["linear_probes"]:
            role = "linear_probe"
        elif row.number == known["default_trial"]:
            role = "default_recipe"
        return Candidate(row, role, row.facts.get("ms_per_item"))

    def _entrants(self, seconds: float) -> tuple[list[TrialRow], int]:
        """Who takes part and in how many runs at least; with some time to spare if that can be."""
        leaderboard = self.trials.leaderboard
        found = leaderboard.contest(seconds / SLACK)
        return found if found[0] else leaderboard.contest(seconds)

    def _ending(self, rows: list[TrialRow]) -> float:
        """Seconds to refit and test whichever wins; if late, a model of its runs is taken."""
        return max(map(self.trials.leaderboard.finals_seconds, rows), default=0.0)

    def _invite(self, entrants: list[TrialRow], deadline: float) -> bool:
        """Let more take part if the first run was quicker than its trials; whether there are more.

        What frozen parts made of the pictures is known by then.
        """
        trials = self.trials
        planned = sum(trials.leaderboard.again(row) for row in entrants)
        took = sum(c.seconds[0] for c in self.candidates)
        if not 0 < took < planned or trials.budget.seconds is None:
            return False
        left = (deadline - time.monotonic()) * planned / took
        more = [row for row in trials.leaderboard.contest(planned + left)[0] if row not in entrants]
        self.candidates += [self._candidate(row) for row in more]
        return bool(more)

    def _next(self, kept: dict[tuple[str, int], FinalRow], number: int) -> float:
        """Seconds that run ``number`` will take: what the runs before it took."""
        todo = [c for c in self.candidates if (c.key, number) not in kept]
        return SLACK * sum(max(c.seconds.values(), default=0.0) for c in todo)

    def _run(self, number: int, kept: dict[tuple[str, int], FinalRow], deadline: float) -> None:
        """One run of all candidates; one that fails in it leaves the finals.

        Raises:
            OutOfTime: The deadline passed.
        """
        trials = self.trials
        resample = data.resample(trials.dataset, number, trials.settings.seed)
        for place, candidate in enumerate(list(self.candidates)):
            name = f"finals, run {number + 1}"
            trials.listener(events.Stage(name, place, len(self.candidates)))
            row = kept.get((candidate.key, number))
            if number in candidate.scores or (row and self._recall(candidate, row, resample)):
                continue
            try:
                self._train(candidate, resample, deadline)
            except (OutOfTime, StoreError):
                raise
            except Exception as error:  # one candidate must not end the finals
                text = f"{candidate.name} left the finals: {error or type(error).__name__}"
                trials.listener(events.Note(text, warning=True))
                self.candidates.remove(candidate)
        self._mix(resample, kept)

    def _train(self, candidate: Candidate, resample: Resample, deadline: float) -> None:
        """Train a candidate as its trial was, score it, and write that down at once."""
        trials, row, number = self.trials, candidate.trial, resample.number
        began = time.monotonic()
        config = trials.context.config(row)
        network = trials.context.build(config, resample)
        task = trials.context.again(row, network, resample=resample)
        task.deadline = deadline
        answers: list[Probabilities] = []
        rate = task.score

        def rated(probabilities: Probabilities) -> float:
            answers[:] = [probabilities]  # those of the last epoch stay
            return rate(probabilities)

        task.score = rated
        for epoch in training.fine_tune(network, config, task):
            score = epoch.score
        if not np.isfinite(score):  # such as the AUROC of a part that has one class
            raise Diverged(f"its score is {score} in run {number + 1}")
        if candidate.ms_per_item is None:
            images, _ = next(iter(task.validation or task.train))
            candidate.ms_per_item = training.milliseconds_per_image(
                network, images[:32], trials.where
            )
        candidate.network = network.cpu()
        candidate.sees = [network.expects.size, network.expects.interpolation]
        candidate.scores[number] = score
        candidate.answers[number] = answers[0]
        candidate.seconds[number] = time.monotonic() - began
        self._keep(candidate.key, number, answers[0])
        trials.store.add_final(
            trials.name,
            candidate.key,
            number,
            trial=row.number,
            score=score,
            seconds=candidate.seconds[number],
            facts={
                "ms_per_item": candidate.ms_per_item,
                "sees": candidate.sees,
                "confusion": metrics.confusion_matrix(
                    trials.dataset.labels[resample.validation], answers[0]
                ),
            },
        )

    def _recall(self, candidate: Candidate, row: FinalRow, resample: Resample) -> bool:
        """Whether a run that was written down can be taken as it is: its answers are there too."""
        answers = self._answers(row, resample)
        if row.score is None or answers is None:
            return False
        candidate.network = None  # of another run than the others'
        candidate.scores[row.run], candidate.seconds[row.run] = row.score, row.seconds
        candidate.answers[row.run] = answers
        candidate.ms_per_item = candidate.ms_per_item or row.facts.get("ms_per_item")
        candidate.sees = row.facts.get("sees")
        return True

    def _answers(self, row: FinalRow, resample: Resample) -> Probabilities | None:
        """What was answered in a run that was written down; None where it is lost."""
        try:
            answers: Probabilities = np.load(self._file(row.candidate, row.run))
        except (OSError, ValueError):
            return None
        return answers if len(answers) == len(resample.validation) else None

    def _keep(self, key: str, number: int, answers: Probabilities) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        np.save(self._file(key, number), answers)

    def _file(self, key: str, number: int) -> Path:
        """Where the answers of a run are kept, ``float32 [n, C]``."""
        return self._folder / f"{self.trials.name}-{key}-{number}.npy"

    def _mix(self, resample: Resample, kept: dict[tuple[str, int], FinalRow]) -> None:
        """Score the mean of the weights of the finalists that are built alike, if there are two.

        Who is in it is settled before the first score is known, so nothing flatters it.
        """
        trials, number = self.trials, resample.number
        members = [c for c in self.candidates if c.key in self._alike()]
        if [c.key for c in members] != [c.key for c in self.members]:  # it would be another soup's
            self.soups.clear()
            self.poured.clear()
        self.members = members
        row = kept.get((SOUP, number))
        if row and row.score is not None and row.facts.get("members") == self._alike():
            answers = self._answers(row, resample)
            if answers is not None:
                self.soups[number], self.poured[number] = row.score, answers
                return
        networks = [c.network for c in self.members if c.network and number in c.scores]
        if len(networks) < 2 or len(networks) < len(self.members):
            return
        if not all(ensemble.alike(networks[0], other) for other in networks):
            return
        began = time.monotonic()
        mixed = ensemble.soup(networks).to(trials.where.device)
        batches = trials.context.batches_of(mixed, resample.validation)
        answers = training.predict(mixed, batches, trials.where)
        score = trials.metric.score(trials.dataset.labels[resample.validation], answers)
        self.soups[number], self.poured[number] = score, answers
        self._keep(SOUP, number, answers)
        trials.store.add_final(
            trials.name,
            SOUP,
            number,
            score=score,
            seconds=time.monotonic() - began,
            facts={"members": self._alike()},
        )

    def _alike(self) -> list[str]:
        """The best finalist and those with its backbone and kind of head, by their keys."""
        finalists = [c for c in self.candidates if c.role != "linear_probe"]
        if not finalists:
            return []

        def built(candidate: Candidate) -> tuple[Any, list[str]]:
            config = candidate.trial.config
            return config["backbone"], list(config["head"])

        return [c.key for c in finalists if built(c) == built(finalists[0])]
