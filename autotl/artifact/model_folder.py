"""The model folder: weights, labels and preprocessing, that predict without the study.

::

    model/models.safetensors   the network's tensors, backbone.* and head.*
    model/config.json         what to build, how to prepare a picture, the classes, where from
    model/README.md           the model card

``config.json`` may have a ``temperature`` T: probabilities are ``softmax(logits / T)``. That of an
ensemble has ``members``, each with what to build and how to prepare a picture.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from autotl import data, models, training
from autotl.artifact import model_card, standalone
from autotl.errors import (
    ArtifactError,
    AutoTLError,
    DataError,
    OutOfMemory,
    StoreError,
    did_you_mean,
)
from autotl.models import Device, Model
from autotl.models.ensemble import Ensemble
from autotl.space import registry, space
from autotl.space.registry import Registry
from autotl.space.space import Config
from autotl.training.predict import halve_when_out_of_memory

SCHEMA = 1
BATCH = 32
KINDS = ("backbone", "head")


def save(
    folder: Path,
    network: Model,
    config: Config,
    classes: Sequence[str],
    facts: Mapping[str, Any],
    text: str = "",
    others: Sequence[Config] = (),
) -> None:
    """Write the model folder; an older one is replaced only when the new one is complete.

    The code that loads it without autotl is tried on the new files before they take their place.

    Args:
        folder: Where to; its parent exists.
        network: The trained model.
        config: Its configuration; of an ensemble, its first member's.
        classes: Their names, in the order of the logits.
        facts: What else ``config.json`` shall say: data, versions, weights, how it was trained,
            and the ``temperature`` of its logits if they were calibrated.
        text: Of ``README.md``; without it a card that knows no scores, see ``card.write``.
        others: The configurations of an ensemble's other members.

    Raises:
        StoreError: The folder cannot be written.
    """
    about = {"schema": SCHEMA, **_built(config, network), "classes": list(classes), **facts}
    if isinstance(network, Ensemble):
        pairs = zip((config, *others), network.members, strict=True)
        about["members"] = [_built(*pair) for pair in pairs]
    # Cloned, because safetensors refuses a tensor that stands under two names.
    tensors = {
        name: t.detach().cpu().contiguous().clone() for name, t in network.state_dict().items()
    }
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        save_file(tensors, unfinished / "model.safetensors")
        _write(unfinished / "config.json", json.dumps(about, indent=2) + "\n")
        # safetensors makes files that nobody else may read.
        mode = (unfinished / "config.json").stat().st_mode
        (unfinished / "model.safetensors").chmod(mode)
        several = {"reason": "it is an ensemble of several models"}
        about["plain"] = several if others else standalone.plain(unfinished, network, config)
        _write(unfinished / "config.json", json.dumps(about, indent=2) + "\n")
        _write(unfinished / "README.md", text or model_card.render(about, folder.name))
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written ({error.strerror or error}); free some space there or "
            "choose another folder with --out"
        ) from None


def _built(config: Config, network: Model) -> dict[str, Any]:
    """What ``config.json`` says of how to build a network and prepare a picture for it."""
    parts = {kind: config[kind] for kind in KINDS}
    return {
        **space.to_json(parts),
        "plugins": {kind: choice.plugin.origin for kind, choice in parts.items()},
        "input": vars(network.expects),
    }


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


class Predictor:
    """A loaded model. Probabilities are computed in float32, whatever it was trained in.

    Attributes:
        network: In eval mode.
        classes: Their names, in the order of the logits.
        temperature: What logits are divided by (Guo et al. 2017, arXiv:1706.04599); 1 if the model
            was not calibrated.
        about: All that ``config.json`` says.
    """

    def __init__(
        self,
        network: Model,
        classes: Sequence[str],
        where: Device,
        temperature: float = 1.0,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.network = network.eval()
        self.classes = tuple(classes)
        self.where = where
        self.temperature = temperature
        self.about = about or {}

    def made_from(self, source: str) -> bool:
        """Whether the model was made from these data, so that it has learned from some of them."""
        learned = self.about.get("data", {}).get("source", "")
        return bool(learned) and Path(learned).resolve() == Path(source).resolve()

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """``uint8 [B, S, S, 3]``, as ``data.decode`` gives them, to ``float32 [B, classes]``."""
        tensor = torch.from_numpy(images).to(self.where.device).permute(0, 3, 1, 2)
        try:
            with torch.inference_mode():
                logits = halve_when_out_of_memory(self.network, tensor).float()
        except OutOfMemory as error:
            raise ArtifactError(f"{error}; choose another with --device cpu") from None
        return training.probabilities(logits / self.temperature)

    def stream(
        self, images: Sequence[Any], failed: Callable[[int, str], None]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """``(place, probabilities [classes])`` of each picture that can be read, in order.

        Threads decode the next pictures while the model looks at these.

        Args:
            images: Files, or ``uint8 [H, W]`` or ``[H, W, 3]``.
            failed: Is told the place of a picture that cannot be read, and the reason.
        """
        places = range(len(images))
        chunks = [places[start : start + BATCH] for start in places[::BATCH]]
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
            ahead = [pool.map(self._decode, [images[i] for i in chunk]) for chunk in chunks[:1]]
            for number, chunk in enumerate(chunks):
                found = list(ahead.pop())
                ahead = [
                    pool.map(self._decode, [images[i] for i in after])
                    for after in chunks[number + 1 : number + 2]
                ]
                good = []
                for place, picture in zip(chunk, found, strict=True):
                    if isinstance(picture, DataError):
                        failed(place, str(picture))
                    else:
                        good.append((place, picture))
                if good:
                    rows = self.probabilities(np.stack([picture for _, picture in good]))
                    yield from zip((place for place, _ in good), rows, strict=True)

    def _decode(self, image: Any) -> NDArray[np.uint8] | DataError:
        expects = self.network.expects
        try:
            return data.decode(image, expects.size, expects.interpolation)
        except DataError as error:
            return error

    def predict(self, files: Sequence[str | Path]) -> list[dict[str, float]]:
        """For each file its probabilities by class.

        Raises:
            DataError: A file cannot be read.
        """

        def failed(place: int, reason: str) -> None:
            raise DataError(reason)

        rows = self.stream([Path(file) for file in files], failed)
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
    about, tensors = _read(folder)
    where = Device((where or models.device(precision="float32")).device, None)
    plugins = plugins or registry.load()
    if members := about.get("members"):
        built = [_network(folder, m, len(about["classes"]), plugins, where) for m in members]
        network: Model = Ensemble(built, [1 / len(built)] * len(built))  # weights are tensors too
    else:
        network = _network(folder, about, len(about["classes"]), plugins, where)
    network = network.to(where.device)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise ArtifactError(f"{folder} does not fit the plugins that are here: {first}") from None
    return Predictor(network, about["classes"], where, about.get("temperature") or 1.0, about)


def _network(
    folder: Path, about: Mapping[str, Any], classes: int, plugins: Registry, where: Device
) -> Model:
    """The network that a part of ``config.json`` describes, without its weights.

    Raises:
        ArtifactError: A plugin is not here.
    """
    try:
        config = space.from_json(about, plugins, kinds=KINDS, pretrained=False)
    except AutoTLError as error:
        made = ", ".join(about.get("plugins", {}).values())
        raise ArtifactError(
            f"{folder} was made with plugins from {made}: {error}; a file of plugins is given "
            "with --plugin"
        ) from None
    built = models.build_model(config, classes, about["input"]["size"], where)
    expects: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in about["input"].items()
    }
    return Model(built.backbone, built.head, models.InputSpec(**expects), built.takes)


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What ``config.json`` says, and the tensors.

    Raises:
        ArtifactError: They are not there, damaged, or of another schema.
    """
    if not folder.is_dir():
        raise ArtifactError(f"there is no model folder {folder}; {_meant(folder)}")
    try:
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "model.safetensors")
    except OSError as error:
        missing = Path(error.filename or folder / "model.safetensors").name
        raise ArtifactError(
            f"{folder} is no model folder: {missing} cannot be read; {_meant(folder)}"
        ) from None
    except (ValueError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"{folder} is damaged: {error}; copy it again") from None
    if not isinstance(about, dict) or about.get("schema") != SCHEMA:
        raise ArtifactError(f"{folder} was written by another version of autotl; upgrade autotl")
    if lacks := [key for key in ("backbone", "head", "classes", "input") if not about.get(key)]:
        raise ArtifactError(f"{folder} is damaged: config.json has no {lacks[0]!r}; copy it again")
    needed = {field.name for field in fields(models.InputSpec)}
    for part in about.get("members") or [about]:
        if not isinstance(part.get("input"), dict) or part["input"].keys() != needed:
            raise ArtifactError(f"{folder} is damaged: the 'input' of config.json; copy it again")
    return about, tensors


def _meant(folder: Path) -> str:
    """Which folder may have been meant."""
    for near in (folder / "model", folder.parent):
        if (near / "config.json").is_file():
            return f"did you mean {near}?"
    parent = folder.parent
    if not folder.exists() and parent.is_dir():
        names = [p.name for p in parent.iterdir() if p.is_dir() and not p.name.startswith(".")]
        if names:
            return did_you_mean(folder.name, names)
    return "a search writes runs/NAME/model"
