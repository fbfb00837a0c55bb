"""Compare size, speed and accuracy of a model's exports with PyTorch; prints a Markdown table.

::

    python studies/benchmarks/exports.py runs/digits/model --data sklearn:digits --threads 1

Times are medians per image on the CPU. Difference, agreement and accuracy are relative to PyTorch,
on the images of the data; for int8, on the images that did not calibrate it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from autotl import models
from autotl.artifact import export, export_formats, model_folder
from autotl.artifact.export import ExportResult
from autotl.data import read_source
from autotl.space import registry

RunFunction = Callable[[NDArray[np.uint8]], object]
BATCH_SIZES = (1, 32)
WARMUP_RUNS = 3


def main() -> None:
    """Export, compare, time and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model", type=Path, help="Model folder.")
    parser.add_argument("--data", help="Labelled images (default: the model's own data).")
    parser.add_argument("--plugin", type=Path, action="append", default=[], help="Plugin file.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plugins = registry.load(options.plugin)
    predictor = model_folder.load(options.model, plugins, models.select_device("cpu"))
    source = options.data or predictor.config["data"]["source"]
    examples = read_source(source, plugins).examples
    images, labels = export.decode_examples(predictor, examples, 2000, print)

    model = export_formats.ExportableModel(predictor.network, predictor.temperature, predictor.task)
    weight_bytes = (options.model / "model.safetensors").stat().st_size
    times = measure_times(lambda batch: model(to_tensor(batch)), images, options.repeats)
    rows = [("PyTorch", weight_bytes, times, ["", "", ""])]
    for to, suffix in export_formats.SUFFIXES.items():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"model{suffix}"
            result = export.export(predictor, file, to, images, labels)
            times = measure_times(load(file, options.threads), images, options.repeats)
        rows.append((to, result.num_bytes, times, comparison_cells(result)))

    size = predictor.network.expects.size
    print(f"{next(iter(predictor.config['backbone']))} at {size} px, ", end="")
    print(f"{len(images)} images of {source}, {options.threads} threads, ", end="")
    print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}\n")
    print("| format | MB | ms, batch 1 | ms per image, batch 32 ", end="")
    print("| largest difference | agreement | accuracy loss, 95 % interval |")
    print("|---|---|---|---|---|---|---|")
    for name, num_bytes, times, comparison in rows:
        cells = [name, f"{num_bytes / 1e6:.1f}", *(f"{t:.2f}" for t in times), *comparison]
        print(f"| {' | '.join(cells)} |")


def comparison_cells(result: ExportResult) -> list[str]:
    """Format largest difference, agreement and accuracy loss."""
    loss, low, high = result.accuracy_loss or (float("nan"),) * 3
    interval = f"{loss:.4f} ({low:.4f} to {high:.4f})"
    return [f"{result.max_difference:.1g}", f"{result.agreement:.2%}", interval]


def load(file: Path, threads: int) -> RunFunction:
    """Load an exported file as a function of images ``[B, S, S, 3]``."""
    if file.suffix == ".pt2":  # loading unpickles; this file was written by this process
        module = torch.export.load(file).module()
        return lambda images: module(to_tensor(images))
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file.read_bytes(), session_options)
    return lambda images: session.run(
        None, {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2))}
    )


def to_tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    """Convert ``uint8 [B, S, S, 3]`` to a tensor ``[B, 3, S, S]``."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def measure_times(run: RunFunction, images: NDArray[np.uint8], repeats: int) -> list[float]:
    """Measure the median milliseconds per image for each of ``BATCH_SIZES``."""
    medians = []
    for size in BATCH_SIZES:
        batch = np.resize(images, (size, *images.shape[1:]))
        times = []
        with torch.inference_mode():
            for _ in range(WARMUP_RUNS + repeats):
                start = time.perf_counter()
                run(batch)
                times.append(time.perf_counter() - start)
        medians.append(1000 * median(times[WARMUP_RUNS:]) / size)
    return medians


if __name__ == "__main__":
    main()
