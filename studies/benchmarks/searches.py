"""Whole searches and their peers at several budgets: test accuracy, and the time that it took.

    python studies/benchmarks/searches.py photos/ sklearn:digits --budgets 1m,2m,5m,10m --seeds 2

For each data source, budget and seed, ``autotl search`` runs as a user runs it, with a folder, and
so a cache and a database, of its own. Then each of ``peers.py`` gets the same time, threads and
images: the splits that the search wrote. A result is written to ``cells.json`` below ``--out`` as
soon as it is there, and read by a later run, so that a run can be interrupted. The tables are
Markdown; ``--plot`` draws them too (extra ``bench``).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from autotl.study import parse_duration

METHODS = {
    "autotl": "autotl", "expert": "expert", "loop": "loop", "logistic": "logistic regression",
}  # fmt: skip
HERE = Path(__file__).parent
Result = dict[str, Any]
"""``accuracy`` on the ``n`` images of the test split, ``detail``, ``seconds`` of the process."""


@dataclass(frozen=True)
class Cell:
    """One row of the table: all methods with the same images, time and seed."""

    source: str
    budget: str
    seed: int

    @property
    def data(self) -> str:
        """The name of the data, for tables and folders."""
        return Path(self.source).name.replace(":", "-")

    @property
    def key(self) -> str:
        """The name of the cell, for files and folders."""
        return f"{self.data}-{self.budget}-{self.seed}"


class Results:
    """The results of all cells by key and method, in a file.

    Args:
        file: The file, which may not exist yet.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.cells: dict[str, dict[str, Result]] = {}
        if file.exists():
            self.cells = json.loads(file.read_text())

    def get(self, cell: Cell, method: str) -> Result | None:
        """The result of a method; None if it has not been measured."""
        return self.cells.get(cell.key, {}).get(method)

    def add(self, cell: Cell, method: str, result: Result) -> None:
        """Write a result, so that a run that is killed at any time leaves a whole file."""
        self.cells.setdefault(cell.key, {})[method] = result
        partial = self.file.with_suffix(".part")
        partial.write_text(json.dumps(self.cells, indent=1))
        partial.replace(self.file)


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", help="a folder with train/ and test/, or sklearn:digits")
    parser.add_argument("--budgets", default="1m,2m,5m,10m")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--out", type=Path, default=Path("runs/searches"))
    parser.add_argument("--plot", action="store_true")
    options = parser.parse_args()
    methods = options.methods.split(",")
    budgets = sorted(options.budgets.split(","), key=parse_duration)
    if unknown := set(methods) - set(METHODS):
        parser.error(f"unknown methods {', '.join(unknown)}; expected {', '.join(METHODS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    results = Results(options.out / "cells.json")
    cells = [
        Cell(source, budget, seed)
        for source in options.data
        for budget in budgets
        for seed in range(options.seeds)
    ]
    for line in table_head("data", "budget", "seed", *(METHODS[m] for m in methods)):
        print(line)
    for cell in cells:
        for method in methods:
            if not results.get(cell, method):
                results.add(cell, method, run(cell, method, options.out, options.threads))
        row = [format_result(cell, results.get(cell, m)) for m in methods]
        print(table_row(cell.data, cell.budget, str(cell.seed), *row), flush=True)
    print()
    for line in means(cells, results, methods):
        print(line)
    if options.plot:
        plot(cells, results, methods, options.out / "searches.png")


def run(cell: Cell, method: str, out: Path, threads: int) -> Result:
    """Run one method in a process of its own, and return its result."""
    folder = out / cell.key
    if method == "autotl":
        shutil.rmtree(folder, ignore_errors=True)  # an interrupted search would be continued
        options = ["--budget", cell.budget, "--seed", str(cell.seed)]
        result = search([cell.source, *options], folder, threads)
        shutil.rmtree(folder / "cache", ignore_errors=True)
        return result
    splits = folder / "search" / "splits.csv"
    if not splits.exists():
        raise SystemExit(f"no {splits}: run the method autotl of this cell first")
    began = time.time()
    words = [method, cell.source, "--splits", splits, "--seed", cell.seed]
    times = ["--seconds", parse_duration(cell.budget), "--began", began]
    log = folder / f"{method}.log"
    status, output = call([HERE / "peers.py", *words, *times], log, threads)
    if status:
        raise SystemExit(f"{method} failed on {cell.key}; see {log}")
    result = {**json.loads(output.splitlines()[-1]), "seconds": time.time() - began}
    with splits.open(newline="") as file:
        images = sum(row["split"] == "test" for row in csv.DictReader(file))
    assert result["n"] == images, f"{result['n']} test images, but {images} in {splits}"
    return result


def search(words: Sequence[str], folder: Path, threads: int) -> Result:
    """Run ``autotl search`` and read its result.

    Args:
        words: The data and options of the command.
        folder: Parent folder of the run folder, which is called ``search``.
        threads: Number of threads.

    Returns:
        A result, with ``unused`` seconds of the budget and the ``winner`` in addition. A search
        without a model has the accuracy 0, because to its user it is worth nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    began, log = time.time(), folder / "autotl.log"
    command = ["-m", "autotl", "search", *words, "--study", "search", "--out", folder]
    status, _ = call(command, log, threads)
    seconds = time.time() - began
    file = folder / "search" / "summary.json"
    summary = json.loads(file.read_text()) if file.exists() else {}
    budget = summary.get("budget_seconds")
    result = {
        "accuracy": 0.0,
        "n": 0,
        "seconds": seconds,
        "unused": budget and budget - summary["seconds"],
        "winner": "no model",
    }
    if status or not summary.get("test"):
        lines = log.read_text().strip().splitlines()
        reason = textwrap.shorten(lines[-1] if lines else f"exit status {status}", 60)
        return {**result, "detail": f"no model: {reason}"}
    best, test = summary["best"], summary["test"]
    parts = [next(iter(best["config"].get(k, ())), "") for k in ("backbone", "freeze", "head")]
    recipe = " · ".join(filter(None, parts))
    winner = recipe if best["kind"] == "trial" else f"{best['name']} ({recipe}, ...)"
    unused = round(summary["budget_seconds"] - summary["seconds"])
    detail = f"{winner}, {abs(unused)} s {'unused' if unused >= 0 else 'over the budget'}"
    return {**result, "accuracy": test["score"], "n": test["n"], "winner": winner, "detail": detail}


def call(words: Iterable[object], log: Path, threads: int) -> tuple[int, str]:
    """Run Python with a number of threads; its errors go to ``log``.

    All get the settings that the command line of AutoTL makes for itself: threads that sleep while
    they wait, and a C library that reuses freed memory.

    Returns:
        The exit status and the standard output.
    """
    tunables = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000"
    settings = {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "GLIBC_TUNABLES": tunables,
    }
    with log.open("w") as file:
        process = subprocess.run(
            [sys.executable, *map(str, words)],
            env={**os.environ, **settings},
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    return process.returncode, process.stdout


def format_result(cell: Cell, result: Result | None) -> str:
    """Accuracy, what was done, and the seconds of the process."""
    if result is None:
        return ""
    return f"{result['accuracy']:.3f} ({result['detail']}; {result['seconds']:.0f} s)"


def means(cells: Sequence[Cell], results: Results, methods: Sequence[str]) -> list[str]:
    """The table of means for each budget.

    The best peer is that of each cell, chosen afterwards by its test accuracy, which is a harder
    opponent than any single one.
    """
    peers = [m for m in methods if m != "autotl"]
    compared = peers and "autotl" in methods
    extra = ("error, relative to the best peers'", "worst difference to the best peer")
    names = [METHODS[m] for m in methods]
    lines = table_head("budget", "cells", *names, *(extra if compared else ()))
    for budget in dict.fromkeys(cell.budget for cell in cells):
        rows = [results.cells[cell.key] for cell in cells if cell.budget == budget]
        row = [f"{mean(r[m]['accuracy'] for r in rows):.3f}" for m in methods]
        if compared:
            own = [r["autotl"]["accuracy"] for r in rows]
            best = [max(r[m]["accuracy"] for m in peers) for r in rows]
            error = 1 - mean(best)
            row.append(f"{(1 - mean(own)) / error:.2f}" if error else "")
            row.append(f"{min(a - b for a, b in zip(own, best, strict=True)):+.3f}")
        lines.append(table_row(budget, str(len(rows)), *row))
    return lines


def table_head(*names: str) -> list[str]:
    """The first two lines of a Markdown table."""
    return [table_row(*names), "|---" * len(names) + "|"]


def table_row(*values: str) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(value.replace("|", "/") for value in values) + " |"


def plot(cells: Sequence[Cell], results: Results, methods: Sequence[str], file: Path) -> None:
    """Draw the mean accuracy over seeds against the budget, one panel for each data source."""
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(cell.data for cell in cells))
    figure, axes = plt.subplots(
        1, len(names), figsize=(4.5 * len(names), 3.6), squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes[0], names, strict=True):
        for method in methods:
            scores: dict[str, list[float]] = {}
            for cell in cells:
                if cell.data == name:
                    score = results.cells[cell.key][method]["accuracy"]
                    scores.setdefault(cell.budget, []).append(score)
            seconds = [parse_duration(budget) for budget in scores]
            axis.plot(seconds, [mean(s) for s in scores.values()], "o-", label=METHODS[method])
        axis.set(title=name, xlabel="budget", xscale="log", ylabel="test accuracy")
        axis.set_xticks(seconds, list(scores))
        axis.minorticks_off()
    axes[0][0].legend()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
