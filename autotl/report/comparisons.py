"""Sentences about what the winner was compared with: ties, baselines, other weights, a constant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autotl.report.formatting import (
    describe_config,
    enumerate_names,
    format_difference,
    format_interval,
    format_score,
    with_article,
)

BASELINES = {"default_recipe": "default recipe", "linear_probe": "linear probe"}
"""The baselines of a study: the key in the summary, and the name in a sentence."""


def where_searched(summary: Mapping[str, Any]) -> str:
    """Say by which images trials are scored."""
    if target := summary["data"].get("target"):
        return f"on the validation split of the target {target}"
    return "in the cross-validation" if summary["data"].get("folds") else "on the validation split"


def describe_comparisons(summary: Mapping[str, Any]) -> list[str]:
    """Say what the winner of several contenders was compared with, and how well that went.

    Args:
        summary: As ``summarise`` returns it.

    Returns:
        Sentences about a trial that was cut, ties, the smallest difference that could be seen, an
        ensemble that is better than the winner, the comparison of backbones on a sample, the
        baselines, what weights gain over others, and what unlabelled examples gain.
    """
    return [
        *describe_cut_trial(summary),
        *_ties(summary),
        *_detectable(summary),
        *_better_ensemble(summary),
        *_screening(summary),
        *_baselines(summary),
        *_gains(summary),
        *_unlabelled_gain(summary),
    ]


def describe_cut_trial(summary: Mapping[str, Any]) -> list[str]:
    """Name a trial that ended early with a better score than all that completed, if there is one.

    Args:
        summary: As ``summarise`` returns it.
    """
    if not (cut := summary["cut_trial"]):
        return []
    reason = f": {cut['reason']}" if cut["reason"] else ""
    compared = ", better than all that completed" if summary["best"] else ""
    return [
        f"Trial {cut['trial']} ({describe_config(cut['config'], values=False)}) scored "
        f"{format_score(cut['score'], summary['decimals'])} after epoch {cut['epoch']} of "
        f"{cut['epochs']}{compared}, but ended early "
        f"({cut['status'].replace('_', ' ')}{reason}), so it is not ranked."
    ]


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
    tie = "the winner is statistically indistinguishable from"
    sentence = f"{sample} {tie} {enumerate_names(others)}"
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
        f"Differences under {format_score(selection['detectable'], summary['decimals'])} cannot be "
        f"seen in {selection['repeats']} repeats."
    ]


def _better_ensemble(summary: Mapping[str, Any]) -> list[str]:
    """Describe an ensemble or a soup that is better than every trial, but was not built in time."""
    return [
        f"{with_article(c['name']).capitalize()} of several trials is better, "
        f"{format_interval(c['mean'], c, summary['decimals'])}, but there was no time to build it."
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
        f"{summary['data']['nouns']} first: {enumerate_names(promising)} "
        f"{'were' if len(promising) > 1 else 'was'} the most promising, and "
        f"{enumerate_names(left_out)} {'were' if len(left_out) > 1 else 'was'} left out."
    ]


def _baselines(summary: Mapping[str, Any]) -> list[str]:
    sentences, scores = [], []
    for role, name in BASELINES.items():
        baseline = summary["baselines"][role]
        best = summary["best"]
        if baseline and best["kind"] == "trial" and baseline["trial"] == best["trial"]:
            sentences.append(f"The winner is the {name} itself.")
        elif baseline:
            scores.append(f"{name} {format_score(baseline['mean'], summary['decimals'])}")
    where = "in the same repeats" if summary["selection"] else where_searched(summary)
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
    same, best, decimals = entry["same_recipe"], entry["best"], summary["decimals"]
    if best is None:
        return f"What {name} gains over {over} is unknown: {missing}."
    parts = []
    if same:
        own, others = same["epochs"]
        each = f"{own} epoch{'s' * (own > 1)} each"
        epochs = each if own == others else f"{own} and {others} epochs"
        parts.append(f"{format_difference(same, decimals)} with the same recipe and {epochs}")
    if not same or same["trials"] != best["trials"]:
        parts.append(
            f"{format_difference(best, decimals)} between the best trials with either, trials "
            f"{best['trials'][0]} and {best['trials'][1]}"
        )
    return (
        f"Over {over}, {name} gains in {summary['metric']} {where_searched(summary)}: "
        f"{'; '.join(parts)}."
    )


def describe_constant_score(summary: Mapping[str, Any]) -> list[str]:
    """Say how well a constant prediction scores, if that is known.

    Args:
        summary: As ``summarise`` returns it.
    """
    entry = summary["baselines"]["majority_class"]
    places = {"validation": where_searched(summary), "test": "on the test split"}
    scores = [
        f"{format_score(entry[split], summary['decimals'])} {where}"
        for split, where in places.items()
        if entry.get(split) is not None
    ]
    if not scores:
        return []
    constant = describe_constant(summary)
    comma = "," if "," in constant else ""
    return [f"Always predicting {constant}{comma} scores {enumerate_names(scores)}."]


def describe_constant(summary: Mapping[str, Any]) -> str:
    """Say what a model predicts that does not look at the examples; '' if that is unknown."""
    noun = summary["data"]["constant_noun"]
    name = summary["baselines"]["majority_class"].get("name")
    return "" if name is None else noun if name == noun else f"{noun}, {name}"
