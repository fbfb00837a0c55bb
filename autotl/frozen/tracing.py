"""Trace a model to find the module calls that its features can be computed from.

``trace`` runs a model and records each call of its modules and each operation of PyTorch, with the
operations that computed its arguments. This graph shows after which calls the model can be split
(``find_boundaries``), and which parameters an output was computed from (``parameters_of``). It has
what autograd's graph lacks: operations on integers and booleans, such as an attention mask made
from token ids, and values that are read by Python code.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves

from autotl.models import Model

_Place = tuple[StorageWeakRef, Any, Sequence[int], Sequence[int], torch.dtype]
"""Where a tensor is stored, and how: its storage, offset, shape, strides and type."""


@dataclass(eq=False)
class Node:
    """An operation in a trace, or a leaf: the model's input, a parameter, or another tensor.

    Attributes:
        order: Number of nodes before it.
        sources: The nodes that its arguments were computed by.
        depends: Whether it depends on the model's input.
        uses_parameters: Whether it depends on a parameter.
        call: Index of the innermost module call that was running; None outside of all calls.
        parameter: The id of the parameter, if it is one.
    """

    order: int
    sources: list[Node]
    depends: bool = False
    uses_parameters: bool = False
    call: int | None = None
    parameter: int | None = None

    def use(self, source: Node) -> None:
        """Add a source."""
        self.sources.append(source)
        self.depends |= source.depends
        self.uses_parameters |= source.uses_parameters


@dataclass
class Call:
    """A recorded call of a module.

    Attributes:
        name: Name of the module in the backbone.
        module: The module.
        parent: Index of the call that made this call; None for a call by the backbone itself.
        output: The leaves of the returned value, and its structure. Tensors are on the meta device:
            they have a shape and a type only.
        node: The operation that computed the returned tensor; None if the call did not return
            exactly one tensor.
        shape: Shape of that tensor.
        depends: Whether the returned value depends on the model's input.
        order: Number of calls that had returned by then, this one included.
        nodes: Number of nodes that had been recorded by then.
    """

    name: str
    module: nn.Module
    parent: int | None
    output: tuple[list[Any], TreeSpec] | None = None
    node: Node | None = None
    shape: Sequence[int] = ()
    depends: bool = False
    order: int = 0
    nodes: int = 0


@dataclass
class Trace:
    """A recorded run of a model.

    Attributes:
        calls: The calls of the backbone's modules, in the order in which they began.
        input: The node of the model's input.
        features: The node of the features.
        read: Operations that depend on the input and whose values Python code has read, by which
            it may have decided what to compute.
        prepared: What the backbone was given, on the meta device: ``[B, ...]``.
    """

    calls: list[Call]
    input: Node
    features: Node
    read: list[Node]
    prepared: Tensor


@dataclass
class Boundary:
    """A call after which a model can be split.

    Attributes:
        call: Its index.
        recomputed: Indices of earlier calls, of modules without parameters, that the suffix has to
            compute again from the model's input.
    """

    call: int
    recomputed: set[int]


def trace(model: Model, inputs: Tensor) -> Trace:
    """Run a model and record the calls of its backbone's modules and all operations.

    Args:
        model: The model.
        inputs: ``[B, ...]``.
    """
    calls: list[Call] = []
    running: list[int] = []
    returned = 0
    names = {module: name for name, module in model.backbone.named_modules() if name}
    recorder = _Recorder(running)
    prepared: list[Tensor] = []

    def enter(module: nn.Module, args: Any) -> None:
        running.append(len(calls))
        calls.append(Call(names[module], module, running[-2] if running[1:] else None))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal returned
        call = calls[running.pop()]
        leaves, structure = tree_flatten(output)
        call.output = [_to_meta(x) if isinstance(x, Tensor) else x for x in leaves], structure
        call.depends = any(recorder.find(t).depends for t in _tensors(output))
        # Now, because a layer that works in place would change the node.
        tensor = single_tensor(output)
        if tensor is not None and not _is_opaque(tensor):
            call.node, call.shape = recorder.find(tensor), tensor.shape
        call.order = returned = returned + 1
        call.nodes = len(recorder.nodes)

    def extract_features(argument: Tensor) -> Tensor:
        prepared.append(_to_meta(argument))
        return type(model).extract_features(model, argument)

    for p in model.backbone.parameters():
        recorder.add_parameter(p)
    source = recorder.add_input(inputs)
    with contextlib.ExitStack() as stack:
        for module in names:
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        stack.enter_context(_overridden(model, extract_features=extract_features))
        stack.enter_context(torch.no_grad())
        stack.enter_context(recorder)
        features = recorder.find(model.features(inputs))
    return Trace(calls, source, features, recorder.read, prepared[0])


@contextlib.contextmanager
def _overridden(module: nn.Module, **methods: Any) -> Iterator[None]:
    """Override methods of a module by others."""
    vars(module).update(methods)
    try:
        yield
    finally:
        for name in methods:
            del vars(module)[name]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operations that run in its context, as nodes of a graph.

    Tensors are recognised by their storage, and by their place in it, which are the same for all
    objects that PyTorch makes for one tensor.

    Args:
        running: The indices of the running module calls, the innermost last; others change it.

    Attributes:
        nodes: All nodes, in the order of their execution.
        read: See ``Trace``.
    """

    def __init__(self, running: list[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nodes: list[Node] = []
        self.read: list[Node] = []
        self._running = running
        self._constant = self._add([])  # stands for all tensors that are not computed in the trace
        self._nodes: dict[_Place, Node] = {}  # the last one that computed a tensor there
        self._written: dict[StorageWeakRef, Node] = {}  # the last one that wrote to a storage

    def add_input(self, inputs: Tensor) -> Node:
        """Add the node of the model's input."""
        node = self._add([])
        node.depends = True
        place = _find_place(inputs)
        self._written[place[0]] = self._nodes[place] = node
        return node

    def add_parameter(self, parameter: Tensor) -> None:
        """Add the node of a parameter, which may share its storage with others."""
        place = _find_place(parameter)
        storage = place[0]
        if storage not in self._written:
            self._written[storage] = self._add([])
        node = self._add([])
        node.parameter, node.uses_parameters = id(parameter), True
        self._written[storage].use(node)
        self._nodes[place] = node

    def find(self, tensor: Tensor) -> Node:
        """The node that computed a tensor as it is now."""
        return self._find(_find_place(tensor))

    def _find(self, place: _Place) -> Node:
        written = self._written.get(place[0], self._constant)
        node = self._nodes.get(place, written)
        return node if node.order > written.order else written  # others may have written to it

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and add its node."""
        kwargs = kwargs or {}
        tensors = [] if _uses_shapes_only(operation) else _tensors((args, kwargs))
        places = [_find_place(t) for t in tensors]
        node = self._add([self._find(place) for place in places])
        if self._reads(operation, args, node):
            self.read.append(node)
        written = _find_written(operation, args, kwargs)
        output = operation(*args, **kwargs)
        for tensor in (*written, *_tensors(output)):
            place = _find_place(tensor)
            is_opaque = place == _OPAQUE
            if is_opaque:
                node.use(self._find(place))
            if is_opaque or any(tensor is w for w in written) or place[0] not in self._written:
                self._written[place[0]] = node
            elif place in places:
                continue  # it returns its argument
            self._nodes[place] = node
        return output

    def _add(self, sources: list[Node]) -> Node:
        call = self._running[-1] if self._running else None
        node = Node(len(self.nodes), [], call=call)
        for source in sources:
            node.use(source)
        self.nodes.append(node)
        return node

    def _reads(self, operation: Any, args: Any, node: Node) -> bool:
        """Whether Python code may see the values of the input in what an operation returns."""
        if operation is torch.ops.aten.index.Tensor:  # only masks change the shape of the output
            masks = [t for t in _tensors(args[1]) if t.dtype in (torch.bool, torch.uint8)]
            return any(self.find(mask).depends for mask in masks)
        tags = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
        return node.depends and not tags.isdisjoint(operation.tags)


def _find_place(tensor: Tensor) -> _Place:
    """Find where a tensor is stored.

    The storage is freed with its tensors, but no other takes its name while this is in use.
    """
    if _is_opaque(tensor):
        return _OPAQUE
    return _place(tensor)


def _place(tensor: Tensor) -> _Place:
    storage = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
    return storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


_OPAQUE = _place(torch.empty(0))
"""Stands for the place of all tensors that have none, nested and sparse ones: whatever is computed
from one of them depends on all."""


def _uses_shapes_only(operation: Any) -> bool:
    """Whether an operation makes a tensor from the shapes of its arguments, not their values."""
    name = operation._schema.name.rpartition(":")[2]
    return bool(name.endswith("_like") or name.startswith("new_"))


def _find_written(operation: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The arguments that an operation writes to."""
    schema = operation._schema
    if not schema.is_mutable:
        return []
    named = {a.name: value for a, value in zip(schema.arguments, args, strict=False)} | kwargs
    writes = {a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write}
    return _tensors([value for name, value in named.items() if name in writes])


def find_boundaries(model: Model, trace: Trace, with_input: bool = False) -> list[Boundary]:
    """Find the calls after which a model can be split.

    They are calls of blocks (children of the backbone, of its containers and of the stages that
    timm names), and of modules inside a block whose output is no larger than the block's input.

    Args:
        model: The model.
        trace: Its trace.
        with_input: Whether the suffix gets the model's input beside the activations, so that what
            is computed from it outside of the calls before the boundary may be used later.

    Returns:
        The boundaries, in the order in which their calls returned.
    """
    info: Any = getattr(model.backbone, "feature_info", None) or []
    stages = [s for s in getattr(info, "info", info) if isinstance(s, dict)]
    stage_names = {s.get("module") for s in stages}
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    calls = trace.calls

    def is_block(call: Call) -> bool:
        if call.parent is None or call.name in stage_names:
            return True
        holder = call.name.rpartition(".")[0]
        return (
            holder in stage_names
            or not holder
            or isinstance(model.backbone.get_submodule(holder), containers)
        )

    boundaries: dict[Node | None, Boundary] = {}
    size = 0
    for i, recomputed in _find_bottlenecks(trace, with_input):
        call = calls[i]
        numbers = math.prod(call.shape)
        if numbers > size and not is_block(call):
            continue
        # A module that ends with another returns the same tensor: take the outer one. Dropout in
        # eval mode returns its input too, but it stays in the suffix, which is trained with
        # dropout.
        before = boundaries.get(call.node)
        if before is None or i in enclosing_calls(calls, before.call):
            boundaries[call.node], size = Boundary(i, recomputed), numbers
    return list(boundaries.values())


def enclosing_calls(calls: list[Call], i: int) -> list[int]:
    """Indices of the calls that were running when call ``i`` was made, the innermost first."""
    enclosing = []
    while (parent := calls[i].parent) is not None:
        enclosing.append(i := parent)
    return enclosing


def parameters_of(node: Node | None) -> set[int]:
    """The ids of the parameters that a tensor, given by its node, was computed from."""
    return {n.parameter for n in _walk([node] if node else []) if n.parameter is not None}


def single_tensor(output: Any) -> Tensor | None:
    """The tensor in an output such as a map with its size; None if it has several or none."""
    tensors = _tensors(output)
    return tensors[0] if len(tensors) == 1 else None


def _tensors(output: Any) -> list[Tensor]:
    return [t for t in tree_leaves(output) if isinstance(t, Tensor)]


def _is_opaque(tensor: Tensor) -> bool:
    return tensor.is_nested or tensor.layout != torch.strided


def _to_meta(tensor: Tensor) -> Tensor:
    if tensor.is_nested:  # it has no shape
        return torch.empty(0, device="meta")
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _walk(nodes: Sequence[Node]) -> Iterator[Node]:
    """Yield some nodes and all that they were computed from."""
    visited: set[Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node not in visited:
            visited.add(node)
            yield node
            pending += node.sources


def _find_bottlenecks(trace: Trace, with_input: bool) -> Iterator[tuple[int, set[int]]]:
    """Yield the calls whose output is all that the later ones use, and ``Boundary.recomputed``.

    They are yielded in the order in which they returned.
    """
    last_use: dict[Node, float] = {node: node.order for node in trace.read}
    last_use[trace.features] = math.inf
    for node in _walk(list(last_use)):
        for source in node.sources:
            if source.depends:
                last_use[source] = max(last_use.get(source, 0), node.order)
    ordered = sorted(last_use, key=lambda node: node.order)
    count, in_use = 0, set[Node]()
    for i in sorted(range(len(trace.calls)), key=lambda i: trace.calls[i].order):
        call = trace.calls[i]
        while count < len(ordered) and ordered[count].order < call.nodes:
            in_use.add(ordered[count])
            count += 1
        in_use = {node for node in in_use if last_use[node] >= call.nodes}
        if call.node is None or not call.depends or call.node not in in_use:
            continue
        others = in_use - {call.node} | _find_read_outside(trace, i)
        if not others:
            yield i, set()
        elif with_input and _use_no_parameters(ordered[count:], call.node):
            recomputed = _find_recomputed(trace, i, others)
            if recomputed is not None:
                yield i, recomputed


def _use_no_parameters(nodes: Sequence[Node], activations: Node) -> bool:
    """Whether parameters are used only where the activations are, not with the input alone.

    Otherwise the suffix would compute layers again.
    """
    after = {activations}
    for node in nodes:
        if not after.isdisjoint(node.sources):
            after.add(node)
        elif node.uses_parameters:
            return False
    return True


def _find_read_outside(trace: Trace, i: int) -> set[Node]:
    """What was read before call ``i`` returned, by code that the suffix runs again."""
    if not trace.read:
        return set()
    outside = {None, *enclosing_calls(trace.calls, i)}
    return {n for n in trace.read if n.call in outside and n.order < trace.calls[i].nodes}


def _find_recomputed(trace: Trace, i: int, nodes: set[Node]) -> set[int] | None:
    """Find the calls that compute some nodes from the input; None if others compute them.

    The suffix after call ``i`` runs the code between calls, and may compute calls of modules
    without parameters, but no layers.
    """
    calls, outside = trace.calls, {None, *enclosing_calls(trace.calls, i)}
    recomputed = set()
    for node in _walk(list(nodes)):
        j = node.call
        if node.depends and node.uses_parameters:
            return None
        if not node.depends or j is None or j in outside:
            continue
        while (parent := calls[j].parent) not in outside:
            assert parent is not None
            j = parent
        if j == i or any(True for _ in calls[j].module.parameters()):
            return None
        recomputed.add(j)
    return recomputed
