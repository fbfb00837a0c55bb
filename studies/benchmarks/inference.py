"""Measure how many times faster than PyTorch other ways to compute features on a CPU are.

    python studies/benchmarks/inference.py tf_efficientnet_lite0 resnet18 --threads 1
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python studies/benchmarks/inference.py ...

Prints a table in Markdown, of batches of random images through a network with random weights. The
ratios are the shortest CPU time in PyTorch, in float32 and as autotl runs it, over the shortest CPU
time of the row; images/s are per second of CPU time. All ways take turns. The second command
imitates a CPU without AVX-512, for PyTorch alone: the others do not read these variables.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from autotl.cli import process
from autotl.data import ImageInput
from autotl.models import Device, Model, cpu_kernels, fast_inference

Forward = Callable[[Tensor], Tensor]
ROUNDS = 5
CPU = torch.device("cpu")


def build(name: str, size: int) -> Model:
    """Build a network without a head, as ``autotl.models.build_model`` prepares it."""
    options = {"img_size": size} if "vit" in name else {}
    network = timm.create_model(name, num_classes=0, **options)
    model = Model(network, nn.Identity(), ImageInput(size, (0.5,) * 3, (0.5,) * 3, "bicubic"))
    cpu_kernels.apply_workarounds(model, bfloat16=True)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return model.eval().requires_grad_(False)


def in_bfloat16(forward: Forward) -> Forward:
    """The same forward pass in autocast."""

    def call(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return forward(images)

    return call


def fold(model: Model) -> Model:
    """Fold each BatchNorm into the convolution before it."""
    model = copy.deepcopy(model)
    for parent in model.modules():
        children = list(parent.named_children())
        for (name, conv), (norm_name, norm) in itertools.pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, getattr(norm, "act", nn.Identity()))
    return model


def compile_with_inductor(model: Model, images: Tensor) -> Forward:
    """Compile with ``torch.compile``, with weights as constants."""
    import torch._inductor.config

    torch._inductor.config.freezing = True
    torch._dynamo.reset()
    compiled: Forward = torch.compile(model, dynamic=False)
    compiled(images)
    return compiled


def compile_with_onnxruntime(model: Model, images: Tensor) -> Forward:
    """Export to ONNX, and open a session."""
    import onnxruntime

    program: Any = torch.onnx.export(
        model,
        (images[:2],),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["images"],
        verbose=False,
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, torch.get_num_threads()
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def prepare(
    model: Model, images: Tensor, bfloat16: bool, inductor: bool
) -> Iterator[tuple[str, Forward, float]]:
    """Yield each way to compute with the seconds that its preparation took."""

    def openvino(dtype: torch.dtype | None) -> Forward:
        return fast_inference.compile_forward(model, model, images, Device(CPU, dtype))

    ways: dict[str, Callable[[], Forward]] = {
        "PyTorch, float32": lambda: model,
        "PyTorch, bfloat16": lambda: in_bfloat16(model),
        "BatchNorm folded, float32": lambda: fold(model),
        "BatchNorm folded, bfloat16": lambda: in_bfloat16(fold(model)),
        "torch.compile, float32": lambda: compile_with_inductor(model, images),
        "ONNX Runtime, float32": lambda: compile_with_onnxruntime(model, images),
        "OpenVINO, float32": lambda: openvino(None),
        "OpenVINO, bfloat16": lambda: openvino(torch.bfloat16),
    }
    for name, make in ways.items():
        if (name.startswith("torch.compile") and not inductor) or (
            name.endswith("bfloat16") and not bfloat16
        ):
            continue
        start = time.perf_counter()
        try:
            forward = make()
        except Exception as error:
            print(f"{name}: {error}")
            continue
        yield name, forward, time.perf_counter() - start


@torch.no_grad()
def measure(name: str, size: int, batch: int, bfloat16: bool, inductor: bool) -> None:
    """Print the rows of an architecture at a size."""
    model = build(name, size)
    coarse = torch.randint(0, 256, (batch, 3, 8, 8)).float()
    images = nn.functional.interpolate(coarse, size=(size, size)).to(torch.uint8)
    ways = list(prepare(model, images, bfloat16, inductor))
    times: dict[str, list[float]] = {way: [] for way, _, _ in ways}
    outputs = {way: forward(images) for way, forward, _ in ways}
    for _ in range(ROUNDS):
        for way, forward, _ in ways:
            start = time.process_time()
            forward(images)
            times[way].append(time.process_time() - start)
    exact = outputs["PyTorch, float32"]
    std = (exact - exact.mean(0)).square().mean().sqrt()
    baseline = min(times["PyTorch, float32"])
    for way, _, preparing in ways:
        error = float((outputs[way].float() - exact).square().mean().sqrt() / std)
        seconds = min(times[way])
        cells = (name, size, way, f"{batch / seconds:.0f}", f"{baseline / seconds:.2f} x")
        print(
            "| " + " | ".join(map(str, (*cells, f"{preparing:.1f}", f"{error:.0e}"))) + " |",
            flush=True,
        )


def main() -> None:
    """Measure all architectures at all sizes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="+", help="Names of timm architectures.")
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 160, 224], help="Pixels.")
    parser.add_argument("--threads", type=int, default=1, help="Number of threads (1).")
    parser.add_argument("--batch", type=int, default=32, help="Images in a batch (32).")
    parser.add_argument("--bfloat16", action="store_true", help="Measure bfloat16 too.")
    parser.add_argument("--inductor", action="store_true", help="Measure torch.compile too.")
    options = parser.parse_args()
    process.keep_freed_memory()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print("| architecture | px | way | images/s | speedup | preparation, s | error / std |")
    print("|---|---|---|---|---|---|---|")
    for name in options.names:
        for size in options.sizes:
            measure(name, size, options.batch, options.bfloat16, options.inductor)


if __name__ == "__main__":
    main()
