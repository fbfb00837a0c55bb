"""A search from the data to the run folder, as a list of steps."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from autotl import data, events, models, report, training
from autotl.artifact import model_folder
from autotl.data import Dataset
from autotl.errors import AutoTLError, Incompatible, StoreError, StudyError
from autotl.events import Listener, Note, Stage
from autotl.frozen import FeatureCache
from autotl.models import Device
from autotl.report import dashboard
from autotl.scoring import metrics
from autotl.search import resume
from autotl.search.budget import Budget
from autotl.search.trials import Trials
from autotl.selection import finals
from autotl.space import registry, space
from autotl.space.registry import BackboneCriteria, Registry
from autotl.space.space import Choice, Space
from autotl.store import Store, default_url, existing_url, without_passwords
from autotl.study import DEFAULT_BUDGET, StudyConfig

UNEQUAL = 1.5
"""Classes are unequal when the largest has more than so many times the pictures of the smallest."""

ANNOTATING = 5.0
"""Seconds for the notes in Optuna Dashboard; ``autotl dashboard`` writes what is missing."""

LIBRARIES = ("autotl", "torch", "torchvision", "timm", "optuna", "scikit-learn")


@dataclass(frozen=True)
class Result:
    """What a search has found; ``summary`` is ``summary.json``, ``folder`` the run folder."""

    summary: Mapping[str, Any]
    folder: Path
    plugins: Registry
    interrupted: bool = False

    @property
    def best(self) -> Mapping[str, Any] | None:
        """The winner: trial, config, validation score with its interval, cost; None without one."""
        found: Mapping[str, Any] | None = self.summary["best"]
        return found

    def predict(self, files: Sequence[str | Path]) -> list[dict[str, float]]:
        """For each file its probabilities by class, from the model in the run folder.

        Raises:
            ArtifactError: There is no model.
            DataError: A file cannot be read.
        """
        return model_folder.load(self.folder / "model", self.plugins).predict(files)


def run(
    settings: StudyConfig,
    listener: Listener = events.ignore,
    plugins: Registry | None = None,
    command: str = "",
    began: float | None = None,
) -> Result:
    """Search for the best transfer configuration, refit it and test it once.

    Args:
        settings: What to do.
        watch: Is told what happens.
        plugins: None for the installed ones and those of ``settings.plugin``.
        command: How to do this again, for the report.
        began: When the budget began to run, a reading of ``time.monotonic``; None for now.

    Returns:
        What was found; after Ctrl-C what is known so far, with ``interrupted`` set.

    Raises:
        AutoTLError: Something that the user can mend; the message says what and how.
    """
    limited = settings.budget is not None or settings.trials is not None
    budget = Budget(settings.budget if limited else DEFAULT_BUDGET, began=began)
    metrics.get(settings.metric)  # names that are wrong are found before anything is made
    plugins = plugins or registry.load(settings.plugin)
    plugins.dataset(settings.data)
    if settings.learn_from:
        existing_url(settings.learn_from, "--learn-from")
    where = models.device(settings.device, settings.precision)
    store = Store(settings.storage or default_url(settings.out))
    resume.refuse_running(store, settings.name)
    _announce(settings, store, budget, str(where), listener)
    interrupted = False
    with budget.stage("check"):
        first = (store.facts(settings.name) or {}).get("first_budget", budget.seconds)
        chosen = _space(settings, plugins, where, first)  # names come before any picture
        dataset = _dataset(settings, plugins, listener)
        if not _asked(settings, "balance"):
            plain = chosen.without("balance")
            needless = _is_recipe(settings, plain) or _imbalance(dataset) <= UNEQUAL
            chosen = plain if needless else chosen
    with budget.stage("time"):
        chosen = _fast_enough(chosen, settings, store, where)
    _tell_left_out(chosen, settings, listener)
    _scorable(settings, dataset)
    parts = {name: len(dataset.indices(name)) for name in ("train", "validation", "test")}
    budget.refit = (parts["train"] + parts["validation"]) / parts["train"]
    _begin(settings, store, dataset, chosen, where, budget)
    _write_data(settings, dataset, listener)
    kept = FeatureCache(
        settings.cache_size,
        settings.out / "cache",
        say=lambda text: listener(Note(text, warning=True)),
    )
    with store.faults():
        trials = Trials(settings, dataset, chosen, store, where, budget, listener, plugins, kept)
    try:
        with store.faults():
            _search(trials, budget)
            finals.finish(trials, versions())
    except KeyboardInterrupt:
        interrupted = True
    except StoreError:
        raise  # nothing can be written down
    except AutoTLError:
        _conclude(trials, "failed", command)
        raise
    summary = _conclude(trials, "interrupted" if interrupted else "done", command)
    return Result(summary, settings.folder, plugins, interrupted)


def _search(trials: Trials, budget: Budget) -> None:
    try:
        with budget.stage("search"):
            trials.listener(Stage("searching"))
            trials.run()
    except StoreError:
        raise
    except (KeyboardInterrupt, AutoTLError):
        finals.keep(trials, versions())
        raise


def _conclude(trials: Trials, state: str, command: str) -> dict[str, Any]:
    """Write down how a search ended, the summary and the report; returns the summary."""
    store, settings, budget = trials.store, trials.settings, trials.budget
    before = store.require(settings.name).get("seconds", 0.0)
    store.update(
        settings.name,
        state=state,
        seconds=before + budget.spent,
        stages=budget.stages,
        command=without_passwords(command),
        **trials.leaderboard.baselines(),
    )
    summary = report.write(store, settings.name, settings.folder)
    dashboard.annotate(store, settings.name, settings.folder, within=ANNOTATING)
    return summary


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that decide a result."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def _announce(
    settings: StudyConfig, store: Store, budget: Budget, device: str, listener: Listener
) -> None:
    done = [t for t in store.trials(settings.name) if t.status not in ("running", "interrupted")]
    listener(
        events.SearchStarted(
            study=settings.name,
            metric=settings.metric,
            device=device,
            budget=budget.seconds,
            deadline=budget.deadline,
            trials=settings.trials,
            done=len(done),
        )
    )


def _dataset(settings: StudyConfig, plugins: Registry, listener: Listener) -> Dataset:
    examples = plugins.dataset(settings.data).call({"source": settings.data}, {})
    dataset = data.check(
        examples,
        settings.data,
        seed=settings.seed,
        validation=settings.validation,
        test=settings.test,
        progress=lambda what, done, total: listener(Stage(what, done, total)),
    )
    return dataset


def _write_data(settings: StudyConfig, dataset: Dataset, listener: Listener) -> None:
    """Write which picture went where, and what is wrong with which."""
    data.write_splits(dataset, settings.folder / "splits.csv")
    data.write_issues(dataset, settings.folder / "issues.csv")
    if dataset.issues:
        first = dataset.issues[0]
        text = f"{len(dataset.issues)} problems in the data are in {settings.folder}/issues.csv"
        listener(Note(f"{text}; the first: {first.name}: {first.problem}", warning=True))


def _scorable(settings: StudyConfig, dataset: Dataset) -> None:
    """Raise unless the metric has a value on the validation part and on the test part."""
    for part, purpose in (("validation", "validate on"), ("test", "test on")):
        labels = dataset.labels[dataset.indices(part)]
        even = np.full((len(labels), len(dataset.classes)), 1 / len(dataset.classes), np.float32)
        if len(labels) and not np.isfinite(metrics.get(settings.metric).score(labels, even)):
            [only] = {dataset.classes[label] for label in labels}
            raise StudyError(
                f"{settings.metric} needs pictures of two classes to {purpose}, and these "
                f"{len(labels)} are all of {only!r}; give more of the others, or another --metric"
            )


def _space(settings: StudyConfig, plugins: Registry, where: Device, first: float | None) -> Space:
    """What is searched on this device.

    ``first`` is the budget in seconds that the study was begun with: one that goes on with
    another keeps its backbones.
    """
    terms = BackboneCriteria(
        weights=settings.weights,
        device=where.device.type,
        seconds=first,
        licences=settings.licence,
        max_parameters=settings.max_parameters,
    )
    return space.build_space(
        plugins,
        settings.requested,
        settings.space,
        terms,
        sizes=settings.image_size,
    )


def _is_recipe(settings: StudyConfig, chosen: Space) -> bool:
    """Whether one configuration is trained once, as ``autotl train`` asks."""
    return chosen.is_single and settings.trials == 1


def _asked(settings: StudyConfig, kind: str) -> bool:
    """Whether plugins of a kind are wanted by name, or narrowed."""
    return bool(settings.requested.get(kind) or settings.space.get(kind))


def _imbalance(dataset: Dataset) -> float:
    """The pictures of the largest class over those of the smallest, in the training part."""
    counts = np.bincount(dataset.labels[dataset.indices("train")])
    return float(counts.max() / max(1, counts.min()))


def _fast_enough(chosen: Space, settings: StudyConfig, store: Store, where: Device) -> Space:
    """The space without the backbones that are slower than allowed, as measured here once.

    What was measured is kept with the study, so that it goes on with the same backbones.
    """
    if settings.max_latency is None:
        return chosen
    known = (store.facts(settings.name) or {}).get("latency", {})
    times: dict[str, float] = {}
    slow: dict[str, str] = {}
    for plugin in chosen.plugins["backbone"]:
        took = known.get(plugin.name)
        try:
            if took is None:
                took = training.latency(Choice(plugin, plugin.defaults), settings.size, where)
        except Incompatible as reason:
            slow[plugin.name] = str(reason)
            continue
        times[plugin.name] = took
        if took > settings.max_latency:
            slow[plugin.name] = f"{took:.1f} ms for a picture, more than {settings.max_latency:g}"
    return replace(chosen.exclude("backbone", slow), latency=times)


def _tell_left_out(chosen: Space, settings: StudyConfig, listener: Listener) -> None:
    """One line for each reason; a warning for what was asked for by name."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for left in chosen.excluded:
        reasons.setdefault((left.kind, left.reason), []).append(left.name)
    for (kind, reason), names in reasons.items():
        named = kind == "module" or bool(set(names) & set(settings.requested.get(kind, ())))
        listener(Note(f"left out: {kind} {', '.join(names)} ({reason})", warning=named))


def _begin(
    settings: StudyConfig,
    store: Store,
    dataset: Dataset,
    chosen: Space,
    where: Device,
    budget: Budget,
) -> None:
    """Write down what the study is, or that it goes on.

    Raises:
        StudyError: The study of this name was something else.
    """
    same = ("metric", "seed", "epochs", "batch_size", "label_smoothing", "ema")
    identity = {
        "data": dataset.fingerprint,
        **{key: getattr(settings, key) for key in (*same, "validation", "test")},
        "image_size": list(settings.image_size),
        "precision": str(where.autocast),
    }
    if _is_recipe(settings, chosen):  # with another it is another study
        identity["recipe"] = chosen.fingerprint
    old = store.facts(settings.name) or {}
    if "identity" in old:
        delete = f"autotl studies delete {shlex.quote(settings.name)}{store.options(settings.out)}"
        _refuse_other(settings.name, old["identity"], identity, delete)
    facts = {
        "study": settings.name,
        "seed": settings.seed,
        "metric": settings.metric,
        "prefer": settings.prefer,
        "direction": metrics.get(settings.metric).direction,
        "data": {
            "source": dataset.source,
            "fingerprint": dataset.fingerprint,
            "classes": list(dataset.classes),
            **{part: len(dataset.indices(part)) for part in ("train", "validation", "test")},
            "skipped": dataset.skipped,
            "duplicates_across_splits": dataset.duplicates_across_splits,
        },
        "validation_n": dataset.count_independent("validation"),
        "budget_seconds": budget.seconds,
        "first_budget": old.get("first_budget", budget.seconds),
        "device": str(where),
        "versions": versions(),
        "issues": [vars(issue) for issue in dataset.issues],
        "left_out": [vars(left) for left in chosen.excluded],
        "latency": chosen.latency,
        "sampler": "TPESampler(multivariate=True, group=True, gamma=0.25, prior_weight=8)",
        "pruner": "WorstTenthPruner(kind='freeze', worst=0.1, fewest=3)",
        "space": chosen.describe(),
        "imbalance": _imbalance(dataset),
        "state": "running",
        "process": resume.process(),
        "kept": None,
        "identity": identity,
    }
    store.begin(settings.name, {**old, **facts})


def _refuse_other(name: str, old: Mapping[str, Any], new: Mapping[str, Any], delete: str) -> None:
    """Raise unless the study of this name asks the same as the one that is there."""
    other = f"choose another name with --study, or delete it with: {delete}"
    for key in sorted(set(old) | set(new)):
        was, now = old.get(key), new.get(key)
        if was == now:
            continue
        if key == "recipe":
            raise StudyError(f"study {name!r} was begun with another recipe, or none; {other}")
        if key == "data":
            raise StudyError(f"study {name!r} was begun with other pictures or labels; {other}")
        raise StudyError(f"study {name!r} was begun with {key}={was}, not {now}; {other}")
