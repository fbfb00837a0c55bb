"""Size and speed of a model's exports beside PyTorch, as a Markdown table.

::

    python studies/benchmarks/exports.py runs/digits/model --data sklearn:digits --threads 1

Times are medians, of a picture, on the CPU. Differences and agreement are with PyTorch, on the
pictures of the data; for int8, on those that did not set its ranges.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from autotl import models
from autotl.artifact import export, model_folder
from autotl.space import registry

Answer = Callable[[NDArray[np.uint8]], object]
BATCHES = (1, 32)


def main() -> None:
    """Export, compare, time and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model", type=Path, help="A model folder.")
    parser.add_argument("--data", help="Labelled pictures; default those it was made from.")
    parser.add_argument("--plugin", type=Path, action="append", default=[])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=30)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    plugins = registry.load(asked.plugin)
    predictor = model_folder.load(asked.model, plugins, models.device("cpu"))
    source = asked.data or predictor.about["data"]["source"]
    examples = plugins.dataset(source).call({"source": source}, {})
    pictures, labels = export.pictures_of(predictor, examples, 2000, print)

    whole = export.Whole(predictor.network, predictor.temperature)
    weights = (asked.model / "model.safetensors").stat().st_size
    pytorch = timed(lambda p: whole(tensor(p)), pictures, asked.repeats)
    rows: list[tuple[Any, ...]] = [("PyTorch", weights, pytorch, "", "", "")]
    for to, suffix in export.SUFFIXES.items():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"model{suffix}"
            found = export.export(predictor, file, to, pictures, labels)
            times = timed(answer(file, asked.threads), pictures, asked.repeats)
        loss = found.loss or (float("nan"),) * 3
        lost = f"{loss[0]:.4f} ({loss[1]:.4f} to {loss[2]:.4f})"
        told = (f"{found.difference:.1g}", f"{found.agreement:.2%}", lost)
        rows.append((to, found.bytes, times, *told))

    size = predictor.network.expects.size
    print(f"{next(iter(predictor.about['backbone']))} at {size} px, ", end="")
    print(f"{len(pictures)} pictures of {source}, {asked.threads} threads, ", end="")
    print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}\n")
    print("| format | MB | ms, batch 1 | ms a picture, batch 32 ", end="")
    print("| largest difference | same answer | accuracy lost, 95 % interval |")
    print("|---|---|---|---|---|---|---|")
    for name, taken, times, *compared in rows:
        cells = [name, f"{taken / 1e6:.1f}", *(f"{t:.2f}" for t in times), *compared]
        print(f"| {' | '.join(cells)} |")


def answer(file: Path, threads: int) -> Answer:
    """What runs an exported file."""
    if file.suffix == ".pt2":  # our own, written just now: loading one unpickles it
        module = torch.export.load(file).module()
        return lambda pictures: module(tensor(pictures))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file.read_bytes(), options)
    return lambda pictures: session.run(
        None, {"images": np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))}
    )


def tensor(pictures: NDArray[np.uint8]) -> torch.Tensor:
    """``uint8 [B, S, S, 3]`` to ``[B, 3, S, S]``."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


def timed(work: Answer, pictures: NDArray[np.uint8], repeats: int) -> list[float]:
    """Milliseconds of a picture in batches of each of ``BATCHES``."""
    found = []
    for size in BATCHES:
        batch = np.resize(pictures, (size, *pictures.shape[1:]))
        times = []
        with torch.inference_mode():
            for _ in range(3 + repeats):
                began = time.perf_counter()
                work(batch)
                times.append(time.perf_counter() - began)
        found.append(1000 * median(times[3:]) / size)
    return found


if __name__ == "__main__":
    main()
