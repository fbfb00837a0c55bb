"""A configuration, a score and the answer of a study, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autotl.space.plugin import SEARCHED_KINDS

ROLES = {"default_recipe": "the default recipe", "linear_probe": "the linear probe"}


def chosen(config: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, str]]]:
    """By kind, in the order of the search: the plugin's name and its values for people.

    >>> chosen({"freeze": {"full": {"lr": 0.00012345}}})
    {'freeze': ('full', {'lr': '0.000123'})}
    """
    found = {}
    for kind in SEARCHED_KINDS:
        for name, values in config.get(kind, {}).items():
            found[kind] = name, {k: _short(v) for k, v in values.items()}
    return found


def recipe_line(config: Mapping[str, Any], values: bool = True) -> str:
    """A configuration, as ``space.to_json`` writes it, in one line; without ``values`` the names.

    >>> recipe_line({"freeze": {"full": {"lr": 1e-3}}, "head": {"linear": {}}})
    'full(lr=0.001) · linear'
    """
    parts = []
    for name, params in chosen(config).values():
        inside = ", ".join(f"{k}={v}" for k, v in params.items())
        parts.append(f"{name}({inside})" if inside and values else name)
    return " · ".join(parts)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def interval(score: float, of: Mapping[str, float]) -> str:
    """``0.8612 (95 % interval 0.8400 to 0.8800)``, or the bare score where there is none."""
    if of["low"] == of["high"]:
        return f"{score:.4f}"
    return f"{score:.4f} (95 % interval {of['low']:.4f} to {of['high']:.4f})"


def answer(summary: Mapping[str, Any]) -> list[str]:
    """What was found, in sentences.

    The first two are the answer: the winner with its score, and its score on the test part, or why
    there is none. Then come ties, the baselines beside the winner, and what makes it less sure.
    """
    best = summary["best"]
    if best is None:
        return ["No trial has come to its end, so there is no winner."]
    score = best["validation"]
    name = winner_name(summary)
    members = best.get("members")
    if members:
        shares = [f"{member} ({weight:.2f})" for member, weight in members.items()]
        name = f"the {name} of {_listed(shares)}"
    recipe = "" if members else recipe_line(best["config"] or {}, values=False)
    said = [
        f"The best is {name}{', ' + recipe if recipe else ''}: {summary['metric']} "
        f"{interval(score['mean'], score)}{_measured(score['seeds'])}.",
        _tested(summary),
    ]
    said += _ties(summary, winner_name(summary)) + _better(summary)
    said += _baselines(summary, winner_name(summary))
    if (openings := summary["test_openings"]) > 1:
        said.append(
            f"The test part was opened {openings} times; whoever saw an earlier result may have "
            "chosen by it, so only the first is free of that doubt."
        )
    return said


def winner_name(summary: Mapping[str, Any]) -> str:
    """``trial 12``, or what is made of several: ``ensemble`` or ``soup``; there is a winner."""
    finals = summary["finals"]
    return str(finals["winner"]) if finals else f"trial {summary['best']['trial']}"


def named(name: str) -> str:
    """The name of a candidate within a sentence."""
    return name if name.startswith("trial ") else f"the {name}"


def _measured(seeds: int) -> str:
    if seeds > 1:
        return f", the mean of {seeds} runs, each with a seed and held-back pictures of its own"
    return " on the validation pictures, by which it was chosen"


def _tested(summary: Mapping[str, Any]) -> str:
    if test := summary["test"]:
        return (
            f"On {test['n']} test pictures that the search never saw: {summary['metric']} "
            f"{interval(test['score'], test)}."
        )
    if summary["test_openings"]:
        return (
            "There is no test score of it, because the test part was opened before, for an earlier "
            "winner or in a test that was cut off."
        )
    if not summary["data"]["test"]:
        return "There is no test score, because no pictures were set aside for a test."
    return "There is no test score, because the search ended before its test."


def _ties(summary: Mapping[str, Any], winner: str) -> list[str]:
    finals = summary["finals"]
    if not finals:
        tied = [f"trial {f['trial']}" for f in summary["finalists"] if f["tied_with_best"]]
        if winner not in tied:  # they are tied with a later trial, whose model nobody has
            return []
        means = "The validation pictures are too few to tell it from"
    else:
        tied = [c["name"] for c in finals["candidates"] if c["tied_with_best"]]
        means = f"{finals['runs']} runs do not tell it from"
    others = [named(name) for name in tied if name != winner]
    if not others:
        return []
    said = [f"{means} {_listed(others)}: call it a tie."]
    if not finals and summary["prefer"] == "cheap":
        said[0] = f"{said[0][:-1]}; it is the smallest of them, and was preferred for that."
    if finals and (cheapest := finals.get("cheapest_tied")):
        also = ", and was preferred for that" if finals.get("prefer") == "cheap" else ""
        is_it = (
            f"it is the cheapest of them{also}"
            if cheapest == winner
            else (f"the cheapest of them is {named(cheapest)}")
        )
        said[0] = f"{said[0][:-1]}; {is_it}."
    return said


def _better(summary: Mapping[str, Any]) -> list[str]:
    """What is made of several trials and beats each of them, where there was no time to make it."""
    finals = summary["finals"] or {"candidates": [], "winner": ""}
    return [
        f"{named(c['name']).capitalize()} of several trials does better: {interval(c['mean'], c)}."
        for c in finals["candidates"][:1]
        if c["trial"] is None and not c["tied_with_best"] and c["name"] != finals["winner"]
    ]


def _baselines(summary: Mapping[str, Any], winner: str) -> list[str]:
    """What everybody would try first, beside the winner; the winner itself may be one of them."""
    said = []
    for role, name in ROLES.items():
        scored = summary["baselines"][role]
        if scored and f"trial {scored['trial']}" == winner:
            return [f"It is {name} itself."]
        if scored:
            said.append(f"{name} {scored['mean']:.4f}")
    if not said:
        return []
    return [f"Beside it, {' and '.join(said)}."]


def _listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
