"""Trace a model to find the module calls that all of its features depend on.

``record_calls`` runs a model and records each call of its modules. The graph that autograd builds
in the meantime shows which outputs every path from the image to the features passes through
(``find_boundaries``), and which parameters an output was computed from (``parameters_of``).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks
from torch.utils._pytree import tree_leaves, tree_map_only

from autotl.models import Model


@dataclass
class Call:
    """A recorded call of a module.

    Attributes:
        name: Name of the module in the backbone.
        module: The module.
        parent: Index of the call that made this call; None for a call by the backbone itself.
        output: The returned value, with tensors on the meta device: they have a shape and a type
            only.
        node: Node of autograd's graph that computed the returned tensor; None if the call did not
            return exactly one tensor.
        shape: Shape of that tensor.
        has_gradient: Whether the returned value requires a gradient.
        order: Number of calls that had returned by then, this one included.
    """

    name: str
    module: nn.Module
    parent: int | None
    output: Any = None
    node: Node | None = None
    shape: Sequence[int] = ()
    has_gradient: bool = False
    order: int = 0


def record_calls(model: Model, images: Tensor) -> tuple[list[Call], Node | None]:
    """Run a model and record the calls of its backbone's modules.

    Args:
        model: The model.
        images: ``[B, 3, S, S]`` with pixels in the range 0..255.

    Returns:
        The calls in the order in which they began, and the node of the features.
    """
    calls: list[Call] = []
    running: list[int] = []
    returned = 0
    names = {module: name for name, module in model.backbone.named_modules() if name}

    def enter(module: nn.Module, args: Any) -> None:
        running.append(len(calls))
        calls.append(Call(names[module], module, running[-2] if running[1:] else None))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal returned
        call = calls[running.pop()]
        call.output = tree_map_only(Tensor, lambda t: t.detach().to("meta"), output)
        call.has_gradient = any(t.requires_grad for t in _tensors(output))
        # Read now, because a layer that works in place would change the node.
        tensor = single_tensor(output)
        call.node, call.shape = (tensor.grad_fn, tensor.shape) if tensor is not None else (None, ())
        call.order = returned = returned + 1

    with contextlib.ExitStack() as stack:
        for module in names:
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        # There is no backward pass, so no tensors need to be saved for it.
        stack.enter_context(saved_tensors_hooks(lambda saved: None, lambda none: none))
        stack.enter_context(torch.enable_grad())
        return calls, model.features(images).grad_fn


@contextlib.contextmanager
def requires_grad(module: nn.Module, value: bool) -> Iterator[None]:
    """Set ``requires_grad`` of all parameters to ``value``, and restore it afterwards."""
    before = {p: p.requires_grad for p in module.parameters()}
    for p in before:
        p.requires_grad = value and p.is_floating_point()
    try:
        yield
    finally:
        for p, trainable in before.items():
            p.requires_grad = trainable


def find_boundaries(model: Model, calls: list[Call], features: Node | None) -> list[int]:
    """Find the calls after which a model can be split.

    They are calls of blocks (children of the backbone, of its containers and of the stages that
    timm names), and of modules inside a block whose output is no larger than the block's input.

    Args:
        model: The model.
        calls: Its calls, recorded with images that require a gradient and parameters that do not.
        features: The node of the features.

    Returns:
        Indices of the calls, in the order in which they returned.
    """
    info: Any = getattr(model.backbone, "feature_info", None) or []
    stages = [s for s in getattr(info, "info", info) if isinstance(s, dict)]
    stage_names = {s.get("module") for s in stages}
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

    def is_block(call: Call) -> bool:
        if call.parent is None or call.name in stage_names:
            return True
        holder = call.name.rpartition(".")[0]
        return (
            holder in stage_names
            or not holder
            or isinstance(model.backbone.get_submodule(holder), containers)
        )

    bottlenecks = _find_bottlenecks(features)
    boundaries: dict[Node, int] = {}
    size = 0
    for i in sorted(range(len(calls)), key=lambda i: calls[i].order):
        call = calls[i]
        if call.node not in bottlenecks:
            continue
        numbers = math.prod(call.shape)
        if numbers > size and not is_block(call):
            continue
        # A module that ends with another returns the same tensor: take the outer one. Dropout in
        # eval mode returns its input too, but it stays in the suffix, which is trained with
        # dropout.
        if call.node not in boundaries or i in enclosing_calls(calls, boundaries[call.node]):
            boundaries[call.node], size = i, numbers
    return list(boundaries.values())


def enclosing_calls(calls: list[Call], i: int) -> list[int]:
    """Indices of the calls that were running when call ``i`` was made, the innermost first."""
    enclosing = []
    while (parent := calls[i].parent) is not None:
        enclosing.append(i := parent)
    return enclosing


def parameters_of(node: Node | None) -> set[int]:
    """The ids of the parameters that a tensor, given by its node, was computed from."""
    return {id(n.variable) for n in _walk_graph(node) if hasattr(n, "variable")}


def single_tensor(output: Any) -> Tensor | None:
    """The tensor in an output such as a map with its size; None if it has several or none."""
    tensors = _tensors(output)
    return tensors[0] if len(tensors) == 1 else None


def _tensors(output: Any) -> list[Tensor]:
    return [t for t in tree_leaves(output) if isinstance(t, Tensor)]


def _walk_graph(node: Node | None) -> Iterator[Node]:
    """Yield all nodes of a graph, from the output to the inputs."""
    visited: set[Node] = set()
    pending = [node]
    while pending:
        current = pending.pop()
        if current is not None and current not in visited:
            visited.add(current)
            yield current
            pending += [n for n, _ in current.next_functions]


def _find_bottlenecks(features: Node | None) -> set[Node]:
    """The nodes that all paths from the image to the features pass through."""
    inputs = {n: [i for i, _ in n.next_functions if i] for n in _walk_graph(features)}
    ordered = list(TopologicalSorter(inputs).static_order())  # from the image to the features
    position = {node: i for i, node in enumerate(ordered)}
    last_use = {source: position[node] for node in ordered for source in inputs[node]}
    bottlenecks, reached = set(), 0
    for node in ordered:
        if reached <= position[node]:  # no edge of the graph bypasses it
            bottlenecks.add(node)
        reached = max(reached, last_use.get(node, 0))
    return bottlenecks
