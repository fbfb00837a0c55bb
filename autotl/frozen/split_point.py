"""The cut: what lies below the first learning layer runs once, and its output is kept.

A model is cut after a call of one of its modules, the boundary. Below, the model runs until that
call has returned. Above, the model runs again, and the calls that had returned by then are answered
one by one: the boundary's by its kept output, the others by phantoms, zeros without memory of the
shape they had. What the model's own code makes of the phantoms between modules (joining a class
token, reshaping) is thrown away at the boundary.

``find`` runs the model twice, on one picture and on two. The graph that autograd records shows
where everything that comes from the picture passes through one output, and of which parameters that
output is made. The highest such place of which none learns is the cut, unless its two parts fail to
give together what the whole model gives for real pictures.
"""

from __future__ import annotations

import bisect
import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from autotl.models import Model

HALF = torch.float16
"""The type in which activations may be kept where ``Cut.float16_agrees``.

It rounds to one part in 2048 where bfloat16 rounds to one in 256. It ends at 65504 where bfloat16
does not end before float32, but that can be seen: see ``HEADROOM``.
"""

HALF_TOLERANCE = 0.01
"""How far rounding may move the features, as a share of how far pictures' features lie apart."""

HEADROOM = 16
"""How many times larger than the activations that were seen others may be without overflow."""


@dataclass(frozen=True)
class _Phantom:
    """A tensor's size in each dimension, as a fixed part and one for each picture, and its type."""

    sizes: tuple[tuple[int, int], ...]
    dtype: torch.dtype

    def of(self, count: int, device: torch.device, leaking: bool) -> Tensor:
        value = torch.nan if leaking and self.dtype.is_floating_point else 0
        one = torch.full((), value, dtype=self.dtype, device=device)
        return one.expand([fixed + each * count for fixed, each in self.sizes])


_RUNS = object()
"""The answer to a call that owes nothing to the picture: it is computed again."""


class SplitPoint:
    """A model in two parts: ``prefix(images)`` is frozen, ``suffix(activations)`` gives logits.

    Attributes:
        name: The module after which the model is cut, with the number of the call where an earlier
            call of it is below as well (``act:2``); ``backbone`` for all of the backbone.
        parameters: The ids of the backbone's parameters that are used below the cut.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.name = "backbone"
        self.parameters = {id(p) for p in model.backbone.parameters()}
        self._boundary = model.backbone
        self._call = 1  # which of the boundary's calls
        self._script: list[tuple[nn.Module, Any]] = []  # who is called until then, and the answers
        side = model.expects.size
        self._blank = _Phantom(((0, 1), (3, 0), (side, 0), (side, 0)), torch.float32)
        self._ready: dict[Any, tuple[Tensor, list[Any]]] = {}  # phantoms by what they are for

    def prefix(self, images: Tensor) -> Tensor:
        """``uint8 [B, 3, S, S]`` to activations ``[B, ...]``; use it in inference mode."""
        if self.name == "backbone":
            return self.model.features(images)
        calls = 0

        def stop(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == self._call:
                raise _Stop(_only_tensor(output))

        handle = self._boundary.register_forward_hook(stop)
        try:
            self.model.features(images)
        except _Stop as stopped:
            output: Tensor = stopped.output
            return output
        finally:
            handle.remove()
        raise RuntimeError(f"{self.name} was not reached")  # find() has seen it run

    def suffix(self, activations: Tensor) -> Tensor:
        """Activations ``[B, ...]`` to logits ``[B, classes]``."""
        logits: Tensor = self.model.head(self.features(activations))
        return logits

    def features(self, activations: Tensor) -> Tensor:
        """Activations ``[B, ...]`` to what the head is fed."""
        return self._features(activations, leaking=False)

    def float16_agrees(self, images: Tensor) -> bool:
        """Whether activations may be kept in ``HALF``: ``suffix(kept.float())`` is as good.

        The features made of rounded activations are compared with those of the others, in float32.
        The root of their mean squared difference may be ``HALF_TOLERANCE`` of the deviation of
        the features between the pictures, which is all that a head can tell pictures apart by. No
        activation may come within ``HEADROOM`` times of what overflows.

        Args:
            images: Real pictures ``uint8 [B, 3, S, S]``, of which there must be two at least.
        """
        training = self.model.training
        self.model.eval()
        with torch.no_grad():
            kept = self.prefix(images).float()
            half = kept.to(HALF)
            # Layers that work in place must not spoil what is compared.
            whole, rounded = (self.features(each) for each in (kept.clone(), half.float()))
        self.model.train(training)
        noise = (rounded - whole).square().mean().sqrt()
        spread = (whole - whole.mean(0)).square().mean().sqrt()
        fits = kept.abs().max() * HEADROOM <= torch.finfo(HALF).max
        return bool(fits and noise <= HALF_TOLERANCE * spread)  # never so for NaN

    def _features(self, activations: Tensor, leaking: bool) -> Tensor:
        """``leaking`` phantoms are NaN, so that what depends on one is NaN whatever its weight."""
        if self.name == "backbone":
            return activations
        key = len(activations), activations.device, leaking
        if key not in self._ready:
            with torch.inference_mode(False):  # what is made in it cannot be trained on
                self._ready[key] = self._phantoms(*key)
        blank, answers = self._ready[key]
        modules, outputs = zip(*self._script, strict=True)
        own = tree_map_only(_Phantom, lambda _: activations, outputs[-1])
        with _answering(modules, [*answers, own]):
            return self.model.extract(blank)

    def _phantoms(
        self, count: int, device: torch.device, leaking: bool
    ) -> tuple[Tensor, list[Any]]:
        def make(phantom: _Phantom) -> Tensor:
            return phantom.of(count, device, leaking)

        answers = [tree_map_only(_Phantom, make, answer) for _, answer in self._script[:-1]]
        return make(self._blank), answers


class _Stop(Exception):
    def __init__(self, output: Any) -> None:
        self.output = output


@contextlib.contextmanager
def _answering(modules: Sequence[nn.Module], answers: Sequence[Any]) -> Iterator[None]:
    """Answer the next calls, which must be of these ``modules``, without computing anything."""
    done = 0

    def instead(module: nn.Module) -> Callable[..., Any]:
        compute = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            if done == len(answers):
                return compute(*args, **kwargs)
            if modules[done] is not module:
                raise RuntimeError("the model calls its modules in another order than it did")
            done += 1
            answer = answers[done - 1]
            return compute(*args, **kwargs) if answer is _RUNS else answer

        return forward

    answered = set(modules)
    for module in answered:
        module.__dict__["forward"] = instead(module)  # found before the class's own
    try:
        yield
    finally:
        for module in answered:
            del module.__dict__["forward"]


def find(model: Model, images: Tensor) -> SplitPoint | None:
    """The highest cut of ``model`` with nothing that learns below it, or None.

    Args:
        model: With its learning parameters set.
        images: Real pictures ``uint8 [B, 3, S, S]``, two at least, to compare the two ways on.
    """
    if not model.backbone_trainable:
        return SplitPoint(model)
    training = model.training
    model.eval()
    try:
        return _highest(model, images)
    finally:
        model.train(training)


_FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)
"""What a model's own code raises that cannot live with phantoms."""


def _highest(model: Model, images: Tensor) -> SplitPoint | None:
    learning = {id(p) for p in model.backbone.parameters() if p.requires_grad}
    with _differentiable(model.backbone, False):
        by_picture, top = _trace(model, images[:1].float().requires_grad_())
    with _differentiable(model.backbone, True):
        by_parameters, _ = _trace(model, images[:2])
    if [c.name for c in by_picture] != [c.name for c in by_parameters]:
        return None  # what it calls depends on the number of pictures

    def learns(i: int) -> bool:
        return not learning.isdisjoint(_leaves(by_parameters[i].node))

    boundaries = _boundaries(model, by_picture, top)
    # What one boundary is made of, the next is made of too.
    frozen = boundaries[: bisect.bisect_left(boundaries, True, key=learns)]
    with torch.no_grad():
        whole = model.features(images)
    failed = None
    for i in reversed(frozen):
        name = by_picture[i].name
        if failed and name.startswith(failed):
            continue
        with contextlib.suppress(*_FAILURES), torch.no_grad():
            cut = _cut_at(model, i, by_picture, by_parameters)
            parts = cut._features(cut.prefix(images).clone(), leaking=True)
            if (whole - parts).abs().max() <= 1e-5 * whole.abs().max():  # never so for NaN
                return cut
        # The code that holds this module would fail at its other modules too, and it takes time.
        failed = name.rpartition(".")[0]
        failed = failed and f"{failed}."
    return None


def _cut_at(model: Model, i: int, one: list[_Call], two: list[_Call]) -> SplitPoint:
    """The cut after call ``i``, from what was called for one picture and for two."""
    holders = {None, *_holders(one, i)}
    # Of what has returned, the outermost calls are enough; those that hold the boundary go on.
    before = [j for j in range(i) if one[j].parent in holders and j not in holders]
    answered = {one[j].name for j in (*before, i) if one[j].of_picture}
    cut = SplitPoint(model)
    cut._script = [
        (one[j].module, tree_map(_phantom, one[j].output, two[j].output))
        if one[j].of_picture
        else (one[j].module, _RUNS)
        for j in (*before, i)
        if one[j].name in answered
    ]
    cut._boundary = one[i].module
    cut._call = sum(call.name == one[i].name for call in one[: i + 1])
    cut.name = one[i].name if cut._call == 1 else f"{one[i].name}:{cut._call}"
    cut.parameters = _leaves(two[i].node)
    return cut


def _phantom(one: Any, two: Any) -> Any:
    """What stands for an output that is ``one`` for one picture and ``two`` for two of them."""
    if not isinstance(one, Tensor):
        return one
    sizes = zip(one.shape, two.shape, strict=True)
    return _Phantom(tuple((2 * a - b, b - a) for a, b in sizes), one.dtype)


@dataclass
class _Call:
    """What is known of one call of a module.

    Attributes:
        parent: The number of the call that made it; None for the model itself.
        output: What it returned, with tensors that have a shape and a type alone.
        node: The node of autograd's graph that made what was returned, if that has one tensor.
        shape: Of that tensor.
        of_picture: Whether what it returned has a gradient.
        order: How many calls had returned before.
    """

    name: str
    module: nn.Module
    parent: int | None
    output: Any = None
    node: Node | None = None
    shape: Sequence[int] = ()
    of_picture: bool = False
    order: int = 0


def _tensors(output: Any) -> list[Tensor]:
    return [t for t in tree_leaves(output) if isinstance(t, Tensor)]


def _only_tensor(output: Any) -> Tensor | None:
    """The tensor in what a module returns, such as a map and its size; None if it has several."""
    tensors = _tensors(output)
    return tensors[0] if len(tensors) == 1 else None


def _trace(model: Model, images: Tensor) -> tuple[list[_Call], Node | None]:
    """The calls of the backbone's modules in order, and the node of the features."""
    calls: list[_Call] = []
    running: list[int] = []
    returned = 0
    names = {module: name for name, module in model.backbone.named_modules() if name}

    def enter(module: nn.Module, args: Any) -> None:
        running.append(len(calls))
        calls.append(_Call(names[module], module, running[-2] if running[1:] else None))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal returned
        call = calls[running.pop()]
        call.output = tree_map_only(Tensor, lambda t: t.detach().to("meta"), output)
        call.of_picture = any(t.requires_grad for t in _tensors(output))
        # Asked for now: a layer that works in place would change it.
        only = _only_tensor(output)
        call.node, call.shape = (only.grad_fn, only.shape) if only is not None else (None, ())
        call.order = returned = returned + 1

    with contextlib.ExitStack() as stack:
        for module in names:
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        # Nothing goes backward, so nothing need be saved for it.
        stack.enter_context(saved_tensors_hooks(lambda saved: None, lambda none: none))
        stack.enter_context(torch.enable_grad())
        return calls, model.features(images).grad_fn


@contextlib.contextmanager
def _differentiable(module: nn.Module, all_or_none: bool) -> Iterator[None]:
    """Let all parameters have gradients, or none."""
    before = {p: p.requires_grad for p in module.parameters()}
    for p in before:
        p.requires_grad = all_or_none and p.is_floating_point()
    try:
        yield
    finally:
        for p, learns in before.items():
            p.requires_grad = learns


def _boundaries(model: Model, calls: list[_Call], top: Node | None) -> list[int]:
    """The calls after which the model may be cut, by number, lowest first.

    They are of blocks (children of the model, of its containers and of the stages that timm
    names), and of modules inside of a block where no more need be kept than below the block.
    """
    info: Any = getattr(model.backbone, "feature_info", None) or []
    stages = [s for s in getattr(info, "info", info) if isinstance(s, dict)]
    stage_names = {s.get("module") for s in stages}
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

    def is_block(call: _Call) -> bool:
        if call.parent is None or call.name in stage_names:
            return True
        holder = call.name.rpartition(".")[0]
        return (
            holder in stage_names
            or not holder
            or isinstance(model.backbone.get_submodule(holder), containers)
        )

    bridges = _bridges(top)
    found: dict[Node, int] = {}
    size = 0
    for i in sorted(range(len(calls)), key=lambda i: calls[i].order):
        call = calls[i]
        if call.node not in bridges:
            continue
        numbers = math.prod(call.shape)
        if numbers > size and not is_block(call):
            continue
        # A module that ends with another returns the same. So does dropout, for now, but what
        # learns above is to be dropped, so it stays above.
        if call.node not in found or i in _holders(calls, found[call.node]):
            found[call.node], size = i, numbers
    return list(found.values())


def _holders(calls: list[_Call], i: int) -> list[int]:
    """The calls that call ``i`` is part of, the innermost first."""
    found = []
    while (parent := calls[i].parent) is not None:
        found.append(i := parent)
    return found


def _walk(top: Node | None) -> Iterator[Node]:
    """All nodes of a graph."""
    seen: set[Node] = set()
    ahead = [top]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            ahead += [n for n, _ in node.next_functions]


def _leaves(top: Node | None) -> set[int]:
    """The ids of the parameters that a tensor is made of."""
    return {id(n.variable) for n in _walk(top) if hasattr(n, "variable")}


def _bridges(top: Node | None) -> set[Node]:
    """The nodes that all paths from the picture to the features lead through."""
    inputs = {n: [below for below, _ in n.next_functions if below] for n in _walk(top)}
    order = list(TopologicalSorter(inputs).static_order())  # from the picture to the features
    place = {node: i for i, node in enumerate(order)}
    last_use = {below: place[node] for node in order for below in inputs[node]}
    found, reached = set(), 0
    for node in order:
        if reached <= place[node]:  # no edge of the graph passes over it
            found.add(node)
        reached = max(reached, last_use.get(node, 0))
    return found
