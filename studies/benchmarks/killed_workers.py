"""Workers of one study that are killed at random moments, again and again.

    python studies/benchmarks/killed_workers.py --workers 4 --kills 60 --storage URL --restart "..."

Several processes run ``autotl search --join`` and train small networks on images that the script
makes. At random moments one of them is killed with SIGKILL and replaced, whatever it was doing.
Once, a worker is stopped for longer than a heartbeat may be late, and continues later, as a machine
does that was asleep. With ``--restart COMMAND`` the server of the database is restarted in the
middle. At the end it is checked that every trial has a true status, that none was counted twice,
that no recipe was tried twice, that the final selection is complete, and that there is one refit
and one test.
Prints a Markdown table. The seed decides who is killed and when.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import optuna
from PIL import Image
from searches import table_head, table_row

from autotl.store import Store, TrialRow
from autotl.store.worker import DEAD_SECONDS

PLUGIN = '''
import torch
from torch import nn
from autotl import backbone
from autotl.data import ImageInput


class Small(nn.Module):
    """Three convolutions, which take a moment."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU())
        self.top = nn.Sequential(nn.Conv2d(32, 64, 3, 1, 1), nn.BatchNorm2d(64), nn.ReLU())
        self.num_features = 64
        self.expects = ImageInput(32, (0.5,) * 3, (0.2,) * 3, "bilinear")

    def forward(self, x):
        return self.top(self.body(self.stem(x))).mean((2, 3))


@backbone
def small():
    """A small network with weights of its own."""
    torch.manual_seed(0)
    return Small()
'''
NAME = "photos"
HEADS, STRATEGIES = ("linear", "mlp"), ("linear_probe", "last_blocks", "full", "lp_ft")


def main() -> None:
    """Run the study twice, once undisturbed, and print what became of both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--every", type=float, default=10.0, help="mean seconds between kills")
    parser.add_argument("--trials", type=int, default=120)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--only-killed", action="store_true", help="no undisturbed run")
    parser.add_argument("--storage", help="an empty database on a server; by default SQLite")
    parser.add_argument("--restart", help="a command that restarts the server")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/killed_workers"))
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    make_images(options.out / NAME)
    (options.out / "small.py").write_text(PLUGIN)
    quiet = Workers(options, options.out / "quiet", None)
    if not options.only_killed:
        quiet.start_search()
        quiet.wait()
    disturbed = Workers(options, options.out / "runs", options.storage)
    began = time.monotonic()
    disturb(disturbed, options)
    seconds = time.monotonic() - began
    for line in table_head("", "trials", "interrupted", "score", "test", "95 % interval"):
        print(line)
    runs = {"undisturbed, one worker": quiet, "killed": disturbed}
    for name, workers in runs.items():
        if workers is disturbed or not options.only_killed:
            print(table_row(name, *workers.results()))
    print(f"\n{disturbed.kills} kills of {options.workers} workers in {seconds:.0f} s")
    faults = disturbed.faults(options.trials)
    print("\n".join(f"FAULT: {fault}" for fault in faults) or "no fault")
    sys.exit(bool(faults))


def make_images(folder: Path, classes: int = 4, count: int = 60) -> None:
    """Write noisy images of a few colours, which are not told apart perfectly."""
    generator = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        colour = 110 + 4 * np.eye(4)[label][:3]  # a pixel has a standard deviation of 60
        for i in range(count):
            pixels = generator.normal(colour, 60, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{i}.png")


class Workers:
    """The processes that run one study."""

    def __init__(self, options: argparse.Namespace, out: Path, storage: str | None) -> None:
        self.options, self.out = options, out
        self.storage = storage or f"sqlite:///{out}/autotl.db"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.kills = 0
        out.mkdir(parents=True, exist_ok=True)

    def start_search(self, *more: str) -> None:
        """Start the search, or a process that joins or continues it."""
        plugin = self.options.out / "small.py"
        words = ["search", str(self.options.out / NAME), "--plugin", str(plugin)]
        words += ["--backbone", "small", "--trials", str(self.options.trials), "--no-history"]
        for option, names in (("head", HEADS), ("freeze", STRATEGIES)):
            words += [f"--{option}={name}" for name in names]
        words += ["--epochs", str(self.options.epochs), "--precision", "float32"]
        self.start(*words, *more)

    def start(self, *words: str) -> None:
        """Start a process that runs a command of autotl."""
        with (self.out / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "autotl", *words, "--out", str(self.out), "--device", "cpu"],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1", "AUTOTL_STORAGE": self.storage},
            )
        self.processes.append(process)

    def replace_the_dead(self) -> None:
        """Start a worker in the place of each that was killed."""
        dead = [process for process in self.processes if process.poll() not in (None, 0)]
        for process in dead:
            self.processes.remove(process)
            self.start_search("--join", "--quiet")

    def alive(self) -> list[subprocess.Popen[bytes]]:
        """The processes that have not ended."""
        return [process for process in self.processes if process.poll() is None]

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process without a warning."""
        process.kill()
        process.wait()
        self.kills += 1

    def wait(self) -> None:
        """Wait until all processes have ended."""
        for process in self.processes:
            process.wait()

    def open(self) -> closing[Store]:
        """Open the database."""
        return closing(Store(self.storage))

    def results(self) -> tuple[str, ...]:
        """The cells of the table: trials, interrupted trials, score, test score, its interval."""
        with self.open() as store:
            rows, facts, tests = store.trials(NAME), store.study(NAME), store.tests(NAME)
        interrupted = sum(row.status == "interrupted" for row in rows)
        best = facts.model.contender.mean if facts.model else float("nan")
        result = tests[-1].result
        interval = f"{result.low:.3f} to {result.high:.3f}"
        return str(len(rows)), str(interrupted), f"{best:.4f}", f"{result.score:.4f}", interval

    def faults(self, trials: int) -> list[str]:
        """Return everything that is not as it must be."""
        with self.open() as store:
            rows, facts, tests = store.trials(NAME), store.study(NAME), store.tests(NAME)
            repeats = [row for row in store.repeats(NAME) if row.kind == "trial"]
            study = optuna.load_study(study_name=NAME, storage=store.storage)
            states = {t.number: t.state.name for t in study.get_trials(deepcopy=False)}
        counted = [row for row in rows if row.status != "interrupted"]
        recipes = Counter(tuple(row.facts.recipe) for row in counted if row.facts.recipe)
        done = [row for row in tests if row.done]
        keys = [(row.trial, row.repeat) for row in repeats]
        selection = facts.selection
        checks = {
            f"the state is {facts.state}": facts.state == "done",
            f"{len(counted)} trials instead of {trials}": len(counted) == trials,
            "a trial is running": not any(row.status == "running" for row in rows),
            "a recipe was tried twice": max(recipes.values(), default=0) <= 1,
            "Optuna and the store disagree": not list(disagreements(rows, states)),
            f"{len(done)} tests": len(done) == 1,
            "the model was not refitted": bool(facts.model and facts.model.refitted),
            "there is no final selection": selection is not None,
            "a repeat is there twice": len(keys) == len(set(keys)),
            "a repeat is missing": selection is not None
            and all(
                len(c.scores) >= selection.repeats
                for c in selection.contenders
                if c.kind == "trial"
            ),
        }
        return [fault for fault, is_right in checks.items() if not is_right]


def disagreements(rows: list[TrialRow], states: dict[int, str]) -> list[int]:
    """The numbers of the trials about which Optuna says something else than the store."""
    names = {"complete": "COMPLETE", "pruned": "PRUNED"}
    own = {row.number: names.get(row.status, "FAIL") for row in rows}
    waiting = {n for n, state in states.items() if state == "WAITING"}
    return [n for n, state in states.items() if n not in waiting and own.get(n) != state]


def disturb(workers: Workers, options: argparse.Namespace) -> None:
    """Run the study while its processes are killed, one is stopped, and the server restarts."""
    generator = random.Random(options.seed)
    for _ in range(options.workers):
        workers.start_search("--join", "--quiet")
    wait_for_trials(workers, 2)
    asleep: tuple[subprocess.Popen[bytes], float] | None = None
    while workers.alive() and not is_done(workers):
        time.sleep(generator.expovariate(1 / options.every))
        if asleep and time.monotonic() > asleep[1]:
            asleep[0].send_signal(signal.SIGCONT)
            asleep = None
        candidates = [p for p in workers.alive() if not asleep or p is not asleep[0]]
        if workers.kills < options.kills and candidates:
            victim = generator.choice(candidates)
            if workers.kills == options.kills // 3:
                victim.send_signal(signal.SIGSTOP)
                asleep = victim, time.monotonic() + DEAD_SECONDS + 15.0
                workers.kills += 1
                continue
            workers.kill(victim)
            if workers.kills == options.kills // 2 and options.restart:
                subprocess.run(shlex.split(options.restart), check=True, capture_output=True)
        workers.replace_the_dead()
    if asleep:
        asleep[0].send_signal(signal.SIGCONT)
    workers.wait()


def wait_for_trials(workers: Workers, count: int) -> None:
    """Wait until a number of trials are complete."""
    while workers.alive():
        time.sleep(1.0)
        try:
            with workers.open() as store:
                if sum(row.status == "complete" for row in store.trials(NAME)) >= count:
                    return
        except Exception:  # the tables are being made
            continue


def is_done(workers: Workers) -> bool:
    """Whether the study has ended."""
    with workers.open() as store:
        return store.state(NAME) == "done"


if __name__ == "__main__":
    main()
