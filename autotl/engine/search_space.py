"""The search space of a run, fitted to the device, the limits and the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import reduce

from autotl import data, models, report, training
from autotl.data import Dataset, Source
from autotl.engine.inputs import imbalance
from autotl.errors import Incompatible, OutOfMemory, StudyError
from autotl.events import Listener, Note, Stage
from autotl.models import Device
from autotl.scoring import majority
from autotl.search.budget import Budget
from autotl.search.context import TrainingContext
from autotl.search.mirroring import measure_mirroring
from autotl.search.student import choose_student, require_teachable
from autotl.space import registry, space
from autotl.space.input_kind import IMAGE
from autotl.space.kinds import RGB
from autotl.space.registry import BackboneCriteria, Registry
from autotl.space.space import Choice, Space
from autotl.space.task import AUTO
from autotl.store import (
    MirroringFacts,
    Store,
    StudyFacts,
    existing_url,
)
from autotl.study import StudyConfig
from autotl.tasks import find_task


def load_plugins(settings: StudyConfig, plugins: Registry | None) -> Registry:
    """Load the plugins, and check names before anything is written.

    Raises:
        AutoTLError: A plugin file, a task, a data source, one of its options, a device or a
            database does not exist.
    """
    models.select_device(settings.device, settings.precision)
    plugins = plugins or registry.load(settings.plugin)
    if settings.task != AUTO:
        find_task(settings.task, plugins)
    options, source = settings.data_options, data.fetch(settings.data)
    data.parse_options(plugins.dataset(source, options), options)
    if settings.learn_from:
        existing_url(settings.learn_from, "--learn-from")
    return plugins


FEWEST_UNLABELLED = 0.1
"""The minimum number of unlabelled examples, as a fraction of the training split, with which it is
searched what to do with them."""


def plugins_for(settings: StudyConfig, plugins: Registry, source: Source) -> Registry:
    """The plugins that suit the kind of input and the task of the data, and the backbones.

    Raises:
        StudyError: The settings have channels of images, and the data are something else.
    """
    kind = source.kind
    if settings.in_chans != RGB and kind.backbone_input != IMAGE:
        raise StudyError(f"in_chans is for images, and the data are {kind.nouns}; leave it out")
    fitting = plugins.for_input(kind).for_channels(settings.in_chans)
    return fitting.for_task(source.task.name).for_backbones(settings.backbone)


def choose_space(
    settings: StudyConfig,
    plugins: Registry,
    earlier: StudyFacts | None,
    device_type: str,
    budget: Budget,
) -> Space:
    """Build the search space of these plugins for a type of device, such as ``cuda``.

    A study that is continued with another budget has the same backbones as with its first budget.
    """
    criteria = BackboneCriteria(
        weights=settings.weights,
        device=device_type,
        seconds=earlier.first_budget_seconds if earlier else budget.seconds,
        licences=settings.licence,
        max_parameters=settings.max_parameters,
    )
    return space.build_space(
        plugins,
        settings.requested,
        settings.space,
        criteria,
        sizes=settings.image_size,
    )


def check_student(settings: StudyConfig, plugins: Registry, source: Source) -> None:
    """Check that the student of the settings, if there is one, can be taught.

    Raises:
        PluginError: There is no such backbone, or its weights are not available.
        StudyError: It is not one backbone, does not take inputs of its size, or the task or the
            augmentations do not suit.
    """
    if not settings.student:
        return
    require_teachable(source.task)
    choice = choose_student(settings, plugins)["backbone"]
    try:
        models.build_backbone(choice, settings.student_size or settings.size)
    except Incompatible as reason:
        raise StudyError(f"--student {settings.student}: {reason}; give --student-size") from None


def fit_space(
    search_space: Space,
    settings: StudyConfig,
    dataset: Dataset,
    latencies: Mapping[str, float],
    device: Device,
    listener: Listener,
) -> Space:
    """Remove plugins from the search space that these data or this device exclude; report them.

    The plugins for unequal classes and for unlabelled examples are removed where the data have
    neither, unless the user requested them.

    Raises:
        StudyError: The user requested plugins for unlabelled examples, and there are none.
    """
    labelled, unlabelled = len(dataset.indices("train")), len(dataset.unlabelled)
    needed = {
        "balance": imbalance(dataset) > majority.IMBALANCED,
        "unlabelled": unlabelled >= max(1, FEWEST_UNLABELLED * labelled),
    }
    optional = [k for k in needed if not (settings.requested.get(k) or settings.space.get(k))]
    plain = reduce(Space.without_kind, optional, search_space)
    unneeded = optional if is_recipe(settings, plain) else [k for k in optional if not needed[k]]
    search_space = reduce(Space.without_kind, unneeded, search_space)
    requested = search_space.plugins.get("unlabelled", ())
    if not unlabelled and (names := [p.name for p in requested if training.uses_unlabelled(p)]):
        raise StudyError(
            f"the data have no unlabelled {dataset.kind.nouns} for {names[0]}; put some into a "
            "folder 'unlabelled' beside the others, or do not name it"
        )
    if unlabelled and "unlabelled" not in search_space.plugins:
        nouns = dataset.kind.nouns if unlabelled > 1 else dataset.kind.noun
        listener(Note(f"{unlabelled} unlabelled {nouns} are used by no plugin of this search"))
    search_space = exclude_slow_backbones(search_space, settings, latencies, device)
    notify_excluded(search_space, settings, listener)
    return search_space


def is_recipe(settings: StudyConfig, search_space: Space) -> bool:
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
        except (Incompatible, OutOfMemory) as reason:
            slow[plugin.name] = str(reason)
            continue
        latencies[plugin.name] = latency
        if latency > settings.max_latency:
            slow[plugin.name] = f"{latency:.1f} ms per example, more than {settings.max_latency:g}"
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
