"""The configuration of the student that the winner of a study teaches.

A student has the plugins of the search space, of each kind the one that is tried first, with its
default values. Of the freeze strategies it has the last one of those that are tried first: they are
sorted by cost, and a small model is trained quickly.
"""

from __future__ import annotations

from autotl.errors import StudyError
from autotl.space import space
from autotl.space.registry import BackboneCriteria, Registry
from autotl.space.space import Choice, Config
from autotl.space.task import Task
from autotl.study import StudyConfig


def choose_student(settings: StudyConfig, registry: Registry, *, may_mirror: bool = True) -> Config:
    """Return the configuration of a student.

    Args:
        settings: The settings of the study, with the name of the student's backbone.
        registry: The plugins that suit the data and the task.
        may_mirror: Whether augmentations may mirror images.

    Raises:
        PluginError: There is no such backbone, or its weights are not available.
        StudyError: The name is a pattern that matches several, or all augmentations mix examples.
    """
    name = settings.student
    own = space.build_space(
        registry,
        {**settings.requested, "backbone": (name,)},
        {kind: tables for kind, tables in settings.space.items() if kind != "backbone"},
        BackboneCriteria(weights=settings.weights, licences=settings.licence),
    )
    own = own.without_kind("unlabelled")
    if not settings.balance:
        own = own.without_kind("balance")
    if not may_mirror:
        own = own.without_mirroring()
    if len(own.plugins["backbone"]) > 1:
        names = ", ".join(own.default_order("backbone")[:3])
        raise StudyError(f"--student {name} matches several backbones ({names}, ...); name one")
    config = {}
    for kind in own.plugins:
        plugins = [own.find(kind, name) for name in own.default_order(kind)]
        if kind == "augment":
            plugins = [plugin for plugin in plugins if not plugin.mixes]
        if not plugins:
            raise StudyError(
                "a student cannot be taught with augmentations that mix examples; give another "
                "one with --augment, or leave out --student"
            )
        plugin = plugins[-1 if kind == "freeze" else 0]
        config[kind] = Choice(plugin, plugin.defaults)
    return config


def require_teachable(task: Task) -> None:
    """Check that a model for a task can learn from the predictions of another one.

    Raises:
        StudyError: It cannot.
    """
    if not task.can_be_taught:
        raise StudyError(
            f"a model for the task {task.name} cannot learn from the predictions of another one; "
            "leave out --student"
        )
