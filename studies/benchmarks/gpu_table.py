"""The results of ``gpu.py`` as one Markdown table, with the goals that they reach or miss."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

Results = dict[str, Any]
Row = tuple[str, ...]
HEADER = (
    "", "plain loop", "AutoTL", "bare network", "AutoTL / plain", "AutoTL / bare", "goal",
)  # fmt: skip

MANY_TRIALS, FROZEN_TRIALS, BARE_SHARE, IN_STEPS, BUSY = 8.0, 50.0, 0.95, 0.95, 90.0
"""The goals, on one GPU like an H100."""


def make_document(results: Results) -> str:
    """Return all results as Markdown."""
    lines = [
        f"**{results['device']}**, {results['cores']} cores, PyTorch {results['torch']}; "
        f"{results['settings']}; {results['seconds']:.0f} s in all.",
        "",
        *(f"| {' | '.join(row)} |" for row in (HEADER, ("---",) * len(HEADER))),
        *(f"| {' | '.join(row)} |" for row in make_rows(results)),
        "",
        "In brackets: the plain loop compiled by `torch.compile`. Ratios are those to the faster.",
        *(f"- not measured: {name}: {reason}" for name, reason in results["missing"].items()),
    ]
    return "\n".join(lines) + "\n"


def make_rows(results: Results) -> Iterator[Row]:
    """Yield the rows of the table, of what was measured."""
    for name, result in results["architectures"].items():
        yield from make_architecture_rows(name, result)
    if busy := results["busy"]:
        label = f"GPU busy in fine-tuning {busy['architecture']} ({busy['by']}), %"
        yield row(label, ours=busy["percent"], goal=judge(busy["percent"], BUSY))
    yield from make_list_rows(results)
    if (first := results["first_trial"]) is not None:
        yield row("from the start of Python to the first trial's result, s", ours=first)
    yield row("checking the data before the first trial, s", ours=results["check"])


def make_architecture_rows(name: str, result: Results) -> Iterator[Row]:
    """Yield the rows of an architecture."""
    plain, bare, ours = result["plain"], result["bare"], result["autotl"]
    share = ours["training"] / bare["training"]
    yield row(
        f"{name}: training, images/s", plain["training"], ours["training"], bare["training"],
        compiled=plain["compiled"], goal=judge(share, BARE_SHARE, "of bare"),
    )  # fmt: skip
    yield row(f"{name}: the same with any kernels of cuDNN", bare=bare["any_kernels"])
    yield row(
        f"{name}: forward, backward and step, % of an epoch", ours=100 * ours["in_steps"],
        goal=judge(100 * ours["in_steps"], 100 * IN_STEPS) if name == "resnet50" else "",
    )  # fmt: skip
    if ours["peak_gib"] is not None:
        yield row(f"{name}: peak memory, GiB", plain["peak_gib"], ours["peak_gib"], is_rate=False)
    yield row(
        f"{name}: inference of decoded images, images/s", None, ours["inference"], bare["inference"]
    )
    yield row(
        f"{name}: inference of JPEGs, images/s", plain["inference_files"], ours["inference_files"]
    )


def make_list_rows(results: Results) -> Iterator[Row]:
    """Yield the rows of the list of configurations."""
    measured, names = results["list"], results["list"]["configurations"]
    if not names:
        return
    seconds, accuracy = measured["seconds"], measured["accuracy"]
    total = {kind: sum(each) for kind, each in seconds.items()}
    speedup = total["plain"] / total["autotl"]
    count = f"{len(names)} of {measured['planned']}" if measured["planned"] > len(names) else ""
    yield row(
        f"{count or len(names)} configurations, whole time, s", total["plain"], total["autotl"],
        ratio=speedup, goal=judge(speedup, MANY_TRIALS, "x"),
    )  # fmt: skip
    yield row(
        "their mean accuracy",
        *(statistics.mean(accuracy[kind]) for kind in ("plain", "autotl")),
        is_rate=False,
    )
    frozen = [i for i, name in enumerate(names) if name.startswith("linear_probe")][1:]
    trained = [i for i, name in enumerate(names) if not name.startswith("linear_probe")]
    if trained:
        parts = {kind: sum(each[i] for i in trained) for kind, each in seconds.items()}
        yield row(
            f"the {len(trained)} of them that train the backbone, s", parts["plain"],
            parts["autotl"], ratio=parts["plain"] / parts["autotl"],
        )  # fmt: skip
    if (repeated := measured["frozen"]) and frozen:
        plain = 60 / statistics.mean(seconds["plain"][i] for i in frozen)
        ours = 60 * repeated["trials"] / repeated["seconds"]
        yield row(
            "frozen trials a minute, after the first", plain, ours,
            goal=judge(ours / plain, FROZEN_TRIALS, "x"),
        )  # fmt: skip


def row(
    label: str,
    plain: float | None = None,
    ours: float | None = None,
    bare: float | None = None,
    *,
    compiled: float | None = None,
    ratio: float | None = None,
    is_rate: bool = True,
    goal: str = "",
) -> Row:
    """Make a row; the ratio to the plain loop follows from rates, and is given for seconds."""
    best = max((each for each in (plain, compiled) if each is not None), default=None)
    if ratio is None and is_rate and best and ours is not None:
        ratio = ours / best
    share = f"{ours / bare:.2f}" if bare and ours is not None else ""
    own = number(plain) + (f" ({number(compiled)})" if compiled else "")
    speedup = f"{ratio:.1f}" if ratio else ""
    return label, own, number(ours), number(bare), speedup, share, goal


def number(value: float | None) -> str:
    """Three digits or more."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def judge(value: float, goal: float, unit: str = "") -> str:
    """Whether a goal is met."""
    return f">= {goal:g} {unit}".strip() + (": met" if value >= goal else ": missed")
