"""What the peers of a search have in common: their images, their model and their training."""

from __future__ import annotations

import copy
import csv
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from autotl_plugins import backbones  # type: ignore[import-not-found]
from numpy.typing import NDArray
from PIL import Image, ImageOps
from timm.optim._param_groups import param_groups_layer_decay
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCH = 32
SMOOTHING, WARMUP = 0.1, 0.05


@dataclass
class Task:
    """The images ``uint8 [N, 3, size, size]``, labels ``int64 [N]`` and deadline of a peer."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: int
    deadline: float
    flip: bool
    training_bfloat16: bool = False
    inference_bfloat16: bool = False
    seconds_per_image: float = 0.0

    def measure(self, model: nn.Module, *, training: bool = True) -> None:
        """Choose the precisions of training and inference, and time inference, on a few images."""
        probe, few = copy.deepcopy(model), self.images[:8]
        self.inference_bfloat16, seconds = compare_precisions(lambda: infer(probe, few))
        self.seconds_per_image = seconds / len(few)
        if training:
            self.training_bfloat16, _ = compare_precisions(
                lambda: torch.autograd.backward(probe.train()(to_input(few)).sum())
            )

    def time_for(self, images: int) -> float:
        """Predict the seconds of inference, with a margin for a machine that becomes slower."""
        return 1.5 * self.seconds_per_image * images + 1

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return the outputs ``float32 [N, width]`` of a model."""
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.inference_bfloat16):
            return torch.cat([infer(model, batch) for batch in torch.split(images, 2 * BATCH)])

    def accuracy(self, model: nn.Module, images: Tensor, labels: Tensor) -> float:
        """Return the fraction of the images that a model classifies correctly."""
        return float((self.predict(model, images).argmax(1) == labels).float().mean())


def compare_precisions(run: Callable[[], object]) -> tuple[bool, float]:
    """Return whether bfloat16 is faster than float32, and the seconds of the faster one."""
    seconds = []
    for enabled in (False, True):
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=enabled):
            run()
            began = time.perf_counter()
            run()
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return seconds[1] < seconds[0], min(seconds)


def load(source: str, splits: Path, size: int, deadline: float) -> Task:
    """Decode all images once, whole and squashed to a square."""
    with splits.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = [row for row in rows if row["split"] in ("train", "validation", "test")]
    digits = None
    if source == "sklearn:digits":
        from sklearn.datasets import load_digits

        digits = np.round(load_digits().images * (255 / 16)).astype(np.uint8)

    def decode(name: str) -> NDArray[np.uint8]:
        if digits is not None:
            image = Image.fromarray(digits[int(name.rpartition("/")[2])])
        else:
            image = Image.open(Path(source, name))
            image.draft("RGB", (2 * size, 2 * size))
        upright = ImageOps.exif_transpose(image).convert("RGB")
        return np.asarray(upright.resize((size, size), Image.Resampling.BICUBIC))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        decoded = np.stack(list(pool.map(decode, [row["name"] for row in rows])))
    images = torch.from_numpy(decoded).permute(0, 3, 1, 2).to(DEVICE)
    classes = sorted({row["label"] for row in rows})
    labels = torch.tensor([classes.index(row["label"]) for row in rows], device=DEVICE)
    test = torch.tensor([row["split"] == "test" for row in rows], device=DEVICE)
    arrays = (images[~test], labels[~test], images[test], labels[test])
    # Photographs may be mirrored, written digits may not.
    return Task(*arrays, len(classes), deadline, flip=digits is None)


def build(name: str, classes: int) -> nn.Module:
    """A timm model with the weights of its package and a new classifier (none for 0 classes)."""
    context = {"name": name, "weights": backbones.locate(name, None), "size": None}
    model: nn.Module = backbones.timm_model.call(context, {})
    if classes:
        model.reset_classifier(classes)  # type: ignore[operator]
    return model.to(DEVICE).to(memory_format=torch.channels_last)


def to_input(images: Tensor) -> Tensor:
    """Normalise ``uint8 [B, 3, H, W]`` with the mean and std of these weights, 0.5 and 0.5."""
    return images.contiguous(memory_format=torch.channels_last).float().div_(127.5).sub_(1)


@torch.inference_mode()
def infer(model: nn.Module, images: Tensor) -> Tensor:
    """Return the outputs ``float32 [B, width]`` of a model in eval mode."""
    output: Tensor = model.eval()(to_input(images))
    return output.float()


def augment(images: Tensor, *, flip: bool) -> Tensor:
    """Crop each image to between half and all of its area, and mirror half of them."""
    n = len(images)
    side = torch.empty(n, device=DEVICE).uniform_(0.5, 1).sqrt()
    centre = torch.empty(n, 2, device=DEVICE).uniform_(-1, 1) * (1 - side)[:, None]
    mirror = 1 - 2 * torch.randint(0, 2, (n,), device=DEVICE) * flip
    theta = torch.zeros(n, 2, 3, device=DEVICE)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = side * mirror, side, centre
    grid = nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    sampled = nn.functional.grid_sample(
        images, grid, align_corners=False, padding_mode="reflection"
    )
    return sampled.contiguous(memory_format=torch.channels_last)


def train(
    task: Task,
    rows: Tensor,
    model: nn.Module,
    lr: float,
    epochs: int,
    end: float,
    ema: ModelEmaV3 | None = None,
) -> Iterator[float]:
    """Train until ``end`` or for ``epochs``; yields the epochs so far after each, and at the end.

    The learning rate follows a cosine over the epochs, or over the time if that is shorter, so that
    it reaches zero in time on a machine whose speed changes.
    """
    groups = param_groups_layer_decay(model, weight_decay=0.02, layer_decay=0.9)
    optimizer = torch.optim.AdamW(groups, lr=lr, fused=True)
    began, last, steps = time.monotonic(), 0.0, max(1, len(rows) // BATCH)
    for step in range(epochs * steps):
        if step % steps == 0:
            order = rows[torch.randperm(len(rows), device=DEVICE)]
        now = time.monotonic()
        if now + last > end:
            if step == 0 or step % steps:
                yield step / steps
            return
        progress = max(step / (epochs * steps), (now - began) / (end - began))
        factor = min(1, (progress + 1e-3) / WARMUP) * (1 + math.cos(math.pi * progress)) / 2
        for group in optimizer.param_groups:
            group["lr"] = lr * factor * group.get("lr_scale", 1)
        batch = order[step % steps * BATCH :][:BATCH]
        set_training(model)
        images = augment(to_input(task.images[batch]), flip=task.flip)
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=task.training_bfloat16):
            output = model(images)
        loss = nn.functional.cross_entropy(
            output.float(), task.labels[batch], label_smoothing=SMOOTHING
        )
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        if ema:
            ema.update(model, step)
        last = time.monotonic() - now
        if (step + 1) % steps == 0:
            yield (step + 1) / steps


def set_training(model: nn.Module) -> None:
    """Put modules with trainable parameters into training mode; frozen ones stay in eval mode."""
    model.train()
    for module in model.modules():
        own = list(module.parameters())
        if own and not any(p.requires_grad for p in own):
            module.eval()
