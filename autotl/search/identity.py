"""The identity of a study: the settings that must be the same in all of its runs.

The settings of the search space need not be the same, but belong to the study too.

What is not given for a run is what the study has. A study without a complete trial has nothing that
depends on its settings, so that it may begin again with others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotl.errors import StudyError
from autotl.scoring.metrics import METRICS
from autotl.space.kinds import RGB, SEARCHED_KINDS
from autotl.space.task import AUTO, DEFAULT_TASK
from autotl.study import StudyConfig

if TYPE_CHECKING:
    from autotl.store import Store, StudyFacts

SETTINGS = (
    *("task", "metric", "seed", "epochs", "patience", "batch_size", "label_smoothing", "ema"),
    *("validation", "folds", "test", "image_size", "data_options", "in_chans"),
)
"""The settings that are compared as they are given; ``precision`` is compared as it is computed."""

ADDED = {"in_chans": RGB, "task": DEFAULT_TASK}
"""Settings that studies of earlier versions lack, and the values that these have."""

SPACE_SETTINGS = (
    *SEARCHED_KINDS,
    "target",  # the identity has the fingerprint of its examples
    *(
        "space",
        "plugin",
        "weights",
        "source",
        "continue_pretraining",
        "licence",
        "max_parameters",
        "max_latency",
    ),
)
"""The settings of the search space, which the next run may change, so that a study can grow."""

PRECISIONS = {
    "None": "float32",
    "tf32": "tf32",
    "torch.bfloat16": "bfloat16",
    "torch.float16": "float16",
}
"""The values of the option ``precision``, by what is stored: for most, the type of autocast."""


def of_settings(settings: StudyConfig) -> dict[str, Any]:
    """Return the part of the identity that depends on the settings alone, as JSON values."""
    values = settings.model_dump(mode="json", include=set(SETTINGS))
    if not settings.data_options:
        del values["data_options"]  # studies of earlier versions have none
    if settings.task == AUTO:
        del values["task"]  # the labels tell it
    if not settings.metric:
        del values["metric"]  # that of the task, which the labels tell
    if settings.precision != "auto":
        values["precision"] = of_precision(settings.precision)
    return values


def of_space(settings: StudyConfig) -> dict[str, Any]:
    """Return the given settings of the search space as JSON values, with absolute paths."""
    values = settings.model_dump(mode="json", include=set(SPACE_SETTINGS), exclude_defaults=True)
    if settings.plugin:
        values["plugin"] = [str(file.expanduser().absolute()) for file in settings.plugin]
    if settings.continue_pretraining:
        values.pop("weights", None)  # those that it made, and makes again
    elif settings.weights:
        values["weights"] = str(settings.weights.expanduser().absolute())
    for key in ("source", "target"):
        if key in values and Path(values[key]).exists():
            values[key] = str(Path(values[key]).absolute())
    return values


def of_precision(precision: str) -> str:
    """Return what is stored for the precision that a device computes in, see ``PRECISIONS``."""
    return next(stored for stored, given in PRECISIONS.items() if given == precision)


def find_earlier(store: Store, settings: StudyConfig) -> StudyFacts | None:
    """Return the facts of the study that a run continues; None if it begins or begins again.

    A study without a complete trial is continued only with the settings that it had.
    """
    facts = store.find_study(settings.name)
    if facts is None or facts.identity is None:
        return None
    if any(row.status == "complete" for row in store.trials(settings.name)):
        return facts
    if facts.direction != _direction(settings, facts):
        return facts  # Optuna's study optimises in its direction for good
    old = {**ADDED, **facts.identity}
    if facts.input_size and not settings.image_size:
        old["image_size"] = []  # the search chose it, and chooses it again from the same settings
    same = all(old.get(key) == value for key, value in of_settings(settings).items())
    return facts if same else None


def _direction(settings: StudyConfig, facts: StudyFacts) -> str:
    """Return the direction of the metric of a run; '' if only the plugins know it."""
    if settings.metric in METRICS:
        return METRICS[settings.metric].direction
    if not settings.metric:  # the default of the task: of classes the accuracy
        return "maximize" if facts.metric in METRICS else facts.direction
    return facts.direction if settings.metric == facts.metric else ""


def adopt(
    settings: StudyConfig,
    identity: Mapping[str, Any] | None,
    space: Mapping[str, Any] | None = None,
) -> StudyConfig:
    """Return the settings with those of the study in the place of all that were not given.

    Args:
        settings: The settings of a run.
        identity: The identity of the study that it continues; None if it begins one.
        space: The settings of its search space in the last run, as ``of_space`` returns them.
    """
    stored = {key: value for key, value in (identity or {}).items() if key in SETTINGS}
    stored |= {key: value for key, value in (space or {}).items() if key in SPACE_SETTINGS}
    if identity and identity.get("precision") in PRECISIONS:
        stored["precision"] = PRECISIONS[identity["precision"]]
    given = settings.model_dump(include=settings.model_fields_set)
    exclusive = {"folds": ("validation", "target"), "validation": ("folds",), "target": ("folds",)}
    for one, other in ((one, other) for one, others in exclusive.items() for other in others):
        if given.get(one) is not None:  # only one of them can be set; the difference is reported
            stored.pop(other, None)
    return StudyConfig.model_validate({**stored, **given}) if stored else settings


def describe_adopted(before: StudyConfig, after: StudyConfig) -> str:
    """Return the settings that ``adopt`` changed, for the user; empty if there are none."""
    old, new = (settings.model_dump(mode="json") for settings in (before, after))
    unset = {"metric": "", "task": "auto", "device": "auto", "precision": "auto"}
    differ = [key for key in new if old[key] not in (new[key], unset.get(key, new[key]))]
    if old["metric"] == "" and new["metric"] not in ("", "accuracy"):
        differ.insert(0, "metric")  # it may be another one than the default of the task
    changed = [f"{key}={_describe(key, new[key])}" for key in differ]
    return f"as in the earlier runs of this study: {', '.join(changed)}" if changed else ""


def require_same(name: str, old: Mapping[str, Any], new: Mapping[str, Any], delete: str) -> None:
    """Check that an existing study has the same identity as a new run.

    Args:
        name: The name of the study.
        old: The identity of the existing study.
        new: The identity of the new run, or what is known of it so far.
        delete: The command that deletes the study, for the message.

    Raises:
        StudyError: They differ.
    """
    old = {**ADDED, **old}
    # A setting may be the reason for other data, and says more than their fingerprint.
    keys = sorted(new, key=lambda key: (key not in SETTINGS, key))
    different = [key for key in keys if old.get(key) != new[key]]
    if not different:
        return
    key, keep = different[0], ""
    if key == "recipe":
        conflict = "was begun with another recipe, or none"
    elif key == "data":
        conflict = "was begun with other images or labels"
    else:
        was, now = _describe(key, old.get(key)), _describe(key, new[key])
        conflict, keep = f"has {key}={was}, not {now}", f", leave {key} out to keep {was}"
    raise StudyError(
        f"study {name!r} {conflict}; choose another name with --study{keep}, or delete it with: "
        f"{delete}"
    )


def _describe(key: str, value: Any) -> str:
    """Return the value of a setting as a user gives it."""
    if key == "precision":
        return PRECISIONS.get(str(value), str(value))
    if isinstance(value, dict):
        return ",".join(_flatten(value)) or "unset"
    if isinstance(value, list):
        return " and ".join(map(str, value)) or "the backbone's"
    return "unset" if value is None else str(value)


def _flatten(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the entries of nested tables as ``head.mlp.depth=1``."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from (f"{name}.{own}" for own in _flatten(value))
        else:
            yield f"{name}={value}"
