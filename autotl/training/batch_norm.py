"""Adaptive BatchNorm: the running statistics of a model become those of unlabelled examples.

A training step normalises labelled examples by the statistics of their batch. If those that are
predicted are of another domain, their statistics differ; so after each epoch the running
statistics are computed on unlabelled examples of that domain (AdaBN: Li et al. 2016,
arXiv:1603.04779). Layers that are frozen, or that a strategy normalises with their pretrained
statistics, keep these, because the layers after them were trained with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from itertools import chain

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from autotl.errors import Incompatible
from autotl.frozen.activations import Activations
from autotl.models import Model, blank_batch
from autotl.training.memory import MicroBatches

MAX_EXAMPLES = 2048
"""The maximum number of unlabelled examples on which statistics are computed, drawn at random: more
would not change them by much, and after each epoch all of them pass the network."""

Moments = tuple[int, Tensor, Tensor]
"""The number of values of each channel in a batch, their mean and their variance ``[C]``."""


def find_layers(model: Model) -> list[_BatchNorm]:
    """Find the trained layers that normalise by the batch, in the present mode of the model."""
    backbone = (m for m in model.backbone.modules() if any(p.requires_grad for p in m.parameters()))
    return [
        m
        for m in chain(backbone, model.head.modules())
        if isinstance(m, _BatchNorm) and m.training and m.running_mean is not None
    ]


def require_layers(model: Model, method: str, strategy: str) -> None:
    """Check that there is a layer whose statistics can be adapted.

    Args:
        model: A copy of the model as the strategy trains it; it is run.
        method: The name of the plugin for unlabelled examples.
        strategy: The name of the freeze strategy.

    Raises:
        Incompatible: There is none.
    """
    if not any(isinstance(m, _BatchNorm) for m in model.modules()):
        raise Incompatible(f"{method} adapts BatchNorm layers, and this network has none")
    model.train()
    with torch.no_grad():  # a strategy may set layers to eval mode in each forward pass
        model(blank_batch(model.expects, 2, model.device))
    if not find_layers(model):
        raise Incompatible(
            f"{method} adapts BatchNorm layers that are trained, and {strategy} trains none of "
            "them; try one that trains more layers, or a head with BatchNorm"
        )


def adapt(
    layers: Sequence[_BatchNorm],
    batches: Iterable[Activations],
    compute: Callable[[Activations], Tensor],
    micro_batches: MicroBatches,
) -> None:
    """Compute the running statistics of layers on batches.

    Each batch is normalised by its own statistics, as in training, but dropout is off. So the
    examples of a batch must be a random sample.

    Args:
        layers: The layers, of a model in eval mode.
        batches: The inputs of ``compute``.
        compute: Runs the model, or the layers after its split point.
        micro_batches: Knows what fits into memory.

    Raises:
        OutOfMemory: A single example does not fit on the device.
    """
    collected: dict[_BatchNorm, list[Moments]] = {layer: [] for layer in layers}
    of_batch: list[tuple[_BatchNorm, Moments]] = []

    def normalise_by_batch(layer: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].float()
        dimensions = [d for d in range(values.ndim) if d != 1]
        variance, mean = torch.var_mean(values, dimensions, correction=0)
        of_batch.append((layer, (values.numel() // len(mean), mean, variance)))
        _set(layer, mean, variance)

    def run(batch: Activations) -> Tensor:
        of_batch.clear()  # what a batch that did not fit into memory has left
        output = compute(batch)
        for layer, moments in of_batch:
            collected[layer].append(moments)
        return output

    with torch.no_grad(), ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(normalise_by_batch).remove)
        for batch in batches:
            micro_batches.map(run, batch)
    for layer, moments in collected.items():
        if moments:  # the head may not need all layers
            count, mean, variance = _merge(moments)
            _set(layer, mean, variance * count / max(1, count - 1))


def _merge(moments: Sequence[Moments]) -> Moments:
    """The moments of the values of several batches."""
    counts, means, variances = zip(*moments, strict=True)
    stacked = torch.stack(means)
    weights = torch.tensor(counts).to(stacked)[:, None] / sum(counts)
    mean = (weights * stacked).sum(0)
    variance = (weights * (torch.stack(variances) + (stacked - mean).square())).sum(0)
    return sum(counts), mean, variance


def _set(layer: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
