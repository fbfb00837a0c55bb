"""Recipes: a configuration with the settings that it was trained with, as a TOML file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from autotl import files
from autotl.errors import StudyError
from autotl.space.kinds import OPTIONAL_KINDS, SEARCHED_KINDS
from autotl.space.space import DEFAULT
from autotl.study.config import StudyConfig, read_toml, resolve_paths, validate

REQUIRED_KINDS = ("backbone", "freeze", "head")
"""The kinds of which a recipe names the plugin; others may have no effect."""


def write_recipe(
    path: Path,
    config: Mapping[str, Any],
    training: Mapping[str, Any],
    of: int = 1,
    effective: Mapping[str, Any] | None = None,
) -> None:
    """Write a recipe: a configuration and the settings with which it was trained.

    Args:
        path: The TOML file to write.
        config: One plugin with its values for each kind, as ``space.to_json`` returns it.
        training: Settings that affect the result: epochs, batch_size, seed, metric, ...
        of: Number of members, if the winner is an ensemble or a soup.
        effective: The configuration without what has no effect, which is not written; None if
            everything has one.

    Raises:
        OSError: The file cannot be written.
    """
    settings = {key: value for key, value in training.items() if value is not None}
    member = f"# This is one of the {of} members of an ensemble.\n" if of > 1 else ""
    effective = effective or config
    unused = [kind for kind in config if kind not in effective]
    if unused:
        member += (
            "# The head is fitted in closed form on a frozen backbone, on which "
            f"{', '.join(unused)} and the learning rate have no effect.\n"
        )
    text = f"# Retrain: autotl train {path.name} DATA\n{member}"
    files.write_text(path, text + tomli_w.dumps({**settings, **effective}))


def configure_recipe(path: Path, source: str | None, options: Mapping[str, Any]) -> StudyConfig:
    """Configure the study that retrains a recipe, in a single trial.

    Args:
        path: A ``recipe.toml`` as ``write_recipe`` wrote it. The study is named like the folder of
            such a file, and like a file of another name.
        source: The data; None for the data that the recipe names.
        options: Settings that override those of the recipe.

    Raises:
        StudyError: The file is not a recipe, or an option is not valid.
    """
    values = read_toml(path)
    config = {kind: values.pop(kind, None) for kind in SEARCHED_KINDS}
    for kind, chosen in list(config.items()):
        if chosen is None and kind not in REQUIRED_KINDS:
            del config[kind]
            if kind not in OPTIONAL_KINDS:
                values[kind] = [DEFAULT]
            continue
        if not isinstance(chosen, dict) or len(chosen) != 1:
            raise StudyError(f"{path} is not a valid recipe: expected one table [{kind}.NAME]")
        values[kind] = list(chosen)
    values.pop("versions", None)
    if source is not None:
        values.pop("target", None)  # it belongs to the data of the recipe
    resolve_paths(values, path.parent)
    own = re.fullmatch(r"recipe(-\d+)?", path.stem)  # recipe-2.toml is a member of an ensemble
    name = f"{path.resolve().parent.name}-retrained{own[1] or ''}" if own else path.stem
    fixed = {
        "study": name,
        "trials": 1,
        "space": config,
        **({"data": source} if source is not None else {}),
    }
    return validate({**values, **fixed}, options, str(path))
