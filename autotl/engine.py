"""A search from the data to the run folder, as a list of steps."""

from __future__ import annotations

import platform
import shlex
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from autotl import data, events, files, models, report, training
from autotl.artifact import model_folder, replacement
from autotl.data import Dataset
from autotl.errors import (
    AutoTLError,
    GpuError,
    Incompatible,
    SearchError,
    StoreError,
    StudyError,
    describe_device_fault,
    find_device_fault,
)
from autotl.events import Listener, Note, Stage
from autotl.frozen import FeatureCache
from autotl.models import Device
from autotl.report import dashboard
from autotl.scoring import majority, metrics
from autotl.search import folds, identity, pruner, resume, sampler
from autotl.search.budget import Budget
from autotl.search.context import TrainingContext
from autotl.search.input_plan import InputPlan, plan_inputs
from autotl.search.leaderboard import UNFINISHED, Leaderboard, rank
from autotl.search.mirroring import measure_mirroring
from autotl.search.trials import TrialLoop, quiet_optuna
from autotl.selection.finish import Finish
from autotl.space import registry, space
from autotl.space.plugin import Example, Issue
from autotl.space.registry import BackboneCriteria, Registry
from autotl.space.space import Choice, Space
from autotl.store import (
    DataFacts,
    DataIssueRow,
    ExcludedPlugin,
    MajorityClass,
    MirroringFacts,
    Store,
    StudyFacts,
    default_url,
    existing_url,
    without_passwords,
)
from autotl.study import DEFAULT_BUDGET, StudyConfig, check_places

DASHBOARD_SECONDS = 5.0
"""The maximum time to write notes for Optuna Dashboard; ``autotl dashboard`` writes the rest."""

UNUSED_FRACTION = 0.03
"""The fraction of the budget that may be unused without a word."""

ERROR_FILE = "error.txt"
"""The file in the run folder with the traceback of an error that is not AutoTL's."""

LIBRARIES = ("autotl", "torch", "torchvision", "timm", "optuna", "scikit-learn")


@dataclass(frozen=True)
class Result:
    """The result of a search.

    Attributes:
        summary: The content of ``summary.json``.
        folder: The run folder.
        plugins: The plugins of the search.
        interrupted: Whether the user interrupted it.
    """

    summary: Mapping[str, Any]
    folder: Path
    plugins: Registry
    interrupted: bool = False

    @property
    def best(self) -> Mapping[str, Any] | None:
        """The winner with its configuration, validation score, interval and cost, or None."""
        best: Mapping[str, Any] | None = self.summary["best"]
        return best

    def predict(self, images: Any) -> list[dict[str, float]]:
        """Predict the class probabilities of images with the model in the run folder.

        Args:
            images: A path, a folder, a Pillow image, an array, or an iterable of these, see
                ``Predictor.predict``.

        Raises:
            ArtifactError: There is no model.
            DataError: An image cannot be read.
        """
        return model_folder.load(self.folder / "model", self.plugins).predict(images)


def run(
    settings: StudyConfig,
    listener: Listener = events.ignore,
    plugins: Registry | None = None,
    command: str = "",
    began: float | None = None,
) -> Result:
    """Search for the best transfer configuration, refit it and test it once.

    Args:
        settings: The settings of the study.
        listener: Called with the events of the progress.
        plugins: The plugins; None for the installed ones and those of ``settings.plugin``.
        command: The command line, for the report.
        began: The begin of the budget as a value of ``time.monotonic``; None for now.

    Returns:
        The result; after Ctrl-C, the result so far with ``interrupted`` set.

    Raises:
        AutoTLError: An error that the user can resolve; the message says how.
    """
    budget = start_budget(settings, began)
    check_places(settings.folder, settings.data)
    replacement.check_replaceable(settings.folder / "model")
    plugins = load_plugins(settings, plugins)
    with open_store(settings) as store, quiet_optuna(), name_device_faults():
        settings, earlier = continue_settings(settings, store, listener)
        device = models.select_device(settings.device, settings.precision)
        announce(settings, store, budget, device, listener)
        with budget.stage("check"):  # names are checked before any image is opened
            search_space = choose_space(settings, plugins, earlier, device, budget)
            examples, issues = data.read_source(settings.data, plugins)
            check_image_places(settings, examples)
            plan = choose_inputs(settings, search_space, examples, earlier, device, budget)
            settings, examples = apply_inputs(plan, settings, examples, listener)
            dataset = load_dataset(settings, examples, listener, issues)
        with budget.stage("time"):
            latencies = store.latencies(settings.name) if earlier else {}
            search_space = fit_space(search_space, settings, dataset, latencies, device, listener)
        begin_study(settings, store, dataset, search_space, device, budget, plan, earlier)
        with (
            store.expect_study(settings.name),
            hand_over(store, settings, budget, listener, command),
        ):
            try:
                write_data(settings, dataset, listener)
                context = training_context(
                    settings, store, dataset, device, budget, plugins, listener
                )
                with budget.stage("time"):
                    search_space = fit_augmentations(search_space, store, context, listener)
                interrupted = search_and_finish(store, search_space, context, budget, listener)
            except KeyboardInterrupt:
                interrupted = True
            summary = conclude(store, settings, budget, interrupted, command)
        if not interrupted:
            notify_unused(budget, listener)
    return Result(summary, settings.folder, plugins, interrupted)


def start_budget(settings: StudyConfig, began: float | None) -> Budget:
    """Begin the budget: ``DEFAULT_BUDGET`` if the user set neither a budget nor a trial limit."""
    limited = settings.budget is not None or settings.trials is not None
    return Budget(settings.budget if limited else DEFAULT_BUDGET, began=began)


def load_plugins(settings: StudyConfig, plugins: Registry | None) -> Registry:
    """Load the plugins, and check names before anything is written.

    Raises:
        AutoTLError: A plugin file, a metric, a data source, a device or a database does not exist.
    """
    models.select_device(settings.device, settings.precision)
    plugins = plugins or registry.load(settings.plugin)
    metrics.get(settings.metric)
    plugins.dataset(settings.data)
    if settings.learn_from:
        existing_url(settings.learn_from, "--learn-from")
    return plugins


@contextmanager
def open_store(settings: StudyConfig) -> Iterator[Store]:
    """Open the database and lock the study, so that no other process runs it.

    Raises:
        StoreError: The database cannot be used.
        StudyError: Another process runs the study.
    """
    store = Store(settings.storage or default_url(settings.out))
    with closing(store), store.lock(settings.name, settings.folder), store.convert_errors():
        finish_interrupted_writes(settings)
        yield store


def finish_interrupted_writes(settings: StudyConfig) -> None:
    """Put the model folder in its place and remove temporary files, if a run was killed."""
    cache = settings.out / "cache"
    for folder in (settings.folder, cache, cache / "checkpoints", cache / "repeats"):
        files.remove_leftovers(folder)
    with suppress(OSError):  # it is reported when the folder is written to
        replacement.restore(settings.folder / "model")


def continue_settings(
    settings: StudyConfig, store: Store, listener: Listener
) -> tuple[StudyConfig, StudyFacts | None]:
    """Take the settings that were not given from the study, if this run continues one.

    Returns:
        The settings, and the facts of the study; None if it is new, or has no complete trial and
        other settings.
    """
    earlier = identity.find_earlier(store, settings)
    adopted = identity.adopt(settings, earlier.identity if earlier else None)
    if text := identity.describe_adopted(settings, adopted):
        listener(Note(text))
    return adopted, earlier


def announce(
    settings: StudyConfig, store: Store, budget: Budget, device: Device, listener: Listener
) -> None:
    """Call the listener with the event that the search starts."""
    rows = store.trials(settings.name)
    done = [row for row in rows if row.status not in UNFINISHED]
    ranked = rank(rows, metrics.get(settings.metric).direction)
    best = [events.BestTrial(row.number, row.score or 0.0, row.config) for row in ranked[:1]]
    listener(
        events.SearchStarted(
            study=settings.name,
            metric=settings.metric,
            device=str(device),
            budget=budget.seconds,
            deadline=budget.deadline,
            max_trials=settings.trials,
            earlier_trials=len(done),
            best=best[0] if best else None,
        )
    )


def choose_space(
    settings: StudyConfig,
    plugins: Registry,
    earlier: StudyFacts | None,
    device: Device,
    budget: Budget,
) -> Space:
    """Build the search space for this device.

    A study that is continued with another budget has the same backbones as with its first budget.
    """
    criteria = BackboneCriteria(
        weights=settings.weights,
        device=device.torch_device.type,
        seconds=earlier.first_budget_seconds if earlier else budget.seconds,
        licences=settings.licence,
        max_parameters=settings.max_parameters,
    )
    return space.build_space(
        plugins, settings.requested, settings.space, criteria, sizes=settings.image_size
    )


def choose_inputs(
    settings: StudyConfig,
    search_space: Space,
    examples: Sequence[Example],
    earlier: StudyFacts | None,
    device: Device,
    budget: Budget,
) -> InputPlan:
    """Choose the input size and the number of examples, or return those of the first run.

    Raises:
        StudyError: The budget is too short for any trial.
    """
    if earlier:
        return InputPlan(earlier.input_size, earlier.used_examples)
    if not examples:
        return InputPlan()  # the check raises an error that says what is missing
    return plan_inputs(settings, search_space, examples, device, budget)


def check_image_places(settings: StudyConfig, examples: Sequence[Example]) -> None:
    """Check that no image is in a folder whose files are replaced.

    Raises:
        StudyError: An image is in the run folder or in the cache.
    """
    parents = {Path(e.image).parent for e in examples if isinstance(e.image, str | Path)}
    for place in (settings.folder, settings.out / "cache"):
        if inside := next((p for p in parents if files.is_within(p, place)), None):
            raise StudyError(
                f"the images in {inside} are inside {place}, whose files are replaced; give "
                "another folder with --out, or another name with --study"
            )


def apply_inputs(
    plan: InputPlan, settings: StudyConfig, examples: list[Example], listener: Listener
) -> tuple[StudyConfig, list[Example]]:
    """Return the settings with the input size, and the examples, that a plan names."""
    for reason in plan.reasons:
        listener(Note(reason))
    if plan.size and not settings.image_size:
        settings = settings.model_copy(update={"image_size": (plan.size,)})
    if plan.examples:
        examples = data.sample_examples(examples, plan.examples, settings.seed)
    return settings, examples


def load_dataset(
    settings: StudyConfig,
    examples: Sequence[Example],
    listener: Listener,
    issues: Sequence[Issue] = (),
) -> Dataset:
    """Check and split the data.

    Raises:
        DataError: The data cannot be used.
        StudyError: The metric has no value on the validation or on the test split.
    """
    dataset = data.check(
        examples,
        settings.data,
        issues=issues,
        seed=settings.seed,
        validation=settings.validation,
        test=settings.test,
        folds=settings.folds,
        progress=lambda what, done, total: listener(Stage(what, done, total)),
    )
    for split, purpose in ((dataset.scored_split, "validate on"), ("test", "test on")):
        _check_metric(settings.metric, dataset, split, purpose)
    return dataset


def _check_metric(metric: str, dataset: Dataset, split: str, purpose: str) -> None:
    labels = dataset.labels[dataset.indices(split)]
    uniform = np.full((len(labels), len(dataset.classes)), 1 / len(dataset.classes), np.float32)
    if len(labels) and not np.isfinite(metrics.get(metric).score(labels, uniform)):
        [only] = {dataset.classes[label] for label in labels}
        raise StudyError(
            f"{metric} needs images of two classes to {purpose}, but these {len(labels)} are all "
            f"of {only!r}; add images of other classes, or choose another --metric"
        )


def fit_space(
    search_space: Space,
    settings: StudyConfig,
    dataset: Dataset,
    latencies: Mapping[str, float],
    device: Device,
    listener: Listener,
) -> Space:
    """Remove plugins from the search space that these data or this device exclude; report them.

    The balance plugins are removed if the classes are balanced, unless the user requested them.
    """
    if not (settings.requested.get("balance") or settings.space.get("balance")):
        plain = search_space.without_kind("balance")
        if _is_recipe(settings, plain) or imbalance(dataset) <= majority.IMBALANCED:
            search_space = plain
    search_space = exclude_slow_backbones(search_space, settings, latencies, device)
    notify_excluded(search_space, settings, listener)
    return search_space


def imbalance(dataset: Dataset) -> float:
    """Return the size of the largest class over that of the smallest, in the training split."""
    counts = np.bincount(dataset.labels[dataset.indices("train")])
    return float(counts.max() / max(1, counts.min()))


def _is_recipe(settings: StudyConfig, search_space: Space) -> bool:
    """Whether the study trains a single configuration once, as ``autotl train`` does."""
    return search_space.is_single and settings.trials == 1


def exclude_slow_backbones(
    search_space: Space, settings: StudyConfig, stored: Mapping[str, float], device: Device
) -> Space:
    """Remove backbones whose latency on this device exceeds ``max_latency``.

    Each latency is measured once per study and stored, so that a study that is continued has the
    same backbones; ``stored`` has those of earlier runs, in milliseconds.
    """
    if settings.max_latency is None:
        return search_space
    latencies: dict[str, float] = {}
    slow: dict[str, str] = {}
    for plugin in search_space.plugins["backbone"]:
        latency = stored.get(plugin.name)
        try:
            if latency is None:
                choice = Choice(plugin, plugin.defaults)
                latency = training.measure_latency(choice, settings.size, device).median
        except Incompatible as reason:
            slow[plugin.name] = str(reason)
            continue
        latencies[plugin.name] = latency
        if latency > settings.max_latency:
            slow[plugin.name] = f"{latency:.1f} ms per image, more than {settings.max_latency:g}"
    return replace(search_space.exclude("backbone", slow), latency=latencies)


def notify_excluded(search_space: Space, settings: StudyConfig, listener: Listener) -> None:
    """Report excluded plugins by reason; a warning if the user requested one of them by name."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for plugin in search_space.excluded:
        reasons.setdefault((plugin.kind, plugin.reason), []).append(plugin.name)
    for (kind, reason), names in reasons.items():
        requested = set(names) & set(settings.requested.get(kind, ()))
        warning = kind == "module" or bool(requested)
        listener(Note(f"excluded: {kind} {', '.join(names)} ({reason})", warning=warning))


def begin_study(
    settings: StudyConfig,
    store: Store,
    dataset: Dataset,
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
    this = _identity(settings, dataset, search_space, device)
    first_budget = budget.seconds
    if earlier:
        delete = f"autotl studies delete {shlex.quote(settings.name)}{store.options(settings.out)}"
        identity.require_same(settings.name, earlier.identity or {}, this, delete)
        first_budget = earlier.first_budget_seconds
    store.begin_study(
        settings.name,
        seed=settings.seed,
        metric=settings.metric,
        direction=metrics.get(settings.metric).direction,
        prefer=settings.prefer,
        identity=this,
        data=_data_facts(dataset, metrics.get(settings.metric)),
        unit_folds=folds.unit_folds(dataset),
        space=search_space.describe(),
        excluded=[ExcludedPlugin(**vars(plugin)) for plugin in search_space.excluded],
        sampler=sampler.DESCRIPTION,
        pruner=pruner.DESCRIPTION,
        device=str(device),
        versions=versions(),
        budget_seconds=budget.seconds,
        first_budget_seconds=first_budget,
        input_size=plan.size,
        used_examples=plan.examples,
        state="running",
        reason="",
        **({} if earlier else {"mirroring": None, "warm_start": None}),  # of other settings
    )
    store.add_latencies(settings.name, search_space.latency)
    issues = [DataIssueRow(**vars(issue)) for issue in dataset.issues]
    store.set_data_issues(settings.name, issues)


def _identity(
    settings: StudyConfig, dataset: Dataset, search_space: Space, device: Device
) -> dict[str, Any]:
    """Return the settings that must be the same in all runs of a study."""
    recipe = search_space.fingerprint if _is_recipe(settings, search_space) else None
    return {
        **identity.of_settings(settings),
        "precision": identity.of_precision(device.precision),
        "data": dataset.fingerprint,
        "recipe": recipe,  # a study of one recipe cannot continue with another
    }


def _data_facts(dataset: Dataset, metric: metrics.Metric) -> DataFacts:
    train, validation, test = (
        len(dataset.indices(split)) for split in ("train", "validation", "test")
    )
    return DataFacts(
        source=dataset.source,
        fingerprint=dataset.fingerprint,
        classes=list(dataset.classes),
        train=train,
        validation=validation,
        test=test,
        folds=None if dataset.folds is None else int(dataset.folds.max()) + 1,
        skipped=dataset.skipped,
        duplicates_across_splits=dataset.duplicates_across_splits,
        independent_validation=dataset.count_units(dataset.scored_split),
        imbalance=imbalance(dataset),
        majority=_majority_class(dataset, metric),
    )


def _majority_class(dataset: Dataset, metric: metrics.Metric) -> MajorityClass:
    """Return the most frequent class of the training split, with the scores of predicting it."""
    labels = {
        name: dataset.labels[dataset.indices(name)] for name in ("train", "validation", "test")
    }
    if not len(labels["validation"]):  # the training split is divided into folds
        labels["validation"] = labels["train"]
    constant = majority.constant_probabilities(labels["train"], len(dataset.classes))
    scores = {
        name: majority.constant_score(metric, labels[name], constant)
        for name in ("validation", "test")
        if len(labels[name])
    }
    finite = {name: score for name, score in scores.items() if np.isfinite(score)}
    return MajorityClass(name=dataset.classes[int(constant.argmax())], **finite)


def write_data(settings: StudyConfig, dataset: Dataset, listener: Listener) -> None:
    """Write the split of every image, and the problems of the data, into the run folder.

    Raises:
        StoreError: The run folder cannot be written.
    """
    try:
        files.claim(settings.folder)
        (settings.folder / ERROR_FILE).unlink(missing_ok=True)  # of an earlier run
    except OSError as error:
        raise StoreError(
            f"{settings.folder} cannot be written ({error.strerror or error}); free some space "
            "there, or choose another folder with --out"
        ) from None
    data.write_splits(dataset, settings.folder / "splits.csv")
    data.write_issues(dataset, settings.folder / "issues.csv")
    if dataset.issues:
        first = dataset.issues[0]
        text = f"the data have {len(dataset.issues)} problems, see {settings.folder}/issues.csv"
        listener(Note(f"{text}; the first is {first.name}: {first.problem}", warning=True))
    for line in data.scale.describe(dataset.scales):
        listener(Note(f"scale of images with more than 8 bits: {line}"))


def training_context(
    settings: StudyConfig,
    store: Store,
    dataset: Dataset,
    device: Device,
    budget: Budget,
    plugins: Registry,
    listener: Listener,
) -> TrainingContext:
    """Make the context of all trainings of the study, with the measurements of earlier runs."""
    facts = store.study(settings.name)
    train, validation = (len(dataset.indices(split)) for split in ("train", "validation"))
    budget.refit = (train + validation) / train
    if settings.folds is not None:
        budget.refit = settings.folds / (settings.folds - 1)
    cache = FeatureCache(
        settings.cache_size,
        settings.out / "cache",
        warn=lambda text: listener(Note(text, warning=True)),
    )
    cache.make_room(0)  # the limit may be lower than in the last run
    return TrainingContext(
        settings,
        dataset,
        device,
        budget,
        listener,
        plugins,
        cache,
        micro_batch_sizes=dict(facts.micro_batch_sizes),
        measured_costs=dict(facts.measured_costs),
    )


def fit_augmentations(
    search_space: Space, store: Store, context: TrainingContext, listener: Listener
) -> Space:
    """Remove mirroring from the search space if the classes of these data do not survive it.

    That is measured before the first trial and stored, so that a study that is continued has the
    same augmentations. One that was begun without the measurement keeps its own.
    """
    name = context.settings.name
    facts = store.study(name).mirroring
    if facts is None and search_space.may_mirror and not store.trials(name):
        listener(Stage("measuring whether images may be mirrored"))
        facts = MirroringFacts()
        if result := measure_mirroring(search_space, context):
            facts = MirroringFacts(**asdict(result), survives=result.survives)
            listener(Note(report.describe_mirroring(facts.model_dump())))
        store.update_study(name, mirroring=facts)
    if facts is None or facts.survives or not search_space.may_mirror:
        return search_space
    search_space = search_space.without_mirroring()
    store.update_study(name, space=search_space.describe())
    return search_space


def search_and_finish(
    store: Store,
    search_space: Space,
    context: TrainingContext,
    budget: Budget,
    listener: Listener,
) -> bool:
    """Run the trials, then choose, refit and test the winner.

    After an error, the best model so far is saved.

    Returns:
        Whether the user interrupted the search.

    Raises:
        AutoTLError: No trial completed, or the refit failed.
    """
    settings = context.settings
    study = resume.resume(store, settings, search_space, context.registry, listener)
    leaderboard = Leaderboard(store, settings.name, metrics.get(settings.metric))
    loop = TrialLoop(store, study, search_space, context, leaderboard, budget, listener)

    def finish() -> Finish:
        return Finish(store, context, leaderboard, budget, listener, loop.best, versions())

    try:
        try:
            with budget.stage("search"):
                listener(Stage("searching"))
                loop.run()
        except (KeyboardInterrupt, Exception):
            finish().try_to_save_best()
            raise
        finish().run()
    except KeyboardInterrupt:
        return True
    return False


@contextmanager
def name_device_faults() -> Iterator[None]:
    """Say what to do after an error of the GPU, after which no call to it succeeds.

    Raises:
        GpuError: There was such an error inside.
    """
    try:
        yield
    except AutoTLError:
        raise
    except Exception as error:
        if fault := find_device_fault(error):
            text = f"{describe_device_fault(fault)}; repeat the command"
            raise GpuError(text) from error
        raise


@contextmanager
def hand_over(
    store: Store, settings: StudyConfig, budget: Budget, listener: Listener, command: str
) -> Iterator[None]:
    """After an error inside, store its reason and write the report of what is known.

    Raises:
        AutoTLError: The error inside.
        SearchError: The error inside, if it was of another library.
        GpuError: The error inside, if no call to the GPU succeeds after it.
    """
    try:
        with store.convert_errors():
            yield
    except Exception as error:
        if _is_deleted(store, settings.name):
            raise
        reason, is_ours = _describe(error), isinstance(error, AutoTLError)
        fault = find_device_fault(error)
        details = "".join(traceback.format_exception(error)) if fault or not is_ours else ""
        steps: list[Callable[[], object]] = [
            lambda: _store_state(store, settings, budget, "failed", command, reason),
            lambda: report.write(store, settings.name, settings.folder),
        ]
        file = settings.folder / ERROR_FILE
        if details:
            steps.append(lambda: files.write_text(file, details, errors="replace"))
        for step in steps:
            try:
                step()
            except Exception as second:  # the first error is what the user must know
                listener(Note(f"not everything was saved: {_describe(second)}", warning=True))
        if not details:
            raise
        hint = f"details are in {file}; repeat the command to continue"
        if fault:
            text = str(error) if is_ours else describe_device_fault(fault)
            raise GpuError(f"{text}; {hint}") from error
        text = f"the search ended with an error ({reason}); its trials are stored"
        raise SearchError(f"{text}; {hint}") from error


def _is_deleted(store: Store, study: str) -> bool:
    with suppress(StoreError):  # a database that cannot be read is reported later
        return store.find_study(study) is None
    return False


def _describe(error: Exception) -> str:
    """The first line of an error's message, with its type unless it is AutoTL's."""
    lines = str(error).splitlines()[:1]
    return ": ".join([*([] if isinstance(error, AutoTLError) else [type(error).__name__]), *lines])


def conclude(
    store: Store, settings: StudyConfig, budget: Budget, interrupted: bool, command: str
) -> dict[str, Any]:
    """Store the final state of the study, write the report, and return the summary."""
    _store_state(store, settings, budget, "interrupted" if interrupted else "done", command)
    summary = report.write(store, settings.name, settings.folder)
    dashboard.annotate(store, settings.name, settings.folder, within=DASHBOARD_SECONDS)
    return summary


def notify_unused(budget: Budget, listener: Listener) -> None:
    """Report the unused part of the budget, if it is more than ``UNUSED_FRACTION``."""
    if budget.seconds is not None and budget.left > UNUSED_FRACTION * budget.seconds:
        listener(
            Note(
                f"{budget.left:.0f} s of the budget are unused; to go on, repeat the command with "
                "a larger --budget or more --trials"
            )
        )


def _store_state(
    store: Store,
    settings: StudyConfig,
    budget: Budget,
    state: str,
    command: str,
    reason: str = "",
) -> None:
    facts = store.study(settings.name)
    counted = 0.0 if facts.state == "running" else facts.run_seconds or 0.0  # of this run
    before = facts.seconds - counted
    store.update_study(
        settings.name,
        state=state,
        reason=reason,
        seconds=before + budget.spent,
        run_seconds=budget.spent,
        stages=budget.stages,
        command=without_passwords(command),
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries on which results depend."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
