"""The formats of exported models: how each is written, and run to compare it with the model.

Each file takes encoded examples, of images uint8 pixels, and returns what the model predicts, such
as probabilities: normalisation, temperature, and softmax or what else the task has are part of it.

Shapes: N examples, S the side of images in pixels, K numbers in a prediction.
"""

from __future__ import annotations

import copy
import json
import logging
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autotl.artifact.predictor import BATCH_SIZE, Predictor
from autotl.artifact.standalone import output_name
from autotl.data import ImageInput, scale, to_channels_first
from autotl.errors import ArtifactError
from autotl.models import Model, blank_batch
from autotl.space.kinds import RGB
from autotl.space.task import Task

SUFFIXES = {"onnx": ".onnx", "onnx-int8": ".int8.onnx", "torch-export": ".pt2"}
"""The formats and the suffixes of their files."""

REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "onnx-int8": ("onnx", "onnxscript", "onnxruntime"),
    "torch-export": (),
}
"""The packages that each format needs beyond autotl's own."""

MAX_ONNX_BYTES = 2**31 - 2**20
"""Largest size of the weights of an ONNX file: it is one protocol buffer, limited to 2 GiB."""

ImageArray = NDArray[Any]
"""Encoded examples ``[N, ...]``; images are ``uint8 [N, S, S, C]``."""

PredictFunction = Callable[[ImageArray], NDArray[np.float32]]
"""Maps encoded examples ``[N, ...]`` to predictions ``[N, K]``."""


def check_requirements(to: str) -> None:
    """Check that the packages which a format needs are installed.

    Raises:
        ArtifactError: A package is missing; the message has the command that installs it.
    """
    missing = []
    for name in REQUIREMENTS[to]:
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        raise ArtifactError(
            f'--to {to} needs {" and ".join(missing)}: pip install "autotl[export]"'
        )


class ExportableModel(nn.Module):
    """Encoded examples ``[N, ...]`` to predictions ``[N, K]``, on the CPU in float32.

    Args:
        network: The model; it is copied.
        temperature: Divisor of its logits.
        task: What is predicted.
    """

    def __init__(self, network: Model, temperature: float, task: Task) -> None:
        super().__init__()
        self.task = task
        self.network = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
        self.temperature = temperature
        self.takes_images = isinstance(network.expects, ImageInput)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the calibrated predictions of a batch."""
        predictions: Tensor = self.task.activate(self.network(inputs) / self.temperature)
        return predictions


def _example_input(predictor: Predictor) -> Tensor:
    """Return a batch of two examples: tracing would take a batch size of 1 for a constant."""
    return blank_batch(predictor.network.expects, 2, torch.device("cpu"))


def write_torch_export(model: ExportableModel, file: Path, predictor: Predictor) -> PredictFunction:
    """Write a model as torch.export's archive; return what runs the exported program.

    Raises:
        ArtifactError: The model cannot be exported.
    """
    shapes = ({0: torch.export.Dim("batch")},)
    try:
        program = torch.export.export(model, (_example_input(predictor),), dynamic_shapes=shapes)
    except Exception as error:  # a backbone or head that cannot be traced may raise anything
        raise _export_error("torch-export", error) from error
    extra_files = {f"{name}.json": text for name, text in _metadata(predictor).items()}
    torch.export.save(program, file, extra_files=extra_files)
    # The program in memory is compared, because reading the file would unpickle it.
    module = program.module()
    return lambda images: module(to_tensor(images)).numpy()


def write_onnx(model: ExportableModel, file: Path, predictor: Predictor) -> PredictFunction:
    """Write a model as ONNX; return what runs the file.

    Raises:
        ArtifactError: The model cannot be exported, or the file cannot be run.
    """
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    if size > MAX_ONNX_BYTES:
        raise ArtifactError(
            f"the weights have {size / 2**30:.1f} GiB, and an ONNX file is limited to 2 GiB; "
            "use --to torch-export"
        )
    try:
        program: Any = torch.onnx.export(
            model,
            (_example_input(predictor),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["images" if model.takes_images else "inputs"],
            output_names=[output_name(model.task)],
            verbose=False,
        )
    except Exception as error:  # as above, and operators that ONNX does not have
        raise _export_error("onnx", error) from error
    program.model.metadata_props.update(_metadata(predictor))
    program.save(file, external_data=False)
    with _report_onnxruntime_errors():
        return _open_session(file)


@contextmanager
def _report_onnxruntime_errors() -> Iterator[None]:
    """Turn any exception into an ArtifactError: onnxruntime may not support what torch writes."""
    try:
        yield
    except Exception as error:  # onnxruntime raises several kinds of its own
        message = textwrap.shorten(str(error) or type(error).__name__, 300)
        raise ArtifactError(
            f"the file was discarded: onnxruntime cannot run it: {message}"
        ) from error


def _export_error(to: str, error: Exception) -> ArtifactError:
    cause: BaseException = error
    while cause.__cause__:
        cause = cause.__cause__
    return ArtifactError(
        f"this model cannot be exported with --to {to}; torch says: "
        + textwrap.shorten(str(cause) or type(cause).__name__, 300)
    )


def _metadata(predictor: Predictor) -> dict[str, str]:
    """Return what a program needs to use the file: task, classes, preprocessing, calibration."""
    expects = predictor.network.expects
    described = {**expects.describe(), "shape": list(expects.shape), "dtype": expects.dtype}
    if isinstance(expects, ImageInput):
        described = {
            "images": describe_images(expects),
            "resize": "the whole image, without cropping",
            "interpolation": expects.interpolation,
            "scales": scale.to_json(predictor.scales),
        }
    return {
        "task": json.dumps(predictor.task.name),
        "classes": json.dumps(predictor.classes),
        "calibration": json.dumps(predictor.calibration),
        "input": json.dumps(described),
        "autotl": version("autotl"),
    }


def describe_images(expects: ImageInput) -> str:
    """The type, shape and channels of the images of an exported model."""
    names = {1: ", grey", RGB: ", RGB"}
    size, channels = expects.size, expects.channels
    return f"uint8 [batch, {channels}, {size}, {size}]{names.get(channels, '')}"


def _open_session(file: Path) -> PredictFunction:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(
        file.read_bytes(), options, providers=["CPUExecutionProvider"]
    )

    def predict(images: ImageArray) -> NDArray[np.float32]:
        predictions: NDArray[np.float32]
        [taken] = session.get_inputs()
        (predictions,) = session.run(None, {taken.name: _to_channels_first(images)})
        return predictions

    return predict


def quantize(file: Path, images: ImageArray) -> PredictFunction:
    """Quantize the ONNX ``file`` in place, with the activation ranges that ``images`` produce.

    Raises:
        ArtifactError: onnxruntime cannot do it.
    """
    with _report_onnxruntime_errors():
        return _quantize(file, images)


def _quantize(file: Path, images: ImageArray) -> PredictFunction:
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = file.with_suffix(".prepared")
    # torch has optimised the graph already, and onnxruntime's optimisation would rename the nodes.
    quant_pre_process(str(file), str(prepared), skip_optimization=True, skip_symbolic_shape=True)
    nodes = onnx.load(str(prepared), load_external_data=False).graph.node
    batches = iter(np.array_split(images, -(-len(images) // BATCH_SIZE)))

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            batch = next(batches, None)
            return None if batch is None else {"images": _to_channels_first(batch)}

    quantization.quantize_static(
        str(prepared),
        str(file),
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=[node.name for node in nodes if _follows_backbone(node)],
    )
    return _open_session(file)


def _follows_backbone(node: Any) -> bool:
    """Whether an ONNX node is part of the head or follows it, and is not quantized.

    The head costs almost no time, and quantization harms it most. A head that was fitted to raw
    features subtracts large numbers from each other: in 8 bits it cost 8 points of accuracy on
    handwritten digits where the backbone cost less than one. Numbers in the unit of the labels,
    which follow it, would have 256 different values.
    """
    scopes = next((p.value for p in node.metadata_props if p.key.endswith("name_scopes")), "")
    is_head = re.search(r"network(\.backbone\.\d+)?\.head\b", scopes)
    return is_head is not None or "network" not in scopes


def _to_channels_first(images: ImageArray) -> ImageArray:
    """Convert encoded examples to the contiguous array that the model takes."""
    return np.ascontiguousarray(to_tensor(images).numpy())


def to_tensor(images: ImageArray) -> Tensor:
    """Convert encoded examples to the tensor that the model takes."""
    return to_channels_first(torch.from_numpy(np.ascontiguousarray(images)))


@contextmanager
def silence() -> Iterator[None]:
    """Suppress warnings of the exporters: the comparison shows what matters."""
    previous = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(previous)
