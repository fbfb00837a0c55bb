"""How configurations, scores, numbers and names are written for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autotl.space.kinds import OPTIONAL_KINDS, SEARCHED_KINDS


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


def format_difference(gap: Mapping[str, float], decimals: int = 4) -> str:
    """Format the ``mean`` of a difference with its interval: ``+0.02 (95 % interval ...)``."""
    mean, low, high = (format_score(gap[key], decimals, "+") for key in ("mean", "low", "high"))
    return f"{mean} (95 % interval {low} to {high})"


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


def format_count(count: int) -> str:
    """Format a number of parameters.

    >>> format_count(4_652_008), format_count(1491)
    ('4.7 million', '1,491')
    """
    return f"{count / 1e6:.1f} million" if count >= 1e6 else f"{count:,}"


def format_budget(seconds: float) -> str:
    """Format a budget as the command line takes it, rounded up.

    >>> format_budget(83.2), format_budget(301)
    ('90s', '6m')
    """
    return f"{10 * math.ceil(seconds / 10)}s" if seconds <= 120 else f"{math.ceil(seconds / 60)}m"


def enumerate_names(names: Sequence[str]) -> str:
    """Join names to ``a``, ``a and b`` or ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
