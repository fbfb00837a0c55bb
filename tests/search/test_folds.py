"""Cross-validated trials: what trains and what is predicted, and what ends between two folds."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from images import read_trials, write_images

from autotl import engine, study, training
from autotl.data.split import draw_folds
from autotl.errors import OutOfTime, StudyError
from autotl.events import Event, Note, Stage
from autotl.scoring import metrics
from autotl.scoring.intervals import score_interval
from autotl.search.folds import predicted_indices, unit_folds
from autotl.search.ranking import rank
from autotl.search.resume import PROBED_WITH
from autotl.search.trials import TrialLoop
from autotl.store import Store, TrialRow
from autotl.training import Job
from autotl.training.frozen_inputs import FrozenInputs

Make = Callable[..., study.StudyConfig]
Run = Callable[..., engine.Result]

FOLDS = 3


@pytest.fixture
def options() -> dict[str, Any]:
    """A study of three trials: a linear probe, and two that train the backbone."""
    freeze = ["linear_probe", "last_blocks", "full"]
    return {"folds": FOLDS, "trials": 3, "freeze": freeze, "head": ["linear"], "epochs": 2}


@pytest.fixture(autouse=True)
def _always_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.checkpoint, "SAVE_FRACTION", 1e9)


class Spy:
    """Records the jobs of all trainings, and the context of the trials."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jobs: list[Job] = []
        self.epochs = 0
        self.dataset: Any = None
        train, init = training.fine_tune, TrialLoop.__init__

        def fine_tune(model: Any, config: Any, job: Job) -> Iterator[Any]:
            self.jobs.append(job)
            saved = len(job.checkpoint.facts.get("epochs", [])) if job.checkpoint else 0
            for epoch in train(model, config, job):
                self.epochs += epoch.number > saved
                yield epoch

        def make(loop: TrialLoop, *arguments: Any) -> None:
            init(loop, *arguments)
            self.dataset = loop.context.dataset

        monkeypatch.setattr(training, "fine_tune", fine_tune)
        monkeypatch.setattr(TrialLoop, "__init__", make)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(monkeypatch)


def store_of(settings: study.StudyConfig) -> Store:
    return Store(f"sqlite:///{settings.out}/autotl.db")


def results(rows: list[TrialRow]) -> list[tuple[Any, ...]]:
    return [(row.config, row.score, row.contributions) for row in rows if row.score is not None]


# ---------------------------------------------------------------- what is trained and scored


def test_each_image_is_predicted_once_by_a_model_that_did_not_train_on_it(
    settings: Make, run_trials: Run, options: dict[str, Any], spy: Spy, tmp_path: Path
) -> None:
    photos = write_images(tmp_path / "photos", count=10, noise=100)
    for name in ("red", "blue"):
        for i in range(4):  # copies of images
            (photos / name / f"copy{i}.png").write_bytes((photos / name / f"{i}.png").read_bytes())
    chosen = settings(**options, data=str(photos))
    run_trials(chosen)
    rows, dataset = read_trials(chosen), spy.dataset
    assert [row.status for row in rows] == ["complete"] * 3
    units, pool = np.array(dataset.units), dataset.indices("train", "validation")
    assert len(spy.jobs) == FOLDS * len(rows)
    store = store_of(chosen)
    for number, row in enumerate(rows):
        jobs = spy.jobs[number * FOLDS : (number + 1) * FOLDS]
        predicted = []
        for job in jobs:
            assert job.validation
            trained, validated = job.train.indices, job.validation.indices
            assert not set(units[trained]) & set(units[validated])
            assert set(trained) | set(validated) == set(pool)
            predicted += validated.tolist()
        assert sorted(predicted) == pool.tolist()
        assert len({job.seed for job in jobs}) == FOLDS
        # The score and its interval are those of the pooled predictions.
        probabilities = store.predictions("photos", number)
        assert probabilities is not None
        labels = dataset.targets[pool]
        accuracy = metrics.get("accuracy")
        assert row.score == pytest.approx(accuracy.score(labels, probabilities))
        low, high = score_interval(accuracy, labels, probabilities, units[pool])
        assert (row.facts.low, row.facts.high) == pytest.approx((low, high))
        assert (row.facts.folds, row.epochs) == (FOLDS, 2)
        # The epochs are those of the first fold, and Optuna has the same.
        first = dataset.folds[pool] == 0
        of_first = accuracy.score(labels[first], probabilities[first])
        epochs = store.epochs("photos", number)
        assert [epoch.epoch for epoch in epochs] == [1, 2]
        assert epochs[-1].score == pytest.approx(of_first)
    url = f"sqlite:///{chosen.out}/autotl.db"
    for trial, row in zip(
        optuna.load_study(study_name="photos", storage=url).trials, rows, strict=True
    ):
        assert trial.value == row.score
        curve = {epoch.epoch: epoch.score for epoch in store.epochs("photos", row.number)}
        assert trial.intermediate_values == curve
    assert not list((chosen.out / "cache" / "checkpoints").glob("*"))


def test_one_seed_gives_one_result(settings: Make, run_trials: Run, options: Any) -> None:
    scores = []
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        chosen = settings(**options, study=name, seed=seed)
        run_trials(chosen)
        scores.append(results(read_trials(chosen)))
    assert scores[0] == scores[1] != scores[2]


def test_features_are_computed_once_for_all_folds(
    settings: Make, run_trials: Run, options: Any, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[tuple[int, int]] = []
    compute = FrozenInputs._compute_single

    def record(inputs: FrozenInputs, batches: Any, missing: Any, view: int | None) -> Any:
        computed.extend((int(i), view or 0) for i in missing)
        return compute(inputs, batches, missing, view)

    monkeypatch.setattr(FrozenInputs, "_compute_single", record)
    run_trials(settings(**{**options, "trials": 1, "augment": ["flip_crop"]}))
    assert len(spy.jobs) == FOLDS
    assert len(computed) == len(set(computed))
    assert {i for i, _ in computed} == set(spy.dataset.indices("train"))


def test_several_heads_are_cross_validated_together(settings: Make, run_trials: Run) -> None:
    heads = ["linear", "logistic_regression", "mlp", "lda"]
    chosen = settings(folds=FOLDS, trials=12, head=heads, freeze=["linear_probe"], epochs=2)
    run_trials(chosen)
    rows, url = read_trials(chosen), f"sqlite:///{chosen.out}/autotl.db"
    assert all(row.facts.folds == FOLDS for row in rows if row.status == "complete")
    trials = optuna.load_study(study_name="photos", storage=url).trials
    others = [t.number for t in trials if PROBED_WITH in t.user_attrs]
    assert len(others) == 2
    # A head that is trained with others has the score that it has alone.
    for number in others:
        config = rows[number].config
        names = {kind: list(config[kind]) for kind in config}
        alone = settings(
            **names, folds=FOLDS, trials=1, study=f"alone {number}", space=config, epochs=2
        )
        run_trials(alone)
        assert read_trials(alone)[0].score == rows[number].score
        same, single = (
            store_of(chosen).predictions(s.name, n) for s, n in [(chosen, number), (alone, 0)]
        )
        np.testing.assert_allclose(single, same, atol=1e-3)


# ---------------------------------------------------------------- interruption


def test_an_interrupted_fold_is_continued(
    settings: Make, run_trials: Run, options: Any, spy: Spy
) -> None:
    whole = settings(**options, study="whole")
    run_trials(whole)
    expected, epochs = results(read_trials(whole)), spy.epochs

    def interrupt(event: Event) -> None:
        if event == Stage("cross-validating trial 1", 2, FOLDS):
            raise KeyboardInterrupt

    chosen = settings(**options, study="photos")
    spy.epochs = 0
    assert run_trials(chosen, interrupt).interrupted
    rows = read_trials(chosen)
    assert [row.status for row in rows] == ["complete", "interrupted"]
    assert list((chosen.out / "cache" / "checkpoints").glob("*"))
    notes: list[str] = []
    run_trials(chosen, lambda e: notes.append(e.text) if isinstance(e, Note) else None)
    assert results(read_trials(chosen)) == expected
    assert spy.epochs == epochs  # no epoch was trained twice
    assert "trial 2 continues after epoch 2 of 2" in notes
    assert not list((chosen.out / "cache" / "checkpoints").glob("*"))


def test_the_number_of_folds_belongs_to_the_study(
    settings: Make, run_trials: Run, options: Any
) -> None:
    run_trials(settings(**options))
    with pytest.raises(StudyError, match="has folds=3, not 4"):
        run_trials(settings(**{**options, "folds": 4}))


# ---------------------------------------------------------------- the end of the time


def end_in(monkeypatch: pytest.MonkeyPatch, training_number: int) -> None:
    """End the time in a training, counted from 1, and in all later ones."""
    train, count = training.fine_tune, 0

    def fine_tune(model: Any, config: Any, job: Job) -> Iterator[Any]:
        nonlocal count
        count += 1
        if count >= training_number:
            raise OutOfTime("the time budget ended inside an epoch")
        yield from train(model, config, job)

    monkeypatch.setattr(training, "fine_tune", fine_tune)


def test_a_trial_that_lacks_a_fold_is_out_of_time(
    settings: Make, run_trials: Run, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_in(monkeypatch, 2 * FOLDS)
    chosen = settings(**{**options, "trials": 2})
    run_trials(chosen)
    rows = read_trials(chosen)
    assert [row.status for row in rows] == ["complete", "out_of_time"]
    assert rows[1].reason == "the time budget ended inside an epoch, in fold 3 of 3"
    assert (rows[1].score, rows[1].facts.folds, rows[1].contributions) == (None, None, None)
    assert not list((chosen.out / "cache" / "checkpoints").glob("*"))


def test_the_only_trial_is_scored_on_the_folds_that_it_completed(
    settings: Make, options: Any, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_in(monkeypatch, FOLDS)
    notes: list[str] = []
    chosen = settings(**{**options, "trials": 1})
    result = engine.run(chosen, lambda e: notes.append(e.text) if isinstance(e, Note) else None)
    [row] = read_trials(chosen)
    assert (row.status, row.facts.folds) == ("complete", 2)
    assert any("trial 0 is scored on 2 of 3 folds" in note for note in notes)
    indices = predicted_indices(spy.dataset, 2)
    probabilities = store_of(chosen).predictions("photos", 0)
    assert probabilities is not None
    assert len(indices) == len(probabilities) < len(predicted_indices(spy.dataset))
    score = metrics.get("accuracy").score(spy.dataset.targets[indices], probabilities)
    assert row.score == pytest.approx(score)
    assert any("its model was trained on a part of the data" in note for note in notes)
    assert (result.folder / "model" / "model.safetensors").exists()
    lines = (result.folder / "out_of_fold.csv").read_text().splitlines()
    assert len(lines) == 1 + len(indices)
    assert result.summary["calibration"] is None
    monkeypatch.undo()  # with more time the same trial is not a duplicate, and ranks first
    more = settings(**{**options, "trials": 2, "freeze": ["linear_probe"]})
    run_all = engine.run(more)
    assert run_all.summary["best"]["trial"] == 1
    assert [r.number for r in rank(read_trials(more), "maximize")] == [1, 0]


# ---------------------------------------------------------------- the result


def test_the_winners_predictions_are_written(settings: Make, options: Any, spy: Spy) -> None:
    result = engine.run(settings(**options))
    summary, dataset = result.summary, spy.dataset
    pool = dataset.indices("train")
    assert summary["data"]["folds"] == FOLDS
    assert (summary["data"]["train"], summary["data"]["validation"]) == (len(pool), 0)
    assert summary["selection"] is None
    assert summary["test"]["n"] == len(dataset.indices("test"))
    assert summary["calibration"]["n"] == len(pool)
    with (result.folder / "out_of_fold.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["name", "label", "fold", "predicted", *dataset.outputs]
    assert [row["name"] for row in rows] == [dataset.examples[i].name for i in pool]
    assert [row["label"] for row in rows] == [dataset.examples[i].label for i in pool]
    assert [int(row["fold"]) for row in rows] == (dataset.folds[pool] + 1).tolist()
    for row in rows:
        p = [float(row[name]) for name in dataset.outputs]
        assert sum(p) == pytest.approx(1, abs=1e-2)
        assert row["predicted"] == dataset.outputs[int(np.argmax(p))]
    if summary["best"]["kind"] == "trial":
        right = np.mean([row["label"] == row["predicted"] for row in rows])
        assert summary["best"]["validation"]["mean"] == pytest.approx(right)
    report = (result.folder / "report.html").read_text()
    assert f"in a cross-validation with {FOLDS} folds, by which it was selected" in report
    card = (result.folder / "model" / "README.md").read_text()
    assert f"in {FOLDS} folds, used to select the model | {len(pool)} |" in card
    assert "folds = 3" in (result.folder / "recipe.toml").read_text()


def test_a_recipe_is_cross_validated_too(settings: Make, options: Any) -> None:
    result = engine.run(settings(**{**options, "trials": 2}))
    recipe = study.configure_recipe(
        result.folder / "recipe.toml", None, {"out": result.folder.parent / "again"}
    )
    assert recipe.folds == FOLDS
    again = engine.run(recipe)
    best, same = result.summary["best"], again.summary["best"]
    assert same["config"] == best["config"]
    assert same["validation"] == best["validation"]
    assert (again.folder / "out_of_fold.csv").exists()


# ---------------------------------------------------------------- pure functions


def test_the_folds_of_units_are_in_the_order_of_their_contributions() -> None:
    dataset: Any = SimpleNamespace(
        units=(4, 4, 2, 9, 7),
        folds=np.array([1, 1, 0, -1, 2]),
        scored_split="train",
        indices=lambda split: np.array([0, 1, 2, 4]),
    )
    assert unit_folds(dataset) == [0, 1, 2]  # of the units 2, 4 and 7
    assert predicted_indices(dataset, 2).tolist() == [0, 1, 2]
    assert unit_folds(SimpleNamespace(folds=None)) == []  # type: ignore[arg-type]


def test_a_cross_validation_selects_better_than_one_small_split() -> None:
    """Of two recipes, nearest means of better and of worse features, on 75 images."""
    n, folds, random = 75, 5, np.random.default_rng(0)
    chosen = {"split": 0, "folds": 0}
    studies = 300
    for _ in range(studies):
        labels = np.arange(n) % 3
        drawn = draw_folds(labels, range(n), folds, random)
        right = []
        for distance in (1.3, 1.0):
            means = distance * np.eye(3, 8)
            features = means[labels] + random.normal(size=(n, 8))
            correct = np.zeros(n)
            for fold in range(folds):
                trains = drawn != fold
                centres = [features[trains & (labels == c)].mean(0) for c in range(3)]
                distances = np.linalg.norm(features[:, None] - np.array(centres), axis=2)
                correct[~trains] = (distances.argmin(1) == labels)[~trains]
            right.append(correct)
        better, worse = right
        gap = better - worse + random.normal(0, 1e-9)  # equal scores are decided by chance
        chosen["folds"] += gap.sum() > 0
        chosen["split"] += gap[drawn == 0].sum() > 0
    assert chosen["folds"] > chosen["split"] + 0.1 * studies
