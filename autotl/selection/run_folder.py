"""Write the model folder, its model card and the recipes into the run folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotl import files, study, training
from autotl.artifact import model_card, model_folder
from autotl.data import scale
from autotl.errors import StoreError
from autotl.events import Note
from autotl.models import Model
from autotl.models.ensemble import Ensemble
from autotl.search.context import TrainingContext
from autotl.search.folds import predicted_indices
from autotl.search.ranking import validation_interval
from autotl.selection.out_of_fold import write_out_of_fold
from autotl.space import space
from autotl.space.space import Config
from autotl.store import (
    Calibration,
    Contender,
    ImageRow,
    OutOfSampleScores,
    PretrainedWeights,
    SavedModel,
    Selection,
    Store,
    StudentFacts,
    StudyFacts,
    TestResult,
    TrialRow,
)


@dataclass(frozen=True)
class Evidence:
    """The facts about a winner: its final selection, calibration, results and label issues."""

    selection: Selection | None = None
    calibration: Calibration | None = None
    out_of_sample: OutOfSampleScores | None = None
    label_issues: tuple[ImageRow, ...] = ()


class RunFolder:
    """The model and the recipes in the run folder, and the facts of the study about them.

    Args:
        store: The database.
        context: The context of all trainings of the study.
        rows: The trials by number.
        versions: The versions of Python and of the libraries on which results depend.
    """

    def __init__(
        self,
        store: Store,
        context: TrainingContext,
        rows: Mapping[int, TrialRow],
        versions: Mapping[str, str],
    ) -> None:
        self.store, self.context, self.rows, self.versions = store, context, rows, versions
        self.settings, self.dataset = context.settings, context.dataset
        self.name, self.folder = context.settings.name, context.settings.folder

    def saved(self) -> SavedModel | None:
        """Return the facts about a refitted model in the run folder; None without one."""
        model = self.store.study(self.name).model
        exists = (self.folder / "model").is_dir()
        return model if model and model.refitted and exists else None

    def save(
        self,
        winner: Contender,
        model: Model,
        evidence: Evidence,
        *,
        refit_epochs: Sequence[int] = (),
        reason: str = "",
    ) -> None:
        """Write ``model/``, ``recipe.toml`` and with folds their predictions; store the facts.

        The recipes of a combination are ``recipe.toml`` for the member with the largest weight,
        and ``recipe-2.toml``, ... for the others.

        Args:
            winner: The contender that the model belongs to.
            model: The trained model.
            evidence: The facts about the winner.
            refit_epochs: The epochs of each member's refit on train + validation; empty if the
                model was trained on a part of these.
            reason: Why it was not refitted.

        Raises:
            StoreError: The folder cannot be written. If that is before the new model is complete,
                the older one and the facts about it are unchanged.
        """
        configs = [self.context.config(self.rows[trial]) for trial in winner.trials]
        weights = pretrained_weights(configs)
        epochs = refit_epochs or [self.rows[trial].epochs for trial in winner.trials]
        recipes = self._recipes(winner, epochs, model)
        facts = {
            **self.origin(weights, recipes[0]),
            **_describe_combination(winner, recipes),
            **_describe_calibration(evidence.calibration),
            "refitted": bool(refit_epochs),
        }
        earlier = model_folder.save(
            self.folder / "model",
            model,
            configs[0],
            self.dataset.task,
            facts,
            other_configs=configs[1:] if winner.kind == "ensemble" else [],
            training_images=self._training_digests(configs, bool(refit_epochs)),
            before_replacing=lambda: self._forget_model(weights),
        )
        if earlier:
            text = f"the earlier model is in {earlier}, because that folder has other files too"
            self.context.listener(Note(text))
        self._write_recipes(winner, configs, recipes)
        if self.settings.folds:
            write_out_of_fold(
                self.store, self.context, self.rows[winner.lead], winner, evidence.calibration
            )
        self.store_evidence(winner, evidence, refitted=bool(refit_epochs), reason=reason)
        self.write_card(winner, refitted=bool(refit_epochs))

    def _training_digests(self, configs: Sequence[Config], refitted: bool) -> NDArray[np.uint64]:
        """The digests of all examples that the model was trained on, ``uint64 [n]``."""
        dataset = self.dataset
        splits = dataset.refit_splits if refitted else ("train",)
        digests = dataset.digests[dataset.indices(*splits)]
        chosen = (config.get("unlabelled") for config in configs)
        if any(choice and training.uses_unlabelled(choice.plugin) for choice in chosen):
            digests = np.concatenate([digests, dataset.unlabelled.digests])
        return digests

    def _forget_model(self, weights: PretrainedWeights) -> None:
        """Remove the facts about the model in the folder, which is about to be replaced."""
        self.store.set_images(self.name, [])
        old = dict.fromkeys(("model", "selection", "calibration", "out_of_sample", "student"))
        self.store.update_study(self.name, weights=weights, **old)

    def origin(self, weights: PretrainedWeights, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entries of ``config.json`` about where a model in the run folder comes from.

        Args:
            weights: Those that it was fine-tuned from.
            recipe: Its configuration and settings; of a combination those of the first member.
        """
        return {
            "data": {
                **self._data_source(),
                "options": self.settings.data_options,
                "fingerprint": self.dataset.fingerprint,
            },
            **{key: getattr(self.dataset.kind, key) for key in ("noun", "nouns")},
            "kind": self.dataset.kind.name,
            "scales": scale.to_json(self.dataset.scales),
            "weights": weights.model_dump(),
            "training": recipe,
            "versions": dict(self.versions),
        }

    def store_evidence(
        self, winner: Contender, evidence: Evidence, *, refitted: bool, reason: str = ""
    ) -> None:
        """Store which contender the model in the folder belongs to, and the facts about it."""
        self.store.set_images(self.name, evidence.label_issues)
        self.store.update_study(
            self.name,
            model=SavedModel(contender=winner, refitted=refitted, reason=reason),
            selection=evidence.selection,
            calibration=evidence.calibration,
            out_of_sample=evidence.out_of_sample,
        )

    def write_card(
        self, winner: Contender, test: TestResult | None = None, *, refitted: bool
    ) -> None:
        """Write the model card, with all results that describe the quality of the model.

        Args:
            winner: The contender that the model belongs to.
            test: The result on the test split; None without one.
            refitted: Whether the model was refitted on train + validation.

        Raises:
            StoreError: The model card cannot be written.
        """
        facts = self.store.study(self.name)
        results = {
            **self._about_scores(facts),
            "validation": self._validation_result(winner, facts),
            "selection": _selection_result(winner, facts.selection),
            "optimism": self._optimism(winner, facts.selection),
            "calibration": facts.calibration.model_dump() if facts.calibration else None,
            "refitted": refitted,
            "not_refitted_because": facts.model.reason if facts.model else "",
        }
        if test:
            results["test"] = test.model_dump()
        model_card.write(self.folder / "model", self.name, results)

    def _about_scores(self, facts: StudyFacts) -> dict[str, Any]:
        """Return what the model cards of the winner and of its student say about their scores."""
        splits = ("train", "validation", "test")
        return {
            "metric": self.settings.metric,
            "decimals": facts.score_decimals,
            "task": {key: getattr(self.dataset.task, key) for key in model_card.CLASS_WORDS},
            "images": {split: len(self.dataset.indices(split)) for split in splits},
            "target": facts.data.target,
            "validation_has_labels": facts.data.validation_has_labels,
        }

    def save_student(self, path: Path, model: Model, config: Config, student: StudentFacts) -> None:
        """Write the model folder of a student that was trained on train + validation.

        Args:
            path: The model folder.
            model: The trained student.
            config: Its configuration.
            student: The facts about it.

        Raises:
            StoreError: The folder cannot be written.
        """
        recipe = {
            **student.config,
            **self.context.decisive_settings(),
            "epochs": student.epochs,
            "views": student.views,
            "image_size": student.size,
        }
        facts = {
            **self.origin(pretrained_weights([config]), recipe),
            **_describe_calibration(student.calibration),
            "refitted": True,
            "teacher": {
                "name": student.teacher.name,
                "parameters": student.teacher_parameters,
                "temperature": student.temperature,
                "weight": student.weight,
            },
        }
        digests = self.dataset.digests[self.dataset.indices("train", "validation")]
        model_folder.save(path, model, config, self.dataset.task, facts, training_images=digests)
        self.write_student_card(path, student)

    def write_student_card(self, path: Path, student: StudentFacts) -> None:
        """Write the model card of a student, with its test result if there is one.

        Raises:
            StoreError: The model card cannot be written.
        """
        calibration = student.calibration
        results = {
            **self._about_scores(self.store.study(self.name)),
            "calibration": calibration.model_dump() if calibration else None,
            "refitted": True,
            "student": student.scores.model_dump(),
        }
        if student.test:
            results["test"] = student.test.model_dump()
        model_card.write(path, f"{self.name}, student", results)

    def _recipes(
        self, winner: Contender, epochs: Sequence[int], model: Model
    ) -> list[dict[str, Any]]:
        """Return the configuration, without what has no effect, and the settings of each member."""
        settings = self.context.decisive_settings()
        models = model.members if isinstance(model, Ensemble) else [model] * len(winner.trials)
        return [
            {
                **self.rows[trial].effective_config,
                **settings,
                "epochs": count,
                "views": self.rows[trial].facts.views,
                "image_size": member.expects.size,
            }
            for trial, count, member in zip(winner.trials, epochs, models, strict=True)
        ]

    def _write_recipes(
        self,
        winner: Contender,
        configs: Sequence[Config],
        recipes: Sequence[Mapping[str, Any]],
    ) -> None:
        """Write a recipe for each member, and remove those of further members of an older winner.

        Raises:
            StoreError: A file cannot be written.
        """
        sources = {**self._sources(), "versions": dict(self.versions)}
        names = ["recipe.toml", *(f"recipe-{n}.toml" for n in range(2, len(recipes) + 1))]
        members = zip(names, winner.trials, configs, recipes, strict=True)
        try:
            for name, trial, config, recipe in members:
                plain, effective = space.to_json(config), self.rows[trial].effective_config
                own = {**sources, **self._weights_folder(config), **recipe}
                settings = {k: v for k, v in own.items() if k not in plain}
                file = self.folder / name
                study.write_recipe(file, plain, settings, of=len(recipes), effective=effective)
            for old in self.folder.glob("recipe-[2-9].toml"):
                if old.name not in names:
                    old.unlink()
        except OSError as error:
            raise StoreError(
                f"the recipe cannot be written into {self.folder} ({error.strerror or error}); "
                "free some space there"
            ) from error

    def _sources(self) -> dict[str, Any]:
        """Return the data and the plugin files, relative to the recipe."""
        source: str = self.dataset.source
        if Path(source).exists():
            source = self._relative(Path(source))
        sources: dict[str, Any] = {"data": source}
        if target := self.settings.target:
            sources["target"] = self._relative(Path(target)) if Path(target).exists() else target
        if self.settings.data_options:
            sources["data_options"] = self.settings.data_options
        if self.settings.plugin:
            sources["plugin"] = [self._relative(file) for file in self.settings.plugin]
        return sources

    def _weights_folder(self, config: Config) -> dict[str, str]:
        """Return the folder of weights, relative to the recipe, unless its backbone has others."""
        folder, weights = self.settings.weights, config["backbone"].plugin.weights
        if folder is None:
            return {}
        if weights and not (weights.file and files.is_within(weights.file, folder)):
            return {}
        return {"weights": self._relative(folder)}

    def _data_source(self) -> dict[str, str]:
        """Return what the data are called, and their path relative to the model folder if any."""
        path = Path(self.dataset.source)
        if not path.exists():
            return {"source": self.dataset.source}
        name = path.name if path.is_absolute() else self.dataset.source
        return {"source": name, "path": self._relative(path, self.folder / "model")}

    def _relative(self, path: Path, folder: Path | None = None) -> str:
        """Return a path relative to a folder, the run folder by default.

        It is absolute if it is on another drive.
        """
        start = (folder or self.folder).resolve()
        try:
            return Path(os.path.relpath(path.resolve(), start)).as_posix()
        except ValueError:
            return str(path.resolve())

    def _validation_result(self, winner: Contender, facts: StudyFacts) -> dict[str, Any] | None:
        """Return the score of a trial on the validation split; None for a combination."""
        row = self.rows[winner.lead]
        if winner.kind != "trial" or row.score is None:
            return None
        interval = validation_interval(row, facts)
        has_interval = interval.low < interval.high  # not in studies of earlier versions
        return {
            "score": row.score,
            "low": interval.low if has_interval else None,
            "high": interval.high if has_interval else None,
            "n": len(predicted_indices(self.dataset, row.facts.folds)),
            "folds": row.facts.folds,
        }

    def _optimism(self, winner: Contender, selection: Selection | None) -> float | None:
        """Return the winner's score in the search minus that in its repeats; None without these."""
        contenders = selection.contenders if selection else []
        repeated = next((c for c in contenders if c.id == winner.id), None)
        score = self.rows[winner.lead].score
        if winner.kind != "trial" or score is None or repeated is None or not repeated.standing:
            return None
        return self.context.metric.gain(score, repeated.standing.score.mean)


def _describe_calibration(calibration: Calibration | None) -> dict[str, Any]:
    """Return the entries of ``config.json`` about a calibration."""
    if calibration is None:
        return {"calibrated": False}
    temperature = calibration.temperature or 1.0
    return {"calibrated": True, "calibration": calibration.values, "temperature": temperature}


def _selection_result(winner: Contender, selection: Selection | None) -> dict[str, Any] | None:
    contenders = selection.contenders if selection else []
    standing = next((c.standing for c in contenders if c.id == winner.id), None)
    if selection is None or standing is None:
        return None
    return {"repeats": selection.repeats, **standing.score.model_dump()}


def _describe_combination(
    winner: Contender, recipes: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the entry of ``config.json`` about the members of a combination, if there are any."""
    if len(recipes) < 2:
        return {}
    members = [
        {"name": f"trial {member.trial}", "weight": member.weight, "training": recipe}
        for member, recipe in zip(winner.members, recipes, strict=True)
    ]
    return {"combination": {"kind": winner.kind, "members": members}}


def pretrained_weights(configs: Sequence[Config]) -> PretrainedWeights:
    """Return the names of the backbones, and the origins and licences of their weights."""
    backbones = [config["backbone"] for config in configs]
    pairs = [(b, b.plugin.given.get("weights")) for b in backbones]
    columns = {
        "backbone": [b.name for b, _ in pairs],
        "origin": [w.origin if w else b.plugin.origin for b, w in pairs],
        "licence": [w.licence if w else "unknown" for _, w in pairs],
    }
    return PretrainedWeights(**{k: ", ".join(dict.fromkeys(v)) for k, v in columns.items()})
