"""The model folder: weights, class names and preprocessing, enough to predict without the study.

::

    model/model.safetensors   the network's tensors, backbone.* and head.*
    model/config.json         backbone, head, preprocessing, classes and where the model comes from
    model/training_images.npy a number of 64 bits for each example that the model was trained on
    model/input/              files of the input, such as a vocabulary, if it has any
    model/README.md           the model card

``config.json`` has the ``kind`` of the examples, the ``scales`` of images with more than 8 bits,
see ``data.scale``, the ``task`` with its constants unless that is classification, and may have a
``calibration`` and a ``temperature`` T: predictions are ``task.activate(logits / T)``. For an
ensemble it has ``members``, each with its own backbone, head and preprocessing, and with files
of its own in ``input-1/``, ``input-2/``, and so on.

Shapes: B examples in a batch, S the side of images in pixels, C classes.
"""

from __future__ import annotations

import json
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from autotl import data, files, models
from autotl.artifact import model_card, model_config, replacement, standalone
from autotl.artifact.folder import require_folder, suggest_folder
from autotl.artifact.model_config import SCHEMA, damage
from autotl.artifact.predictor import Predictor
from autotl.artifact.replacement import INPUT_FOLDER
from autotl.data import ImageInput
from autotl.errors import (
    ArtifactError,
    AutoTLError,
    OutOfMemory,
    StoreError,
)
from autotl.models import Device, Model
from autotl.models.ensemble import Ensemble
from autotl.space import registry, space
from autotl.space.input_kind import IMAGE
from autotl.space.kinds import RGB
from autotl.space.narrowing import check_values
from autotl.space.registry import Registry
from autotl.space.space import Config
from autotl.space.task import Task
from autotl.tasks import CLASSIFICATION, restore_task
from autotl.training.memory import retry_when_out_of_memory

TRAINING_IMAGES = "training_images.npy"
"""The file with the digests of the training examples, in ascending order, 8 bytes each."""

KINDS = ("backbone", "head")
"""The kinds of plugins that a saved model is built from."""


def save(
    folder: Path,
    network: Model,
    config: Config,
    task: Task,
    facts: Mapping[str, Any],
    readme: str = "",
    other_configs: Sequence[Config] = (),
    training_images: NDArray[np.uint64] | None = None,
    before_replacing: Callable[[], object] = lambda: None,
) -> Path | None:
    """Write the model folder; an older one is replaced only when the new one is complete.

    The code that loads the model without autotl is run on the new files before they are moved into
    place.

    Args:
        folder: Where to write; its parent exists.
        network: The trained model.
        config: Its configuration; for an ensemble, that of its first member.
        task: What is predicted; its outputs are the classes, in the order of the logits.
        facts: Further entries of ``config.json``: data, versions, weights, training recipe, whether
            the model was ``refitted`` and ``calibrated``, and the ``temperature`` of the logits if
            they were.
        readme: Text of ``README.md``; if empty, a model card without scores, see
            ``model_card.write``.
        other_configs: Configurations of the other members of an ensemble.
        training_images: Digests of the examples that the model was trained on, see
            ``data.digest_examples``, ``[N]``.
        before_replacing: Called when the new folder is complete, before the older one is replaced.

    Returns:
        Where the older folder is now, if it has files of others, such as exports; else None.

    Raises:
        StoreError: The folder cannot be written, or there is one that AutoTL did not write. What
            was there is unchanged.
    """
    content = _describe_model(network, config, task, facts, other_configs)
    try:
        with files.folder_beside(folder) as unfinished:
            _write_tensors(unfinished / "model.safetensors", network)
            _write_inputs(unfinished, network)
            if training_images is not None:
                digests = np.unique(training_images)
                np.save(unfinished / TRAINING_IMAGES, digests, allow_pickle=False)
            _write_config(unfinished, content)
            reason = {"reason": "it is an ensemble of several models"}
            parts = reason if other_configs else standalone.find_parts(unfinished, network, config)
            content["standalone_code"] = parts
            _write_config(unfinished, content)
            card = readme or model_card.render(content, folder.name)
            files.write_text(unfinished / "README.md", card)
            before_replacing()
            return replacement.replace(unfinished, folder)
    except (OSError, safetensors.SafetensorError) as error:
        raise _write_error(folder, error) from None


def _write_error(folder: Path, error: Exception) -> StoreError:
    reason = getattr(error, "strerror", None) or error
    return StoreError(
        f"{folder} cannot be written ({reason}); free some space there or choose another folder "
        "with --out"
    )


def _describe_model(
    network: Model,
    config: Config,
    task: Task,
    facts: Mapping[str, Any],
    other_configs: Sequence[Config],
) -> dict[str, Any]:
    """Return the content of ``config.json``; for the arguments see ``save``."""
    outputs = {"classes": list(task.outputs)}
    content = {"schema": SCHEMA, **_describe(config, network), **outputs, **facts}
    if task.name != CLASSIFICATION.name:
        content["task"] = task.to_json()
    if isinstance(network, Ensemble):
        pairs = zip((config, *other_configs), network.members, strict=True)
        content["members"] = [_describe(*pair) for pair in pairs]
    return content


def _describe(config: Config, network: Model) -> dict[str, Any]:
    """Return the entries of ``config.json`` from which a network and its inputs are rebuilt."""
    choices = {kind: config[kind] for kind in KINDS}
    return {
        **space.to_json(choices),
        "plugins": {kind: choice.plugin.origin for kind, choice in choices.items()},
        "input": network.expects.describe(),
    }


def _write_inputs(folder: Path, network: Model) -> None:
    """Write the files of the inputs; a folder without any is not left."""
    members = network.members if isinstance(network, Ensemble) else [network]
    for number, member in enumerate(members):
        own = folder / _input_folder(number if len(members) > 1 else None)
        own.mkdir()
        member.expects.save(own)
        if not any(own.iterdir()):
            own.rmdir()


def _input_folder(number: int | None) -> str:
    """The name of the folder of the input's files; ``number`` is that of a member, from 0."""
    return INPUT_FOLDER if number is None else f"{INPUT_FOLDER}-{number + 1}"


def _write_tensors(file: Path, network: Model) -> None:
    # Cloned, because safetensors refuses a tensor that is stored under two names.
    tensors = {
        name: t.detach().cpu().contiguous().clone() for name, t in network.state_dict().items()
    }
    file.touch()
    mode = file.stat().st_mode  # safetensors makes its files readable by their owner only
    save_file(tensors, file)
    file.chmod(mode)


def _write_config(folder: Path, content: Mapping[str, Any]) -> None:
    files.write_text(folder / "config.json", json.dumps(content, indent=2) + "\n")


def load(
    folder: Path,
    plugins: Registry | None = None,
    device: Device | None = None,
    warn: Callable[[str], object] = warnings.warn,
) -> Predictor:
    """Load the model in ``folder``.

    Args:
        folder: A model folder that ``save`` wrote.
        plugins: The plugins to build backbone and head from; None for the installed ones.
        device: Where the model runs; None for the best device of this machine. Its autocast type is
            ignored: the model always computes in float32.
        warn: See ``Predictor``.

    Raises:
        ArtifactError: The folder is incomplete, or a plugin that the model needs is not available.
    """
    folder = replacement.current(folder)
    content, tensors = _read(folder)
    device = Device(
        (device or models.select_device(precision="float32")).torch_device, autocast=None
    )
    plugins = plugins or registry.load()
    task = _restore_task(folder, content, plugins)
    if members := content.get("members"):
        built = [
            _build_network(folder, member, task, plugins, device, number)
            for number, member in enumerate(members)
        ]
        # The weights of the members are among the tensors that are loaded below.
        network: Model = Ensemble(built, [1 / len(built)] * len(built))
    else:
        network = _build_network(folder, content, task, plugins, device)
    network = network.to(device.torch_device)
    for name, tensor in network.state_dict().items():
        if name in tensors and tensors[name].is_floating_point() != tensor.is_floating_point():
            raise _misfit(folder, f"{name} does not have the type {tensor.dtype}")
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise _misfit(folder, str(error).splitlines()[-1].strip()) from None
    temperature, images = content.get("temperature") or 1.0, _read_training_images(folder)
    try:
        kind = data.find_kind(content.get("kind", IMAGE), plugins)
    except AutoTLError as error:
        raise ArtifactError(
            f"{folder} is a model for another kind of input: {error}; install the package that it "
            "comes from, or give plugin files with --plugin"
        ) from None
    return Predictor(network, task, device, temperature, content, images, kind, folder, warn)


def _restore_task(folder: Path, content: Mapping[str, Any], plugins: Registry) -> Task:
    """Restore the task of a model, and try it and its calibration on one prediction.

    Raises:
        ArtifactError: There is no such task, or what is stored of it is damaged.
    """
    try:
        task = restore_task(content.get("task") or {}, content["classes"], plugins)
        if task.num_logits < 1:
            raise damage(folder, f"config.json: {task.name} needs more {task.nouns}")
        prediction = task.activate(torch.zeros(1, task.num_logits))[0]
        task.describe(prediction.numpy(), content.get("calibration") or {})
    except ArtifactError:
        raise
    except AutoTLError as error:
        raise ArtifactError(
            f"{folder} is a model for another task: {error}; install the package that it comes "
            "from, or give plugin files with --plugin"
        ) from None
    except Exception as error:  # the code of a task raises anything on wrong values
        reason = textwrap.shorten(str(error) or repr(error), 200)
        raise damage(folder, f"config.json: task: {reason}") from error
    return task


def _read_training_images(folder: Path) -> NDArray[np.uint64] | None:
    """Read the digests of the training images; None if there are none, as in older folders.

    Raises:
        ArtifactError: The file is damaged.
    """
    try:
        digests = np.load(folder / TRAINING_IMAGES, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(
            f"{folder} is damaged: {TRAINING_IMAGES}: {error}; copy it again, or delete this file"
        ) from None
    if not isinstance(digests, np.ndarray) or digests.dtype != np.uint64 or digests.ndim != 1:
        raise ArtifactError(
            f"{folder} is damaged: {TRAINING_IMAGES} is not a list of numbers; copy it again, or "
            "delete this file"
        )
    return digests


def _build_network(
    folder: Path,
    description: Mapping[str, Any],
    task: Task,
    plugins: Registry,
    device: Device,
    number: int | None = None,
) -> Model:
    """Build a network as ``_describe`` described it, without its trained weights.

    Args:
        folder: The model folder.
        description: The description.
        task: What is predicted.
        plugins: The plugins.
        device: Where to build it.
        number: The number of a member of an ensemble, from 0.

    Raises:
        ArtifactError: A plugin is not available, or does not accept the values.
    """
    encoding = description["input"]
    try:
        fitting = plugins.of_input(encoding.get("kind", IMAGE)).for_channels(
            encoding.get("channels", RGB)
        )
        config = space.from_json(description, fitting, kinds=KINDS, pretrained=False)
    except AutoTLError as error:
        origins = ", ".join(description.get("plugins", {}).values())
        raise ArtifactError(
            f"{folder} was made with plugins from {origins}: {error}; give plugin files with "
            "--plugin"
        ) from None
    try:
        for choice in config.values():  # a width of a billion would fill the memory
            check_values(choice.plugin, choice.params)
        saved, size = folder / _input_folder(number), encoding["size"]
        build = partial(models.build_model, config, task, size, device, saved=saved)
        network = retry_when_out_of_memory(build, device.torch_device, "the model")
    except OutOfMemory:
        raise ArtifactError(
            f"the model in {folder} does not fit in the memory of {device.torch_device}; close "
            "other programs that use it, or give --device cpu"
        ) from None
    except Exception as error:  # the code of plugins raises anything on wrong values
        raise _misfit(folder, str(error).splitlines()[0] if str(error) else repr(error)) from error
    if not isinstance(network.expects, ImageInput):
        if network.expects.key != encoding.get("key"):
            raise _misfit(folder, "its input is encoded in another way")
        return network
    known_fields = {field.name for field in fields(ImageInput)}
    stored: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in encoding.items()
        if key in known_fields
    }
    return Model(network.backbone, network.head, ImageInput(**stored), network.head_input, task)


def _misfit(folder: Path, detail: str) -> ArtifactError:
    return ArtifactError(
        f"the weights in {folder} do not fit the model that the available plugins build: {detail}; "
        "use the plugins and versions that config.json names"
    )


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read the content of ``config.json`` and the tensors.

    Raises:
        ArtifactError: They are missing, damaged, or of another schema.
    """
    require_folder(folder)
    try:
        content = model_config.read(folder)
        tensors = load_file(folder / "model.safetensors")
    except OSError as error:
        missing = Path(error.filename or folder / "model.safetensors").name
        raise ArtifactError(
            f"{folder} is not a model folder: {missing} cannot be read; {suggest_folder(folder)}"
        ) from None
    except (ValueError, safetensors.SafetensorError) as error:
        raise damage(folder, f"model.safetensors cannot be read: {error}") from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise damage(folder, f"the tensor {name} has values that are not finite")
    return content, tensors
