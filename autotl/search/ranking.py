"""Rankings of trials: which are best, which of them are compared, and which one wins.

All are functions of rows of the database.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from autotl.scoring import comparison
from autotl.scoring.comparison import Scores
from autotl.scoring.intervals import wilson_interval
from autotl.store import Contender, Interval, Role, Standing, StudyFacts, TrialRow, single

UNFINISHED = ("running", "interrupted")
"""The statuses of trials that have no result."""

PASSING = ("failed", "out_of_memory", "out_of_time")
"""The statuses of trials that may complete in a later run: with a plugin that was mended, say."""

FINALISTS = 5
"""The maximum number of best distinct trials that are compared."""

LARGEST_HEAD = 0.1
"""The fraction of a model's parameters that a head usually has at most."""

Key = tuple[int, float, float, float, int]


def rank_key(row: TrialRow, direction: str) -> Key:
    """Return the sort key of a complete trial: folds, score, costs, number.

    A trial with all its folds comes before one that there was no time for, then the better score,
    then the smaller model, then the one with fewer trained parameters.
    """
    assert row.score is not None
    sign = -1.0 if direction == "maximize" else 1.0
    return -(row.facts.folds or 0), sign * row.score, *model_cost(row), row.number


def model_cost(row: TrialRow) -> tuple[float, float]:
    """Return the numbers of parameters and of trained parameters; infinite if unknown."""
    sizes = row.parameters, row.trained_parameters
    parameters, trained = (math.inf if n is None else n for n in sizes)
    return parameters, trained


def is_fine_tuned(row: TrialRow) -> bool:
    """Whether a trial trained more than the head.

    Of a trial of a version that did not store it, whether it trained more than a head usually has.
    """
    if row.facts.backbone_frozen is not None:
        return not row.facts.backbone_frozen
    return (row.trained_parameters or 0) > LARGEST_HEAD * (row.parameters or math.inf)


def is_ranked(row: TrialRow) -> bool:
    """Whether a trial is complete and not excluded by the limits of the last run."""
    return row.status == "complete" and row.score is not None and not row.facts.excluded


def rank(rows: Iterable[TrialRow], direction: str) -> list[TrialRow]:
    """Return the complete trials that are not excluded, best first."""
    return sorted(filter(is_ranked, rows), key=lambda row: rank_key(row, direction))


def distinct(rows: Iterable[TrialRow], count: int | None = None) -> list[TrialRow]:
    """Return the first ``count`` rows with different configurations; None for all."""

    def unseen() -> Iterable[TrialRow]:
        configs: list[object] = []
        for row in rows:
            if row.config not in configs:
                configs.append(row.config)
                yield row

    return list(islice(unseen(), count))


def contender(row: TrialRow, role: Role = "finalist") -> Contender:
    """Convert a complete trial to a contender, with its score on the validation split."""
    return single(
        row.number,
        role=role,
        config=row.config,
        parameters=row.parameters,
        ms_per_item=row.facts.ms_per_item,
        seconds=row.seconds,
        scores=() if row.score is None else (row.score,),
    )


def baselines(ranked: Sequence[TrialRow]) -> dict[int, Role]:
    """Return the roles of the best linear probe and the best default recipe, by trial number."""
    default = next((r for r in ranked if r.facts.is_default and not r.facts.is_probe), None)
    probe = next((r for r in ranked if r.facts.is_probe), None)
    roles: dict[int, Role] = {}
    if default:
        roles[default.number] = "default_recipe"
    if probe:
        roles[probe.number] = "linear_probe"
    return roles


def finalists(
    ranked: Sequence[TrialRow],
    count: int,
    *,
    default: bool = True,
    recipes: Sequence[TrialRow] | None = None,
) -> list[Contender]:
    """Return the best distinct configurations, then the baselines that are not among them.

    Args:
        ranked: Complete trials, best first.
        count: The number of best configurations.
        default: Whether the default recipe is one of the baselines.
        recipes: Those of ``ranked`` that may be baselines; None for all.
    """
    recipes = ranked if recipes is None else recipes
    roles = baselines(recipes)
    best = distinct(ranked, count)
    configs = [row.config for row in best]
    wanted = [n for n, role in roles.items() if default or role != "default_recipe"]
    others = [r for r in recipes if r.number in wanted and r.config not in configs]
    return [
        contender(row, "linear_probe" if row.facts.is_probe else roles.get(row.number, "finalist"))
        for row in (*best, *others)
    ]


def compare_on_validation(
    ranked: Sequence[TrialRow],
    facts: StudyFacts,
    count: int = FINALISTS,
    including: int | None = None,
) -> list[Contender]:
    """Return the best distinct trials with their standings on the validation split.

    They are compared by their predictions, as in the final selection, with a single run each, or
    with folds as the runs. A trial of a version that did not store these is tied if the 95 %
    interval of its score contains the best score.

    Args:
        ranked: Complete trials, best first.
        facts: The facts of the study.
        count: The maximum number of trials.
        including: The number of a trial to include, whatever its rank.
    """
    rows = distinct(ranked, count)
    if including not in (None, *(row.number for row in rows)):
        rows = [*rows[:-1], *(row for row in ranked if row.number == including)]
    scores = [validation_interval(row, facts) for row in rows]
    return [
        contender(row).model_copy(
            update={"standing": Standing(score=score, difference=gap, tied=tied)}
        )
        for row, score, (gap, tied) in zip(rows, scores, _gaps(rows, scores, facts), strict=True)
    ]


def measure_gain(row: TrialRow, over: TrialRow, facts: StudyFacts) -> Interval:
    """Return by how much one complete trial is better than another one on the validation split.

    The trials are compared example by example, by their stored predictions.

    Args:
        row: The trial.
        over: The other trial.
        facts: The facts of the study.

    Returns:
        The gain with its 95 % interval; it is positive if ``row`` is the better one.
    """
    rows = [over, row]
    scores = [validation_interval(each, facts) for each in rows]
    gap = _gaps(rows, scores, facts, reference=0)[1][0]
    if facts.direction == "maximize":
        return gap
    return Interval(mean=-gap.mean, low=-gap.high, high=-gap.low)


def _gaps(
    rows: Sequence[TrialRow],
    scores: Sequence[Interval],
    facts: StudyFacts,
    reference: int | None = None,
) -> list[tuple[Interval, bool]]:
    """The difference of each trial to the first, and whether the two are tied.

    The first trial is the best one, unless it is a ``reference`` whatever its score.
    """
    values = [row.contribution_of_units for row in rows]
    if len(rows) > 1 and values[0].size and len({each.size for each in values}) == 1:
        contributions = np.array(values)
        count = contributions.shape[1]
        by_run, runs = np.array([[score.mean] for score in scores]), np.zeros(count, np.int64)
        if len(facts.unit_folds) == count:
            runs = np.array(facts.unit_folds)
            by_run = _scores_by_run(by_run, contributions, runs)
        results = comparison.Results(by_run, contributions, runs, np.arange(count), _unit(facts))
        higher = facts.direction == "maximize"
        compared = comparison.compare(results, higher_is_better=higher, reference=reference)
        return [(Interval(**vars(s.difference)), s.tied) for s in compared.standings]
    gaps = []
    for s in scores:
        best = scores[0].mean
        gap = Interval(mean=s.mean - best, low=s.low - best, high=s.high - best)
        gaps.append((gap, s.low <= best <= s.high))
    return gaps


def _unit(facts: StudyFacts) -> float:
    """A large difference between two contributions, see ``comparison.Results``."""
    constant = facts.data.majority.validation if facts.data.majority else None
    return comparison.difference_unit(facts.metric_has_unit, constant)


def _scores_by_run(scores: Scores, contributions: Scores, runs: NDArray[np.int64]) -> Scores:
    """The score of each trial in each run ``[k, S]``, whose mean is the score of the trial.

    Args:
        scores: The score of each trial, ``[k, 1]``.
        contributions: What each sampling unit contributes to it, ``[k, U]``.
        runs: The run of each unit, ``[U]``.
    """
    count = int(runs.max()) + 1
    deviations = contributions - contributions.mean(1, keepdims=True)
    by_run = np.array([np.bincount(runs, row, count) for row in deviations])
    result: Scores = scores + by_run * (count / len(runs))
    return result


def validation_interval(row: TrialRow, facts: StudyFacts) -> Interval:
    """Return the score of a complete trial with its 95 % interval.

    If it was not stored, it is that of an accuracy; for other metrics both ends are the score.
    """
    assert row.score is not None
    low, high = row.facts.low, row.facts.high
    if low is None or high is None:
        low = high = row.score
        if facts.metric == "accuracy" and facts.data.independent_validation:
            low, high = wilson_interval(row.score, facts.data.independent_validation)
    return Interval(mean=row.score, low=low, high=high)


def standard_error(row: TrialRow) -> float:
    """Return the standard error of the score of a trial, in any metric.

    It is that of the mean of what the sampling units of the validation split contribute to the
    score; 0 if that was not stored.
    """
    values = row.contribution_of_units
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def search_winner(ranked: Sequence[TrialRow], facts: StudyFacts) -> TrialRow:
    """Return the winner of a search without a final selection.

    It is the best trial, or a fine-tuned trial within a standard error of it, or, if the study
    prefers cheap models, the smallest trial that is tied with the best.

    Args:
        ranked: Complete trials, best first; at least one.
        facts: The facts of the study.
    """
    if facts.prefer != "cheap":
        return _prefer_fine_tuned(ranked, facts)
    tied = tied_with_best(ranked, facts)
    return min((row for row in ranked if row.number in tied), key=model_cost)


def tied_with_best(ranked: Sequence[TrialRow], facts: StudyFacts) -> set[int]:
    """Return the numbers of the trials that are tied with the best on the validation split."""
    compared = compare_on_validation(ranked, facts)
    return {c.lead for c in compared if c.standing and c.standing.tied}


def _prefer_fine_tuned(ranked: Sequence[TrialRow], facts: StudyFacts) -> TrialRow:
    """Return the best trial, or the best fine-tuned one if it is within a standard error of it.

    A fine-tuned model gains more from the refit with more images than one with a frozen backbone:
    on photographs of waste 0.05 instead of 0.01 to 0.03 in accuracy, on photographs of hands half
    of the errors instead of a tenth (`studies/benchmarks/README.md`).
    """
    best, tuned = ranked[0], next(filter(is_fine_tuned, ranked), None)
    if tuned is None or is_fine_tuned(best) or tuned.config == best.config:
        return best
    standing = compare_on_validation([best, tuned], facts)[1].standing
    assert standing is not None
    gap = standing.difference
    error = comparison.approximate_standard_error(gap.low, gap.high)
    return tuned if abs(gap.mean) <= error else best
