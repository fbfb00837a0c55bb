"""The summary of a study for programs: the contents of ``summary.json``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autotl.report.costs import prediction_ms
from autotl.scoring import majority
from autotl.search.ranking import (
    UNFINISHED,
    baselines,
    compare_on_validation,
    contender,
    is_fine_tuned,
    is_ranked,
    measure_gain,
    rank,
    search_winner,
    validation_interval,
)
from autotl.store import OutOfSampleScores

if TYPE_CHECKING:
    from autotl.store import (
        Contender,
        Selection,
        Store,
        StudyFacts,
        TestResult,
        TestRow,
        TrialRow,
    )


def top(store: Store, study: str, n: int = 10) -> list[dict[str, Any]]:
    """The ``n`` best complete trials: number, score, epochs, seconds, config."""
    rows = rank(store.trials(study), store.study(study).direction)
    keys = ("number", "score", "epochs", "seconds", "config")
    return [{key: getattr(row, key) for key in keys} for row in rows[:n]]


def pareto(
    rows: Iterable[TrialRow], direction: str, milliseconds: Mapping[int, float]
) -> list[dict[str, Any]]:
    """Find the Pareto front: the complete trials that no other trial dominates.

    The objectives are the score, ``ms_per_item`` (milliseconds of inference per image),
    ``parameters`` and ``seconds`` of training. An unknown cost counts as infinite.

    Args:
        rows: The trials of a study.
        direction: ``maximize`` or ``minimize``.
        milliseconds: Those of inference, see ``costs.prediction_ms``.

    Returns:
        The trials of the front with their objectives, the best score first.
    """
    sign = -1.0 if direction == "maximize" else 1.0
    points = []
    for row in rank(rows, direction):
        costs = (milliseconds.get(row.number), row.parameters, row.seconds)
        assert row.score is not None
        finite = [math.inf if c is None else float(c) for c in costs]
        points.append((row, costs, (sign * row.score, *finite)))
    front = []
    for row, costs, objectives in points:
        if not any(_dominates(other, objectives) for _, _, other in points):
            named_costs = zip(("ms_per_item", "parameters", "seconds"), costs, strict=True)
            front.append({"trial": row.number, "score": row.score, **dict(named_costs)})
    return front


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether ``a`` is nowhere greater than ``b``, and somewhere less."""
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


COUNTED = ("complete", "pruned", "out_of_time", "duplicate")
"""The statuses by which trials are counted; all others count as failed."""


def summarise(store: Store, study: str) -> dict[str, Any]:
    """Summarise a study, as ``summary.json`` holds it. Other programs read its keys.

    ``contenders`` are those of the final selection, with means over its repeats. Without a final
    selection they are the best distinct trials, with their scores on one split with one seed; see
    ``ranking.compare_on_validation`` for which of them are tied. An ensemble of trials that is
    the winner precedes them.
    ``cut_trial`` ended early with a better score than every complete trial. ``not_fine_tuned`` is
    there if the budget was too short for that. ``best`` is the contender whose model is in the run
    folder, or without one the winner of the search. ``test`` is its test result; those of earlier
    winners are only on the page. ``test_openings`` counts every use of the test split for a winner.
    ``student``, ``gains`` and ``unlabelled_gain`` are described where they are made.

    Args:
        store: The database.
        study: Name of the study.

    Raises:
        StudyError: There is no such study.
    """
    facts, rows, tests = store.study(study), store.trials(study), store.tests(study)
    ranked = rank(rows, facts.direction)
    winner = find_winner(facts, rows)
    selection = facts.selection if winner and _selected(facts, winner) else None
    contenders = _contenders(winner, selection, ranked, facts)
    test = test_of(winner, tests)
    openings = Counter(row.contender.kind == "student" for row in tests)
    return {
        "schema": 2,
        "study": study,
        "seed": facts.seed,
        "metric": facts.metric,
        "decimals": facts.score_decimals,
        "state": facts.state,
        "reason": facts.reason,
        "data": facts.data.model_dump(exclude={"independent_validation", "majority"}),
        "budget_seconds": facts.budget_seconds,
        "seconds": facts.seconds,
        "run_seconds": facts.run_seconds,
        "device": facts.device,
        "trials": _count(rows),
        "not_fine_tuned": _not_fine_tuned(rows, facts),
        "cut_trial": _cut_trial(store, study, rows, facts),
        "best": _best(winner, selection, facts, rows) if winner else None,
        "contenders": [_entry(c, winner, selection, rows) for c in contenders],
        "baselines": _baselines(selection, ranked, facts),
        "gains": _gains(ranked, facts),
        "unlabelled_gain": _unlabelled_gain(ranked, facts),
        "selection": _selection_entry(selection),
        "prefer": facts.prefer,
        "mirroring": facts.mirroring.model_dump(mode="json") if facts.mirroring else None,
        "screening": _screening(facts),
        "calibration": facts.calibration.model_dump() if facts.calibration else None,
        "pareto": pareto(rows, facts.direction, prediction_ms(rows, measured(facts))),
        "test": _test_entry(test, facts) if test else None,
        "test_openings": openings[False],
        "student": _student(facts, openings[True]),
        "artifact": "model",
        "versions": facts.versions,
    }


def _contenders(
    winner: Contender | None,
    selection: Selection | None,
    ranked: Sequence[TrialRow],
    facts: StudyFacts,
) -> Sequence[Contender]:
    """The contenders of the final selection, or without one those of the search."""
    if selection and selection.contenders:
        return selection.contenders
    lead = winner.lead if winner and winner.kind == "trial" else None
    contenders = compare_on_validation(ranked, facts, including=lead)
    if winner and winner.kind != "trial" and not selection and winner.standing:
        return [winner, *contenders]
    return contenders


def _student(facts: StudyFacts, openings: int) -> dict[str, Any] | None:
    """The model that the winner taught, and what that is worth."""
    if (student := facts.student) is None:
        return None
    keys = {
        *("backbone", "config", "size", "epochs", "views", "unlabelled", "temperature", "weight"),
        *("parameters", "teacher_parameters", "latency", "teacher_latency"),
    }
    return {
        "teacher": student.teacher.name,
        **student.model_dump(mode="json", include=keys),
        "scores": student.scores.model_dump(mode="json"),
        "test": _test_entry(student.test, facts) if student.test else None,
        "test_openings": openings,
        "artifact": "student",
    }


def _screening(facts: StudyFacts) -> dict[str, Any] | None:
    """How backbones were compared on samples of the training split; None if they were not."""
    screening = facts.screening
    if screening is None or not screening.samples:
        return None
    return {**screening.model_dump(mode="json"), "left_out": screening.left_out}


def _selection_entry(selection: Selection | None) -> dict[str, Any] | None:
    if selection is None:
        return None
    return selection.model_dump(mode="json", exclude={"contenders", "winner", "cheapest"})


def _test_entry(test: TestResult, facts: StudyFacts) -> dict[str, Any]:
    scores = {key: getattr(test, key) for key in ("score", "low", "high", "n")}
    return {**scores, **_by_class(test, facts)}


def _by_class(result: TestResult | OutOfSampleScores, facts: StudyFacts) -> dict[str, Any]:
    """The results by class, label or number, and the comparison with a constant prediction."""
    return {
        "balanced_accuracy": majority.balanced_accuracy(result.per_class)
        if facts.data.has_classes
        else None,
        "per_class": result.per_class,
        "at_thresholds": result.at_thresholds or None,
        "majority_class": result.majority.model_dump() if result.majority else None,
    }


def _not_fine_tuned(rows: Sequence[TrialRow], facts: StudyFacts) -> dict[str, Any] | None:
    """The budget in seconds that would do, if there was no time to fine-tune the backbone."""
    needed = [row.facts.budget_needed for row in rows if row.facts.budget_needed]
    if not needed or any(is_fine_tuned(row) for row in rows if is_ranked(row)):
        return None
    return {"budget_seconds": min(needed)}


def _cut_trial(
    store: Store, study: str, rows: Sequence[TrialRow], facts: StudyFacts
) -> dict[str, Any] | None:
    """The best trial that ended early, if its last epoch scored better than all that completed."""
    sign, ranked = -1 if facts.direction == "minimize" else 1, rank(rows, facts.direction)
    completed = [row.config for row in ranked]  # an interrupted trial is begun again
    best = None
    limit = ranked[0].score if ranked else None
    if ranked and facts.data.folds:
        return None  # epochs are scored on the first fold alone
    for row in rows:
        if row.status in ("complete", "running") or row.facts.excluded or row.config in completed:
            continue
        scores = [(e.score, e.epoch) for e in store.epochs(study, row.number)]
        score, epoch = scores[-1] if scores else (None, 0)
        if score is not None and (limit is None or sign * score > sign * limit):
            limit = score
            keys = ("status", "reason", "epochs", "config")
            values = {key: getattr(row, key) for key in keys}
            best = {"trial": row.number, "score": score, "epoch": epoch, **values}
    return best


def find_winner(facts: StudyFacts, rows: Sequence[TrialRow]) -> Contender | None:
    """Return the contender whose model is in the run folder, or else the winner of the search.

    A model is ignored if one of its trials is excluded by the limits of a later run.
    """
    available = {row.number: row for row in rows if is_ranked(row)}
    if facts.model and available.keys() >= set(facts.model.contender.trials):
        return facts.model.contender
    ranked = rank(rows, facts.direction)
    return contender(search_winner(ranked, facts)) if ranked else None


def measured(facts: StudyFacts) -> list[Contender]:
    """The contenders whose predictions were timed at the end of the search."""
    contenders = list(facts.selection.contenders) if facts.selection else []
    return [
        c for c in (*contenders, *([facts.model.contender] if facts.model else [])) if c.latency
    ]


def test_of(winner: Contender | None, tests: Sequence[TestRow]) -> TestResult | None:
    """The result of the last completed test of a contender; None without one."""
    results = [row.result for row in tests if row.done and winner and row.contender.id == winner.id]
    return results[-1] if results else None


def _selected(facts: StudyFacts, winner: Contender) -> bool:
    """Whether a contender took part in the final selection."""
    contenders = facts.selection.contenders if facts.selection else []
    return any(contender.id == winner.id for contender in contenders)


def _count(rows: Iterable[TrialRow]) -> dict[str, int]:
    """Count the trials by how they ended; those for which there was no time did not fail."""
    counts = Counter(row.status for row in rows if row.status not in UNFINISHED)
    named = {status: counts[status] for status in COUNTED}
    return {**named, "failed": counts.total() - sum(named.values())}


def _members(contender: Contender) -> list[dict[str, Any]] | None:
    """The trials of a combination with their weights; None for a single trial."""
    if contender.kind == "trial":
        return None
    return [member.model_dump() for member in contender.members]


def _entry(
    contender: Contender,
    winner: Contender | None,
    selection: Selection | None,
    rows: Sequence[TrialRow],
) -> dict[str, Any]:
    """A contender with its standing, and whether it is the winner or the cheapest of the tied."""
    assert contender.standing is not None  # they were compared
    standing = contender.standing
    trial = contender.lead if contender.kind == "trial" else None
    keys = ("kind", "role", "config", "scores", "seconds", "parameters", "latency")
    return {
        "name": contender.name,
        "trial": trial,
        "members": _members(contender),
        **contender.model_dump(mode="json", include=set(keys)),
        "search_score": next((row.score for row in rows if row.number == trial), None),
        **standing.score.model_dump(),
        "difference": standing.difference.model_dump(),
        "tied_with_best": standing.tied,
        "is_winner": winner is not None and contender.id == winner.id,
        "is_cheapest": selection is not None and contender.id == selection.cheapest.id,
    }


def _gains(ranked: Sequence[TrialRow], facts: StudyFacts) -> list[dict[str, Any]]:
    """What the weights of a backbone gain over random or public ones, on the validation split.

    ``same_recipe`` compares two trials that differ in the weights alone, or in the number of epochs
    too if there was no time; ``best`` compares the best trials with either weights, which are best
    partly by chance. Each is None without two such trials.
    """
    return [
        {
            "backbone": compared.backbone,
            "over": over,
            "weights": weights,
            **_compare(
                _with_one_of(ranked, "backbone", [compared.backbone]),
                _with_one_of(ranked, "backbone", [over]),
                "backbone",
                facts,
            ),
        }
        for compared in facts.compared_weights
        for over, weights in compared.over.items()
    ]


def _unlabelled_gain(ranked: Sequence[TrialRow], facts: StudyFacts) -> dict[str, Any] | None:
    """What training with unlabelled examples gains over labelled ones alone, as ``_gains``.

    It is None where nothing is trained with unlabelled examples.
    """
    if not facts.unlabelled_methods:
        return None
    used = _with_one_of(ranked, "unlabelled", facts.unlabelled_methods)
    numbers = {row.number for row in used}
    others = [row for row in ranked if row.number not in numbers]
    return _compare(used, others, "unlabelled", facts)


def _with_one_of(ranked: Sequence[TrialRow], kind: str, names: Sequence[str]) -> Sequence[TrialRow]:
    """The trials that have one of these plugins."""
    return [row for row in ranked if not set(names).isdisjoint(row.config.get(kind, {}))]


def _compare(
    rows: Sequence[TrialRow], others: Sequence[TrialRow], kind: str, facts: StudyFacts
) -> dict[str, Any]:
    """By how much trials are better than others: with the same recipe, and the best of both.

    Args:
        rows: The trials, best first.
        others: The other trials, best first.
        kind: The kind of plugin in which they differ.
        facts: The facts of the study.
    """
    best = (next(iter(rows), None), next(iter(others), None))
    return {
        "same_recipe": _gain(_same_recipe(rows, others, kind), facts),
        "best": _gain(best, facts),
    }


def _same_recipe(
    rows: Sequence[TrialRow], others: Sequence[TrialRow], kind: str
) -> tuple[TrialRow | None, TrialRow | None]:
    """The best trials that differ in one kind alone, if possible with as many epochs."""
    pairs = [
        (row, other)
        for row in rows
        for other in others
        if {**row.config, kind: None} == {**other.config, kind: None}
    ]
    equal = (pair for pair in pairs if pair[0].epochs == pair[1].epochs)
    return next(equal, pairs[0] if pairs else (None, None))


def _gain(
    rows: tuple[TrialRow | None, TrialRow | None], facts: StudyFacts
) -> dict[str, Any] | None:
    """By how much the first trial is better than the second one; None without both."""
    row, over = rows
    if row is None or over is None:
        return None
    return {
        "trials": [each.number for each in (row, over)],
        "scores": [each.score for each in (row, over)],
        "epochs": [each.epochs for each in (row, over)],
        **measure_gain(row, over, facts).model_dump(),
    }


def _baselines(
    selection: Selection | None, ranked: Sequence[TrialRow], facts: StudyFacts
) -> dict[str, dict[str, Any]]:
    """The linear probe, the default recipe and the constant prediction, each ``{}`` without one."""
    entries: dict[str, dict[str, Any]] = {"linear_probe": {}, "default_recipe": {}}
    entries["majority_class"] = facts.data.majority.model_dump() if facts.data.majority else {}
    if selection:
        for contender in selection.contenders:
            if contender.role in entries and not entries[contender.role] and contender.standing:
                score = contender.standing.score.model_dump()
                entries[contender.role] = {
                    "trial": contender.lead,
                    "config": contender.config,
                    **score,
                }
        return entries
    by_number = {row.number: row for row in ranked}
    for number, role in baselines(ranked).items():
        row = by_number[number]
        score = validation_interval(row, facts).model_dump()
        entries[role] = {"trial": number, "config": row.config, **score}
    return entries


def _best(
    winner: Contender,
    selection: Selection | None,
    facts: StudyFacts,
    rows: Sequence[TrialRow],
) -> dict[str, Any]:
    """The winner; its latency is that of the final measurement, or an estimate of its trial.

    Without a model in the run folder, ``refitted`` and ``calibrated`` are None.
    """
    row = next(row for row in rows if row.number == winner.lead)
    compared = selection.contenders if selection else []
    repeated = next((c for c in compared if c.id == winner.id), winner)
    interval = repeated.standing.score if repeated.standing else validation_interval(row, facts)
    repeats = selection.repeats if selection else 1
    model = facts.model if facts.model and facts.model.contender.id == winner.id else None
    scores = facts.out_of_sample if model else None
    by_class = _by_class(scores or OutOfSampleScores(n=0), facts)
    latency = (model.contender if model else repeated).latency
    spread = latency and (latency.batch or latency.single)
    sources: list[Any] = [repeated, row]

    def first(key: str) -> Any:
        values = (getattr(source, key, None) for source in sources)
        return next((value for value in values if value is not None), None)

    return {
        "name": winner.name,
        "kind": winner.kind,
        "trial": winner.lead,
        "config": row.config,
        "effective_config": row.effective_config,
        "members": _members(winner),
        "validation": {**interval.model_dump(), "repeats": repeats, **by_class},
        "refitted": model.refitted if model else None,
        "not_refitted_because": model.reason if model else "",
        "calibrated": facts.calibration is not None if model else None,
        "parameters": first("parameters"),
        "trained_parameters": first("trained_parameters"),
        "ms_per_item": spread.median if spread else row.facts.ms_per_item,
        "latency": latency.model_dump() if latency else None,
    }
