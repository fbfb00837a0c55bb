"""Sentences for people: a configuration, a score with its interval, and the result of a study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autotl.space.kinds import SEARCHED_KINDS

BASELINES = {"default_recipe": "default recipe", "linear_probe": "linear probe"}
"""The baselines of a study: the key in the summary, and the name in a sentence."""


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


def describe_result(summary: Mapping[str, Any]) -> list[str]:
    """Describe the result of a study.

    Args:
        summary: As ``summarise`` returns it.

    Returns:
        Sentences. The first names the winner with its score, or says that there is none. The second
        has its score on the test split, or says why there is none. The others are about ties, the
        smallest difference that could be seen, an ensemble that is better than the winner, the
        baselines, and repeated use of the test split. Where a single configuration was trained,
        nothing was selected, and no sentence is about a selection.
    """
    if summary["best"] is None:
        return ["No trial completed, so there is no winner."]
    winner = winner_name(summary)
    if sum(summary["trials"].values()) == 1:
        sentences = [_only_model(summary), _test_score(summary)]
    else:
        sentences = [
            _winner(summary, winner),
            _test_score(summary),
            *_ties(summary),
            *_detectable(summary),
            *_better_ensemble(summary),
            *_baselines(summary),
        ]
    if (openings := summary["test_openings"]) > 1:
        sentences.append(
            f"The test split was used {openings} times. Only the first score is known to be "
            "unbiased: a later winner may have been selected with knowledge of an earlier score."
        )
    return sentences


def _winner(summary: Mapping[str, Any], name: str) -> str:
    best = summary["best"]
    if members := best.get("members"):
        weights = format_members(members)
        name, details = f"{name} of {_enumerate(weights)}", ""
    else:
        details = describe_config(best["config"] or {}, values=False)
    score = best["validation"]
    measured = (
        f"the mean of {score['repeats']} repeats, each with its own seed and validation split"
        if score["repeats"] > 1
        else "on the validation split, by which it was selected"
    )
    return (
        f"The winner is {with_article(name)}{f' ({details})' if details else ''}: "
        f"{summary['metric']} {format_interval(score['mean'], score)}, {measured}."
    )


def _only_model(summary: Mapping[str, Any]) -> str:
    """Describe the model of a study that trained one configuration."""
    best = summary["best"]
    score, details = best["validation"], describe_config(best["config"] or {}, values=False)
    return (
        f"The model is {details or winner_name(summary)}: {summary['metric']} "
        f"{format_interval(score['mean'], score)} on the validation split."
    )


def _test_score(summary: Mapping[str, Any]) -> str:
    if test := summary["test"]:
        return (
            f"Its {summary['metric']} on the test split is {format_interval(test['score'], test)}, "
            f"measured on {test['n']} images that the search did not use."
        )
    if summary["test_openings"]:
        return (
            "This winner was not scored on the test split: the split was used before, for an "
            "earlier winner or in a test that was interrupted."
        )
    if not summary["data"]["test"]:
        return "There is no test score: no images were set aside for a test split."
    return "There is no test score: the search ended before the test."


def _ties(summary: Mapping[str, Any]) -> list[str]:
    selection, cheap = summary["selection"], summary["prefer"] == "cheap"
    tied = [c for c in summary["contenders"] if c["tied_with_best"]]
    sample = "On this validation split"
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
    scores = []
    for role, name in BASELINES.items():
        baseline = summary["baselines"][role]
        best = summary["best"]
        if baseline and best["kind"] == "trial" and baseline["trial"] == best["trial"]:
            return [f"The winner is the {name} itself."]
        if baseline:
            scores.append(f"{name} {baseline['mean']:.4f}")
    return [f"Baselines: {', '.join(scores)}."] if scores else []


def _enumerate(names: Sequence[str]) -> str:
    """Join names to ``a``, ``a and b`` or ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
