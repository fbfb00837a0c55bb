"""Searches with short budgets, several times in a row, while another process uses a core.

    python studies/benchmarks/short_budgets.py photos/ --repeats 5 --busy

Digits are searched for 45 seconds and two minutes, and folders for 20 seconds, to see whether there
is a model at all. Prints a Markdown table with the test accuracy, the winner and the time of each
search, and whether it reached the goal. The searches of one setting differ in nothing, not even in
the seed: what differs is the time that the machine gave them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from searches import search, table_head, table_row

DIGITS = "sklearn:digits"
SETTINGS: tuple[tuple[list[str], float], ...] = (
    ([DIGITS, "--image-size", "64", "--budget", "2m"], 0.98),
    ([DIGITS, "--budget", "2m"], 0.97),
    ([DIGITS, "--budget", "45s"], 0.93),
)
"""The words of the command, and the goal: the least test accuracy.

The last one is what a linear probe reaches: logistic regression on features at 224 px has 0.94.
"""


def main() -> None:
    """Run all searches, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="*", help="folders of images, to be searched for 20 s")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--busy", action="store_true", help="let another process use a core")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("runs/short_budgets"))
    options = parser.parse_args()
    short: list[tuple[list[str], float]] = [([d, "--budget", "20s"], 0.0) for d in options.data]
    for line in table_head("command", "test", "goal", "winner", "seconds", "unused"):
        print(line)
    with busy_core(options.busy):
        for i, (words, goal) in enumerate([*SETTINGS, *short]):
            for repeat in range(options.repeats):
                folder = options.out / f"{i}-{repeat}"
                shutil.rmtree(folder, ignore_errors=True)  # nothing is continued or cached
                result = search(words, folder, options.threads)
                reached = result["n"] > 0 and result["accuracy"] >= goal
                unused = result["unused"]
                row = (
                    " ".join([Path(words[0]).name, *words[1:]]),
                    f"{result['accuracy']:.3f}",
                    "reached" if reached else "missed",
                    result["winner"],
                    f"{result['seconds']:.0f}",
                    "" if unused is None else f"{unused:.0f}",
                )
                print(table_row(*row), flush=True)


@contextmanager
def busy_core(is_busy: bool) -> Iterator[None]:
    """Run a process that computes without a pause, until the end of the block."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if is_busy else None
    try:
        yield
    finally:
        if process:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
