"""What the user gets: the winner refitted, in a model folder, tested once on the sealed part."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autotl import events, models, study, training
from autotl.artifact import model_card, model_folder
from autotl.errors import OutOfTime, StudyError, TrialStopped
from autotl.evaluation import error_analysis
from autotl.models import Model, ensemble
from autotl.models.ensemble import ENSEMBLE, SOUP
from autotl.scoring import calibration, metrics
from autotl.search.trials import Trials
from autotl.space import space
from autotl.store import TrialRow

EXPLAINING = 10.0
"""Seconds that may be spent on saying what in the pictures misled the model."""


FOUND = ("finals", "calibration", "doubtful")
"""The study's facts that are about its winner."""


@dataclass(frozen=True)
class Winner:
    """Whose model the user gets: a trial's, or what is made of several.

    Attributes:
        name: ``trial 7``, ``ensemble`` or ``soup``.
        trials: It is made of; the heaviest first.
        weights: Of each; their sum is 1.
    """

    name: str
    trials: tuple[TrialRow, ...]
    weights: tuple[float, ...] = (1.0,)

    @property
    def members(self) -> dict[str, float] | None:
        """The weights of the trials by their names; None of a single one."""
        if len(self.trials) == 1:
            return None
        names = [f"trial {row.number}" for row in self.trials]
        return dict(zip(names, self.weights, strict=True))

    @property
    def identity(self) -> dict[str, Any]:
        """What tells it from other winners: an ensemble of others is another one."""
        return {"candidate": self.name, "members": self.members}

    @property
    def epochs(self) -> int:
        """Of all its trainings."""
        return sum(row.epochs for row in self.trials)

    def combined(self, networks: Sequence[Model]) -> Model:
        """Its model, from those of its trials."""
        if self.name == ENSEMBLE:
            return ensemble.Ensemble(networks, self.weights)
        return ensemble.soup(networks) if self.name == SOUP else networks[0]


def handed_over(trials: Trials) -> dict[str, Any] | None:
    """Whose model is in the run folder; None of one that was not refitted.

    ``winner`` is its identity, ``trial`` the first that it is made of, and ``found`` what the
    study's facts said of it then.
    """
    saved: dict[str, Any] = trials.store.require(trials.name).get("model") or {}
    here = (trials.settings.folder / "model").is_dir()
    return saved if here and saved.get("refitted") else None


def proven(trials: Trials) -> dict[str, Any] | None:
    """What was handed over, if it won finals, may still be used, and was tested if it could be."""
    saved = handed_over(trials)
    if not saved or not saved["found"]["finals"]:
        return None
    who = saved["winner"]["candidate"], saved["winner"]["members"]
    tested = any(test.done and test.is_of(*who) for test in trials.store.tests(trials.name))
    here = any(row.number == saved["trial"] for row in trials.leaderboard.ranked())
    return saved if here and (tested or not len(trials.dataset.indices("test"))) else None


def stands(trials: Trials, winner: Winner) -> bool:
    """Whether the model in the run folder is the winner's, refitted and tested before."""
    saved = handed_over(trials)
    if not saved or saved["winner"] != winner.identity:
        return False
    return _tested(trials, winner, refitted=True) is not None


def remember(trials: Trials) -> None:
    """Note what the study's facts say now of the model that was handed over."""
    known = trials.store.require(trials.name)
    found = {key: known.get(key) for key in FOUND}
    trials.store.update(trials.name, model={**known["model"], "found": found})


def _tested(trials: Trials, winner: Winner, *, refitted: bool) -> dict[str, Any] | None:
    """What the last test of the winner's model showed, with or without a refit; None without."""
    found = [
        test.facts
        for test in trials.store.tests(trials.name)
        if test.done
        and test.is_of(winner.name, winner.members)
        and test.facts.get("refitted") == refitted
    ]
    return found[-1] if found else None


def hand_over(
    trials: Trials, winner: Winner, versions: dict[str, str], spare: Model | None
) -> None:
    """Refit the winner on train and validation, save the model, open the test part once.

    Args:
        trials: The study.
        winner: Whose model it is.
        versions: Of the libraries.
        spare: A model of the winner that has learned from a part of the pictures; it is taken when
            the refit does not come to its end, and that is said.

    Raises:
        StudyError: The refit failed, and there is no spare model.
    """
    began = time.monotonic()
    network, again = spare, False
    try:
        network, again = _refit(trials, winner, bool(spare)), True
    except TrialStopped as end:
        if network is None:
            raise StudyError(f"the refit of {winner.name} ended early: {end}") from None
        text = f"the winner was not refitted ({end}); its model has learned from a part of the data"
        trials.listener(events.Note(text, warning=True))
    seconds = time.monotonic() - began
    save(trials, winner, network, versions, refitted=again)
    if known := _tested(trials, winner, refitted=again):  # before another winner, now best again
        _write_card(trials, winner, test=known, refitted=again)
    elif _may_open(trials, winner):
        with trials.budget.stage("test"):
            _test(trials, winner, refit_seconds=seconds, refitted=again)
    trials.store.update(trials.name, openings=len(trials.store.tests(trials.name)))


def _refit(trials: Trials, winner: Winner, spare: bool) -> Model:
    """The winner's trainings again, on train and validation.

    With a spare model nothing is begun that cannot be ended, as several trainings where the time
    was left for one; without anything to fall back on, late is better than never.
    """
    budget, leaderboard = trials.budget, trials.leaderboard
    test = sum(map(leaderboard.test_seconds, winner.trials))
    needed = budget.refit * sum(map(leaderboard.again, winner.trials)) + test
    if spare and len(winner.trials) > 1 and needed > budget.left:
        raise OutOfTime(f"it would take {needed:.0f} s, and {budget.left:.0f} s are left")
    name, done = "refitting the winner on train + validation", 0
    trials.listener(events.Stage(name, done, winner.epochs))
    networks = []
    for row in winner.trials:
        config = trials.context.config(row)
        network = trials.context.build(config)
        task = trials.context.again(row, network, "train", "validation")
        if spare:
            task.deadline = budget.grace(test)
        with budget.stage("refit"):
            for _ in training.fine_tune(network, config, task):
                done += 1
                trials.listener(events.Stage(name, done, winner.epochs))
        networks.append(network)
    return winner.combined(networks)


def save(
    trials: Trials,
    winner: Winner,
    network: Model,
    versions: dict[str, str],
    *,
    refitted: bool = False,
) -> None:
    """Write ``model/`` and ``recipe.toml`` into the run folder.

    Of several as one, the heaviest has ``recipe.toml`` and the others ``recipe-2.toml``, ...
    """
    folder, context = trials.settings.folder, trials.context
    configs = [context.config(row) for row in winner.trials]
    source = _source([config["backbone"] for config in configs])
    trials.store.update(trials.name, weights=source, model=None)
    for old in folder.glob("recipe-[2-9].toml"):
        old.unlink()
    recipes = []
    given = _given(trials)
    for number, (row, config) in enumerate(zip(winner.trials, configs, strict=True), start=1):
        training = {
            **context.decisive(),
            "epochs": row.epochs,
            "views": row.facts["views"],
            "image_size": network.expects.size,
        }
        file = folder / ("recipe.toml" if number == 1 else f"recipe-{number}.toml")
        where = {**given, **training, "versions": versions}
        study.write_recipe(file, space.to_json(config), where, of=len(configs))
        recipes.append({**space.to_json(config), **training})
    facts: dict[str, Any] = {
        "data": {"source": trials.dataset.source, "fingerprint": trials.dataset.fingerprint},
        "weights": source,
        "training": recipes[0],
        "versions": versions,
    }
    if len(configs) > 1:
        parts = zip((winner.members or {}).items(), recipes, strict=True)
        members = [{"name": n, "weight": w, "training": r} for (n, w), r in parts]
        facts["made_of"] = {"kind": winner.name, "members": members}
    if temperature := _temperature(trials):
        facts["temperature"] = temperature
    others = configs[1:] if winner.name == ENSEMBLE else []
    model_folder.save(
        folder / "model", network, configs[0], trials.dataset.classes, facts, others=others
    )
    known = trials.store.require(trials.name)
    saved = {
        "winner": winner.identity,
        "trial": winner.trials[0].number,
        "refitted": refitted,
        "found": {key: known.get(key) for key in FOUND},
    }
    trials.store.update(trials.name, model=saved)
    _write_card(trials, winner, refitted=refitted)


def _given(trials: Trials) -> dict[str, Any]:
    """The data, the files of plugins and the folder of weights, as they are found from anywhere."""
    source, plugins = trials.dataset.source, trials.settings.plugin
    weights = trials.settings.weights
    found: dict[str, Any] = {"data": source}
    if Path(source).exists():
        found["data"] = str(Path(source).resolve())
    if plugins:
        found["plugin"] = [str(p.resolve()) for p in plugins]
    if weights:
        found["weights"] = str(weights.resolve())
    return found


def _source(backbones: Sequence[space.Choice]) -> dict[str, str]:
    """The names of backbones, where their weights are from, and under which licences."""
    known = [(b, b.plugin.given.get("weights")) for b in backbones]
    found = {
        "backbone": [b.name for b, _ in known],
        "origin": [w.origin if w else b.plugin.origin for b, w in known],
        "licence": [w.licence if w else "unknown" for _, w in known],
    }
    return {key: ", ".join(dict.fromkeys(values)) for key, values in found.items()}


def _temperature(trials: Trials) -> float | None:
    """What was found for the winner, if it was."""
    found = trials.store.require(trials.name).get("calibration") or {}
    temperature: float | None = found.get("temperature")
    return temperature


def _write_card(trials: Trials, winner: Winner, **evidence: Any) -> None:
    """The model card, with all that is known of how good the model is."""
    facts = trials.store.require(trials.name)
    count = facts["validation_n"]
    # One split has no interval for other metrics, and several as one had no trial.
    score, low, high = winner.trials[0].score if len(winner.trials) == 1 else None, None, None
    if trials.metric.name == "accuracy" and score is not None:
        low, high = metrics.wilson_interval(score, count)
    pictures = {p: len(trials.dataset.indices(p)) for p in ("train", "validation", "test")}
    known = {
        "metric": trials.metric.name,
        "pictures": pictures,
        "validation": {"score": score, "low": low, "high": high, "n": pictures["validation"]}
        if score is not None
        else None,
        "finals": facts.get("finals"),
        "optimism": _optimism(winner, facts.get("finals"), trials.metric),
        "calibration": facts.get("calibration"),
    }
    model_card.write(trials.settings.folder / "model", trials.name, {**known, **evidence})


def _optimism(
    winner: Winner, finals: dict[str, Any] | None, metric: metrics.Metric
) -> float | None:
    """By how much the search overrated the winner; None where the finals had no such trial."""
    means = {c["name"]: c["mean"] for c in (finals or {}).get("candidates", [])}
    score, mean = winner.trials[0].score, means.get(winner.name)
    if winner.members or score is None or mean is None:
        return None
    return metric.gain(score, mean)


def _may_open(trials: Trials, winner: Winner) -> bool:
    """Whether the test part may be looked at for this winner: not after it was for another.

    Who tests winner after winner and keeps the one that tests best has chosen by the test.
    """
    tests = trials.store.tests(trials.name)
    before = {t.candidate for t in tests if not t.is_of(winner.name, winner.members)}
    if not before or trials.settings.again:
        return bool(len(trials.dataset.indices("test")))
    names = ", ".join(sorted(before - {winner.name})) or f"another {winner.name}"
    trials.listener(
        events.Note(
            f"{winner.name} was not tested: the test part was opened before, for {names}; use "
            "--again to open it once more, and the report will say so",
            warning=True,
        )
    )
    return False


def _test(trials: Trials, winner: Winner, *, refit_seconds: float, refitted: bool) -> None:
    """Score the saved model on the test part, calibrated as ``autotl predict`` answers."""
    rows = trials.dataset.indices("test")
    trials.listener(events.Stage("opening the test part"))
    first = winner.trials[0]
    opening = trials.store.open_test(trials.name, first.number, first.config, **winner.identity)
    predictor = model_folder.load(trials.settings.folder / "model", trials.registry, trials.where)
    batches = trials.context.batches(predictor.network, "test")
    raw = training.predict(predictor.network, batches, predictor.where)
    probabilities = calibration.apply_temperature(raw, predictor.temperature)
    labels = trials.dataset.labels[rows]
    low, high = metrics.score_interval(
        trials.metric,
        labels,
        probabilities,
        trials.settings.seed,
        units=np.array(trials.dataset.units)[rows],
    )
    images, _ = next(iter(batches))
    found = {
        **winner.identity,
        "score": trials.metric.score(labels, probabilities),
        "low": low,
        "high": high,
        "n": len(rows),
        "ece": calibration.expected_calibration_error(labels, probabilities),
        "ms_per_item": training.milliseconds_per_image(
            predictor.network, images[:32], predictor.where
        ),
        "parameters": models.parameters(predictor.network),
        "trained_parameters": max(row.trained_parameters or 0 for row in winner.trials) or None,
        "refit_seconds": refit_seconds,
        "refitted": refitted,
        **_by_class(metrics.confusion_matrix(labels, probabilities), trials.dataset.classes),
    }
    wrong = error_analysis.mistakes(trials.dataset, rows, probabilities)
    seconds = min(EXPLAINING, trials.budget.left - trials.budget.fixed / 2)
    found["mistakes"] = error_analysis.explained(wrong, trials.dataset, predictor.network, seconds)
    trials.store.close_test(opening, **found)
    _write_card(trials, winner, test=found, refitted=refitted)


def _by_class(confusion: list[list[int]], classes: tuple[str, ...]) -> dict[str, Any]:
    """The confusion matrix, and the recall of each class; None for one without a picture."""
    per_class = [
        {"class": name, "n": sum(row), "score": row[i] / sum(row) if sum(row) else None}
        for i, (name, row) in enumerate(zip(classes, confusion, strict=True))
    ]
    return {"per_class": per_class, "confusion": confusion}
