"""One search, from the data to the run folder, as a list of steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotl import events, models, report
from autotl.artifact import model_folder, replacement
from autotl.data import Dataset
from autotl.engine.beginning import (
    announce,
    begin_study,
    continue_settings,
    open_store,
    require_first,
    shared_settings,
    versions,
)
from autotl.engine.continued_pretraining import continue_pretraining
from autotl.engine.ending import conclude, hand_over, name_device_faults
from autotl.engine.inputs import (
    apply_inputs,
    check_metric,
    choose_inputs,
    choose_task_and_metric,
    load_dataset,
    read_examples,
    write_data,
)
from autotl.engine.search_space import (
    check_student,
    choose_space,
    fit_augmentations,
    fit_space,
    load_plugins,
    plugins_for,
)
from autotl.engine.source_weights import train_source_weights, warn_of_shared
from autotl.events import Listener, Note, Stage
from autotl.frozen import FeatureCache
from autotl.models import Device
from autotl.scoring.metrics import Metric
from autotl.search import preflight, resume
from autotl.search.best_model import clear_models
from autotl.search.budget import Budget
from autotl.search.context import TrainingContext
from autotl.search.input_plan import InputPlan
from autotl.search.leaderboard import Leaderboard
from autotl.search.resume import Study
from autotl.search.trials import WAIT_SECONDS, TrialLoop, quiet_optuna
from autotl.selection.distillation import FOLDER
from autotl.selection.finish import Finish
from autotl.space.registry import Registry
from autotl.space.space import Space
from autotl.store import (
    FINISH,
    RunFacts,
    Store,
    StudyFacts,
    Worker,
    join,
    without_passwords,
)
from autotl.study import DEFAULT_BUDGET, StudyConfig, check_places


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

    def predict(self, items: Any) -> list[dict[str, Any]]:
        """Predict new examples with the model in the run folder.

        Args:
            items: For images a path, a folder, a Pillow image, an array, or an iterable of these,
                see ``Predictor.predict``.

        Returns:
            For each example the probability of each class by its name; for tasks without classes
            what is predicted, see ``Predictor.predict``.

        Raises:
            ArtifactError: There is no model.
            DataError: An item cannot be read.
        """
        return model_folder.load(self.folder / "model", self.plugins).predict(items)


def run(
    settings: StudyConfig,
    listener: Listener = events.ignore,
    plugins: Registry | None = None,
    command: str = "",
    began: float | None = None,
    joinable: bool = False,
) -> Result:
    """Search for the best transfer configuration, refit it and test it once.

    Args:
        settings: The settings of the study.
        listener: Called with the events of the progress.
        plugins: The plugins; None for the installed ones and those of ``settings.plugin``.
        command: The command line, for the report.
        began: The begin of the budget as a value of ``time.monotonic``; None for now.
        joinable: Whether Ctrl-C ends this process alone, while other workers live.

    Returns:
        The result; after Ctrl-C, the result so far with ``interrupted`` set.

    Raises:
        AutoTLError: An error that the user can resolve; the message says how.
    """
    budget = start_budget(settings, began)
    check_folders(settings)
    given, loaded = settings.plugin, load_plugins(settings, plugins)
    with open_store(settings) as store, quiet_optuna(), name_device_faults():
        settings, earlier = continue_settings(settings, store, listener)
        preflight.check_continued(settings)
        plugins = loaded if settings.plugin == given else load_plugins(settings, plugins)
        device = models.select_device(settings.device, settings.precision)
        with join(store, settings.name, str(device), settings.folder) as worker:
            require_first(settings, store, worker)
            settings, source = train_source_weights(settings, plugins, budget, listener, earlier)
            settings, fitting, dataset, metric, search_space, plan = prepare(
                settings, plugins, store, earlier, device, budget, listener, begins=True
            )
            warn_of_shared(source, dataset, listener)
            described = dataset, metric, search_space, device, budget, plan, earlier
            begin_study(settings, store, *described)
            with (
                store.expect_study(settings.name),
                hand_over(store, settings, budget, listener, command, worker),
            ):
                try:
                    write_data(settings, dataset, listener)
                    context = training_context(
                        settings, store, dataset, metric, device, budget, fitting, listener
                    )
                    begun = store, search_space, context
                    interrupted = begin_trials(*begun, worker, command, joinable)
                except KeyboardInterrupt:
                    interrupted = True
                if interrupted and joinable and worker.others():
                    summary = report.summarise(store, settings.name)
                else:
                    summary = conclude(store, settings, budget, interrupted, command, listener)
    return Result(summary, settings.folder, plugins, interrupted)


def check_folders(settings: StudyConfig) -> None:
    """Check that the run folder may be written, before anything is loaded.

    Raises:
        StudyError: It contains the data, or is of something else.
        StoreError: Its model folder is of something else.
    """
    for place in (settings.data, settings.target):
        if place:
            check_places(settings.folder, place)
    replacement.check_replaceable(settings.folder / "model")
    if settings.student:
        replacement.check_replaceable(settings.folder / FOLDER)


def prepare(
    settings: StudyConfig,
    plugins: Registry,
    store: Store,
    earlier: StudyFacts | None,
    device: Device,
    budget: Budget,
    listener: Listener,
    device_type: str | None = None,
    begins: bool = False,
) -> tuple[StudyConfig, Registry, Dataset, Metric, Space, InputPlan]:
    """Read and check the data, and choose what follows from them.

    ``device_type`` is that of the device for which the search space is made; None for ``device``.
    The process that ``begins`` a search continues the pretraining, if the settings say so; those of
    a worker that joins name the result.

    Returns:
        The settings with the task, the metric and the input size; the plugins that suit the data
        and the task; the data; the metric; the search space; and how many examples of which size
        are used.
    """
    if settings.student:
        budget.reserve_student()
    with budget.stage("check"):  # names are checked before any image is opened
        source = read_examples(settings, plugins)
        settings, source, metric = choose_task_and_metric(settings, source, plugins, listener)
        fitting = plugins_for(settings, plugins, source)
        check_student(settings, fitting, source)
        announce(settings, metric, store, budget, device, listener)
        device_type = device_type or device.torch_device.type
        search_space = choose_space(settings, fitting, earlier, device_type, budget)
        continues = begins and bool(settings.continue_pretraining)
        with budget.reserving_pretraining() if continues else nullcontext():
            plan = choose_inputs(settings, search_space, source, earlier, device, budget)
        settings, source = apply_inputs(plan, settings, source, listener)
        dataset = load_dataset(settings, source, listener)
        check_metric(metric, dataset)
    if continues:
        settings = continue_pretraining(
            settings, fitting, search_space, dataset, device, budget, listener, earlier
        )
        fitting = fitting.for_backbones(settings.backbone)
        search_space = choose_space(settings, fitting, earlier, device_type, budget)
    with budget.stage("time"):
        latencies = store.latencies(settings.name) if earlier else {}
        search_space = fit_space(search_space, settings, dataset, latencies, device, listener)
    return settings, fitting, dataset, metric, search_space, plan


def start_budget(settings: StudyConfig, began: float | None) -> Budget:
    """Begin the budget: ``DEFAULT_BUDGET`` if the user set neither a budget nor a trial limit."""
    limited = settings.budget is not None or settings.trials is not None
    return Budget(settings.budget if limited else DEFAULT_BUDGET, began=began)


def training_context(
    settings: StudyConfig,
    store: Store,
    dataset: Dataset,
    metric: Metric,
    device: Device,
    budget: Budget,
    plugins: Registry,
    listener: Listener,
) -> TrainingContext:
    """Make the context of all trainings of the study, with the measurements of earlier runs."""
    facts = store.study(settings.name)
    listener(events.ScoreDecimals(facts.score_decimals))
    budget.refit = len(dataset.indices(*dataset.refit_splits)) / len(dataset.indices("train"))
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
        metric,
        device,
        budget,
        listener,
        plugins,
        cache,
        micro_batch_sizes=dict(facts.micro_batch_sizes),
        measured_costs=dict(facts.measured_costs),
    )


def begin_trials(
    store: Store,
    search_space: Space,
    context: TrainingContext,
    worker: Worker,
    command: str,
    joinable: bool = False,
) -> bool:
    """Begin or continue the trials of a study, let other workers join, and finish the study.

    Returns:
        Whether the user interrupted the search.

    Raises:
        AutoTLError: No trial completed, or the refit failed.
    """
    settings = context.settings
    with context.budget.stage("time"):
        search_space = fit_augmentations(search_space, store, context, context.listener)
    clear_models(settings)
    study = resume.resume(store, settings, search_space, context.registry, context.listener)
    leaderboard = Leaderboard(store, settings.name, context.metric)
    run = RunFacts(
        settings=shared_settings(settings),
        device_type=context.device.torch_device.type,
        began=store.now() - context.budget.spent,
        first_trial=leaderboard.first_trial,
        command=without_passwords(command),
    )
    store.update_study(settings.name, run=run)
    return search_and_finish(
        store, study, search_space, context, leaderboard, worker, joined=joinable
    )


def search_and_finish(
    store: Store,
    study: Study,
    search_space: Space,
    context: TrainingContext,
    leaderboard: Leaderboard,
    worker: Worker,
    *,
    joined: bool = False,
) -> bool:
    """Run the trials with all workers; then one of them chooses, refits and tests the winner.

    After an error, the best model so far is saved, by the last worker if there are several.

    Args:
        store: The database.
        study: Optuna's study.
        search_space: The search space.
        context: The context of all trainings of the study.
        leaderboard: The trials.
        worker: This process as a worker of the study.
        joined: Whether the others go on if this worker is interrupted.

    Returns:
        Whether the user interrupted the search.

    Raises:
        AutoTLError: No trial completed, or the refit failed.
    """
    budget, listener = context.budget, context.listener
    loop = TrialLoop(store, study, search_space, context, leaderboard, budget, listener, worker)

    def finish() -> Finish:
        best = loop.best.get()
        return Finish(store, context, leaderboard, budget, listener, best, worker, versions())

    try:
        try:
            with budget.stage("search"):
                listener(Stage("searching"))
                loop.run()
        except (KeyboardInterrupt, Exception):
            if not (joined and worker.others()):
                finish().try_to_save_best()
            raise
        if wait_to_finish(store, worker, context, finish):
            finish().run()
            clear_models(context.settings)
    except KeyboardInterrupt:
        return True
    return False


def wait_to_finish(
    store: Store, worker: Worker, context: TrainingContext, finish: Callable[[], Finish]
) -> bool:
    """Wait until this worker may finish the study, or another one has; help that one meanwhile.

    Returns:
        Whether this worker is to finish the study, and holds the lease for it from now on.
    """
    name, helper = context.settings.name, None
    while not worker.try_lease(FINISH):
        helper = helper or finish()
        if not helper.help():
            context.listener(Stage("waiting for the worker that finishes the study"))
            time.sleep(WAIT_SECONDS)
        if store.state(name) != "running":
            return False
    return store.state(name) == "running"
