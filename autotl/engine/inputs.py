"""The examples of a run: how many, at which size, checked and split."""

from __future__ import annotations

import numpy as np

from autotl import data, files
from autotl.data import Dataset, Source
from autotl.errors import StoreError, StudyError
from autotl.events import Listener, Note, Stage
from autotl.models import Device
from autotl.scoring import majority
from autotl.scoring.metrics import Metric
from autotl.search.budget import Budget
from autotl.search.input_plan import InputPlan, plan_inputs
from autotl.space.registry import Registry
from autotl.space.space import Space
from autotl.store import (
    StudyFacts,
)
from autotl.study import ERROR_FILE, SourceTrainingConfig, StudyConfig
from autotl.tasks import choose_task, find_metric, find_metric_without_labels


def choose_inputs(
    settings: StudyConfig,
    search_space: Space,
    source: Source,
    earlier: StudyFacts | None,
    device: Device,
    budget: Budget,
) -> InputPlan:
    """Choose the input size and the number of examples, or return those of the first run.

    Raises:
        StudyError: The budget is too short for any trial.
    """
    if earlier:
        return InputPlan(
            earlier.input_size, earlier.used_examples, unlabelled=earlier.used_unlabelled
        )
    if not source.examples:
        return InputPlan()  # the check raises an error that says what is missing
    return plan_inputs(settings, search_space, source, device, budget)


def read_examples(settings: StudyConfig, plugins: Registry, needs_labels: bool = True) -> Source:
    """Read the examples of the data, without opening them.

    Args:
        settings: Name the data.
        plugins: The plugins.
        needs_labels: Whether a folder must have classes.

    Raises:
        DataError: The data cannot be read.
        StudyError: A file is in the run folder or in the cache.
    """
    read = data.read_source if needs_labels else data.read_without_labels
    source = read(settings.data, plugins, settings.data_options)
    _check_places_of_files(settings, source)
    return source


def _add_target(settings: StudyConfig, source: Source, plugins: Registry) -> Source:
    """Join the examples of the target to those of the source, if the settings have a target.

    Raises:
        DataError: The target cannot be read, or does not fit the source.
        StudyError: A file is in the run folder or in the cache.
    """
    if settings.target is None:
        return source
    target = data.read_target(settings.target, source, plugins, settings.data_options)
    _check_places_of_files(settings, target)
    names = settings.data, settings.target
    return data.join_domains(
        source, target, names, settings.seed, settings.validation, settings.test
    )


def _check_places_of_files(settings: StudyConfig, source: Source) -> None:
    """Check that no file of the data is in a folder whose files are replaced.

    Raises:
        StudyError: A file is in the run folder or in the cache.
    """
    all_of = (*source.examples, *source.unlabelled)
    files_of = (source.kind.find_file(example.item) for example in all_of)
    parents = {file.parent for file in files_of if file is not None}
    for place in (settings.folder, settings.out / "cache"):
        if inside := next((p for p in parents if files.is_within(p, place)), None):
            raise StudyError(
                f"the {source.kind.nouns} in {inside} are inside {place}, whose files are "
                "replaced; give another folder with --out, or another name with --study"
            )


def apply_inputs(
    plan: InputPlan, settings: StudyConfig, source: Source, listener: Listener
) -> tuple[StudyConfig, Source]:
    """Return the settings with the input size, and the source with the examples of a plan."""
    for reason in plan.reasons:
        listener(Note(reason))
    if plan.size and not settings.image_size:
        settings = settings.model_copy(update={"image_size": (plan.size,)})
    if plan.examples:
        drawn = data.sample_examples(source.examples, plan.examples, settings.seed, source.task)
        source = source._replace(examples=drawn)
    if plan.unlabelled is not None:
        count = min(plan.unlabelled, len(source.unlabelled))
        chosen = np.random.default_rng(settings.seed).permutation(len(source.unlabelled))[:count]
        few = tuple(source.unlabelled[i] for i in chosen)
        source = source._replace(unlabelled=few)
    return settings, source


def choose_task_and_metric(
    settings: StudyConfig, source: Source, plugins: Registry, listener: Listener
) -> tuple[StudyConfig, Source, Metric]:
    """Choose the task and the metric, and read the target in between.

    Returns:
        The settings with their names, the source with the task and the examples of the target,
        and the metric.

    Raises:
        PluginError: There is no such task.
        StudyError: There is no such metric, or it does not suit the task.
    """
    labels = [example.label for example in source.examples]
    task, reason = choose_task(settings.task, labels, plugins)
    if reason:
        text = f"the task is {task.name}, because {reason}; --task classification overrides that"
        listener(Note(text))
    source = _add_target(settings, source._replace(task=task), plugins)
    if source.validation_has_labels:
        metric = find_metric(settings.metric or task.default_metric, task, plugins)
    else:
        metric = find_metric_without_labels(settings.metric, task)
        listener(Note(f"{source.target} has no labels, so {metric.name} scores", warning=True))
    names = {"task": task.name, "metric": metric.name}
    return settings.model_copy(update=names), source, metric


def load_dataset(
    settings: StudyConfig,
    source: Source,
    listener: Listener,
) -> Dataset:
    """Check and split the data.

    Raises:
        DataError: The data cannot be used.
    """
    dataset = data.check(
        source.examples,
        settings.data,
        issues=source.issues,
        seed=settings.seed,
        validation=0 if source.target else settings.validation,
        test=0 if source.target else settings.test,
        folds=settings.folds,
        progress=lambda what, done, total: listener(Stage(what, done, total)),
        kind=source.kind,
        task=source.task,
        channels=settings.in_chans,
        unlabelled=source.unlabelled,
    )
    return data.separate_domains(dataset, source, settings.validation, settings.seed)


def check_metric(metric: Metric, dataset: Dataset) -> None:
    """Check that the metric has a value on the examples that score trials, and on the test split.

    Raises:
        StudyError: It has none.
    """
    for split, purpose in ((dataset.scored_split, "validate on"), ("test", "test on")):
        _check_split(metric, dataset, split, purpose)


def _check_split(metric: Metric, dataset: Dataset, split: str, purpose: str) -> None:
    targets = dataset.targets[dataset.indices(split)]
    constant = dataset.task.constant(dataset.targets)
    if not len(targets) or np.isfinite(majority.constant_score(metric, targets, constant)):
        return
    nouns, only = dataset.kind.nouns, dataset.task.format(targets[0])
    raise StudyError(
        f"{metric.name} needs {nouns} of two {dataset.task.nouns} to {purpose}, but these "
        f"{len(targets)} are all of {only!r}; add {nouns} of other {dataset.task.nouns}, or choose "
        "another --metric"
    )


def imbalance(dataset: Dataset) -> float:
    """Return the size of the largest class over that of the smallest, in the training split.

    It is 1 where targets are no classes.
    """
    if dataset.targets.ndim > 1:
        return 1.0
    counts = np.bincount(dataset.targets[dataset.indices("train")])
    return float(counts.max() / max(1, counts.min()))


def write_data(settings: StudyConfig, dataset: Dataset, listener: Listener) -> None:
    """Write the split of every example, and the problems of the data, into the run folder.

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
        count = len(dataset.issues)
        text = f"the data have {count} problem{'s' * (count > 1)}, see {settings.folder}/issues.csv"
        is_first = "the first is" if count > 1 else "it is"
        listener(Note(f"{text}; {is_first} {first.name}: {first.problem}", warning=True))
    for line in data.describe_scales(dataset):
        listener(Note(line))


def check_source(config: SourceTrainingConfig, source: Source, listener: Listener) -> Dataset:
    """Check and split source data; there is no test split unless they give one.

    Raises:
        DataError: They cannot be used.
    """
    dataset = data.check(
        source.examples,
        config.data,
        issues=source.issues,
        seed=config.seed,
        validation=config.validation,
        test=0.0,
        progress=lambda what, done, total: listener(Stage(what, done, total)),
        kind=source.kind,
        task=source.task,
        channels=config.in_chans,
    )
    if dataset.issues:
        first, count = dataset.issues[0], len(dataset.issues)
        text = f"the data have {count} problem{'s' * (count > 1)}, such as {first.name}: "
        listener(Note(f"{text}{first.problem}; autotl data check lists them", warning=True))
    return dataset
