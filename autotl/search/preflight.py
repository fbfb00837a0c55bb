"""The checks of a search that need no library, made before PyTorch and the others are loaded.

Everything is checked again where it is used: what cannot be known yet passes here.
"""

from __future__ import annotations

import fnmatch
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from autotl.errors import PluginError, StoreError, StudyError, did_you_mean
from autotl.scoring.metrics import METRICS, WITHOUT_LABELS
from autotl.search import identity
from autotl.space.declared import Declarations, read_declarations
from autotl.space.narrowing import narrow_plugin, require_kinds, require_names
from autotl.space.plugin_modules import require_plugin_file
from autotl.space.registry import WILDCARDS, choose_reason, require_source
from autotl.space.task import AUTO, DEFAULT_TASK
from autotl.store import quick
from autotl.store.lock import lock
from autotl.study import StudyConfig


def check(settings: StudyConfig, *, may_run: bool = False) -> None:
    """Check paths, names, and the study that these settings would continue.

    Args:
        settings: The settings of the study.
        may_run: Whether another process may run the study.

    Raises:
        AutoTLError: A path or a name does not exist, another process runs the study, or the study
            was begun with other settings.
    """
    check_names(settings)
    _check_source(settings)
    check_continued(settings)
    _check_study(settings, may_run)


def check_names(settings: StudyConfig) -> None:
    """Check paths and names, without the study.

    Raises:
        AutoTLError: A path or a name does not exist.
    """
    require_source(settings.data)
    if settings.target is not None:
        require_source(settings.target)
    _check_paths(settings)
    _check_task(settings)
    _check_plugin_names(settings)


def _check_source(settings: StudyConfig) -> None:
    """Check the data of a source training, and that one backbone is trained on them.

    Raises:
        StudyError: Settings contradict each other.
        DataError: There are no such data.
    """
    if settings.source is None:
        return
    require_source(settings.source)
    if settings.weights is not None:
        raise StudyError("--source makes the weights of the backbone; leave out --weights")
    if len(settings.backbone) != 1 or set(settings.backbone[0]) & (WILDCARDS | {":"}):
        raise StudyError(
            "--source trains the weights of one backbone; give one --backbone, such as resnet18"
        )


def check_continued(settings: StudyConfig) -> None:
    """Check that other settings, also of a study that is continued, suit continued pretraining.

    Raises:
        StudyError: One of them does not.
    """
    if not settings.continue_pretraining:
        return
    reasons = {
        "source": "both make the weights of a backbone",
        "weights": "it makes a folder of weights itself; train others on with autotl pretrain",
        "folds": "there would be no validation split on whose images the backbone is not trained",
    }
    for key, reason in reasons.items():
        if getattr(settings, key) is not None:
            raise StudyError(f"--continue-pretraining does not go with --{key}: {reason}")


def _check_paths(settings: StudyConfig) -> None:
    for file in settings.plugin:
        require_plugin_file(file)
    if settings.weights is not None and not settings.weights.is_dir():
        raise StudyError(f"there is no folder {str(settings.weights)!r} for --weights")
    earlier = settings.learn_from
    if earlier and "://" not in earlier and not Path(earlier).exists():
        raise StoreError(f"there is no file or folder {earlier!r} for --learn-from")
    folder = settings.out.absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise StoreError(f"{folder} is not a folder that you may write to; choose another --out")


def _check_task(settings: StudyConfig) -> None:
    """Check the names of the task and the metric, and that they suit each other.

    Whether they suit the data is not known yet.
    """
    names = {"task": settings.task, "metric": settings.metric}
    core = {"task": {AUTO, DEFAULT_TASK}, "metric": {"", *METRICS, *WITHOUT_LABELS}}
    if all(name in core[kind] for kind, name in names.items()):
        return
    declared = read_declarations(settings.plugin)
    for kind, name in names.items():
        own = declared.names.get(kind)
        if own is not None and name not in own | core[kind]:
            near = did_you_mean(name, own | core[kind] - {""})
            raise StudyError(f"no {kind} is called {name!r}; {near}")
    if settings.task != AUTO and settings.metric:
        _check_metric(settings.metric, settings.task, declared)


def _check_metric(metric: str, task: str, declared: Declarations) -> None:
    """Check that a metric suits a task, as far as the sources of the plugins tell that."""
    names = declared.names.get("metric", {metric})
    suited = {name for name in names if declared.suits("metric", name, task)}
    if not declared.has_own_targets(task):
        suited |= {*METRICS, *WITHOUT_LABELS}
    if metric not in suited:
        near = did_you_mean(metric, suited)
        raise StudyError(f"the metric {metric!r} does not suit {task}; {near}")


def _check_plugin_names(settings: StudyConfig) -> None:
    require_kinds(settings.space)
    if not any(settings.requested.values()) and not settings.space and not settings.student:
        return
    declared = read_declarations(settings.plugin)
    for kind, own in declared.names.items():
        families = {name for name in own if declared.is_family(kind, name)}
        requested = settings.requested.get(kind, ())
        if kind == "backbone" and settings.student:
            requested = (*requested, settings.student)
        unknown = [name for name in requested if not fnmatch.filter(own - families, name)]
        if families:
            _check_members(kind, unknown, declared, settings)
        elif exact := [name for name in unknown if not set(name) & WILDCARDS]:
            near = did_you_mean(exact[0], own)
            raise PluginError(f"no {kind} plugin is called {exact[0]!r}; {near}")
        tables = settings.space.get(kind, {})
        if not families:
            require_names(kind, tables, own)
        for name, values in tables.items():
            if plugin := declared.keywords(kind, name):
                narrow_plugin(plugin, values)


def _check_members(
    kind: str, patterns: Sequence[str], declared: Declarations, settings: StudyConfig
) -> None:
    """Check that patterns may match members of families. Plugin files may register more of them."""
    if not patterns or settings.plugin:
        return
    refusals = [family.refuse for family in declared.families(kind)]
    for pattern in patterns:
        reasons: list[PluginError] = []
        for refuse in refusals:
            try:
                if refuse:
                    refuse(pattern)
            except PluginError as error:
                reasons.append(error)
        if reasons and len(reasons) == len(refusals):
            raise choose_reason(reasons)


def _check_study(settings: StudyConfig, may_run: bool) -> None:
    """Check the study in a SQLite file; other databases are checked when they are opened."""
    url = settings.storage or f"{quick.PREFIX}{settings.out / 'autotl.db'}"
    database = quick.sqlite_file(url)
    if database is None or not database.is_file():
        return
    if not may_run:
        with lock(quick.lock_file(database, settings.name, settings.folder), settings.name):
            pass
    if (stored := quick.read_identity(database, settings.name)) is None:
        return
    new = identity.of_settings(identity.adopt(settings, stored))
    options = [] if settings.out == Path("runs") else ["--out", str(settings.out)]
    options += ["--storage", settings.storage] if settings.storage else []
    delete = shlex.join(["autotl", "studies", "delete", settings.name, *options])
    identity.require_same(settings.name, stored, new, delete)
