"""Begin a study or continue one: its lock, its settings, and what is stored about it first."""

from __future__ import annotations

import platform
import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from autotl import events, files, training
from autotl.artifact import replacement
from autotl.data import Dataset
from autotl.engine.inputs import imbalance
from autotl.engine.search_space import is_recipe
from autotl.errors import StudyInUse
from autotl.events import Listener, Note
from autotl.models import Device
from autotl.scoring import majority
from autotl.scoring.metrics import Metric
from autotl.search import folds, identity, pruner, sampler
from autotl.search.budget import Budget
from autotl.search.input_plan import InputPlan
from autotl.search.ranking import UNFINISHED, rank
from autotl.selection.distillation import FOLDER
from autotl.space.plugin import AnyPlugin
from autotl.space.space import Space
from autotl.store import (
    ComparedWeights,
    DataFacts,
    DataIssueRow,
    ExcludedPlugin,
    MajorityClass,
    Store,
    StudyFacts,
    Worker,
    WorkerRow,
    default_url,
    living,
)
from autotl.study import StudyConfig

ORPHAN_SECONDS = 20.0
"""How long workers of a search that was killed may take to end, once they notice it."""

LIBRARIES = ("autotl", "torch", "torchvision", "timm", "optuna", "scikit-learn")


@contextmanager
def open_store(settings: StudyConfig) -> Iterator[Store]:
    """Open the database and lock the study, so that no other process runs it.

    Raises:
        StoreError: The database cannot be used.
        StudyInUse: Another process runs the study.
    """
    store = Store(settings.storage or default_url(settings.out))
    with closing(store), store.lock(settings.name, settings.folder), store.convert_errors():
        _require_no_worker(settings, store)
        finish_interrupted_writes(settings)
        yield store


def _require_no_worker(settings: StudyConfig, store: Store) -> None:
    """Wait until the workers of a search that was killed have ended.

    Raises:
        StudyInUse: They have not ended after ``ORPHAN_SECONDS``.
    """
    until = time.monotonic() + ORPHAN_SECONDS
    while others := living(store, settings.name):
        here = [worker for worker in others if worker.host == socket.gethostname()]
        if time.monotonic() > until or len(here) < len(others):
            raise _running_elsewhere(settings, store, others[0])
        time.sleep(0.5)


def require_first(settings: StudyConfig, store: Store, worker: Worker) -> None:
    """Check that this process is the first of those that have begun the study at the same time.

    Raises:
        StudyError: Another one is.
    """
    if earlier := [other for other in worker.others() if other.number < worker.number]:
        raise _running_elsewhere(settings, store, earlier[0])


def _running_elsewhere(settings: StudyConfig, store: Store, worker: WorkerRow) -> StudyInUse:
    """Return the error of a search whose study other processes run."""
    name = shlex.quote(settings.name)
    return StudyInUse(
        f"study {settings.name!r} is being run by worker {worker.number} on {worker.host}; join "
        f"it with: autotl worker {name}{store.options(settings.out)} (a machine that was switched "
        "off counts as running for a minute)"
    )


def finish_interrupted_writes(settings: StudyConfig) -> None:
    """Put the model folder in its place and remove temporary files, if a run was killed."""
    cache = settings.out / "cache"
    for folder in (settings.folder, cache, cache / "checkpoints", cache / "repeats"):
        files.remove_leftovers(folder)
    with suppress(OSError):  # it is reported when the folder is written to
        replacement.restore(settings.folder / "model")
        replacement.restore(settings.folder / FOLDER)


def continue_settings(
    settings: StudyConfig, store: Store, listener: Listener
) -> tuple[StudyConfig, StudyFacts | None]:
    """Take the settings that were not given from the study, if this run continues one.

    Returns:
        The settings, and the facts of the study; None if it is new, or has no complete trial and
        other settings.
    """
    earlier = identity.find_earlier(store, settings)
    adopted = settings
    if earlier:
        adopted = identity.adopt(settings, earlier.identity, earlier.space_settings)
    if text := identity.describe_adopted(settings, adopted):
        listener(Note(text))
    return adopted, earlier


def announce(
    settings: StudyConfig,
    metric: Metric,
    store: Store,
    budget: Budget,
    device: Device,
    listener: Listener,
) -> None:
    """Call the listener with the event that the search starts."""
    rows = store.trials(settings.name)
    done = [row for row in rows if row.status not in UNFINISHED]
    ranked = rank(rows, metric.direction)
    best = [events.BestTrial(row.number, row.score or 0.0, row.config) for row in ranked[:1]]
    listener(
        events.SearchStarted(
            study=settings.name,
            metric=metric.name,
            direction=metric.direction,
            device=str(device),
            budget=budget.seconds,
            deadline=budget.end,
            max_trials=settings.trials,
            earlier_trials=len(done),
            best=best[0] if best else None,
        )
    )


def begin_study(
    settings: StudyConfig,
    store: Store,
    dataset: Dataset,
    metric: Metric,
    search_space: Space,
    device: Device,
    budget: Budget,
    plan: InputPlan,
    earlier: StudyFacts | None,
) -> None:
    """Store the settings and the data of a study, or continue an existing study.

    Raises:
        StudyError: A study of this name exists with other data or settings.
    """
    this = identity_of(settings, dataset, search_space, device)
    first_budget = budget.seconds
    if earlier:
        delete = f"autotl studies delete {shlex.quote(settings.name)}{store.options(settings.out)}"
        identity.require_same(settings.name, earlier.identity or {}, this, delete)
        first_budget = earlier.first_budget_seconds
    store.begin_study(
        settings.name,
        seed=settings.seed,
        metric=settings.metric,
        direction=metric.direction,
        metric_has_unit=metric.has_unit,
        prefer=settings.prefer,
        identity=this,
        data=_data_facts(settings, dataset, metric),
        unit_folds=folds.unit_folds(dataset),
        space=search_space.describe(),
        space_settings=identity.of_space(settings),
        excluded=[ExcludedPlugin(**vars(plugin)) for plugin in search_space.excluded],
        compared_weights=_compared_weights(search_space),
        unlabelled_methods=_unlabelled_methods(search_space),
        sampler=sampler.DESCRIPTION,
        pruner=pruner.DESCRIPTION,
        device=str(device),
        versions=versions(),
        budget_seconds=budget.seconds,
        first_budget_seconds=first_budget,
        input_size=plan.size,
        used_examples=plan.examples,
        used_unlabelled=plan.unlabelled,
        state="running",
        reason="",
        run=None,
        repeat_plan=None,
        **({} if earlier else {"mirroring": None, "warm_start": None}),  # of other settings
    )
    store.add_latencies(settings.name, search_space.latency)
    issues = [DataIssueRow(**vars(issue)) for issue in dataset.issues]
    store.set_data_issues(settings.name, issues)


def _compared_weights(search_space: Space) -> list[ComparedWeights]:
    """The backbones that differ in their weights alone.

    Those with own weights, or else with public ones, are compared with the others.
    """
    by_architecture: dict[str, list[AnyPlugin]] = {}
    for plugin in search_space.plugins["backbone"]:
        if plugin.weights and plugin.weights.architecture:
            by_architecture.setdefault(plugin.weights.architecture, []).append(plugin)
    compared = []
    for plugins in by_architecture.values():
        lead, *others = sorted(plugins, key=lambda p: (p.has_random_weights, not p.owns_folder))
        over: dict[str, Literal["random", "public"]] = {
            p.name: "random" if p.has_random_weights else "public" for p in others
        }
        if over:
            compared.append(ComparedWeights(backbone=lead.name, over=over))
    return compared


def _unlabelled_methods(search_space: Space) -> list[str]:
    """The plugins that train with unlabelled examples, beside one that does not."""
    plugins = search_space.plugins.get("unlabelled", ())
    used = [plugin.name for plugin in plugins if training.uses_unlabelled(plugin)]
    return used if len(used) < len(plugins) else []


def shared_settings(settings: StudyConfig) -> dict[str, Any]:
    """Return the settings of a search that its workers share, with absolute paths."""
    own = {"storage", "out", "device", "cache_size"}
    values = settings.model_dump(mode="json", exclude=own)
    for key in ("data", "source", "target", "weights", "learn_from"):
        if values[key] and Path(values[key]).exists():
            values[key] = str(Path(values[key]).absolute())
    values["plugin"] = [str(file.expanduser().absolute()) for file in settings.plugin]
    values["study"] = settings.name
    return values


def identity_of(
    settings: StudyConfig, dataset: Dataset, search_space: Space, device: Device
) -> dict[str, Any]:
    """Return the settings that must be the same in all runs of a study."""
    recipe = search_space.fingerprint if is_recipe(settings, search_space) else None
    return {
        **identity.of_settings(settings),
        "precision": identity.of_precision(device.precision),
        "data": dataset.identity,
        "recipe": recipe,  # a study of one recipe cannot continue with another
    }


def _data_facts(settings: StudyConfig, dataset: Dataset, metric: Metric) -> DataFacts:
    train, validation, test = (
        len(dataset.indices(split)) for split in ("train", "validation", "test")
    )
    return DataFacts(
        source=dataset.source,
        options=settings.data_options,
        fingerprint=dataset.fingerprint,
        kind=dataset.kind.name,
        noun=dataset.kind.noun,
        nouns=dataset.kind.nouns,
        task=dataset.task.name,
        output_noun=dataset.task.noun,
        output_nouns=dataset.task.nouns,
        constant_noun=dataset.task.constant_noun,
        score_noun=dataset.task.score_noun,
        has_classes=dataset.task.has_classes,
        has_probabilities=dataset.task.has_probabilities,
        classes=list(dataset.outputs),
        train=train,
        validation=validation,
        test=test,
        unlabelled=len(dataset.unlabelled),
        folds=None if dataset.folds is None else int(dataset.folds.max()) + 1,
        target=_describe_target(dataset),
        validation_has_labels=dataset.validation_has_labels,
        skipped=dataset.skipped,
        duplicates_across_splits=dataset.duplicates_across_splits,
        independent_validation=dataset.count_units(dataset.scored_split),
        imbalance=imbalance(dataset),
        majority=_score_constant(dataset, metric) if dataset.validation_has_labels else None,
    )


def _describe_target(dataset: Dataset) -> str:
    """What the target is called in sentences: the name of its file or folder."""
    path = Path(dataset.target)
    return path.name if dataset.target and path.exists() else dataset.target


def _score_constant(dataset: Dataset, metric: Metric) -> MajorityClass:
    """Return the constant prediction from the training split, with its scores."""
    labels = {
        name: dataset.targets[dataset.indices(name)] for name in ("train", "validation", "test")
    }
    if not len(labels["validation"]):  # the training split is divided into folds
        labels["validation"] = labels["train"]
    constant = dataset.task.constant(labels["train"])
    scores = {
        name: majority.constant_score(metric, labels[name], constant)
        for name in ("validation", "test")
        if len(labels[name])
    }
    finite = {name: score for name, score in scores.items() if np.isfinite(score)}
    return MajorityClass(name=dataset.task.describe_constant(constant), **finite)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries on which results depend."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
