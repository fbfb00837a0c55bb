"""Sentences for people: a configuration, a score with its interval, and the result of a study."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autotl.scoring import majority
from autotl.space.kinds import SEARCHED_KINDS

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
    """Describe a configuration in one line.

    Args:
        config: A configuration as ``space.to_json`` writes it.
        values: Whether hyperparameters are listed, or the names of the plugins alone.

    >>> describe_config({"freeze": {"full": {"lr": 1e-3}}, "head": {"linear": {}}})
    'full(lr=0.001) · linear'
    """
    parts = []
    for name, params in plugin_choices(config).values():
        arguments = ", ".join(f"{key}={value}" for key, value in params.items())
        parts.append(f"{name}({arguments})" if arguments and values else name)
    return " · ".join(parts)


def _format_value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def format_interval(score: float, bounds: Mapping[str, float]) -> str:
    """Format a score with its interval: ``0.8612 (95 % interval 0.8400 to 0.8800)``.

    Args:
        score: The score.
        bounds: ``low`` and ``high`` of its interval. If they are equal there is no interval, and
            only the score is returned.
    """
    if bounds["low"] == bounds["high"]:
        return f"{score:.4f}"
    return f"{score:.4f} (95 % interval {bounds['low']:.4f} to {bounds['high']:.4f})"


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


def describe_mirroring(mirroring: Mapping[str, Any]) -> str:
    """Describe how the head scored on mirrored images, and what follows.

    >>> describe_mirroring({"n": 90, "accuracy": 0.9, "mirrored": 0.5, "survives": False})
    'A head scores 0.90 on 90 images and 0.50 on them mirrored, so training does not mirror images.'
    """
    if not mirroring["n"]:
        return "It was not measured whether the classes survive mirroring."
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
        baselines, the classes if they are unequal, and repeated use of the test split. Where a
        single configuration was trained, nothing was selected, and none is about a selection.
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
            *_baselines(summary),
        ]
    sentences += [*_majority_class(summary), *_recalls(summary)]
    if (openings := summary["test_openings"]) > 1:
        sentences.append(
            f"The test split was used {openings} times. Only the first score is known to be "
            "unbiased: a later winner may have been selected with knowledge of an earlier score."
        )
    return sentences


def describe_winner(summary: Mapping[str, Any]) -> list[str]:
    """Say what matters most about the result.

    Args:
        summary: As ``summarise`` returns it.

    Returns:
        Sentences: that there was no time for fine-tuning, if so; the winner with its score, or that
        there is none; its score on the test split, or why there is none; and a warning if it is not
        better than the majority class.
    """
    if summary["best"] is None:
        return [*_not_fine_tuned(summary), "No trial completed, so there is no winner."]
    is_only = _is_only_model(summary)
    return [
        *_not_fine_tuned(summary),
        _only_model(summary) if is_only else _winner(summary, winner_name(summary)),
        _test_score(summary),
        *_useless(summary),
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
    """Warn of a winner that is not significantly better than the majority class."""
    name = summary["baselines"]["majority_class"].get("name")
    for split, result in _results_by_class(summary):
        baseline = result["majority_class"]
        if name and baseline and not baseline["is_beaten"]:
            gap = baseline["difference"]
            mean, low, high = (f"{round(gap[k], 4) + 0.0:+.4f}" for k in ("mean", "low", "high"))
            return [
                f"Warning: {split} the winner may be no better than always predicting the most "
                f"frequent class, {name}: the difference in {summary['metric']} is "
                f"{mean} (95 % interval {low} to {high})."
            ]
    return []


def _results_by_class(summary: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The results with recalls and a comparison with the majority class, those of the test first.

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
    refitted = f"refitted on train + validation{reason}: it was trained on a part of these {nouns}"
    calibrated = "calibrated: its probabilities are as the network computes them"
    texts = {"refitted": refitted, "calibrated": calibrated}
    return [f"The winner was not {texts[name]}." for name in undone]


def _cut_trial(summary: Mapping[str, Any]) -> list[str]:
    if not (cut := summary["cut_trial"]):
        return []
    reason = f": {cut['reason']}" if cut["reason"] else ""
    compared = ", better than all that completed" if summary["best"] else ""
    return [
        f"Trial {cut['trial']} ({describe_config(cut['config'], values=False)}) scored "
        f"{cut['score']:.4f} after epoch {cut['epoch']} of {cut['epochs']}{compared}, but ended "
        f"early ({cut['status'].replace('_', ' ')}{reason}), so it is not ranked."
    ]


def _winner(summary: Mapping[str, Any], name: str) -> str:
    best = summary["best"]
    if members := best.get("members"):
        weights = format_members(members)
        name, details = f"{name} of {_enumerate(weights)}", ""
    else:
        details = describe_config(best["effective_config"], values=False)
    score = best["validation"]
    measured = "on the validation split, by which it was selected"
    if score["repeats"] > 1:
        measured = (
            f"the mean of {score['repeats']} repeats, each with its own seed and validation split"
        )
    elif folds := summary["data"].get("folds"):
        measured = f"in a cross-validation with {folds} folds, by which it was selected"
    return (
        f"The winner is {with_article(name)}{f' ({details})' if details else ''}: "
        f"{summary['metric']} {format_interval(score['mean'], score)}, {measured}."
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
        f"{format_interval(score['mean'], score)} {_where_searched(summary)}."
    )


def _test_score(summary: Mapping[str, Any]) -> str:
    nouns = summary["data"]["nouns"]
    if test := summary["test"]:
        total, sample = summary["data"]["test"], ""
        if test["n"] < total:
            sample = f", a random sample of {total}, because there was no time for all"
        return (
            f"Its {summary['metric']} on the test split is {format_interval(test['score'], test)}, "
            f"measured on {test['n']} {nouns} that the search did not use{sample}."
        )
    if summary["test_openings"]:
        return (
            "This winner was not scored on the test split: the split was used before, for an "
            "earlier winner or in a test that was interrupted."
        )
    if not summary["data"]["test"]:
        return f"There is no test score: no {nouns} were set aside for a test split."
    return "There is no test score: the search ended before the test."


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
        f"Differences under {selection['detectable']:.4f} cannot be seen in "
        f"{selection['repeats']} repeats."
    ]


def _better_ensemble(summary: Mapping[str, Any]) -> list[str]:
    """Describe an ensemble or a soup that is better than every trial, but was not built in time."""
    return [
        f"{with_article(c['name']).capitalize()} of several trials is better, "
        f"{format_interval(c['mean'], c)}, but there was no time to build it."
        for c in summary["contenders"][:1]
        if c["kind"] != "trial" and not c["tied_with_best"] and not c["is_winner"]
    ]


def _baselines(summary: Mapping[str, Any]) -> list[str]:
    sentences, scores = [], []
    for role, name in BASELINES.items():
        baseline = summary["baselines"][role]
        best = summary["best"]
        if baseline and best["kind"] == "trial" and baseline["trial"] == best["trial"]:
            sentences.append(f"The winner is the {name} itself.")
        elif baseline:
            scores.append(f"{name} {baseline['mean']:.4f}")
    where = "in the same repeats" if summary["selection"] else _where_searched(summary)
    if scores:
        sentences.append(f"Baselines {where}: {', '.join(scores)}.")
    return sentences


def _majority_class(summary: Mapping[str, Any]) -> list[str]:
    entry = summary["baselines"]["majority_class"]
    places = {"validation": _where_searched(summary), "test": "on the test split"}
    scores = [
        f"{entry[split]:.4f} {where}"
        for split, where in places.items()
        if entry.get(split) is not None
    ]
    if not scores:
        return []
    return [
        f"Always predicting the most frequent class, {entry['name']}, scores {_enumerate(scores)}."
    ]


def _recalls(summary: Mapping[str, Any]) -> list[str]:
    """List the recalls of unequal classes, the lowest first, with the balanced accuracy."""
    results = _results_by_class(summary)
    if summary["data"]["imbalance"] <= majority.IMBALANCED or not results:
        return []
    split, result = results[0]
    present = [c for c in result["per_class"] if c["score"] is not None]
    lowest = sorted(present, key=lambda c: float(c["score"]))[:MAX_RECALLS]
    listed = [f"{c['class']} {c['score']:.4f} ({c['n']})" for c in lowest]
    more = f", and {len(present) - MAX_RECALLS} more classes" if len(present) > MAX_RECALLS else ""
    counted = f"lowest first, with the number of {summary['data']['nouns']}"
    return [
        f"The classes are unequal. Recalls {split}, {counted}: {', '.join(listed)}{more}. "
        f"Balanced accuracy: {result['balanced_accuracy']:.4f}."
    ]


def _enumerate(names: Sequence[str]) -> str:
    """Join names to ``a``, ``a and b`` or ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
