"""Trials an hour of one worker and of several on the same machine.

    python studies/benchmarks/worker_speed.py --workers 1 2 -- DATA --backbone NAME --image-size 96

For each number of workers, ``autotl search`` runs the same number of trials from nothing: with
empty caches and without a warm start. The arguments after ``--`` are passed on to it. One worker
has all cores, several share them. The clock runs from the begin of the first trial to the end of
the last one. Trials that run at the same time draw other configurations than those that follow each
other; the recipes of the portfolio, which are the first ones, are the same. Prints a Markdown
table.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import optuna
from searches import table_head, table_row

from autotl.search.ranking import UNFINISHED
from autotl.store import Store

STUDY = "speed"


def main() -> None:
    """Run the searches and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("arguments", nargs="+", help="DATA and options of autotl search")
    options = parser.parse_args()
    rates: list[float] = []
    names = ("workers", "trials", "complete", "seconds", "trials an hour", "relative", "best score")
    print("\n".join(table_head(*names)), flush=True)
    for workers in options.workers:
        with tempfile.TemporaryDirectory() as folder:
            trials, complete, seconds, best = search(options, workers, Path(folder))
        rates.append(3600 * trials / seconds)
        values = (
            f"{seconds:.0f}",
            f"{rates[-1]:.0f}",
            f"{rates[-1] / rates[0]:.2f}",
            f"{best:.4f}",
        )
        print(table_row(str(workers), str(trials), str(complete), *values), flush=True)


def search(
    options: argparse.Namespace, workers: int, folder: Path
) -> tuple[int, int, float, float]:
    """Run a search; return its trials, those that are complete, their time and the best score."""
    url = f"sqlite:///{folder / 'autotl.db'}"
    words = ("search", *options.arguments, "--quiet", "--no-history")
    counts = (f"--trials={options.trials}", f"--workers={workers}", f"--seed={options.seed}")
    places = (f"--study={STUDY}", f"--storage={url}", f"--out={folder}")
    command = [sys.executable, "-m", "autotl", *words, *counts, *places]
    process = subprocess.Popen(command)
    while process.poll() is None and count_finished(url) < options.trials:
        time.sleep(1.0)
    process.terminate()  # without the final selection
    process.wait()
    with closing(Store(url)) as store:
        rows = [row for row in store.trials(STUDY) if row.status not in UNFINISHED]
        study = optuna.load_study(study_name=STUDY, storage=store.storage)
        times = [trial for trial in study.trials if trial.datetime_start]
    began = min(trial.datetime_start for trial in times if trial.datetime_start)
    ended = max(trial.datetime_complete for trial in times if trial.datetime_complete)
    complete = [row for row in rows if row.status == "complete"]
    best = max(row.score or 0.0 for row in complete)
    return len(rows), len(complete), (ended - began).total_seconds(), best


def count_finished(url: str) -> int:
    """Count the trials with a result."""
    with closing(Store(url)) as store:
        return sum(row.status not in UNFINISHED for row in store.trials(STUDY))


if __name__ == "__main__":
    main()
