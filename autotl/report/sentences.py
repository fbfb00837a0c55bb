"""Sentences about the result of a study: the winner and its test, its outputs, and a student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autotl.report.comparisons import (
    describe_comparisons,
    describe_constant,
    describe_constant_score,
    describe_cut_trial,
    where_searched,
)
from autotl.report.formatting import (
    describe_config,
    enumerate_names,
    format_budget,
    format_count,
    format_difference,
    format_interval,
    format_members,
    format_score,
    winner_name,
    with_article,
)
from autotl.scoring import majority

MAX_RECALLS = 6
"""The maximum number of classes whose recall is in a sentence."""


def describe_mirroring(mirroring: Mapping[str, Any], nouns: str = "classes") -> str:
    """Describe how the head scored on mirrored images, and what follows; ``nouns`` are predicted.

    >>> describe_mirroring({"n": 90, "accuracy": 0.9, "mirrored": 0.5, "survives": False})
    'A head scores 0.90 on 90 images and 0.50 on them mirrored, so training does not mirror images.'
    """
    if not mirroring["n"]:
        return f"It was not measured whether the {nouns} survive mirroring."
    result = "may mirror images" if mirroring["survives"] else "does not mirror images"
    return (
        f"A head scores {mirroring['accuracy']:.2f} on {mirroring['n']} images and "
        f"{mirroring['mirrored']:.2f} on them mirrored, so training {result}."
    )


def describe_result(summary: Mapping[str, Any]) -> list[str]:
    """Describe the result of a study.

    Args:
        summary: As ``summarise`` returns it.

    Returns:
        Sentences: those of ``describe_winner``; then others about what was not done, those of
        ``describe_comparisons``, the score of a constant prediction, the classes if they are
        unequal, or the labels or numbers, the student, and repeated use of the test split. Where a
        single configuration was trained, nothing was selected, and none is about a selection.
    """
    sentences = describe_winner(summary)
    if summary["best"] is None:
        return [*sentences, *describe_cut_trial(summary)]
    sentences += _undone(summary)
    if not _is_only_model(summary):
        sentences += describe_comparisons(summary)
    sentences += [*describe_constant_score(summary), *_recalls(summary), *_outputs(summary)]
    sentences += describe_student(summary)
    student = summary["student"] or {"test_openings": 0}
    all_openings = {"winner": summary["test_openings"], "student": student["test_openings"]}
    for one, openings in all_openings.items():
        if openings > 1:
            whose = "" if one == "winner" else " for students"
            sentences.append(
                f"The test split was used {openings} times{whose}. Only the first score is known "
                f"to be unbiased: a later {one} may have been selected with knowledge of an "
                "earlier score."
            )
    return sentences


def describe_student(summary: Mapping[str, Any]) -> list[str]:
    """Say how good the student is, next to its teacher and without it; nothing without one.

    Args:
        summary: As ``summarise`` returns it.
    """
    if not (student := summary["student"]):
        return []
    scores, metric, nouns = student["scores"], summary["metric"], summary["data"]["nouns"]
    decimals = summary["decimals"]
    own = format_interval(scores["student"]["mean"], scores["student"], decimals)
    teacher, alone = (format_score(scores[key]["mean"], decimals) for key in ("teacher", "alone"))
    more = f", also on {student['unlabelled']} unlabelled {nouns}" if student["unlabelled"] else ""
    fraction = scores["fraction_kept"]
    closed = "" if fraction is None else f", {100 * fraction:.0f} % of the gap to the teacher"
    sentences = [
        f"{with_article(student['teacher']).capitalize()} taught a student, {student['backbone']} "
        f"with inputs of size {student['size']}{more}. On {scores['n']} {nouns} that neither was "
        f"trained on, the {metric} of the student is {own}, that of its teacher {teacher}, and "
        f"that of the same model trained on the labels alone {alone}: the difference to the latter "
        f"is {format_difference(scores['to_alone'], decimals)}{closed}.",
        f"The student has {format_count(student['parameters'])} parameters, its teacher "
        f"{format_count(student['teacher_parameters'])}{_student_latency(student)}.",
    ]
    if test := student["test"]:
        sentences.append(
            f"Taught by the refitted winner on train + validation, its {metric} on the test split "
            f"is {format_interval(test['score'], test, decimals)}."
        )
    return sentences


def _student_latency(student: Mapping[str, Any]) -> str:
    own, teacher = student["latency"], student["teacher_latency"]
    if not own or not teacher:
        return ""
    times = [f"{each['single']['median']:.3g} ms" for each in (own, teacher)]
    return f"; a prediction takes {times[0]} instead of {times[1]}"


def describe_winner(summary: Mapping[str, Any]) -> list[str]:
    """Say what matters most about the result.

    Args:
        summary: As ``summarise`` returns it.

    Returns:
        Sentences: that there was no time for fine-tuning, if so; the winner with its score, or that
        there is none; its score on the test split, or why there is none; and a warning if it was
        scored without labels, or is not better than a constant prediction.
    """
    if summary["best"] is None:
        return [*_not_fine_tuned(summary), "No trial completed, so there is no winner."]
    is_only = _is_only_model(summary)
    return [
        *_not_fine_tuned(summary),
        _only_model(summary) if is_only else _winner(summary, winner_name(summary)),
        _test_score(summary),
        *_without_labels(summary),
        *_useless(summary),
    ]


def _without_labels(summary: Mapping[str, Any]) -> list[str]:
    """Warn of scores that no label has a part in."""
    data = summary["data"]
    if data.get("validation_has_labels", True):
        return []
    metric = summary["metric"].replace("_", " ")
    return [
        f"Warning: scored without labels, by the {metric} of the predictions for "
        f"{data['validation']} {data['nouns']} of the target {data['target']}. A model whose "
        f"predictions are wrong can score high as well: label some {data['nouns']} of the target "
        "to know."
    ]


def describe_ranking(summary: Mapping[str, Any]) -> list[str]:
    """Say what the table of contenders or trials ranks, if there is one.

    Args:
        summary: As ``summarise`` returns it.
    """
    if selection := summary["selection"]:
        return [
            "Final selection: the best trials and the baselines, retrained in "
            f"{selection['repeats']} repeats on new splits. It decides, because each score in the "
            "search is of one split and may be good by chance."
        ]
    ranking = f"The best trials, by their score {where_searched(summary)}."
    return [ranking] if summary["best"] else []


def _not_fine_tuned(summary: Mapping[str, Any]) -> list[str]:
    if not (needed := summary["not_fine_tuned"]):
        return []
    return [
        "There was no time to fine-tune a backbone, only to train heads on frozen ones. "
        f"A budget of about {format_budget(needed['budget_seconds'])} would do."
    ]


def _useless(summary: Mapping[str, Any]) -> list[str]:
    """Warn of a winner that is not significantly better than a constant prediction."""
    constant = describe_constant(summary)
    for split, result in _results_by_class(summary):
        baseline = result["majority_class"]
        if constant and baseline and not baseline["is_beaten"]:
            gap = baseline["difference"]
            return [
                f"Warning: {split} the winner may be no better than always predicting "
                f"{constant}: the difference in {summary['metric']} is "
                f"{format_difference(gap, summary['decimals'])}."
            ]
    return []


def _results_by_class(summary: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The results by class and a comparison with a constant prediction, those of the test first.

    Each with where it was measured, for a sentence.
    """
    validation = summary["best"]["validation"]
    where = "in the repeats" if validation["repeats"] > 1 else where_searched(summary)
    pairs = [("on the test split", summary["test"] or {}), (where, validation)]
    return [(split, result) for split, result in pairs if result.get("per_class")]


def _undone(summary: Mapping[str, Any]) -> list[str]:
    best, nouns = summary["best"], summary["data"]["nouns"]
    undone = [name for name in ("refitted", "calibrated") if best[name] is False]
    if not undone:
        return []
    reason = f" ({best['not_refitted_because']})" if best["not_refitted_because"] else ""
    splits = "train" if summary["data"].get("target") else "train + validation"
    refitted = f"refitted on {splits}{reason}: it was trained on a part of these {nouns}"
    calibrated = "calibrated: its probabilities are as the network computes them"
    if not summary["data"]["has_probabilities"]:
        calibrated = "calibrated: its predictions have no intervals"
    texts = {"refitted": refitted, "calibrated": calibrated}
    return [f"The winner was not {texts[name]}." for name in undone]


def _winner(summary: Mapping[str, Any], name: str) -> str:
    best = summary["best"]
    if members := best.get("members"):
        weights = format_members(members)
        name, details = f"{name} of {enumerate_names(weights)}", ""
    else:
        details = describe_config(best["effective_config"], values=False)
    score = best["validation"]
    value = format_interval(score["mean"], score, summary["decimals"])
    measured = f"{where_searched(summary)}, by which it was selected"
    if score["repeats"] > 1:
        measured = (
            f"the mean of {score['repeats']} repeats, each with its own seed and validation split"
            f"{_of_target(summary)}"
        )
    elif folds := summary["data"].get("folds"):
        measured = f"in a cross-validation with {folds} folds, by which it was selected"
    return (
        f"The winner is {with_article(name)}{f' ({details})' if details else ''}: "
        f"{summary['metric']} {value}, {measured}."
    )


def _is_only_model(summary: Mapping[str, Any]) -> bool:
    """Whether a single configuration was trained, so that nothing was selected."""
    return bool(sum(summary["trials"].values()) == 1)


def _only_model(summary: Mapping[str, Any]) -> str:
    """Describe the model of a study that trained one configuration."""
    best = summary["best"]
    score, details = best["validation"], describe_config(best["config"] or {}, values=False)
    return (
        f"The model is {details or winner_name(summary)}: {summary['metric']} "
        f"{format_interval(score['mean'], score, summary['decimals'])} {where_searched(summary)}."
    )


def _test_score(summary: Mapping[str, Any]) -> str:
    nouns = summary["data"]["nouns"]
    if test := summary["test"]:
        total, sample = summary["data"]["test"], ""
        if test["n"] < total:
            sample = f", a random sample of {total}, because there was no time for all"
        return (
            f"Its {summary['metric']} on the test split{_of_target(summary)} is "
            f"{format_interval(test['score'], test, summary['decimals'])}, measured on {test['n']} "
            f"{nouns} that the search did not use{sample}."
        )
    if summary["test_openings"]:
        return (
            "This winner was not scored on the test split: the split was used before, for an "
            "earlier winner or in a test that was interrupted."
        )
    if not summary["data"].get("validation_has_labels", True):
        return f"There is no test score: the {nouns} of the target have no labels."
    if not summary["data"]["test"]:
        return f"There is no test score: no {nouns} were set aside for a test split."
    return "There is no test score: the search ended before the test."


def _of_target(summary: Mapping[str, Any]) -> str:
    """Say of which target a split is; '' without one."""
    target = summary["data"].get("target")
    return f" of the target {target}" if target else ""


def _recalls(summary: Mapping[str, Any]) -> list[str]:
    """List the recalls of unequal classes, the lowest first, with the balanced accuracy."""
    results = _results_by_class(summary)
    if summary["data"]["imbalance"] <= majority.IMBALANCED or not results:
        return []
    split, result = results[0]
    if result["balanced_accuracy"] is None:  # of another task
        return []
    counted = f"lowest first, with the number of {summary['data']['nouns']}"
    return [
        f"The classes are unequal. Recalls {split}, {counted}: {_lowest(summary, result)}. "
        f"Balanced accuracy: {result['balanced_accuracy']:.4f}."
    ]


def _lowest(summary: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """List the outputs with the lowest scores, with the number of examples of each."""
    present = [c for c in result["per_class"] if c["score"] is not None]
    lowest = sorted(present, key=lambda c: float(c["score"]))[:MAX_RECALLS]
    listed = ", ".join(f"{c['class']} {c['score']:.4f} ({c['n']})" for c in lowest)
    hidden, nouns = len(present) - MAX_RECALLS, summary["data"]["output_nouns"]
    return f"{listed}, and {hidden} more {nouns}" if hidden > 0 else listed


def _outputs(summary: Mapping[str, Any]) -> list[str]:
    """Say how well each label or number is predicted, the worst first."""
    results, data = _results_by_class(summary), summary["data"]
    if data["has_classes"] or not results:
        return []
    split, result = results[0]
    noun, scored = data["score_noun"], result["per_class"]
    if len(scored) == 1 and scored[0]["score"] is not None:
        return [f"Its {noun} {split} is {scored[0]['score']:.4f}."]
    counted = f"lowest first, with the number of {data['nouns']}"
    return [f"{noun} of the {data['output_nouns']} {split}, {counted}: {_lowest(summary, result)}."]


def describe_calibration(summary: Mapping[str, Any], ece: float | None = None) -> str:
    """Describe the calibration of the winner; '' without one.

    Args:
        summary: As ``summarise`` returns it.
        ece: The expected calibration error on the test split, if there is one.
    """
    calibration, nouns = summary["calibration"] or {}, summary["data"]["nouns"]
    if widths := calibration.get("half_widths"):
        names = summary["data"]["classes"]
        listed = [f"{width:.4g}" for width in widths]
        if len(listed) > 1:
            listed = [f"{width} for {name}" for width, name in zip(listed, names, strict=True)]
        return (
            f"Predictions have intervals of ±\u00a0{enumerate_names(listed)}, which are to contain "
            f"{100 * calibration['level']:.0f} % of the true numbers. In a cross-validation on "
            f"{calibration['n']:,} {nouns} they contained {100 * calibration['coverage']:.1f} %."
        )
    temperature, before = calibration.get("temperature"), calibration.get("ece_before")
    if temperature is None:
        return ""
    on = f"on {calibration['n']:,} {nouns}"
    test = "" if ece is None else f", and is {ece:.3f} on the test split"
    if temperature == 1:
        text = (
            f"Temperature scaling did not improve the probabilities on {nouns} outside those that "
            "it was fitted to."
        )
        if before is None:
            return text
        return f"{text} Their expected calibration error is {before:.3f} {on}{test}."
    text = f"The probabilities are calibrated with a temperature of {temperature:.3g}"
    if before is None:
        return f"{text}, fitted {on}."
    return (
        f"{text}, which changed their expected calibration error from {before:.3f} to "
        f"{calibration['ece_after']:.3f} {on}{test}."
    )
