"""A loaded model, which predicts new examples.

Shapes: B examples in a batch, S the side of images in pixels, C channels, K numbers predicted.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autotl import data, training
from autotl.artifact.items import list_items
from autotl.data import IMAGES, ImageInput
from autotl.errors import ArtifactError, DataError, OutOfMemory
from autotl.models import Device, Model
from autotl.space.input_kind import InputKind
from autotl.space.kinds import RGB
from autotl.space.task import Task
from autotl.tasks import Classification
from autotl.training.memory import MicroBatches
from autotl.training.predict import INFERENCE_FACTOR, compile_if_it_pays

BATCH_SIZE = 32
"""Number of examples in a batch of predictions; ``INFERENCE_FACTOR`` times as many on a GPU."""


class Predictor:
    """A loaded model. It computes in float32, independently of the precision of the training.

    Args:
        network: The model, on ``device``.
        task: What is predicted.
        device: Where the model runs.
        temperature: Divisor of the logits.
        config: Content of ``config.json``.
        training_images: Digests of the examples that the model was trained on, ``[N]``.
        kind: What the examples are.
        folder: The model folder, to which the path of the data in ``config`` is relative.
        warn: Called with a sentence for the user, once for each file type of images with more than
            8 bits that was not in the training data.

    Attributes:
        network: The model in eval mode.
        task: What is predicted.
        classes: Names of its outputs: the classes, labels or quantities.
        device: Where the model runs.
        calibration: What ``Task.calibrate`` returned; empty if the model was not calibrated.
        temperature: Divisor of the logits (Guo et al. 2017, arXiv:1706.04599); 1 if the model was
            not calibrated.
        config: Content of ``config.json``.
        kind: What the examples are.
        scales: Those of the data set; see ``Dataset.scales``.
        training_images: Digests of the examples that the model was trained on, ``[N]``; None if
            they are not known.
        data_source: The data that the model was trained on, which may not be there any more; empty
            if they are not known.
    """

    def __init__(
        self,
        network: Model,
        task: Task,
        device: Device,
        temperature: float = 1.0,
        config: Mapping[str, Any] | None = None,
        training_images: NDArray[np.uint64] | None = None,
        kind: InputKind = IMAGES,
        folder: Path = Path(),
        warn: Callable[[str], object] = warnings.warn,
    ) -> None:
        self.network = network.eval()
        self.kind = kind
        self.task, self.classes = task, task.outputs
        self.device = device
        self.temperature = temperature
        self.config = config or {}
        self.calibration: Mapping[str, Any] = self.config.get("calibration") or {}
        scales = data.scale.from_json(self.config.get("scales", {}))
        self.scales = data.scale.CheckedScales(scales, warn)
        self.training_images = training_images
        origin = self.config.get("data", {})
        path = origin.get("path")
        self.data_source: str = origin.get("source", "")
        if path:
            self.data_source = str((folder.resolve() / path).resolve())

    @property
    def channels(self) -> int:
        """Number of channels of the images that the model takes; 3 for other inputs."""
        expects = self.network.expects
        return expects.channels if isinstance(expects, ImageInput) else RGB

    def was_trained_on(self, source: str) -> bool:
        """Whether ``source`` is the data that the model was searched and trained on."""
        own = self.data_source
        return bool(own) and Path(own).resolve() == Path(source).resolve()

    def predict_proba(self, encoded: NDArray[Any]) -> NDArray[np.float32]:
        """Predict encoded examples.

        Args:
            encoded: ``[B, ...]``, as ``encode`` returns them; images ``uint8 [B, S, S, C]``.

        Returns:
            ``float32 [B, K]``: of a classification the probabilities of the classes, of other tasks
            what they predict.

        Raises:
            ArtifactError: A single example does not fit into the memory of the device.
        """
        return self._compute_predictions(self.network, self._to_device(encoded), MicroBatches())

    def predict_items(self, items: Sequence[Any]) -> NDArray[np.float32]:
        """Predict items: ``float32 [N, K]``, as ``predict_proba`` does.

        Raises:
            DataError: An item cannot be read.
        """
        rows = [row for _, row in self.stream(items, _raise_unreadable)]
        return np.stack(rows) if rows else np.empty((0, len(self.classes)), np.float32)

    def _to_device(self, encoded: NDArray[Any]) -> torch.Tensor:
        return data.to_channels_first(torch.from_numpy(encoded).to(self.device.torch_device))

    def _compute_predictions(
        self,
        forward: Callable[[torch.Tensor], torch.Tensor],
        inputs: torch.Tensor,
        micro_batches: MicroBatches,
    ) -> NDArray[np.float32]:
        """Compute predictions ``[B, K]`` of a batch from the logits of a model."""
        try:
            with torch.inference_mode(), training.cuda_kernels(self.device):
                logits = micro_batches.map(forward, inputs).float()
        except OutOfMemory as error:
            raise ArtifactError(f"{error}; choose another with --device cpu") from None
        return training.logits_to_predictions(logits / self.temperature, self.task)

    def stream(
        self, items: Sequence[Any], on_unreadable: Callable[[int, str], None]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield ``(index, predictions [K])`` of each readable item, in order.

        The next batch is encoded in threads while the model computes the current one.

        Args:
            items: For images files, Pillow images, or arrays ``uint8 [H, W]`` or ``[H, W, C]``.
            on_unreadable: Called with the index of an item that cannot be read, and the reason.
        """

        def encode_batches() -> Iterator[list[tuple[int, NDArray[Any] | DataError]]]:
            for start in range(0, len(items), size):
                encoded = pool.map(self._encode, items[start : start + size])
                yield list(enumerate(encoded, start))

        on_gpu = self.device.torch_device.type == "cuda"
        size = BATCH_SIZE * (INFERENCE_FACTOR if on_gpu else 1)
        forward: Callable[[torch.Tensor], torch.Tensor] | None = None
        micro_batches = MicroBatches(usual=BATCH_SIZE)
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
            for batch in data.prefetch(encode_batches()):
                indices, readable = [], []
                for index, encoded in batch:
                    if isinstance(encoded, DataError):
                        on_unreadable(index, str(encoded))
                    else:
                        indices.append(index)
                        readable.append(encoded)
                if readable:
                    inputs = self._to_device(np.stack(readable))
                    if forward is None:
                        forward = compile_if_it_pays(self.network, inputs, self.device, len(items))
                    rows = self._compute_predictions(forward, inputs, micro_batches)
                    yield from zip(indices, rows, strict=True)

    def encode(self, item: Any) -> NDArray[Any]:
        """Encode an item as the model was trained; an image as ``uint8 [S, S, C]``.

        Raises:
            DataError: The item cannot be read.
        """
        return data.encode(self.kind, item, self.network.expects, self.scales)

    def _encode(self, item: Any) -> NDArray[Any] | DataError:
        try:
            return self.encode(item)
        except DataError as error:
            return error

    def predict(self, items: Any) -> list[dict[str, Any]]:
        """Predict new examples.

        Args:
            items: For a model of images, the path of an image or of a folder, which stands for all
                images below it, sorted; a Pillow image; an array ``uint8 [H, W]`` or ``[H, W, C]``,
                or a batch of such arrays; or an iterable of these. For other kinds of input, a
                string that the kind reads, such as a file or a text; an item; or an iterable of
                these.

        Returns:
            For each example the probability of each class by its name. For tasks without classes
            ``prediction``, the labels beyond their thresholds or the numbers, and ``probabilities``
            of all labels, or the limits ``low`` and ``high``; see ``Task.describe``.

        Raises:
            DataError: An item cannot be read, or there is none in a folder.
        """
        rows = self.stream(list_items(self.kind, items, self.channels), _raise_unreadable)
        return [self.describe(row) for _, row in rows]

    def describe(self, prediction: NDArray[np.float32]) -> dict[str, Any]:
        """Return a prediction ``[K]`` by the names of the outputs, see ``predict``."""
        described = self.task.describe(prediction, self.calibration)
        if isinstance(self.task, Classification):
            probabilities: dict[str, Any] = described["probabilities"]
            return probabilities
        return described

    def describe_blank(self) -> dict[str, Any]:
        """Return what ``describe`` returns for zeros, which has the form that all results have."""
        return self.describe(np.zeros(len(self.classes), np.float32))


def _raise_unreadable(index: int, reason: str) -> None:
    raise DataError(reason)
