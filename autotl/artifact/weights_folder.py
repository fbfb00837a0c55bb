"""A folder of weights: what source training leaves for later searches.

::

    weights/resnet18.safetensors   the tensors of the backbone, with the names that they have in it
    weights/resnet18.md            the model card of the weights

The header of the file has the facts as JSON, so that the file alone says where it comes from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotl import files
from autotl.artifact.model_card import code_span
from autotl.errors import StoreError

if TYPE_CHECKING:
    from torch import Tensor

    from autotl.models import Model

FACTS = "autotl"
"""The key of the facts in the header of the file."""

FOLDER_CARD = "README.md"
"""The model card of weights that are a folder, which a family of backbones writes."""

MARK = "<!-- autotl pretrain wrote this file and replaces it. -->"
"""The first line of the model card."""


def weights_file(folder: Path, name: str) -> Path:
    """The file with the weights of a backbone in a folder of weights."""
    return folder / f"{name}.safetensors"


def card_file(folder: Path, name: str) -> Path:
    """The model card of the weights of a backbone in a folder of weights."""
    return folder / f"{name}.md"


def read_facts(file: Path) -> dict[str, Any]:
    """Read how the weights in a file were trained.

    Returns:
        The facts, see ``engine.pretraining``; empty if source training did not write the file.
    """
    import safetensors

    if file.suffix != ".safetensors":
        return {}
    try:
        with safetensors.safe_open(file, "np") as content:
            facts = json.loads((content.metadata() or {}).get(FACTS, "{}"))
    except (OSError, ValueError, RecursionError, safetensors.SafetensorError):
        return {}
    return facts if isinstance(facts, dict) else {}


def check_replaceable(folder: Path, name: str) -> None:
    """Check that the files of a backbone can be written: they are missing, or were written here.

    Raises:
        StoreError: One of them is somebody else's, or the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is not a folder; choose another one with --out")
    file, card = weights_file(folder, name), card_file(folder, name)
    own = {file: bool(read_facts(file)), card: _is_own_card(card)}
    for path, is_own in own.items():
        if not is_own and (path.exists() or path.is_symlink()):
            raise StoreError(
                f"{path} exists, and autotl pretrain did not write it, so it is not replaced; move "
                "it, or choose another folder with --out"
            )


def _is_own_card(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline().rstrip() == MARK
    except (OSError, ValueError):
        return False


@contextmanager
def temporary_folder(out: Path) -> Iterator[Path]:
    """Yield a folder for temporary files in the folder of weights.

    Raises:
        StoreError: It cannot be created.
    """
    with ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            files.remove_leftovers(out)
            folder = stack.enter_context(files.folder_beside(out / "training"))
        except OSError as error:
            raise write_error(out, error) from None
        yield folder


def write_error(path: Path, error: OSError) -> StoreError:
    """The error that says to the user that a folder cannot be written."""
    reason = error.strerror or error
    return StoreError(f"{path} cannot be written ({reason}); choose another --out")


def copy_backbone(model: Model) -> dict[str, Tensor]:
    """Copy the tensors of the backbone of a model to the CPU, by their names in it."""
    # Cloned, because safetensors refuses a tensor that is stored under two names.
    state = model.backbone.state_dict()
    return {name: t.detach().cpu().contiguous().clone() for name, t in state.items()}


def save(folder: Path, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write the weights of a backbone and their model card; earlier ones are replaced.

    Args:
        folder: The folder of weights, which is created if it is missing.
        name: The name of the backbone.
        tensors: Its tensors by name.
        facts: How they were trained, see ``engine.pretraining``.

    Returns:
        The file with the weights.

    Raises:
        StoreError: They cannot be written, or would replace a file of somebody else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    check_replaceable(folder, name)
    file = weights_file(folder, name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with files.write_beside(file) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode  # safetensors makes its files readable by their owner
            save_file(dict(tensors), temporary, {FACTS: json.dumps(facts)})
            temporary.chmod(mode)
        files.write_text(card_file(folder, name), render_card(name, facts))
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(
            f"{file} cannot be written ({reason}); free some space there, or choose another folder "
            "with --out"
        ) from None
    return file


def check_folder_replaceable(folder: Path) -> None:
    """Check that weights of a family can be written: the folder is missing, or was written here.

    Raises:
        StoreError: It is somebody else's, or a file.
    """
    if (folder.exists() or folder.is_symlink()) and not _is_own_card(folder / FOLDER_CARD):
        raise StoreError(
            f"{folder} exists, and autotl pretrain did not write it, so it is not replaced; move "
            "it, or choose another folder with --out"
        )


def save_folder(new: Path, folder: Path, nouns: str, facts: Mapping[str, Any]) -> None:
    """Write the model card into a new folder with weights of a family, and move it to its place.

    Args:
        new: The folder with the weights, on the same file system.
        folder: Its place, where there may be an older one.
        nouns: What they were trained on.
        facts: How, with the ``backbone``.

    Raises:
        StoreError: A file or folder cannot be written; the older one is at its place.
    """
    try:
        files.write_text(new / FOLDER_CARD, render_folder_card(nouns, facts))
        with files.folder_beside(folder) as aside:
            files.replace_folder(new, folder, aside / folder.name)
    except OSError as error:
        raise write_error(folder, error) from None


def render_card(name: str, facts: Mapping[str, Any]) -> str:
    """Render the model card of the weights of a backbone, in Markdown."""
    file, noun = code_span(f"{name}.safetensors"), "images"
    what = f"The tensors in {file} are those of the backbone in timm, without a\nclassifier."
    return _render(name, what, f"--weights FOLDER --backbone source:{name}", noun, facts)


def render_folder_card(nouns: str, facts: Mapping[str, Any]) -> str:
    """Render the model card of a folder with weights of a family, in Markdown.

    Args:
        nouns: What they were trained on.
        facts: How, with the ``backbone``.
    """
    what = "The files in this folder are as the library of the backbone writes and reads them."
    return _render(facts["name"], what, f"--backbone {facts['backbone']}", nouns, facts)


def _render(name: str, what: str, use: str, nouns: str, facts: Mapping[str, Any]) -> str:
    """Render a model card; ``use`` are the options of a search with the weights."""
    rows = "\n".join(f"| {key} | {code_span(value)} |" for key, value in _describe(facts))
    return f"""{MARK}
# Weights of {code_span(name)}

{what} Use them for a search:

```bash
autotl search DATA {use}
```

| | |
|---|---|
{rows}

The licence of the {nouns} that they were trained on may apply to the weights too.
"""


def _describe(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The facts as rows of a table, those that are missing left out."""
    score = ""
    if facts.get("score") is not None:
        numbers = (f"{facts[key]:.4f}" for key in ("score", "low", "high") if key in facts)
        score = "{} {} (95 % interval {} to {})".format(facts["metric"], *numbers)
    scored = facts.get("scored")
    if scored == facts.get("held_out"):
        scored = None
    epochs = f"{facts.get('epochs')} of {facts.get('planned_epochs')}"
    if facts.get("stopped"):
        epochs += f" ({facts['stopped']})"
    versions = ", ".join(f"{k} {v}" for k, v in facts.get("versions", {}).items())
    return [
        (key, str(value))
        for key, value in (
            ("source data", facts.get("source")),
            ("fingerprint of the data", facts.get("fingerprint")),
            ("training examples", facts.get("train")),
            ("held-out examples", facts.get("held_out")),
            ("task", facts.get("task")),
            ("classes", facts.get("classes")),
            ("method", facts.get("method")),
            ("labels", facts.get("labels")),
            ("started from", facts.get("started_from")),
            ("epochs", epochs),
            ("image size", facts.get("image_size")),
            ("input size", facts.get("size")),
            ("channels", facts.get("channels")),
            ("held-out score", score),
            ("held-out score before", facts.get("before")),
            ("scored held-out examples", scored),
            ("seed", facts.get("seed")),
            ("batch size", facts.get("batch_size")),
            ("recipe", facts.get("recipe")),
            ("device", facts.get("device")),
            ("seconds", facts.get("seconds")),
            ("versions", versions),
            ("licence", facts.get("licence")),
        )
        if value not in (None, "")
    ]
