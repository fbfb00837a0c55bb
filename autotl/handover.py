"""What the user gets: the winner refitted, in a model folder, tested once on the sealed part."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from autotl import artifact, calibration, card, finetune, gallery, metrics, progress, space, study
from autotl.errors import StudyError, TrialEnd
from autotl.model import Model
from autotl.space import Config
from autotl.store import TrialRow
from autotl.trials import Trials

EXPLAINING = 10.0
"""Seconds that may be spent on saying what in the pictures misled the model."""


def stands(trials: Trials, winner: TrialRow) -> bool:
    """Whether the model in the run folder is the winner's, refitted and tested before."""
    done = [test.trial for test in trials.store.tests(trials.name) if test.facts]
    folder = trials.settings.folder / "model"
    return bool(done) and done[-1] == winner.number and folder.is_dir()


def hand_over(
    trials: Trials, winner: TrialRow, versions: dict[str, str], spare: Model | None
) -> None:
    """Refit the winner on train and validation, save the model, open the test part once.

    Args:
        trials: The study.
        winner: Whose configuration it is.
        versions: Of the libraries.
        spare: A model of this configuration that has learned from a part of the pictures; it is
            taken when the refit does not come to its end, and that is said.

    Raises:
        StudyError: The refit failed, and there is no spare model.
    """
    config = trials.trainings.config(winner)
    began = time.monotonic()
    network, refitted = spare, False
    try:
        network, refitted = _refit(trials, winner, config, bool(spare)), True
    except TrialEnd as end:
        if network is None:
            raise StudyError(f"the refit of trial {winner.number} ended early: {end}") from None
        text = f"the winner was not refitted ({end}); its model has learned from a part of the data"
        trials.watch(progress.Note(text, warning=True))
    seconds = time.monotonic() - began
    save(trials, winner, network, versions, refitted=refitted)
    if _may_open(trials, winner):
        with trials.budget.stage("test"):
            _test(trials, winner, config, refit_seconds=seconds, refitted=refitted)
    trials.store.update(trials.name, openings=len(trials.store.tests(trials.name)))


def _refit(trials: Trials, winner: TrialRow, config: Config, spare: bool) -> Model:
    """The winner's training again, on train and validation."""
    name = "refitting the winner on train + validation"
    trials.watch(progress.Stage(name, 0, winner.epochs))
    network = trials.trainings.build(config)
    task = trials.trainings.again(winner, network, "train", "validation")
    if spare:  # without anything to fall back on, late is better than never
        task.deadline = trials.budget.grace(trials.board.test_seconds(winner))
    with trials.budget.stage("refit"):
        for epoch in finetune.fine_tune(network, config, task):
            trials.watch(progress.Stage(name, epoch.number, winner.epochs))
    return network


def save(
    trials: Trials,
    winner: TrialRow,
    network: Model,
    versions: dict[str, str],
    *,
    refitted: bool = False,
) -> None:
    """Write ``model/`` and ``recipe.toml`` into the run folder."""
    folder, config = trials.settings.folder, trials.trainings.config(winner)
    weights = config["backbone"].plugin.given.get("weights")
    source = {
        "backbone": config["backbone"].name,
        "origin": weights.origin if weights else config["backbone"].plugin.origin,
        "licence": weights.licence if weights else "unknown",
    }
    trials.store.update(trials.name, weights=source)
    training = {
        **trials.trainings.decisive(),
        "epochs": winner.epochs,
        "views": winner.facts["views"],
        "image_size": network.expects.size,
    }
    facts: dict[str, Any] = {
        "data": {"source": trials.dataset.source, "fingerprint": trials.dataset.fingerprint},
        "weights": source,
        "training": {**space.to_json(config), **training},
        "versions": versions,
    }
    if temperature := _temperature(trials):
        facts["temperature"] = temperature
    artifact.save(folder / "model", network, config, trials.dataset.classes, facts)
    _write_card(trials, winner, refitted=refitted)
    study.write_recipe(
        folder / "recipe.toml",
        space.to_json(config),
        {"data": str(Path(trials.dataset.source)), **training, "versions": versions},
    )


def _temperature(trials: Trials) -> float | None:
    """What was found for the winner, if it was."""
    found = trials.store.require(trials.name).get("calibration") or {}
    temperature: float | None = found.get("temperature")
    return temperature


def _write_card(trials: Trials, winner: TrialRow, **evidence: Any) -> None:
    """The model card, with all that is known of how good the model is."""
    facts = trials.store.require(trials.name)
    count = len(trials.dataset.indices("validation"))
    score, low, high = winner.score, None, None  # one split has no interval for other metrics
    if trials.metric.name == "accuracy" and score is not None:
        low, high = metrics.wilson(score, count)
    known = {
        "metric": trials.metric.name,
        "pictures": {p: len(trials.dataset.indices(p)) for p in ("train", "validation", "test")},
        "validation": {"score": score, "low": low, "high": high, "n": count},
        "finals": facts.get("finals"),
        "optimism": (facts.get("finals") or {}).get("optimism"),
        "calibration": facts.get("calibration"),
    }
    card.write(trials.settings.folder / "model", trials.name, {**known, **evidence})


def _may_open(trials: Trials, winner: TrialRow) -> bool:
    """Whether the test part may be looked at for this winner: not after it was for another.

    Who tests winner after winner and keeps the one that tests best has chosen by the test.
    """
    before = {test.trial for test in trials.store.tests(trials.name)} - {winner.number}
    if not before or trials.settings.again:
        return bool(len(trials.dataset.indices("test")))
    trials.watch(
        progress.Note(
            f"trial {winner.number} was not tested: the test part was opened before, for trial "
            f"{', '.join(map(str, sorted(before)))}; use --again to open it once more, and the "
            "report will say so",
            warning=True,
        )
    )
    return False


def _test(
    trials: Trials, winner: TrialRow, config: Config, *, refit_seconds: float, refitted: bool
) -> None:
    """Score the saved model on the test part, calibrated as ``autotl predict`` answers."""
    rows = trials.dataset.indices("test")
    trials.watch(progress.Stage("opening the test part"))
    opening = trials.store.open_test(trials.name, winner.number, space.to_json(config))
    predictor = artifact.load(trials.settings.folder / "model", trials.registry, trials.where)
    batches = trials.trainings.batches(predictor.network, "test")
    raw = finetune.predict(predictor.network, batches, predictor.where)
    probabilities = calibration.scaled(raw, predictor.temperature)
    labels = trials.dataset.labels[rows]
    low, high = metrics.interval(trials.metric, labels, probabilities, trials.settings.seed)
    images, _ = next(iter(batches))
    tested = {
        "score": trials.metric.score(labels, probabilities),
        "low": low,
        "high": high,
        "n": len(rows),
        "ece": calibration.expected_error(labels, probabilities),
        "ms_per_item": finetune.milliseconds_per_picture(
            predictor.network, images[:32], predictor.where
        ),
        "parameters": winner.parameters,
        "learned_parameters": winner.learned_parameters,
        "refit_seconds": refit_seconds,
        "refitted": refitted,
        **_by_class(metrics.confusion(labels, probabilities), trials.dataset.classes),
    }
    wrong = gallery.mistakes(trials.dataset, rows, probabilities)
    seconds = min(EXPLAINING, trials.budget.left - trials.budget.fixed / 2)
    tested["mistakes"] = gallery.explained(wrong, trials.dataset, predictor.network, seconds)
    trials.store.close_test(opening, **tested)
    _write_card(trials, winner, test=tested, refitted=refitted)


def _by_class(confusion: list[list[int]], classes: tuple[str, ...]) -> dict[str, Any]:
    """The confusion matrix, and the recall of each class; None for one without a picture."""
    per_class = [
        {"class": name, "n": sum(row), "score": row[i] / sum(row) if sum(row) else None}
        for i, (name, row) in enumerate(zip(classes, confusion, strict=True))
    ]
    return {"per_class": per_class, "confusion": confusion}
