"""Split a model into a frozen prefix, whose output is cached, and a trainable suffix.

A model is split after a call of one of its modules, the boundary module. The prefix runs the model
until that call has returned. The suffix runs the model again, but the calls that had returned by
then are not computed: the boundary call returns the cached activations, and the others return
placeholders, zeros of the shape they had, which take no memory. What the model's own code computes
from placeholders between modules (joining a class token, reshaping) is discarded at the boundary.

The backbone's argument is a placeholder too, unless no split point works so. Then the suffix needs
the real input beside the activations: what the model's own code computes from it between modules,
such as an attention mask from token ids, is used by the calls after the boundary.

``find_split_point`` traces the model twice, with one example and with two (see ``tracing``). The
traces show where everything that depends on the input passes through a single output, and which
parameters that output is computed from. The last such output without trainable parameters is the
split point, unless prefix and suffix together do not reproduce the model's features for real
inputs.

Shapes: B examples in a batch, C classes, F features.
"""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_unflatten

from autotl.data import device_memory
from autotl.frozen.tracing import (
    Boundary,
    Call,
    Trace,
    enclosing_calls,
    find_boundaries,
    parameters_of,
    single_tensor,
    trace,
)
from autotl.models import Model

HALF = torch.float16
"""The type in which activations may be cached where ``SplitPoint.tolerates_float16``.

It rounds to one part in 2048, while bfloat16 rounds to one in 256. It overflows at 65504, while
bfloat16 has the range of float32, but an overflow can be detected: see ``HEADROOM``.
"""

HALF_TOLERANCE = 0.01
"""How far rounding may change the features, as a fraction of their std between examples."""

ROUNDING = 1e-3
"""How far rounding may change features that are computed in batches of another size, as a fraction
of the largest. What depends on a placeholder is NaN."""

HEADROOM = 16
"""How many times larger than the observed activations others may be without overflow."""


@dataclass(frozen=True)
class _Placeholder:
    """The type and the shape of a tensor that stands for an output that is not computed.

    Attributes:
        sizes: For each dimension its constant size and the size that each example adds.
        dtype: The type.
    """

    sizes: tuple[tuple[int, int], ...]
    dtype: torch.dtype

    def make(self, count: int, device: torch.device, nan: bool) -> Tensor:
        """Make the tensor for ``count`` examples, of zeros or of NaN."""
        value = torch.nan if nan and self.dtype.is_floating_point else 0
        number = torch.full((), value, dtype=self.dtype, device=device)
        return number.expand([constant + each * count for constant, each in self.sizes])


_RECOMPUTE = object()
"""Stands for the output of a call that the suffix computes: it does not depend on the input, or it
depends on nothing else and the suffix has the input."""


class SplitPoint:
    """A model in two parts: ``prefix(inputs)`` is frozen, ``suffix(activations)`` gives logits.

    Without further arguments the prefix is the whole backbone.

    Args:
        model: The model.
        name: See the attribute.
        prefix_parameters: See the attribute.
        replayed: The calls that have returned at the boundary, with their recorded outputs; the
            last is the call of the boundary module. An output is its leaves and its structure.
        boundary_call: Number of that call among the calls of the boundary module, from 1.
        prepared: The placeholder of what the backbone is given; None if the suffix needs the input.

    Attributes:
        name: Name of the boundary module, with the number of its call where an earlier call of it
            is in the prefix too (``act:2``); ``backbone`` for the whole backbone.
        prefix_parameters: The ids of the backbone's parameters that the prefix uses.
        needs_input: Whether the suffix needs the model's input beside the activations.
    """

    def __init__(
        self,
        model: Model,
        name: str = "backbone",
        prefix_parameters: set[int] | None = None,
        replayed: Sequence[tuple[nn.Module, Any]] = (),
        boundary_call: int = 1,
        prepared: _Placeholder | None = None,
    ) -> None:
        self.model = model
        self.name = name
        if prefix_parameters is None:
            prefix_parameters = {id(p) for p in model.backbone.parameters()}
        self.prefix_parameters = prefix_parameters
        self.needs_input = bool(replayed) and prepared is None
        self._replayed, self._boundary_call = replayed, boundary_call
        self._prepared = prepared
        # Placeholders that were made before, by batch size, device and kind.
        self._made: dict[tuple[int, torch.device, bool], list[Any]] = {}

    def prefix(self, inputs: Tensor) -> Tensor:
        """Compute the activations at the split point; to be called in inference mode.

        Args:
            inputs: The model's input ``[B, ...]``.

        Returns:
            Activations ``[B, ...]``.
        """
        if not self._replayed:
            return self.model.features(inputs)
        calls = 0

        def stop(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == self._boundary_call:
                raise _BoundaryReached(single_tensor(output))

        boundary, _ = self._replayed[-1]
        handle = boundary.register_forward_hook(stop)
        try:
            self.model.features(inputs)
        except _BoundaryReached as reached:
            output: Tensor = reached.output
            return output
        finally:
            handle.remove()
        raise RuntimeError(f"module {self.name} was not called, as it was when it was traced")

    def suffix(self, activations: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Compute logits ``[B, C]`` from activations ``[B, ...]``; see ``features``."""
        logits: Tensor = self.model.head(self.features(activations, inputs))
        return logits

    def features(self, activations: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Compute the head's input ``[B, ..., F]`` from activations ``[B, ...]``.

        Args:
            activations: What ``prefix`` computes; layers may overwrite them.
            inputs: The model's input ``[B, ...]``, where it ``needs_input``.

        Raises:
            ValueError: It needs the input, and there is none.
        """
        return self._features(activations, inputs, nan=False)

    def tolerates_float16(self, inputs: Tensor) -> bool:
        """Whether activations may be cached in ``HALF`` and passed to the suffix in float32.

        The features of rounded activations are compared with those of the original ones, in
        float32. The root of their mean squared difference may be ``HALF_TOLERANCE`` of the standard
        deviation of the features between examples, all that a head can tell examples apart by.
        No activation may come within ``HEADROOM`` times of an overflow.

        Args:
            inputs: Real inputs ``[B, ...]``, at least two.
        """
        training = self.model.training
        self.model.eval()
        with torch.no_grad():
            activations = self.prefix(inputs).float()
            half = activations.to(HALF)
            # Copies, because layers that work in place would change what is compared.
            exact, rounded = (self.features(a, inputs) for a in (activations.clone(), half.float()))
        self.model.train(training)
        error = (rounded - exact).square().mean().sqrt()
        std = (exact - exact.mean(0)).square().mean().sqrt()
        in_range = activations.abs().max() * HEADROOM <= torch.finfo(HALF).max
        return bool(in_range and error <= HALF_TOLERANCE * std)  # False for NaN

    def _features(self, activations: Tensor, inputs: Tensor | None, nan: bool) -> Tensor:
        """Compute features with placeholders of NaN or of zeros.

        A feature that depends on a placeholder of NaN is NaN, whatever the weights are.
        """
        if not self._replayed:
            return activations
        if inputs is None and self.needs_input:
            raise ValueError(f"the layers after {self.name} need the model's input, too")
        key = len(activations), activations.device, nan
        if key not in self._made:
            with torch.inference_mode(False):  # an inference tensor could not be trained on
                self._made[key] = self._make_placeholders(*key)
        prepared, *outputs = self._made[key]
        modules, recorded = zip(*self._replayed, strict=True)
        at_boundary = _fill(recorded[-1], lambda _: activations)
        with _replay(modules, [*outputs, at_boundary]):
            if inputs is not None and self.needs_input:
                return self.model.features(inputs)
            return self.model.extract_features(prepared)

    def _make_placeholders(self, count: int, device: torch.device, nan: bool) -> list[Any]:
        """Make the backbone's argument, and the outputs of all calls before the boundary's."""

        def make(placeholder: _Placeholder) -> Tensor:
            return placeholder.make(count, device, nan)

        outputs = [_fill(output, make) for _, output in self._replayed[:-1]]
        return [self._prepared and make(self._prepared), *outputs]


def _fill(output: Any, make: Callable[[_Placeholder], Tensor]) -> Any:
    """Put tensors in the place of placeholders, given the leaves and the structure of an output."""
    if output is _RECOMPUTE:
        return output
    leaves, structure = output
    return tree_unflatten(
        [make(x) if isinstance(x, _Placeholder) else x for x in leaves], structure
    )


class _BoundaryReached(Exception):
    """Raised to leave the model when the boundary call has returned."""

    def __init__(self, output: Any) -> None:
        self.output = output


@contextlib.contextmanager
def _replay(modules: Sequence[nn.Module], outputs: Sequence[Any]) -> Iterator[None]:
    """Return ``outputs`` from the next calls of ``modules``, in this order, without computing."""
    replayed = 0

    def replace_forward(module: nn.Module) -> Callable[..., Any]:
        compute = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal replayed
            if replayed == len(outputs):
                return compute(*args, **kwargs)
            if modules[replayed] is not module:
                raise RuntimeError("the model calls its modules in another order than when traced")
            replayed += 1
            output = outputs[replayed - 1]
            return compute(*args, **kwargs) if output is _RECOMPUTE else output

        return forward

    replaced = set(modules)
    for module in replaced:
        module.__dict__["forward"] = replace_forward(module)  # overrides the method of its class
    try:
        yield
    finally:
        for module in replaced:
            del module.__dict__["forward"]


def find_split_point(model: Model, inputs: Tensor) -> SplitPoint | None:
    """Find the last split point of a model that has no trainable parameters before it.

    One whose suffix needs the model's input is taken only if there is no other.

    Args:
        model: A model whose trainable parameters require a gradient.
        inputs: Real inputs ``[B, ...]``, at least two, for comparing the split model with the whole
            one.

    Returns:
        The split point, or None if there is none.

    Raises:
        RuntimeError: The inputs do not fit on the device.
    """
    if not model.backbone_trainable:
        return SplitPoint(model)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            one, two = (trace(model, inputs[:count]) for count in (1, 2))
            if [c.name for c in one.calls] != [c.name for c in two.calls]:
                return None  # which modules are called depends on the number of examples
            expected = model.features(inputs)
            for needs_input in (False, True):
                boundaries = find_boundaries(model, one, needs_input)
                candidates = [_Candidate(model, b, one, two, needs_input) for b in boundaries]
                if split := _find_last(candidates, inputs, expected):
                    return split
            return None
    finally:
        model.train(training)


_FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)
"""What a model's own code raises where it does not work with placeholders."""


@dataclass(frozen=True)
class _Candidate:
    """A boundary in the traces of one example and of two."""

    model: Model
    boundary: Boundary
    one: Trace
    two: Trace
    needs_input: bool

    @property
    def name(self) -> str:
        """Name of the boundary module."""
        return self.one.calls[self.boundary.call].name

    def has_trainable_prefix(self) -> bool:
        """Whether its prefix has trainable parameters."""
        trainable = {id(p) for p in self.model.backbone.parameters() if p.requires_grad}
        return not trainable.isdisjoint(self._prefix_parameters())

    def split(self) -> SplitPoint:
        """Split the model after the boundary."""
        one, two, i = self.one.calls, self.two.calls, self.boundary.call
        enclosing = {None, *enclosing_calls(one, i)}
        # Of the calls that have returned, the outermost are sufficient; those that enclose the
        # boundary have not returned.
        before = [j for j in range(i) if one[j].parent in enclosing and j not in enclosing]
        replaced = {j for j in (*before, i) if one[j].depends} - self.boundary.recomputed
        names = {one[j].name for j in replaced}
        replayed = [
            (
                one[j].module,
                _make_placeholders(one[j], two[j]) if j in replaced else _RECOMPUTE,
            )
            for j in (*before, i)
            if one[j].name in names
        ]
        prepared = _make_placeholder(self.one.prepared, self.two.prepared)
        number = sum(call.name == self.name for call in one[: i + 1])
        return SplitPoint(
            self.model,
            self.name if number == 1 else f"{self.name}:{number}",
            self._prefix_parameters() | self._frozen_parameters_called(),
            replayed,
            number,
            None if self.needs_input else prepared,
        )

    def _prefix_parameters(self) -> set[int]:
        return parameters_of(self.one.calls[self.boundary.call].node)

    def _frozen_parameters_called(self) -> set[int]:
        """Those of the modules that have returned: custom kernels may have used them."""
        order = self.one.calls[self.boundary.call].order
        modules = [call.module for call in self.one.calls if call.order <= order]
        parameters = [p for m in modules for p in m.parameters(recurse=False)]
        return {id(p) for p in parameters if not p.requires_grad}


def _find_last(candidates: list[_Candidate], inputs: Tensor, expected: Tensor) -> SplitPoint | None:
    """Find the last split point without trainable prefix that reproduces the features.

    Args:
        candidates: In the order in which the calls returned.
        inputs: Real inputs ``[B, ...]``.
        expected: Their features.
    """
    # The parameters before one boundary are before the next one too.
    count = bisect.bisect_left(candidates, True, key=_Candidate.has_trainable_prefix)
    failed = None
    for candidate in reversed(candidates[:count]):
        if failed and candidate.name.startswith(failed):
            continue
        try:
            split = candidate.split()
            if _reproduces(split, inputs, expected):
                return split
        except _FAILURES as error:
            if device_memory.is_out_of_memory(error):  # says nothing about this split point
                raise
        # The siblings are called by the same code, which would fail there too; a try takes time.
        failed = candidate.name.rpartition(".")[0]
        failed = failed and f"{failed}."
    return None


def _reproduces(split: SplitPoint, inputs: Tensor, expected: Tensor) -> bool:
    """Whether prefix and suffix compute the ``expected`` features of ``inputs``.

    A suffix that has the inputs could compute from them how the rows of the activations belong
    together, or how long they are. So they are computed from other batches, as those of a cache.
    """
    parts, tolerance = [inputs], 1e-5
    if split.needs_input:
        parts, tolerance = [inputs[:1], inputs[1:]], ROUNDING
    with torch.enable_grad():  # autograd sees custom kernels, which are no operations of PyTorch
        activations = torch.cat([split.prefix(part) for part in parts])
    if len(activations) != len(inputs) or activations.requires_grad:
        return False
    if split.needs_input:
        activations, inputs, expected = (t.flip(0) for t in (activations, inputs, expected))
    actual = split._features(activations.clone(), inputs, nan=True)
    return bool((expected - actual).abs().max() <= tolerance * expected.abs().max())  # not for NaN


def _make_placeholders(one: Call, two: Call) -> tuple[list[Any], TreeSpec]:
    """Make the placeholders of an output, given the calls for one example and for two."""
    assert one.output is not None
    assert two.output is not None
    (leaves, structure), (other_leaves, _) = one.output, two.output
    pairs = zip(leaves, other_leaves, strict=True)
    return [_make_placeholder(*pair) for pair in pairs], structure


def _make_placeholder(one: Any, two: Any) -> Any:
    """Make the placeholder of an output, given its values for one example and for two."""
    if not isinstance(one, Tensor):
        return one
    sizes = zip(one.shape, two.shape, strict=True)
    return _Placeholder(tuple((2 * a - b, b - a) for a, b in sizes), one.dtype)
