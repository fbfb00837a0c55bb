"""The end of a search: the best few are trained again in paired runs, and the winner handed over.

The best of fifty trials is the luckiest of fifty, and on the pictures it was chosen by its score
is too good. So the best distinct configurations, the default recipe and the linear probe are
trained again, all with the same new seeds on the same new divisions of train and validation
(``runs``), and ``compare`` says who can be told from whom.

Several candidates as one are judged beside them: the mean of their answers, and of their weights.
A model folder holds the network of one recipe, so they are reported and never handed over.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autotl import calibration, compare, data, ensemble, finetune, gallery, handover, progress
from autotl.board import FEWEST_RUNS
from autotl.compare import Standing
from autotl.data import Rows
from autotl.metrics import Probabilities
from autotl.model import Model
from autotl.runs import SOUP, Candidate, Runs
from autotl.store import TrialRow
from autotl.trials import Trials

ENSEMBLE = "ensemble"

Entry = dict[str, Any]
"""A candidate as the study's facts have it."""


def finish(trials: Trials, versions: dict[str, str]) -> None:
    """Hold the finals, refit their winner, save the model, open the test part once.

    A winner that has been tested already is left as it is.

    Raises:
        StudyError: The refit failed, and no model of the winner is at hand.
    """
    finals = Finals(trials)
    try:
        with trials.budget.stage("finals"):
            finals.hold()
    except KeyboardInterrupt:
        keep(trials, versions, finals)
        raise
    winner = finals.winner
    if handover.stands(trials, winner):
        trials.watch(progress.Note(f"trial {winner.number} is still the best; its model stands"))
        return
    try:
        with trials.budget.stage("finals"):
            finals.judge()
        handover.hand_over(trials, winner, versions, finals.spare)
    except KeyboardInterrupt:
        keep(trials, versions, finals)
        raise


def keep(trials: Trials, versions: dict[str, str], finals: Finals | None = None) -> None:
    """Save a model of the best so far, without a refit or a test: for a search cut short."""
    if not trials.board.ranked():
        return
    held = finals or Finals(trials)
    if held.spare:
        trials.store.update(trials.name, calibration=None)
        if finals is None:  # what finals before found does not hold for a later best
            trials.store.update(trials.name, finals=None)
        handover.save(trials, held.winner, held.spare, versions)


class Finals:
    """The finals of one study: the runs, what they say, and what the winner's answers tell."""

    def __init__(self, trials: Trials) -> None:
        self.trials = trials
        self.runs = Runs(trials)
        self._winner: Candidate | None = None

    def hold(self) -> None:
        """Run as long as there is time, and write down how the candidates stand.

        Where there was no time for two candidates in two runs there are no finals, and the score of
        one split is all that is known.
        """
        self._winner = None
        for _ in self.runs.hold():
            self._conclude([])
        enough = self.runs.count >= FEWEST_RUNS and len(self.runs.candidates) > 1
        self._conclude(self._mixtures() if enough else [])

    @property
    def winner(self) -> TrialRow:
        """The winner of the finals, or of the search where there were none."""
        return self._winner.trial if self._winner else self.trials.board.ranked()[0]

    @property
    def spare(self) -> Model | None:
        """A model of the winner that has learned from a part of the pictures, if one is at hand."""
        if self._winner and self._winner.network:
            return self._winner.network
        best = self.trials.best
        return best.network if best and best.number == self.winner.number else None

    # ---------------------------------------------------------------- what its answers tell

    def judge(self) -> None:
        """Calibrate the winner, and name the labels that it doubts.

        Both look at answers for pictures that were not trained on: those of the winner's runs, or
        without finals those of its trial to the validation part.
        """
        trials, store = self.trials, self.trials.store
        store.update(trials.name, calibration=None, doubtful=[])
        found = self._answers()
        if found is None:
            return
        rows, parts, answers = found
        labels = trials.dataset.labels[rows]
        store.update(
            trials.name,
            calibration=calibration.fit(labels, answers, parts),
            doubtful=gallery.doubtful(trials.dataset, rows, answers),
        )

    def _answers(self) -> tuple[Rows, Rows, Probabilities] | None:
        """Pictures, the part that each is in for calibrating, and what the winner says of them."""
        trials, runs = self.trials, range(self.runs.count)
        if self._winner:
            held = [self.runs.held(run) for run in runs]
            parts = [np.full(len(rows), run) for rows, run in zip(held, runs, strict=True)]
            answers = [self._winner.answers[run] for run in runs]
            return np.concatenate(held), np.concatenate(parts), np.concatenate(answers)
        rows, tested = (trials.dataset.indices(part) for part in ("validation", "test"))
        seconds = trials.board.test_seconds(self.winner) * len(rows) / max(1, len(tested))
        if self.spare is None or trials.budget.left < seconds + trials.board.finals_seconds(
            self.winner
        ):
            return None
        network = self.spare.to(trials.where.device)
        answer = finetune.predict(
            network, trials.trainings.batches(network, "validation"), trials.where
        )
        return rows, np.arange(len(rows)) % 2, answer

    # ---------------------------------------------------------------- how they stand

    def _conclude(self, mixtures: list[Entry]) -> None:
        """Write down how the candidates stand after the runs that all of them have.

        Args:
            mixtures: What is made of several of them, with its scores.
        """
        trials, runs = self.trials, range(self.runs.count)
        candidates = self.runs.candidates
        if len(runs) < FEWEST_RUNS or len(candidates) < 2:
            self._winner = None
            trials.store.update(trials.name, finals=None)
            return
        higher = trials.metric.direction == "maximize"
        entries = [*(_entry(c, len(runs)) for c in candidates), *mixtures]
        scores = np.array([entry["scores"] for entry in entries])
        first = data.resplit(trials.dataset, 0, trials.settings.seed)
        found = compare.standings(
            scores,
            first.overlap,
            higher=higher,
            step=1 / len(first.validation),
            rivals=len(candidates),
        )
        for entry, standing in zip(entries, found, strict=True):
            entry.update(_standing(standing, higher))
        order = sorted(range(len(entries)), key=scores.mean(1).__getitem__, reverse=higher)
        singles = [i for i in order if i < len(candidates)]
        tied = [i for i in singles if found[i].tied]
        times, sizes = ([entries[i][key] for i in tied] for key in ("ms_per_item", "parameters"))
        cheapest = tied[compare.cheapest(times, sizes)]
        winner = cheapest if trials.settings.prefer == "cheap" else singles[0]
        self._winner = candidates[winner]
        searched = trials.board.ranked()[0].score
        gap = float(scores[winner].mean()) - (searched if searched is not None else float("nan"))
        facts = {
            "runs": len(runs),
            "candidates": [entries[i] for i in order],
            "winner": self._winner.name,
            "cheapest_tied": candidates[cheapest].name,
            "optimism": -gap if higher else gap,
            "unselected": compare.unselected(scores[: len(candidates)], higher=higher),
            "prefer": trials.settings.prefer,
        }
        trials.store.update(trials.name, finals=facts)
        self._tell(entries[len(candidates) :], entries[winner])

    def _tell(self, mixtures: list[Entry], winner: Entry) -> None:
        """Say it where several as one are better than the winner by more than a tie."""
        for entry in mixtures:
            ahead = self.trials.metric.better(entry["mean"], winner["mean"])
            if ahead and not entry["tied_with_best"]:
                name, members = winner["name"], ", ".join(entry["members"])
                text = (
                    f"the {entry['name']} of {members} is better than {name}: {entry['mean']:.4f} "
                    f"to {winner['mean']:.4f}; a model folder holds the network of one recipe, so "
                    f"you get {name}"
                )
                self.trials.watch(progress.Note(text))

    def _mixtures(self) -> list[Entry]:
        """The ensemble and the soup, where there are any."""
        runs, entries = range(self.runs.count), []
        scores, weights = self._ensemble()
        if len(weights) > 1:
            used = [c for c in self.runs.candidates if c.name in weights]
            entries.append(_mixture(ENSEMBLE, scores, weights, used))
        if all(run in self.runs.soups for run in runs):
            members = self.runs.members
            shares = {c.name: 1 / len(members) for c in members}
            soups = [self.runs.soups[run] for run in runs]
            entries.append(_mixture(SOUP, soups, shares, members[:1]))
        return entries

    def _ensemble(self) -> tuple[list[float], dict[str, float]]:
        """The scores of an ensemble of all candidates, and the weights it would be used with.

        The weights that score a picture are chosen on the other half of the pictures.
        """
        trials, metric = self.trials, self.trials.metric
        runs, candidates = range(self.runs.count), self.runs.candidates
        rows = [self.runs.held(run) for run in runs]
        places = np.concatenate(rows)
        labels = trials.dataset.labels[places]
        half = np.array(trials.dataset.units)[places] % 2  # what belongs together is in one
        answers = [np.concatenate([c.answers[run] for run in runs]) for c in candidates]
        mixed = np.empty_like(answers[0])
        for here in (half == 0, half == 1):
            weights = ensemble.select(metric, labels[~here], [a[~here] for a in answers])
            mixed[here] = ensemble.mean([a[here] for a in answers], weights)
        ends = np.cumsum([len(some) for some in rows])[:-1]
        parts = zip(np.split(labels, ends), np.split(mixed, ends), strict=True)
        weights = ensemble.select(metric, labels, answers)
        pairs = zip(candidates, weights, strict=True)
        return [metric.score(*part) for part in parts], {c.name: w for c, w in pairs if w}


def _entry(candidate: Candidate, runs: int) -> Entry:
    """A trial as the facts have it."""
    return {
        "name": candidate.name,
        "trial": candidate.trial.number,
        "role": candidate.role,
        "config": candidate.trial.config,
        "scores": [candidate.scores[run] for run in range(runs)],
        "seconds": sum(candidate.seconds[run] for run in range(runs)),
        "parameters": candidate.trial.parameters,
        "ms_per_item": candidate.ms_per_item,
    }


def _mixture(
    name: str, scores: list[float], weights: dict[str, float], asked: list[Candidate]
) -> Entry:
    """What is made of several, as the facts have it; it costs what those do that are ``asked``."""
    times = [c.ms_per_item for c in asked]
    sizes = [c.trial.parameters for c in asked]
    return {
        "name": name,
        "trial": None,
        "role": name,
        "config": None,
        "scores": scores,
        "seconds": 0.0,
        "parameters": None if None in sizes else sum(s for s in sizes if s),
        "ms_per_item": None if None in times else sum(t for t in times if t),
        "members": weights,
    }


def _standing(standing: Standing, higher: bool) -> Entry:
    """Where one stands, as the facts have it, within what the metric can reach."""
    score = standing.score
    return {
        "mean": score.mean,
        "low": max(0.0, score.low),  # shares and losses begin at 0
        "high": min(1.0, score.high) if higher else score.high,
        "difference": vars(standing.difference),
        "tied_with_best": standing.tied,
    }
