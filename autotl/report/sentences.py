"""Sentences for people: a configuration, a score with its interval, and the result of a study."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autotl.scoring import majority
from autotl.space.kinds import OPTIONAL_KINDS, SEARCHED_KINDS

BASELINES = {"default_recipe": "default recipe", "linear_probe": "linear probe"}
"""The baselines of a study: the key in the summary, and the name in a sentence."""

MAX_RECALLS = 6
"""The maximum number of classes whose recall is in a sentence."""


def plugin_choices(config: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, str]]]:
    """List the plugin of each kind, with its hyperparameters formatted for display.

    Args:
        config: A configuration as ``space.to_json`` writes it.

    Returns:
        For each kind, in the order of the search, the plugin's name and its hyperparameters.

    >>> plugin_choices({"freeze": {"full": {"lr": 0.00012345}}})
    {'freeze': ('full', {'lr': '0.000123'})}
    """
    return {
        kind: (name, {key: _format_value(value) for key, value in values.items()})
        for kind in SEARCHED_KINDS
        for name, values in config.get(kind, {}).items()
    }


def describe_config(config: Mapping[str, Any], values: bool = True) -> str:
    """Describe a configuration in one line, without what it does without.

    Args:
        config: A configuration as ``space.to_json`` writes it.
        values: Whether hyperparameters are listed, or the names of the plugins alone.

    >>> describe_config({"freeze": {"full": {"lr": 1e-3}}, "head": {"linear": {}}})
    'full(lr=0.001) · linear'
    >>> describe_config({"augment": {"none": {}}, "balance": {"none": {}}})
    'none'
    """
    parts = []
    for kind, (name, params) in plugin_choices(config).items():
        if kind in OPTIONAL_KINDS and name == "none":
            continue
        arguments = ", ".join(f"{key}={value}" for key, value in params.items())
        parts.append(f"{name}({arguments})" if arguments and values else name)
    return " · ".join(parts)


def _format_value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def format_score(score: float, decimals: int = 4, sign: str = "") -> str:
    """Format a score; those of a unit have other ``decimals``, see ``summarise``.

    >>> format_score(0.86125), format_score(12.3456, 2), format_score(-0.00001, sign="+")
    ('0.8612', '12.35', '+0.0000')
    """
    return f"{round(score, decimals) + 0.0:{sign}.{decimals}f}"


def format_interval(score: float, bounds: Mapping[str, float], decimals: int = 4) -> str:
    """Format a score with its interval: ``0.8612 (95 % interval 0.8400 to 0.8800)``.

    Args:
        score: The score.
        bounds: ``low`` and ``high`` of its interval. If they are equal there is no interval, and
            only the score is returned.
        decimals: Those of the numbers.
    """
    mean, low, high = (format_score(x, decimals) for x in (score, bounds["low"], bounds["high"]))
    return mean if low == high else f"{mean} (95 % interval {low} to {high})"


def format_members(members: Iterable[Mapping[str, Any]]) -> list[str]:
    """Format the members of a combination with their weights: ``trial 7 (0.60)``."""
    return [f"trial {member['trial']} ({member['weight']:.2f})" for member in members]


def winner_name(summary: Mapping[str, Any]) -> str:
    """Return the name of the winner, which must exist: ``trial 12``, ``ensemble`` or ``soup``."""
    return str(summary["best"]["name"])


def with_article(name: str) -> str:
    """Put an article before the name of a contender where a sentence needs one.

    >>> with_article("trial 12"), with_article("ensemble")
    ('trial 12', 'the ensemble')
    """
    return name if name.startswith("trial ") else f"the {name}"


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
        Sentences: those of ``describe_winner``; then others about what was not done, ties, the
        smallest difference that could be seen, an ensemble that is better than the winner, the
        comparison of backbones on a sample, the baselines, what weights gain over others, what
        unlabelled examples gain, the classes if they are unequal, or the labels or numbers, the
        student, and repeated use of the test split. Where a single configuration was trained,
        nothing was selected, and none is about a selection.
    """
    sentences = describe_winner(summary)
    if summary["best"] is None:
        return [*sentences, *_cut_trial(summary)]
    sentences += _undone(summary)
    if not _is_only_model(summary):
        sentences += [
            *_cut_trial(summary),
            *_ties(summary),
            *_detectable(summary),
            *_better_ensemble(summary),
            *_screening(summary),
            *_baselines(summary),
            *_gains(summary),
            *_unlabelled_gain(summary),
        ]
    sentences += [*_constant(summary), *_recalls(summary), *_outputs(summary)]
    sentences += describe_student(summary)
    student = summary["student"] or {"test_openings": 0}
    for one, openings in (
        ("winner", summary["test_openings"]),
        ("student", student["test_openings"]),
    ):
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
    gap = scores["to_alone"]
    mean, low, high = (_score(summary, gap[key], "+") for key in ("mean", "low", "high"))
    more = f", also on {student['unlabelled']} unlabelled {nouns}" if student["unlabelled"] else ""
    fraction = scores["fraction_kept"]
    closed = "" if fraction is None else f", {100 * fraction:.0f} % of the gap to the teacher"
    sentences = [
        f"{with_article(student['teacher']).capitalize()} taught a student, {student['backbone']} "
        f"with inputs of size {student['size']}{more}. On {scores['n']} {nouns} that neither was "
        f"trained on, the {metric} of the student is "
        f"{_interval(summary, scores['student']['mean'], scores['student'])}, that of its teacher "
        f"{_score(summary, scores['teacher']['mean'])}, and that of the same model trained on the "
        f"labels alone {_score(summary, scores['alone']['mean'])}: the difference to the latter is "
        f"{mean} (95 % interval {low} to {high}){closed}.",
        f"The student has {format_count(student['parameters'])} parameters, its teacher "
        f"{format_count(student['teacher_parameters'])}{_student_latency(student)}.",
    ]
    if test := student["test"]:
        sentences.append(
            f"Taught by the refitted winner on train + validation, its {metric} on the test split "
            f"is {_interval(summary, test['score'], test)}."
        )
    return sentences


def format_count(count: int) -> str:
    """Format a number of parameters.

    >>> format_count(4_652_008), format_count(1491)
    ('4.7 million', '1,491')
    """
    return f"{count / 1e6:.1f} million" if count >= 1e6 else f"{count:,}"


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
    ranking = f"The best trials, by their score {_where_searched(summary)}."
    return [ranking] if summary["best"] else []


def _where_searched(summary: Mapping[str, Any]) -> str:
    """Say by which images trials are scored."""
    if target := summary["data"].get("target"):
        return f"on the validation split of the target {target}"
    return "in the cross-validation" if summary["data"].get("folds") else "on the validation split"


def _not_fine_tuned(summary: Mapping[str, Any]) -> list[str]:
    if not (needed := summary["not_fine_tuned"]):
        return []
    return [
        "There was no time to fine-tune a backbone, only to train heads on frozen ones. "
        f"A budget of about {format_budget(needed['budget_seconds'])} would do."
    ]


def format_budget(seconds: float) -> str:
    """Format a budget as the command line takes it, rounded up.

    >>> format_budget(83.2), format_budget(301)
    ('90s', '6m')
    """
    return f"{10 * math.ceil(seconds / 10)}s" if seconds <= 120 else f"{math.ceil(seconds / 60)}m"


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
                f"{_difference(summary, gap)}."
            ]
    return []


def describe_constant(summary: Mapping[str, Any]) -> str:
    """Say what a model predicts that does not look at the examples; '' if that is unknown."""
    noun = summary["data"]["constant_noun"]
    name = summary["baselines"]["majority_class"].get("name")
    return "" if name is None else noun if name == noun else f"{noun}, {name}"


def _score(summary: Mapping[str, Any], score: float, sign: str = "") -> str:
    return format_score(score, summary["decimals"], sign)


def _interval(summary: Mapping[str, Any], score: float, bounds: Mapping[str, float]) -> str:
    return format_interval(score, bounds, summary["decimals"])


def _results_by_class(summary: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The results by class and a comparison with a constant prediction, those of the test first.

    Each with where it was measured, for a sentence.
    """
    validation = summary["best"]["validation"]
    where = "in the repeats" if validation["repeats"] > 1 else _where_searched(summary)
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


def _cut_trial(summary: Mapping[str, Any]) -> list[str]:
    if not (cut := summary["cut_trial"]):
        return []
    reason = f": {cut['reason']}" if cut["reason"] else ""
    compared = ", better than all that completed" if summary["best"] else ""
    return [
        f"Trial {cut['trial']} ({describe_config(cut['config'], values=False)}) scored "
        f"{_score(summary, cut['score'])} after epoch {cut['epoch']} of {cut['epochs']}{compared}, "
        f"but ended early ({cut['status'].replace('_', ' ')}{reason}), so it is not ranked."
    ]


def _winner(summary: Mapping[str, Any], name: str) -> str:
    best = summary["best"]
    if members := best.get("members"):
        weights = format_members(members)
        name, details = f"{name} of {_enumerate(weights)}", ""
    else:
        details = describe_config(best["effective_config"], values=False)
    score = best["validation"]
    measured = f"{_where_searched(summary)}, by which it was selected"
    if score["repeats"] > 1:
        measured = (
            f"the mean of {score['repeats']} repeats, each with its own seed and validation split"
            f"{_of_target(summary)}"
        )
    elif folds := summary["data"].get("folds"):
        measured = f"in a cross-validation with {folds} folds, by which it was selected"
    return (
        f"The winner is {with_article(name)}{f' ({details})' if details else ''}: "
        f"{summary['metric']} {_interval(summary, score['mean'], score)}, {measured}."
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
        f"{_interval(summary, score['mean'], score)} {_where_searched(summary)}."
    )


def _test_score(summary: Mapping[str, Any]) -> str:
    nouns = summary["data"]["nouns"]
    if test := summary["test"]:
        total, sample = summary["data"]["test"], ""
        if test["n"] < total:
            sample = f", a random sample of {total}, because there was no time for all"
        return (
            f"Its {summary['metric']} on the test split{_of_target(summary)} is "
            f"{_interval(summary, test['score'], test)}, measured on {test['n']} {nouns} that the "
            f"search did not use{sample}."
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


def _ties(summary: Mapping[str, Any]) -> list[str]:
    selection, cheap = summary["selection"], summary["prefer"] == "cheap"
    tied = [c for c in summary["contenders"] if c["tied_with_best"]]
    folds = summary["data"].get("folds")
    sample = f"Over {folds} folds" if folds else "On this validation split"
    if selection:
        sample = f"Over {selection['repeats']} repeats"
    elif not any(c["is_winner"] for c in tied):
        return []  # the model is of an earlier winner, which is not tied with the best trial
    others = [with_article(c["name"]) for c in tied if not c["is_winner"]]
    if not others:
        return []
    sentence = f"{sample} the winner is statistically indistinguishable from {_enumerate(others)}"
    if not selection:
        reason = "; it was preferred because it is the smallest of them" if cheap else ""
        if not cheap and not summary["contenders"][0]["is_winner"]:
            reason = "; it was preferred because fine-tuned models gain most from a refit"
        return [f"{sentence}{reason}."]
    cheapest = next((c for c in summary["contenders"] if c["is_cheapest"]), None)
    if cheapest is None:
        return [f"{sentence}."]
    if not cheapest["is_winner"]:
        return [f"{sentence}; the cheapest of them is {with_article(cheapest['name'])}."]
    if selection["prefer"] == "cheap":
        return [f"{sentence}; it was preferred because it is the cheapest of them."]
    return [f"{sentence}; it is the cheapest of them."]


def _detectable(summary: Mapping[str, Any]) -> list[str]:
    """Say which differences are too small to be seen, if a contender is tied with the best."""
    selection = summary["selection"]
    ties = sum(contender["tied_with_best"] for contender in summary["contenders"])
    if not selection or selection["detectable"] is None or ties < 2:
        return []
    return [
        f"Differences under {_score(summary, selection['detectable'])} cannot be seen in "
        f"{selection['repeats']} repeats."
    ]


def _better_ensemble(summary: Mapping[str, Any]) -> list[str]:
    """Describe an ensemble or a soup that is better than every trial, but was not built in time."""
    return [
        f"{with_article(c['name']).capitalize()} of several trials is better, "
        f"{_interval(summary, c['mean'], c)}, but there was no time to build it."
        for c in summary["contenders"][:1]
        if c["kind"] != "trial" and not c["tied_with_best"] and not c["is_winner"]
    ]


def _screening(summary: Mapping[str, Any]) -> list[str]:
    """Say that backbones were compared on a sample, and which were left out because of it."""
    if not (screening := summary.get("screening")):
        return []
    few, most = screening["samples"][0], screening["samples"][-1]
    sizes = f"{few:,}" if few == most else f"{few:,} to {most:,}"
    failed = screening["failed"]
    left_out = [f"{n} ({failed[n]})" if n in failed else n for n in screening["left_out"]]
    promising = screening["promising"]
    return [
        f"{len(screening['scores'])} backbones were compared on a sample of {sizes} "
        f"{summary['data']['nouns']} first: {_enumerate(promising)} "
        f"{'were' if len(promising) > 1 else 'was'} the most promising, and {_enumerate(left_out)} "
        f"{'were' if len(left_out) > 1 else 'was'} left out."
    ]


def _baselines(summary: Mapping[str, Any]) -> list[str]:
    sentences, scores = [], []
    for role, name in BASELINES.items():
        baseline = summary["baselines"][role]
        best = summary["best"]
        if baseline and best["kind"] == "trial" and baseline["trial"] == best["trial"]:
            sentences.append(f"The winner is the {name} itself.")
        elif baseline:
            scores.append(f"{name} {_score(summary, baseline['mean'])}")
    where = "in the same repeats" if summary["selection"] else _where_searched(summary)
    if scores:
        sentences.append(f"Baselines {where}: {', '.join(scores)}.")
    return sentences


def _gains(summary: Mapping[str, Any]) -> list[str]:
    """Say what the weights of a backbone gain over random or public ones."""
    return [
        _gain(
            summary,
            entry,
            entry["backbone"],
            f"{entry['weights']} weights ({entry['over']})",
            "one has no complete trial",
        )
        for entry in summary.get("gains") or []
    ]


def _unlabelled_gain(summary: Mapping[str, Any]) -> list[str]:
    """Say what training with unlabelled examples gains over labelled ones alone."""
    if not (entry := summary.get("unlabelled_gain")):
        return []
    data = summary["data"]
    nouns, target = data["nouns"], data.get("target")
    name = f"training with unlabelled {nouns}{' of the target' if target else ''}"
    over = f"the labelled {nouns}{' of the source' if target else ''} alone"
    return [_gain(summary, entry, name, over, "no trial is complete with one of them")]


def _gain(
    summary: Mapping[str, Any], entry: Mapping[str, Any], name: str, over: str, missing: str
) -> str:
    """Say what something gains over something else; ``missing`` is why that may be unknown."""
    same, best = entry["same_recipe"], entry["best"]
    if best is None:
        return f"What {name} gains over {over} is unknown: {missing}."
    parts = []
    if same:
        own, others = same["epochs"]
        each = f"{own} epoch{'s' * (own > 1)} each"
        epochs = each if own == others else f"{own} and {others} epochs"
        parts.append(f"{_difference(summary, same)} with the same recipe and {epochs}")
    if not same or same["trials"] != best["trials"]:
        parts.append(
            f"{_difference(summary, best)} between the best trials with either, trials "
            f"{best['trials'][0]} and {best['trials'][1]}"
        )
    return (
        f"Over {over}, {name} gains in {summary['metric']} {_where_searched(summary)}: "
        f"{'; '.join(parts)}."
    )


def _difference(summary: Mapping[str, Any], gap: Mapping[str, float]) -> str:
    mean, low, high = (_score(summary, gap[key], "+") for key in ("mean", "low", "high"))
    return f"{mean} (95 % interval {low} to {high})"


def _constant(summary: Mapping[str, Any]) -> list[str]:
    entry = summary["baselines"]["majority_class"]
    places = {"validation": _where_searched(summary), "test": "on the test split"}
    scores = [
        f"{_score(summary, entry[split])} {where}"
        for split, where in places.items()
        if entry.get(split) is not None
    ]
    if not scores:
        return []
    constant = describe_constant(summary)
    comma = "," if "," in constant else ""
    return [f"Always predicting {constant}{comma} scores {_enumerate(scores)}."]


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
            f"Predictions have intervals of ±\u00a0{_enumerate(listed)}, which are to contain "
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


def _enumerate(names: Sequence[str]) -> str:
    """Join names to ``a``, ``a and b`` or ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
