"""The fit of a head in closed form, which ends when the deadline passes."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotl.errors import OutOfTime
from autotl.training.job import Job

PART = 8
"""The first fit of a kind is timed on this part of the examples: an eighth."""

FEWEST_EXAMPLES = 1000
"""The minimum number of examples of such a part; a fit to fewer is not worth timing."""


def fit_head(head: Any, features: Tensor, labels: Tensor, name: str, job: Job) -> None:
    """Fit a head within the deadline of the job.

    A fit that would take too long is not begun. Its time is that of the last fit of such a head,
    or that of a fit to a part of the examples, in proportion to their number. A fit that takes
    longer than that is interrupted at its next call of a function, so a ``fit`` need not know of
    deadlines.

    Args:
        head: Has ``fit(features, labels)``.
        features: ``float32 [N, ...]``.
        labels: The targets, ``[N, ...]``.
        name: The name of the head's plugin.
        job: Its ``measured_costs`` are read and extended.

    Raises:
        OutOfTime: The deadline passes, or would pass.
    """
    if job.deadline is None:
        head.fit(features, labels)
        return
    outputs = len(job.train.class_counts) or labels.shape[-1]
    key = f"fit, {name}, {list(features.shape[1:])}, {outputs} classes"
    timed = job.measured_costs.get(key)
    if timed is None and len(labels) >= PART * FEWEST_EXAMPLES:
        part = _choose_part(labels)
        warm_up = _choose_part(labels[part])
        # What a first fit imports is not a cost of the others.
        copy.deepcopy(head).fit(features[part][warm_up], labels[part][warm_up])
        timed = _fit_and_time(copy.deepcopy(head), features[part], labels[part], job)
    if timed is not None:
        seconds = timed["seconds"] * max(1.0, len(labels) / timed["examples"])
        left = job.deadline - time.monotonic()
        if seconds > left:
            raise OutOfTime(
                f"fitting the head would take {seconds:.1f} s, and {max(0.0, left):.1f} s are left"
            )
    job.measured_costs[key] = _fit_and_time(head, features, labels, job)


def _choose_part(labels: Tensor) -> Tensor:
    """Choose a part of the examples at random, and one of each class: ascending indices ``[n]``."""
    targets = labels.cpu().numpy()
    order = np.random.default_rng(0).permutation(len(targets))[: len(targets) // PART]
    firsts = np.unique(targets, return_index=True)[1] if targets.ndim == 1 else targets.argmax(0)
    part = np.union1d(order, firsts)
    return torch.from_numpy(part).to(labels.device)


def _fit_and_time(head: Any, features: Tensor, labels: Tensor, job: Job) -> dict[str, float]:
    began = time.monotonic()
    with _interrupted_at_the_deadline(job):
        head.fit(features, labels)
    return {"seconds": time.monotonic() - began, "examples": len(labels)}


@contextmanager
def _interrupted_at_the_deadline(job: Job) -> Iterator[None]:
    """Check the deadline at every call of a function, unless the host process is profiled."""
    job.check_time()
    if sys.getprofile() is not None:
        yield
        return
    sys.setprofile(lambda *_: job.check_deadline())
    try:
        yield
    finally:
        sys.setprofile(None)
