"""Whole searches over several seeds, as a table: what is found, and how much of it is luck.

    python studies/benchmarks/searches.py photos/ flowers/ --seeds 3 --budget 10m

Each search has a folder of its own under ``--out``, named after the data and the seed, and so a
cache and a database of its own: no seed profits from the one before it. One that is there already
is read, not run again. The table is Markdown.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import autotl

COLUMNS = (
    "data", "seed", "winner", "test", "finals, or validation", "default recipe", "linear probe",
    "optimism",
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
    """A search in one line; the scores of the finals with their intervals."""
    best, test, finals = summary["best"], summary["test"], summary["finals"]
    recipe = " · ".join(next(iter(best["config"][k])) for k in ("backbone", "freeze", "head"))
    known = summary["baselines"]
    optimism = summary["optimism"]
    return [
        Path(source).name,
        str(summary["seed"]),
        recipe,
        f"{test['score']:.3f} ({test['low']:.3f} to {test['high']:.3f})",
        shown(best["validation"]) + (f", {finals['runs']} runs" if finals else ""),
        shown(known["default_recipe"]),
        shown(known["linear_probe"]),
        "" if optimism is None else f"{optimism:+.3f}",
    ]


def shown(score: dict[str, Any]) -> str:
    """A mean with its interval; empty where there is none."""
    return f"{score['mean']:.3f} ({score['low']:.3f} to {score['high']:.3f})" if score else ""


if __name__ == "__main__":
    main()
