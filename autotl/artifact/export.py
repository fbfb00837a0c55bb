"""A saved model as one file for other programs: ONNX, int8 ONNX, or torch.export's archive.

Each takes pictures and gives probabilities: normalisation, softmax and temperature are inside.
Each is compared with the model itself on real pictures before it gets its name; one that
answers otherwise is thrown away.

Shapes: N pictures, S their side in pixels, C classes.
"""

from __future__ import annotations

import copy
import json
import logging
import re
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autotl.artifact.model_folder import BATCH, Predictor
from autotl.data import decode
from autotl.errors import ArtifactError, DataError
from autotl.models import Model
from autotl.space.plugin import Example

SUFFIXES = {"onnx": ".onnx", "onnx-int8": ".int8.onnx", "torch-export": ".pt2"}
"""The formats, and how their files' names end."""

NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch-export": ()}
NEEDS["onnx-int8"] = NEEDS["onnx"]

TOLERANCE = 1e-3
"""By how much a probability of an export in float32 may differ from the model's."""

CALIBRATION = 128
"""Pictures by which the ranges of an int8 model are set."""

LARGEST = 2**31 - 2**20
"""Bytes of an ONNX file, which is one protocol buffer, with room for the graph."""

Pictures = NDArray[np.uint8]
"""``[N, S, S, 3]``, as ``data.decode`` gives them."""

Answer = Callable[[Pictures], NDArray[np.float32]]
"""Pictures to probabilities ``[N, C]``."""


def pictures_of(
    predictor: Predictor, examples: Sequence[Example], most: int, failed: Callable[[str], None]
) -> tuple[Pictures, NDArray[np.int64]]:
    """Pictures ``[N, S, S, 3]`` and labels ``[N]``, -1 where the model knows no such class.

    Args:
        predictor: For it they are decoded.
        examples: At most ``most`` of them are drawn, the same every time.
        most: Pictures, at most.
        failed: Is told why a picture cannot be read.
    """
    expects = predictor.network.expects
    number = {name: i for i, name in enumerate(predictor.classes)}
    images, labels = [], []
    for i in np.random.default_rng(0).permutation(len(examples))[:most]:
        try:
            images.append(decode(examples[i].image, expects.size, expects.interpolation))
            labels.append(number.get(examples[i].label, -1))
        except DataError as error:
            failed(str(error))
    empty = np.empty((0, expects.size, expects.size, 3), dtype=np.uint8)
    return (np.stack(images) if images else empty), np.array(labels, dtype=np.int64)


def noise(predictor: Predictor, count: int) -> Pictures:
    """So many random pictures, coarse as pictures are: for when there are no real ones."""
    size = predictor.network.expects.size
    side = -(-size // 8)
    coarse = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)[:, :size, :size]


@dataclass(frozen=True)
class Exported:
    """An exported file and how its answers compare with the model's.

    ``difference`` is the largest between two probabilities, ``agreement`` the share of ``pictures``
    with the same answer. With labels there is the ``accuracy`` of the model and of the file.
    ``loss`` is what it lost, with a 95 % interval over pictures (the same for both, so the error
    of the difference, not of two accuracies).
    """

    file: Path
    bytes: int
    pictures: int
    difference: float
    agreement: float
    accuracy: tuple[float, float] | None = None
    loss: tuple[float, float, float] | None = None
    calibrated: int = 0  # pictures that set the ranges of an int8 file


def require(to: str) -> None:
    """Check that what a format needs is installed.

    Raises:
        ArtifactError: Something is missing; the message has the command that installs it.
    """
    lacks = []
    for name in NEEDS[to]:
        try:
            version(name)
        except PackageNotFoundError:
            lacks.append(name)
    if lacks:
        raise ArtifactError(f'--to {to} needs {" and ".join(lacks)}: pip install "autotl[export]"')


def export(
    predictor: Predictor,
    file: Path,
    to: str,
    pictures: Pictures,
    labels: NDArray[np.int64] | None = None,
) -> Exported:
    """Write ``file`` and compare it with the model; it is there whole or not at all.

    Args:
        predictor: A loaded model.
        file: Where to.
        to: ``onnx``: input ``images`` uint8 ``[N, 3, S, S]``, output ``probabilities`` float32
            ``[N, C]``; classes and preprocessing are among its metadata. ``onnx-int8``: the same,
            with the backbone's weights and activations in 8 bits (static, QDQ, weights by
            channel); the head stays in float32. ``torch-export``: a ``.pt2`` of the same input
            and output. ``torch.export.load`` unpickles: load only files that you trust.
        pictures: Real ones, to compare on. The first ``CALIBRATION`` of them, but not more than
            half, set the ranges of an int8 model and are not compared on.
        labels: The class of each picture ``[N]``; negative where it is not known.

    Raises:
        ArtifactError: It cannot be exported or answers otherwise, beyond ``TOLERANCE`` for float32;
            what was missing, or by how much.
    """
    require(to)
    if to == "onnx-int8" and len(pictures) < 2:
        raise ArtifactError("an int8 model needs pictures to set its ranges by; give some")
    whole = Whole(predictor.network, predictor.temperature)
    try:
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".export-") as folder, _calm():
            part = Path(folder) / file.name
            if to == "torch-export":
                answer = _torch_export(whole, part, predictor)
            else:
                answer = _onnx(whole, part, predictor)
            used = min(CALIBRATION, len(pictures) // 2) if to == "onnx-int8" else 0
            if used:
                answer = _kept(partial(_int8, part, pictures[:used]))
                pictures, labels = pictures[used:], None if labels is None else labels[used:]
            found = _compared(whole, answer, pictures, labels, file, part.stat().st_size)
            found = replace(found, calibrated=used)
            if to != "onnx-int8" and not found.difference <= TOLERANCE:
                raise ArtifactError(
                    f"the {to} file is not kept: its probabilities differ by up to "
                    f"{found.difference:.2g} from the model's, and {TOLERANCE} is allowed"
                )
            part.replace(file)
    except OSError as error:
        raise ArtifactError(
            f"{file} cannot be written ({error.strerror or error}); choose another with --out"
        ) from None
    return found


class Whole(nn.Module):
    """``uint8 images [N, 3, S, S] -> probabilities [N, C]``, on the CPU in float32."""

    def __init__(self, network: Model, temperature: float) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        """Prepare, compute, calibrate."""
        logits: Tensor = self.network(images)
        return (logits / self.temperature).softmax(1)


def _example(predictor: Predictor) -> Tensor:
    """Two pictures: one alone would be taken for a fixed number."""
    size = predictor.network.expects.size
    return torch.zeros(2, 3, size, size, dtype=torch.uint8)


def _torch_export(whole: Whole, file: Path, predictor: Predictor) -> Answer:
    shapes = ({0: torch.export.Dim("batch")},)
    try:
        program = torch.export.export(whole, (_example(predictor),), dynamic_shapes=shapes)
    except Exception as error:  # a backbone or head does something that cannot be traced: anything
        raise _refused("torch-export", error) from error
    extra = {f"{name}.json": text for name, text in _metadata(predictor).items()}
    torch.export.save(program, file, extra_files=extra)
    # The program that was written answers, for to read the file again would be to unpickle it.
    module = program.module()
    return lambda pictures: module(_tensor(pictures)).numpy()


def _onnx(whole: Whole, file: Path, predictor: Predictor) -> Answer:
    size = sum(t.numel() * t.element_size() for t in whole.state_dict().values())
    if size > LARGEST:
        raise ArtifactError(
            f"the model has {size / 2**30:.1f} GiB, and an ONNX file can have 2; "
            "use --to torch-export"
        )
    try:
        program: Any = torch.onnx.export(
            whole,
            (_example(predictor),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["images"],
            output_names=["probabilities"],
            verbose=False,
        )
    except Exception as error:  # as above, and what ONNX has no operator for
        raise _refused("onnx", error) from error
    program.model.metadata_props.update(_metadata(predictor))
    program.save(file, external_data=False)
    return _kept(partial(_session, file))


def _kept(made: Callable[[], Answer]) -> Answer:
    """What ``made`` gives, or an ArtifactError: onnxruntime may know less than torch writes."""
    try:
        return made()
    except Exception as error:  # of its own, several kinds
        said = textwrap.shorten(str(error) or type(error).__name__, 300)
        raise ArtifactError(f"the file is not kept: onnxruntime cannot use it; {said}") from error


def _refused(to: str, error: Exception) -> ArtifactError:
    first: BaseException = error
    while first.__cause__:
        first = first.__cause__
    return ArtifactError(
        f"this model cannot be exported with --to {to}; torch says: "
        + textwrap.shorten(str(first) or type(first).__name__, 300)
    )


def _metadata(predictor: Predictor) -> dict[str, str]:
    """What a program must know to use the file."""
    expects = predictor.network.expects
    return {
        "classes": json.dumps(predictor.classes),
        "input": json.dumps(
            {
                "images": f"uint8 [batch, 3, {expects.size}, {expects.size}], RGB",
                "resize": "the whole picture, without cropping",
                "interpolation": expects.interpolation,
            }
        ),
        "autotl": version("autotl"),
    }


def _session(file: Path) -> Answer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(
        file.read_bytes(), options, providers=["CPUExecutionProvider"]
    )

    def answer(pictures: Pictures) -> NDArray[np.float32]:
        images = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))
        found: NDArray[np.float32] = session.run(["probabilities"], {"images": images})[0]
        return found

    return answer


def _int8(file: Path, pictures: Pictures) -> Answer:
    """Quantise the ONNX ``file`` in place, by the range of what ``pictures`` cause in it."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = file.with_suffix(".prepared")
    # torch has optimised the graph, and onnxruntime's way to do it would rename the nodes.
    quant_pre_process(str(file), str(prepared), skip_optimization=True, skip_symbolic_shape=True)
    nodes = onnx.load(str(prepared), load_external_data=False).graph.node
    batches = iter(np.array_split(pictures, -(-len(pictures) // BATCH)))

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            images = next(batches, None)
            if images is None:
                return None
            return {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2))}

    quantization.quantize_static(
        str(prepared),
        str(file),
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=[node.name for node in nodes if _in_head(node)],
    )
    return _session(file)


def _in_head(node: Any) -> bool:
    """Whether the head computes this. It costs next to nothing, and is the most easily harmed.

    A head that was fitted to raw features takes large numbers from each other: in 8 bits it cost
    8 points of accuracy on handwritten digits where the backbone cost less than one.
    """
    scopes = next((p.value for p in node.metadata_props if p.key.endswith("name_scopes")), "")
    return re.search(r"network(\.backbone\.\d+)?\.head\b", scopes) is not None


def _compared(
    whole: Whole,
    answer: Answer,
    pictures: Pictures,
    labels: NDArray[np.int64] | None,
    file: Path,
    size: int,
) -> Exported:
    with torch.inference_mode():
        expected = _in_batches(lambda images: whole(_tensor(images)).numpy(), pictures)
        try:
            found = _in_batches(answer, pictures)
        except Exception as error:
            raise ArtifactError(
                "the file is not kept: it cannot be run; " + textwrap.shorten(str(error), 300)
            ) from error
    difference = np.abs(expected - found).max(initial=0)
    same = expected.argmax(1) == found.argmax(1)
    known = labels >= 0 if labels is not None else np.zeros(len(pictures), dtype=bool)
    accuracy = loss = None
    if labels is not None and known.any():
        right = [p[known].argmax(1) == labels[known] for p in (expected, found)]
        accuracy = (float(right[0].mean()), float(right[1].mean()))
        change = right[0].astype(float) - right[1]
        mean, deviation = float(change.mean()), float(change.std() / np.sqrt(len(change)))
        loss = (mean, mean - 1.96 * deviation, mean + 1.96 * deviation)
    return Exported(
        file, size, len(pictures), float(difference), float(same.mean()), accuracy, loss
    )


def _in_batches(answer: Answer, pictures: Pictures) -> NDArray[np.float32]:
    """Answers for the first picture alone, then for many at once: both must be possible."""
    cuts = [0, *range(1, len(pictures), BATCH), len(pictures)]
    parts = [pictures[a:b] for a, b in pairwise(cuts) if a < b]
    return np.concatenate([answer(part) for part in parts])


def _tensor(pictures: Pictures) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)


@contextmanager
def _calm() -> Iterator[None]:
    """Exporters warn of their own insides; what matters is found out by comparing."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
