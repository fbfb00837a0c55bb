"""The model folder: weights, labels and preprocessing, that predict without the study.

::

    model/model.safetensors   the network's tensors, backbone.* and head.*
    model/config.json         what to build, how to prepare a picture, the classes, where from
    model/README.md           the model card
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from autotl import data, finetune, model, registry, space
from autotl.errors import ArtifactError, AutoTLError, DataError, StoreError
from autotl.model import Device, Model
from autotl.registry import Registry
from autotl.space import Config

SCHEMA = 1
BATCH = 32


def save(
    folder: Path,
    network: Model,
    config: Config,
    classes: Sequence[str],
    facts: Mapping[str, Any],
    card: str,
) -> None:
    """Write the model folder; an older one is replaced only when the new one is complete.

    Args:
        folder: Where to; its parent exists.
        network: The trained model.
        config: Its configuration.
        classes: Their names, in the order of the logits.
        facts: What else ``config.json`` shall say: data, versions, weights, how it was trained.
        card: The text of ``README.md``.

    Raises:
        StoreError: The folder cannot be written.
    """
    parts = {kind: config[kind] for kind in ("backbone", "head")}
    about = {
        "schema": SCHEMA,
        **space.to_json(parts),
        "plugins": {kind: choice.plugin.origin for kind, choice in parts.items()},
        "classes": list(classes),
        "input": vars(network.expects),
        **facts,
    }
    # Cloned, because safetensors refuses a tensor that stands under two names.
    tensors = {
        name: t.detach().cpu().contiguous().clone() for name, t in network.state_dict().items()
    }
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        save_file(tensors, unfinished / "model.safetensors")
        (unfinished / "config.json").write_text(json.dumps(about, indent=2) + "\n")
        (unfinished / "README.md").write_text(card)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written ({error.strerror or error}); free some space there or "
            "choose another folder with --out"
        ) from None


class Predictor:
    """A loaded model. Probabilities are computed in float32, whatever it was trained in."""

    def __init__(self, network: Model, classes: Sequence[str], where: Device) -> None:
        self.network = network.eval()
        self.classes = tuple(classes)
        self.where = where

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """``uint8 [B, S, S, 3]``, as ``data.decode`` gives them, to ``float32 [B, classes]``."""
        tensor = torch.from_numpy(images).to(self.where.device).permute(0, 3, 1, 2)
        with torch.inference_mode():
            return finetune.probabilities(self.network(tensor))

    def stream(
        self, files: Sequence[str | Path], failed: Callable[[str, str], None]
    ) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """``(file, probabilities [classes])`` for each file that can be read, in order.

        Args:
            files: Pictures.
            failed: Is told the name of a file that cannot be read, and the reason.
        """
        expects = self.network.expects
        for start in range(0, len(files), BATCH):
            names, images = [], []
            for file in files[start : start + BATCH]:
                try:
                    images.append(data.decode(Path(file), expects.size, expects.interpolation))
                    names.append(str(file))
                except DataError as error:
                    failed(str(file), str(error))
            if images:
                yield from zip(names, self.probabilities(np.stack(images)), strict=True)

    def predict(self, files: Sequence[str | Path]) -> list[dict[str, float]]:
        """For each file its probabilities by class.

        Raises:
            DataError: A file cannot be read.
        """

        def failed(file: str, reason: str) -> None:
            raise DataError(reason)

        rows = self.stream(files, failed)
        return [dict(zip(self.classes, map(float, row), strict=True)) for _, row in rows]


def load(folder: Path, plugins: Registry | None = None, where: Device | None = None) -> Predictor:
    """The model in ``folder``, ready to predict.

    Args:
        folder: As ``save`` wrote it.
        plugins: Where its backbone and head come from; None for the installed ones.
        where: None for the best device here. Always computes in float32.

    Raises:
        ArtifactError: The folder is incomplete, or made with a plugin that is not here.
    """
    if not folder.is_dir():
        raise ArtifactError(f"there is no model folder {folder}; a search writes runs/NAME/model")
    try:
        about = json.loads((folder / "config.json").read_text())
        tensors = load_file(folder / "model.safetensors")
    except OSError as error:
        missing = Path(error.filename or folder / "model.safetensors").name
        raise ArtifactError(f"{folder} is no model folder: {missing} cannot be read") from None
    except (ValueError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"{folder} is damaged: {error}") from None
    if about.get("schema") != SCHEMA:
        raise ArtifactError(f"{folder} was written by another version of autotl; upgrade autotl")
    where = Device((where or model.device(precision="float32")).device, None)
    try:
        kinds = ("backbone", "head")
        config = space.from_json(about, plugins or registry.load(), kinds=kinds, pretrained=False)
    except AutoTLError as error:
        made = ", ".join(about.get("plugins", {}).values())
        raise ArtifactError(f"{folder} was made with plugins from {made}: {error}") from None
    size = about["input"]["size"]
    built = model.build(config, len(about["classes"]), size, where)
    expects: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in about["input"].items()
    }
    network = Model(built.backbone, built.head, model.Input(**expects), built.takes)
    network = network.to(where.device)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise ArtifactError(f"{folder} does not fit the plugins that are here: {first}") from None
    return Predictor(network, about["classes"], where)
