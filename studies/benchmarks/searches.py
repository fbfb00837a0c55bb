"""Whole searches over several seeds, as a table: their results, and the optimism of the search.

    python studies/benchmarks/searches.py photos/ flowers/ --seeds 3 --budget 10m

Each search has a folder of its own under ``--out``, named after the data and the seed, and so
its own cache and database: no seed profits from the one before it. A finished search is read, not
repeated.
The table is Markdown.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import autotl

COLUMNS = (
    "data", "seed", "winner", "test", "final selection, or validation", "default recipe",
    "linear probe", "optimism",
)  # fmt: skip


def main() -> None:
    """Search, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", default="10m")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    options = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|", flush=True)
    for source in options.data:
        for seed in range(options.seeds):
            out, study = options.out / f"{Path(source).name}-{seed}", "search"
            file = out / study / "summary.json"
            if not file.exists():
                autotl.search(source, budget=options.budget, study=study, seed=seed, out=out)
            print("| " + " | ".join(row(json.loads(file.read_text()), source)) + " |", flush=True)


def row(summary: dict[str, Any], source: str) -> list[str]:
    """A search in one line; scores with their 95 % intervals."""
    best, test, selection = summary["best"], summary["test"], summary["selection"]
    recipe = " · ".join(next(iter(best["config"][k])) for k in ("backbone", "freeze", "head"))
    baselines, repeats = summary["baselines"], f", {best['validation']['repeats']} repeats"
    return [
        Path(source).name,
        str(summary["seed"]),
        recipe,
        f"{test['score']:.3f} ({test['low']:.3f} to {test['high']:.3f})",
        format_score(best["validation"]) + (repeats if selection else ""),
        format_score(baselines["default_recipe"]),
        format_score(baselines["linear_probe"]),
        f"{selection['optimism']:+.3f}" if selection else "",
    ]


def format_score(score: dict[str, Any]) -> str:
    """A mean with its interval; empty where there is none."""
    return f"{score['mean']:.3f} ({score['low']:.3f} to {score['high']:.3f})" if score else ""


if __name__ == "__main__":
    main()
