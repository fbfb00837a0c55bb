"""Memory that training on data larger than memory takes, measured in a process of its own.

A process that is spawned can import this module, but not a test module.
"""

from __future__ import annotations

import math
import resource
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from toy import CPU, config, job, model

from autotl import backbone
from autotl.data import Batches, MappedArray, Packed, memory_map
from autotl.frozen import FeatureCache, cache
from autotl.training import fine_tune, predict

MIB = 1 << 20
SIDE, IMAGES = 96, 4096


@backbone
def coarse() -> nn.Module:
    """All pixels of an image at a quarter of its size."""
    network = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.LayerNorm(3 * (SIDE // 4) ** 2))
    network.num_features = 3 * (SIDE // 4) ** 2
    network.pretrained_cfg = {"input_size": (3, SIDE, SIDE)}
    return network


def peak_memory() -> int:
    """Peak resident memory of this process, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def train_and_predict(folder: Path, count: int) -> tuple[int, int]:
    """Train and predict on ``count`` images; return their bytes, and those of the cache."""
    folder.mkdir(exist_ok=True)
    shape, path = (count, SIDE, SIDE, 3), folder / str(count)
    with path.open("wb") as file:
        file.truncate(math.prod(shape))
    images = MappedArray(path, shape)
    packed, labels = Packed(images.array, path, images), np.arange(count) % 3
    cache = FeatureCache(1 << 30, folder, memory=0)
    split = (np.arange(count // 2), 0), (np.arange(count // 2, count), None)
    train, validation = (
        Batches(packed, labels, indices, 64, CPU.torch_device, shuffle_seed=seed)
        for indices, seed in split
    )
    chosen: dict[str, Any] = {"backbone": coarse}
    network = model(**chosen)
    changes = {"train": train, "validation": validation, "score": lambda p: float(len(p))}
    run = job(2, **changes, cache=cache, data_id="large")
    epochs = list(fine_tune(network, config(**chosen), run))
    assert [e.score for e in epochs] == [validation.num_examples] * 2
    assert len(predict(network, validation, CPU)) == validation.num_examples
    return math.prod(shape), cache.usage().bytes


def measure_growth(folder: Path) -> tuple[int, int, int]:
    """Bytes of images, of the cache, and by which the peak memory grew over that of fewer."""
    cache.CHUNK_BYTES, memory_map.MAX_RESIDENT_BYTES = 2 * MIB, 8 * MIB
    train_and_predict(folder, 1024)  # loads the code and fills the allocator, which count too
    before = peak_memory()
    return *train_and_predict(folder, IMAGES), peak_memory() - before
