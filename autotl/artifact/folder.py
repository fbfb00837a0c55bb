"""Check that a folder is a model folder, before PyTorch is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from autotl.artifact import replacement
from autotl.errors import ArtifactError, did_you_mean
from autotl.space.input_kind import IMAGE


def require_folder(folder: Path) -> None:
    """Check that there is a model folder; its content is checked when it is loaded.

    Raises:
        ArtifactError: There is no such folder, or it has no ``config.json``.
    """
    folder = replacement.current(folder)
    if not folder.is_dir():
        raise ArtifactError(f"there is no model folder {folder}; {suggest_folder(folder)}")
    if not (folder / "config.json").exists():
        raise ArtifactError(
            f"{folder} is not a model folder: config.json cannot be read; {suggest_folder(folder)}"
        )


def read_kind(folder: Path) -> str:
    """The name of the kind of input of a model; ``image`` if the file does not tell it."""
    try:
        text = (replacement.current(folder) / "config.json").read_text(encoding="utf-8")
        content = json.loads(text)
    except (OSError, ValueError, RecursionError):  # reported when the model is loaded
        return IMAGE
    kind = content.get("kind") if isinstance(content, dict) else None
    return kind if isinstance(kind, str) else IMAGE


def suggest_folder(folder: Path) -> str:
    """Return the end of an error message: the model folder that was probably meant."""
    for candidate in (folder / "model", folder.parent):
        if (candidate / "config.json").is_file():
            return f"did you mean {candidate}?"
    parent = folder.parent
    if not folder.exists() and parent.is_dir():
        names = [p.name for p in parent.iterdir() if p.is_dir() and not p.name.startswith(".")]
        if names:
            return did_you_mean(folder.name, names)
    return "a search writes runs/NAME/model"
