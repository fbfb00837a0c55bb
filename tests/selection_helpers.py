"""Helpers for tests of the end of a search: what is trained, and which contender is the best."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from images import FAST

from autotl import data, study, training
from autotl.data import Resample
from autotl.events import Event, Note
from autotl.search import selection_budget
from autotl.search.leaderboard import Leaderboard
from autotl.selection.final_selection import FinalSelection
from autotl.selection.repeats import Repeats
from autotl.store import (
    Contender,
    Kind,
    Member,
    RepeatRow,
    Selection,
    Store,
    StudyFacts,
    TestRow,
    with_costs,
)

Make = Callable[..., study.StudyConfig]
"""Makes the settings of a search; keywords change them."""

SMALL = {"freeze": ["linear_probe", "last_blocks"], "head": ["linear"], "trials": 3}
"""A space in which a search of three trials has a linear probe, a default recipe and another."""

ALIKE = {"freeze": ["last_blocks", "lp_ft"], "head": ["linear"], "trials": 3}
"""A space whose contenders all have the same layers, so that their weights can be averaged."""

MISLABELLED = "blue/red.png"
"""A red image among the blue ones, in the searches of ``Search``."""


@dataclass(frozen=True)
class Search:
    """A finished search, and the trainings of its final selection."""

    settings: study.StudyConfig
    facts: StudyFacts
    repeats: list[training.Job]
    dataset: data.Dataset

    @property
    def selection(self) -> Selection:
        """The final selection, which was held."""
        assert self.facts.selection
        return self.facts.selection

    @property
    def singles(self) -> list[Contender]:
        """The contenders that are single trials, best first."""
        return [c for c in self.selection.contenders if c.kind == "trial"]


@dataclass(frozen=True)
class Finished:
    """A copy of a finished study that a test may change: its settings, and its first result."""

    settings: Make
    summary: dict[str, Any]
    notes: Sequence[Event] = ()
    kind: Kind = "trial"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.settings().folder


class Spy:
    """Records every training; ``fails`` is called before each and may return an exception."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jobs: list[training.Job] = []
        self.fails: Callable[[training.Job], BaseException | None] = lambda job: None
        fine_tune = training.fine_tune

        def spied(model: Any, config: Any, job: training.Job) -> Any:
            self.jobs.append(job)
            if error := self.fails(job):
                raise error
            return fine_tune(model, config, job)

        monkeypatch.setattr(training, "fine_tune", spied)

    @property
    def repeats(self) -> list[training.Job]:
        """Those of the final selection: they alone have a seed that is not that of the study."""
        return [job for job in self.jobs if job.seed]


def open_store(settings: study.StudyConfig) -> closing[Store]:
    """The database of a study."""
    return closing(Store(f"sqlite:///{settings.out}/autotl.db"))


def read_facts(settings: study.StudyConfig) -> StudyFacts:
    """The facts of a study."""
    with open_store(settings) as store:
        return store.study(settings.name)


def read_selection(settings: study.StudyConfig) -> Selection:
    """The final selection of a study that had one."""
    selection = read_facts(settings).selection
    assert selection
    return selection


def singles(selection: Selection) -> list[Contender]:
    """The contenders that are single trials, best first."""
    return [c for c in selection.contenders if c.kind == "trial"]


def read_tests(settings: study.StudyConfig) -> list[TestRow]:
    """The openings of the test split."""
    with open_store(settings) as store:
        return store.tests(settings.name)


def read_repeats(settings: study.StudyConfig) -> list[RepeatRow]:
    """The repeats of all contenders."""
    with open_store(settings) as store:
        return store.repeats(settings.name)


def forget_predictions(settings: study.StudyConfig) -> None:
    """Delete the predictions of all repeats, so that they are trained once more."""
    for file in (settings.out / "cache" / "repeats").glob("*.npy"):
        file.unlink()


def hash_model(folder: Path) -> str:
    """A digest of the weights in a run folder."""
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


def texts(events: Sequence[Event], *, warnings: bool = False) -> list[str]:
    """The texts of the notes, or of the warnings alone."""
    return [e.text for e in events if isinstance(e, Note) and (e.warning or not warnings)]


def configure(folder: Path, out: Path, **options: Any) -> study.StudyConfig:
    """Settings of a quick search on ``folder/photos`` with ``folder/tiny_plugin.py``."""
    values = {"backbone": ["tiny"], "plugin": [folder / "tiny_plugin.py"], "out": out, **FAST}
    return study.configure(str(folder / "photos"), {**values, **options})


def copy(images: Path, runs: Path, out: Path, **options: Any) -> Make:
    """Copy a study; the settings that are returned continue it."""
    shutil.copytree(runs, out)
    return partial(configure, images, out, **options)


def make_quick(patch: pytest.MonkeyPatch) -> None:
    """Three repeats instead of five, of all trials, as if any might be the best."""
    patch.setattr(selection_budget, "PREFERRED_REPEATS", (3,))
    patch.setattr(Leaderboard, "tied", lambda self: set(self.rows))


_train = Repeats._train
_combinations = FinalSelection._combinations


def favour(monkeypatch: pytest.MonkeyPatch, freeze: str) -> None:
    """Let contenders with this strategy score well in their repeats, and all others badly.

    The database has the scores that they had.
    """

    def train(self: Repeats, contender: Contender, resample: Resample, deadline: float) -> None:
        _train(self, contender, resample, deadline)
        assert contender.config
        results, number = self._results[contender.lead], resample.number
        score = 0.7 if freeze in contender.config["freeze"] else 0.3 + 0.01 * number
        results[number] = replace(results[number], score=score)

    monkeypatch.setattr(Repeats, "_train", train)


def score_combination(
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    score: float,
    weights: tuple[float, float] = (0.75, 0.25),
) -> None:
    """Let the only combination be an ensemble of two contenders, or the soup, with this score."""

    def combinations(self: FinalSelection, contenders: Sequence[Contender]) -> list[Contender]:
        found = {c.kind: c for c in _combinations(self, contenders)}
        first, second = contenders[:2]
        pairs = zip((first, second), weights, strict=True)
        mixed = Contender(
            kind="ensemble",
            role="ensemble",
            members=tuple(Member(trial=c.lead, weight=weight) for c, weight in pairs),
            predictions=tuple(
                weights[0] * a + weights[1] * b
                for a, b in zip(first.predictions, second.predictions, strict=True)
            ),
        )
        found["ensemble"] = with_costs(mixed, [first, second])
        return [found[kind].model_copy(update={"scores": (score,) * self.repeats.count})]

    monkeypatch.setattr(FinalSelection, "_combinations", combinations)
