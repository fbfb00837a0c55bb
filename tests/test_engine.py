"""Whole searches on small pictures: what is found, kept and handed over."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from pictures import FAST, photos, plugin, rows

import autotl
from autotl import engine, progress, study
from autotl.errors import DataError, PluginError, StoreError, StudyError
from autotl.progress import EpochEnded, Event, Note, TrialEnded
from autotl.store import Store

Make = Callable[..., study.StudyConfig]


def test_a_search_finds_refits_tests_and_hands_over(settings: Make, tmp_path: Path) -> None:
    events: list[Event] = []
    heads = ["linear", "mlp", "logistic_regression"]
    result = engine.run(settings(head=heads), events.append)
    folder = tmp_path / "runs" / "photos"
    assert result.folder == folder
    assert sorted(p.name for p in folder.iterdir()) == [
        "issues.csv", "model", "recipe.toml", "report.html", "splits.csv", "summary.json",
    ]  # fmt: skip
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == result.summary
    assert sum(summary["trials"].values()) == 6
    assert summary["best"]["validation"]["mean"] > 0.8
    assert summary["test"]["score"] > 0.8
    assert summary["test"]["low"] < summary["test"]["score"] <= summary["test"]["high"]
    assert summary["test"]["n"] == summary["data"]["test"] == 12
    assert summary["baselines"]["linear_probe"]["trial"] in (0, 1)  # stepped to, and solved for
    assert summary["baselines"]["default_recipe"]["trial"] in (2, 3, 4)
    # the winner is the best of the complete trials
    scores = {r.number: r.score for r in rows(settings()) if r.end == "complete"}
    assert scores[summary["best"]["trial"]] == max(scores.values())
    # every epoch was shown, kept and reported to Optuna
    epochs = [e for e in events if isinstance(e, EpochEnded)]
    loaded = optuna.load_study(study_name="photos", storage=f"sqlite:///{tmp_path}/runs/autotl.db")
    reported = [len(t.intermediate_values) for t in loaded.trials]
    assert sum(reported) == len(epochs) >= 6
    assert loaded.trials[0].user_attrs["config"] == rows(settings())[0].config


def test_the_same_command_goes_on(settings: Make) -> None:
    whole = engine.run(settings(study="whole", trials=6))
    engine.run(settings(study="parts", trials=3))
    parts = engine.run(settings(study="parts", trials=6))
    made = {name: [r.config for r in rows(settings(study=name))] for name in ("whole", "parts")}
    assert made["whole"] == made["parts"]
    assert whole.summary["best"]["config"] == parts.summary["best"]["config"]
    notes: list[Event] = []
    again = engine.run(settings(study="parts", trials=6), notes.append)
    assert not [e for e in notes if isinstance(e, TrialEnded)]
    assert [e.text for e in notes if isinstance(e, Note)][-1].endswith("its model stands")
    assert again.summary["test"] == parts.summary["test"]
    assert len(Store(f"sqlite:///{settings().out}/autotl.db").tests("parts")) <= 2


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"epochs": 4}, "epochs=3, not 4"),
        ({"metric": "macro_f1"}, "metric=accuracy, not macro_f1"),
        ({"head": ["linear"]}, "another space (head was"),
    ],
)
def test_a_study_that_asks_something_else_is_refused(
    settings: Make, changed: dict[str, Any], says: str
) -> None:
    engine.run(settings(trials=1))
    with pytest.raises(StudyError, match="--study") as error:
        engine.run(settings(trials=2, **changed))
    assert says in str(error.value)


def test_other_pictures_under_the_same_name_are_refused(settings: Make, tmp_path: Path) -> None:
    engine.run(settings(trials=1))
    (tmp_path / "photos" / "red" / "0.png").unlink()
    with pytest.raises(StudyError, match="other pictures"):
        engine.run(settings(trials=2))


@pytest.mark.parametrize("budget", [12.0, 16.0])
def test_the_budget_holds_for_everything(settings: Make, budget: float) -> None:
    began = time.monotonic()
    result = engine.run(settings(budget=budget, trials=None, epochs=30))
    took = time.monotonic() - began
    assert took < budget + 10
    assert result.summary["test"] is not None
    assert result.summary["seconds"] == pytest.approx(took, abs=2)


def test_a_budget_too_short_for_anything_says_so(settings: Make) -> None:
    with pytest.raises(StudyError, match=r"too short for any trial .*: give more time"):
        engine.run(settings(budget=0.5, trials=None))


def test_the_packed_pictures_are_found_again(
    settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.run(settings(trials=1))
    monkeypatch.setattr("autotl.data.batches.decode", lambda *_: pytest.fail("decoded again"))
    engine.run(settings(trials=1, study="another"))


def test_errors_that_a_user_can_mend(settings: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'photos'"):
        engine.run(study.configure(str(tmp_path / "photo"), {"out": tmp_path / "runs"}))
    assert not (tmp_path / "runs").exists()  # a slip of the pen leaves nothing behind
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        engine.run(settings(out=tmp_path / "file"))
    with pytest.raises(PluginError, match="did you mean 'linear_probe'"):
        engine.run(settings(freeze=["linear_prob"]))
    with pytest.raises(StudyError, match="no metric is called 'acuracy'"):
        engine.run(settings(metric="acuracy"))


def test_search_from_python(tmp_path: Path) -> None:
    photos(tmp_path / "photos", count=8)
    result = autotl.search(
        tmp_path / "photos",
        trials=1,
        backbone="tiny",
        plugin=[plugin(tmp_path)],
        out=tmp_path / "runs",
        **FAST,
    )
    assert isinstance(result, engine.Result)
    assert result.best
    assert result.best["trial"] == 0
    assert progress.ignore(Note("x")) is None
