"""The end of a search: the best few are trained again in paired runs, and the winner handed over.

The best of fifty trials is the luckiest of fifty, and on the pictures it was chosen by its score
is too good. So the best distinct configurations, the default recipe and the linear probe are
trained again, all with the same new seeds on the same new divisions of train and validation
(``runs``), and ``compare`` says who can be told from whom.

Several candidates as one are judged beside them: the mean of their answers, and of their weights.
Either is the winner where it is better than each of them by more than a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotl import data, events, training
from autotl.data import Rows
from autotl.errors import AutoTLError, StoreError
from autotl.evaluation import error_analysis
from autotl.models import Model, ensemble
from autotl.models.ensemble import ENSEMBLE, SOUP
from autotl.scoring import calibration, comparison
from autotl.scoring.comparison import Standing
from autotl.scoring.metrics import Probabilities
from autotl.search.leaderboard import FEWEST_RUNS
from autotl.search.trials import Trials
from autotl.selection import refit
from autotl.selection.refit import Winner
from autotl.selection.repeats import Candidate, Runs

Entry = dict[str, Any]
"""A contender as the study's facts have it."""


@dataclass(frozen=True)
class Contender:
    """A candidate, or several as one, and what the runs gave that all of them have."""

    name: str
    role: str
    members: list[Candidate]  # the heaviest first
    weights: list[float]  # of each; their sum is 1
    scores: list[float]
    answers: list[Probabilities]

    @property
    def winner(self) -> Winner:
        """What is handed over should it win."""
        return Winner(self.name, tuple(c.trial for c in self.members), tuple(self.weights))

    @property
    def searched(self) -> float:
        """The score of its trial in the search; of several as one, of the heaviest."""
        score = self.members[0].trial.score
        assert score is not None  # only complete trials take part
        return score

    @property
    def network(self) -> Model | None:
        """Its model in the last run, if those of all members are at hand."""
        if self.name == SOUP and len({max(c.scores) for c in self.members}) > 1:
            return None  # the time ended within a run: heads of different runs do not mix
        networks = [c.network for c in self.members if c.network]
        return self.winner.combined(networks) if len(networks) == len(self.members) else None


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
        if not finals.held and (saved := refit.proven(trials)):
            trials.store.update(trials.name, cache=saved["trial"], **saved["found"])
            text = "there was no time for finals; what those before found stands"
            return trials.listener(events.Note(text, warning=True))
        if refit.stands(trials, finals.winner):
            refit.remember(trials)
            text = f"{finals.winner.name} is still the best; its model stands"
            return trials.listener(events.Note(text))
        with trials.budget.stage("finals"):
            finals.judge()
        refit.hand_over(trials, finals.winner, versions, finals.spare)
    except StoreError:
        raise  # nothing can be written down
    except (KeyboardInterrupt, AutoTLError):
        keep(trials, versions, finals)
        raise


def keep(trials: Trials, versions: dict[str, str], finals: Finals | None = None) -> None:
    """Leave a model, and facts that are its own, for a search that was cut short.

    What an earlier run refitted stays, with what it found. Else it is a model of the best so far,
    without a refit or a test.
    """
    ranked, best = trials.leaderboard.ranked(), trials.best
    held = finals or Finals(trials)
    saved = refit.handed_over(trials)
    if saved and any(row.number == saved["trial"] for row in ranked):
        if saved["winner"] != held.winner.identity or not held.held:
            trials.store.update(trials.name, cache=saved["trial"], **saved["found"])
    elif ranked and held.held and held.spare:
        trials.store.update(trials.name, calibration=None)
        refit.save(trials, held.winner, held.spare, versions)
    elif best:  # what finals before found does not hold for a later best
        row = next(row for row in ranked if row.number == best.number)
        trials.store.update(trials.name, calibration=None, finals=None, cache=row.number)
        refit.save(trials, Winner(f"trial {row.number}", (row,)), best.network, versions)


class Finals:
    """The finals of one study: the runs, what they say, and what the winner's answers tell."""

    def __init__(self, trials: Trials) -> None:
        self.trials = trials
        self.runs = Runs(trials)
        self._winner: Contender | None = None

    def hold(self) -> None:
        """Run as long as there is time, and write down how the candidates stand.

        Where there was no time for two candidates in two runs there are no finals, and the score of
        one split is all that is known.
        """
        self._winner = None
        for _ in self.runs.hold():
            self._conclude(self._candidates())
        candidates = self._candidates()
        enough = self.runs.count >= FEWEST_RUNS and len(candidates) > 1
        self._conclude(candidates, self._mixtures() if enough else [])

    @property
    def held(self) -> bool:
        """Whether they have a winner."""
        return self._winner is not None

    @property
    def winner(self) -> Winner:
        """The winner of the finals, or of the search where there were none."""
        if self._winner:
            return self._winner.winner
        best = self.trials.leaderboard.leader
        assert best
        return Winner(f"trial {best.number}", (best,))

    @property
    def spare(self) -> Model | None:
        """A model of the winner that has learned from a part of the pictures, if one is at hand."""
        if self._winner and (network := self._winner.network):
            return network
        best = self.trials.best
        return best.network if best and f"trial {best.number}" == self.winner.name else None

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
            calibration=calibration.calibrate(labels, answers, parts),
            doubtful=error_analysis.doubtful(trials.dataset, rows, answers),
        )

    def _answers(self) -> tuple[Rows, Rows, Probabilities] | None:
        """Pictures, the part that each is in for calibrating, and what the winner says of them."""
        trials, runs = self.trials, range(self.runs.count)
        if self._winner:
            held = [self.runs.held(run) for run in runs]
            parts = [np.full(len(rows), run) for rows, run in zip(held, runs, strict=True)]
            return np.concatenate(held), np.concatenate(parts), np.concatenate(self._winner.answers)
        [best] = self.winner.trials
        rows, tested = (trials.dataset.indices(part) for part in ("validation", "test"))
        seconds = trials.leaderboard.test_seconds(best) * len(rows) / max(1, len(tested))
        if self.spare is None or trials.budget.left < seconds + trials.leaderboard.finals_seconds(
            best
        ):
            return None
        network = self.spare.to(trials.where.device)
        answer = training.predict(
            network, trials.context.batches(network, "validation"), trials.where
        )
        return rows, np.arange(len(rows)) % 2, answer

    # ---------------------------------------------------------------- how they stand

    def _conclude(self, singles: Sequence[Contender], mixtures: Sequence[Contender] = ()) -> None:
        """Write down how the contenders stand.

        Args:
            singles: The candidates.
            mixtures: What is made of several of them.
        """
        trials = self.trials
        if self.runs.count < FEWEST_RUNS or len(singles) < 2:
            self._winner = None
            trials.store.update(trials.name, finals=None)
            return
        higher_is_better = trials.metric.higher_is_better
        everyone = [*singles, *mixtures]
        scores = np.array([contender.scores for contender in everyone])
        means, count = scores.mean(1), len(singles)
        found = self._standings(scores, count)
        order = sorted(range(len(everyone)), key=means.__getitem__, reverse=higher_is_better)
        best = next(i for i in order if i < count)  # of the candidates
        leaders = [i for i in order if found[i].tied and i < count]
        ahead = [i for i in order[: order.index(best)] if not found[i].tied]
        ahead = [i for i in ahead if self._feasible(everyone[i])]
        if ahead:
            found = self._standings(scores, count, to=ahead[0])
            leaders = [i for i in ahead if found[i].tied]
        cheapest = leaders[_cheapest([everyone[i] for i in leaders])]
        winner = cheapest if trials.settings.prefer == "cheap" else leaders[0]
        self._winner = everyone[winner]
        sign = 1 if higher_is_better else -1
        searched = max(singles, key=lambda one: sign * one.searched)
        entries = [
            {**_entry(contender), **_standing(standing, higher_is_better)}
            for contender, standing in zip(everyone, found, strict=True)
        ]
        facts = {
            "runs": self.runs.count,
            "candidates": [entries[i] for i in order],
            "winner": self._winner.name,
            "cheapest_tied": everyone[cheapest].name,
            "optimism": trials.metric.gain(searched.searched, float(np.mean(searched.scores))),
            "optimism_of": searched.name,
            "unselected": comparison.nested_selection_score(
                scores[:count], higher_is_better=higher_is_better
            ),
            "prefer": trials.settings.prefer,
        }
        trials.store.update(trials.name, finals=facts)
        if ahead:
            members = ", ".join(c.name for c in self._winner.members)
            text = (
                f"the {self._winner.name} of {members} is better than each of them: "
                f"{means[winner]:.4f}, and {means[best]:.4f} of {everyone[best].name}"
            )
            trials.listener(events.Note(text))

    def _standings(
        self, scores: comparison.Scores, rivals: int, to: int | None = None
    ) -> list[Standing]:
        """How contenders stand to the best of the first ``rivals``, or to the one at ``to``."""
        first = data.resample(self.trials.dataset, 0, self.trials.settings.seed)
        return comparison.compare_scores(
            scores,
            first.shrink(self.runs.count),
            higher_is_better=self.trials.metric.higher_is_better,
            step=1 / len(first.validation),
            rivals=rivals,
            to=to,
        )

    def _feasible(self, contender: Contender) -> bool:
        """Whether there is a model of it, or the time to make one."""
        trials = self.trials
        rows = [c.trial for c in contender.members]
        again, test = (
            sum(map(f, rows)) for f in (trials.leaderboard.again, trials.leaderboard.test_seconds)
        )
        return bool(contender.network) or trials.budget.finals(again, test) <= trials.budget.left

    def _candidates(self) -> list[Contender]:
        """Those who have been in all runs, each alone."""
        runs = range(self.runs.count)
        return [
            Contender(
                c.name,
                c.role,
                [c],
                [1.0],
                [c.scores[run] for run in runs],
                [c.answers[run] for run in runs],
            )
            for c in self.runs.candidates
        ]

    def _mixtures(self) -> list[Contender]:
        """The ensemble and the soup, where there are any."""
        runs = range(self.runs.count)
        found: list[Contender | None] = [self._ensemble()]
        if all(run in self.runs.soups for run in runs):
            members = self.runs.members
            shares = [1 / len(members)] * len(members)
            scores = [self.runs.soups[run] for run in runs]
            answers = [self.runs.poured[run] for run in runs]
            found.append(Contender(SOUP, SOUP, members, shares, scores, answers))
        return [mixture for mixture in found if mixture and len(mixture.members) > 1]

    def _ensemble(self) -> Contender | None:
        """An ensemble of candidates that see the same pictures as the best of them.

        The weights that score a run are chosen on the pictures that only other runs have.
        """
        trials, metric, runs = self.trials, self.trials.metric, range(self.runs.count)
        singles = self._candidates()
        sign = 1 if metric.higher_is_better else -1
        best = max(singles, key=lambda one: sign * float(np.mean(one.scores))).members[0]
        fellows = [one for one in singles if one.members[0].sees == best.sees]
        rows = [self.runs.held(run) for run in runs]
        labels = [trials.dataset.labels[held] for held in rows]
        units = [np.array(trials.dataset.units)[held] for held in rows]
        truth, asked = np.concatenate(labels), np.concatenate(units)
        answers = [np.concatenate(one.answers) for one in fellows]
        scores = []
        for run in runs:
            other = ~np.isin(asked, units[run])  # what belongs together does not choose for itself
            if not other.any():
                return None  # a small set has the same pictures in all runs
            weights = ensemble.select(metric, truth[other], [a[other] for a in answers])
            mixed = ensemble.mean([one.answers[run] for one in fellows], weights)
            scores.append(metric.score(labels[run], mixed))
        weights = ensemble.select(metric, truth, answers)
        heaviest = [i for i in np.argsort(weights)[::-1] if weights[i]]
        return Contender(
            ENSEMBLE,
            ENSEMBLE,
            [fellows[i].members[0] for i in heaviest],
            [weights[i] for i in heaviest],
            scores,
            [ensemble.mean([one.answers[run] for one in fellows], weights) for run in runs],
        )


def _cheapest(contenders: Sequence[Contender]) -> int:
    entries = list(map(_entry, contenders))
    times, sizes = ([entry[key] for entry in entries] for key in ("ms_per_item", "parameters"))
    return comparison.index_of_cheapest(times, sizes)


def _entry(contender: Contender) -> Entry:
    """A contender as the facts have it; an ensemble costs what all its members do."""
    asked = contender.members if contender.role != SOUP else contender.members[:1]
    times, sizes = [c.ms_per_item for c in asked], [c.trial.parameters for c in asked]
    several = len(contender.members) > 1
    trial = contender.members[0].trial
    entry: Entry = {
        "name": contender.name,
        "trial": None if several else trial.number,
        "role": contender.role,
        "config": None if several else trial.config,
        "scores": contender.scores,
        "seconds": sum(sum(c.seconds.values()) for c in contender.members),
        "parameters": None if None in sizes else sum(s for s in sizes if s),
        "ms_per_item": None if None in times else sum(t for t in times if t),
    }
    if several:
        entry["members"] = contender.winner.members
    return entry


def _standing(standing: Standing, higher_is_better: bool) -> Entry:
    """Where one stands, as the facts have it, within what the metric can reach."""
    score = standing.score
    return {
        "mean": score.mean,
        "low": max(0.0, score.low),  # shares and losses begin at 0
        "high": min(1.0, score.high) if higher_is_better else score.high,
        "difference": vars(standing.difference),
        "tied_with_best": standing.tied,
    }
