"""Split a model into a frozen prefix, whose output is cached, and a trainable suffix.

A model is split after a call of one of its modules, the boundary module. The prefix runs the model
until that call has returned. The suffix runs the model again, but the calls that had returned by
then are not computed: the boundary call returns the cached activations, and the others return
placeholders, zeros of the shape they had, which take no memory. What the model's own code computes
from placeholders between modules (joining a class token, reshaping) is discarded at the boundary.

``find_split_point`` traces the model twice, with one image and with two (see ``tracing``). The
traces show where everything that depends on the image passes through a single output, and which
parameters that output is computed from. The last such output without trainable parameters is the
split point, unless prefix and suffix together do not reproduce the model's features for real
images.

Shapes: B images in a batch, S the side of an image in pixels, C classes, F features.
"""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map, tree_map_only

from autotl.frozen.tracing import (
    Call,
    enclosing_calls,
    find_boundaries,
    parameters_of,
    record_calls,
    requires_grad,
    single_tensor,
)
from autotl.models import Model

HALF = torch.float16
"""The type in which activations may be cached where ``SplitPoint.tolerates_float16``.

It rounds to one part in 2048, while bfloat16 rounds to one in 256. It overflows at 65504, while
bfloat16 has the range of float32, but an overflow can be detected: see ``HEADROOM``.
"""

HALF_TOLERANCE = 0.01
"""How far rounding may change the features, as a fraction of their std between images."""

HEADROOM = 16
"""How many times larger than the observed activations others may be without overflow."""


@dataclass(frozen=True)
class _Placeholder:
    """The type and the shape of a tensor that stands for an output that is not computed.

    Attributes:
        sizes: For each dimension its constant size and the size that each image adds.
        dtype: The type.
    """

    sizes: tuple[tuple[int, int], ...]
    dtype: torch.dtype

    def make(self, count: int, device: torch.device, nan: bool) -> Tensor:
        """Make the tensor for ``count`` images, of zeros or of NaN."""
        value = torch.nan if nan and self.dtype.is_floating_point else 0
        number = torch.full((), value, dtype=self.dtype, device=device)
        return number.expand([constant + each * count for constant, each in self.sizes])


_RECOMPUTE = object()
"""Stands for the output of a call that does not depend on the image: the suffix computes it."""


class SplitPoint:
    """A model in two parts: ``prefix(images)`` is frozen, ``suffix(activations)`` gives logits.

    Without further arguments the prefix is the whole backbone.

    Args:
        model: The model.
        name: See the attribute.
        prefix_parameters: See the attribute.
        replayed: The calls that have returned at the boundary, with their recorded outputs; the
            last is the call of the boundary module.
        boundary_call: Number of that call among the calls of the boundary module, from 1.

    Attributes:
        name: Name of the boundary module, with the number of its call where an earlier call of it
            is in the prefix too (``act:2``); ``backbone`` for the whole backbone.
        prefix_parameters: The ids of the backbone's parameters that the prefix uses.
    """

    def __init__(
        self,
        model: Model,
        name: str = "backbone",
        prefix_parameters: set[int] | None = None,
        replayed: Sequence[tuple[nn.Module, Any]] = (),
        boundary_call: int = 1,
    ) -> None:
        self.model = model
        self.name = name
        if prefix_parameters is None:
            prefix_parameters = {id(p) for p in model.backbone.parameters()}
        self.prefix_parameters = prefix_parameters
        self._replayed, self._boundary_call = replayed, boundary_call
        side = model.expects.size
        sizes = ((0, 1), (3, 0), (side, 0), (side, 0))
        self._placeholder_images = _Placeholder(sizes, torch.float32)
        # Images and outputs that were made before, by batch size, device and kind.
        self._made: dict[tuple[int, torch.device, bool], tuple[Tensor, list[Any]]] = {}

    def prefix(self, images: Tensor) -> Tensor:
        """Compute the activations at the split point; to be called in inference mode.

        Args:
            images: ``uint8 [B, 3, S, S]``.

        Returns:
            Activations ``[B, ...]``.
        """
        if not self._replayed:
            return self.model.features(images)
        calls = 0

        def stop(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == self._boundary_call:
                raise _BoundaryReached(single_tensor(output))

        boundary, _ = self._replayed[-1]
        handle = boundary.register_forward_hook(stop)
        try:
            self.model.features(images)
        except _BoundaryReached as reached:
            output: Tensor = reached.output
            return output
        finally:
            handle.remove()
        raise RuntimeError(f"module {self.name} was not called, as it was when it was traced")

    def suffix(self, activations: Tensor) -> Tensor:
        """Compute logits ``[B, C]`` from activations ``[B, ...]``."""
        logits: Tensor = self.model.head(self.features(activations))
        return logits

    def features(self, activations: Tensor) -> Tensor:
        """Compute the head's input ``[B, ..., F]`` from activations ``[B, ...]``."""
        return self._features(activations, nan=False)

    def tolerates_float16(self, images: Tensor) -> bool:
        """Whether activations may be cached in ``HALF`` and passed to the suffix in float32.

        The features of rounded activations are compared with those of the original ones, in
        float32. The root of their mean squared difference may be ``HALF_TOLERANCE`` of the standard
        deviation of the features between images, which is all that a head can tell images apart by.
        No activation may come within ``HEADROOM`` times of an overflow.

        Args:
            images: Real images ``uint8 [B, 3, S, S]``, at least two.
        """
        training = self.model.training
        self.model.eval()
        with torch.no_grad():
            activations = self.prefix(images).float()
            half = activations.to(HALF)
            # Copies, because layers that work in place would change what is compared.
            exact, rounded = (self.features(a) for a in (activations.clone(), half.float()))
        self.model.train(training)
        error = (rounded - exact).square().mean().sqrt()
        std = (exact - exact.mean(0)).square().mean().sqrt()
        in_range = activations.abs().max() * HEADROOM <= torch.finfo(HALF).max
        return bool(in_range and error <= HALF_TOLERANCE * std)  # False for NaN

    def _features(self, activations: Tensor, nan: bool) -> Tensor:
        """Compute features with placeholders of NaN or of zeros.

        A feature that depends on a placeholder of NaN is NaN, whatever the weights are.
        """
        if not self._replayed:
            return activations
        key = len(activations), activations.device, nan
        if key not in self._made:
            with torch.inference_mode(False):  # an inference tensor could not be trained on
                self._made[key] = self._make_placeholders(*key)
        images, outputs = self._made[key]
        modules, recorded = zip(*self._replayed, strict=True)
        at_boundary = tree_map_only(_Placeholder, lambda _: activations, recorded[-1])
        with _replay(modules, [*outputs, at_boundary]):
            return self.model.extract_features(images)

    def _make_placeholders(
        self, count: int, device: torch.device, nan: bool
    ) -> tuple[Tensor, list[Any]]:
        """Make the images, and the outputs of all replayed calls before the boundary's."""

        def make(placeholder: _Placeholder) -> Tensor:
            return placeholder.make(count, device, nan)

        outputs = [tree_map_only(_Placeholder, make, output) for _, output in self._replayed[:-1]]
        return make(self._placeholder_images), outputs


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


def find_split_point(model: Model, images: Tensor) -> SplitPoint | None:
    """Find the last split point of a model that has no trainable parameters before it.

    Args:
        model: A model whose trainable parameters require a gradient.
        images: Real images ``uint8 [B, 3, S, S]``, at least two, for comparing the split model with
            the whole one.

    Returns:
        The split point, or None if there is none.

    Raises:
        torch.OutOfMemoryError: The images do not fit on the device.
    """
    if not model.backbone_trainable:
        return SplitPoint(model)
    training = model.training
    model.eval()
    try:
        return _find_last(model, images)
    finally:
        model.train(training)


_FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)
"""What a model's own code raises where it does not work with placeholders."""


def _find_last(model: Model, images: Tensor) -> SplitPoint | None:
    """Find the last split point of a model in eval mode that reproduces the model's features."""
    trainable = {id(p) for p in model.backbone.parameters() if p.requires_grad}
    with requires_grad(model.backbone, False):
        calls, features = record_calls(model, images[:1].float().requires_grad_())
    with requires_grad(model.backbone, True):
        calls_for_two, _ = record_calls(model, images[:2])
    if [c.name for c in calls] != [c.name for c in calls_for_two]:
        return None  # which modules are called depends on the number of images

    def has_trainable_prefix(i: int) -> bool:
        return not trainable.isdisjoint(parameters_of(calls_for_two[i].node))

    boundaries = find_boundaries(model, calls, features)
    # The parameters before one boundary are before the next one too.
    frozen = boundaries[: bisect.bisect_left(boundaries, True, key=has_trainable_prefix)]
    with torch.no_grad():
        expected = model.features(images)
    failed = None
    for i in reversed(frozen):
        name = calls[i].name
        if failed and name.startswith(failed):
            continue
        try:
            with torch.no_grad():
                split = _split_after(model, i, calls, calls_for_two)
                actual = split._features(split.prefix(images).clone(), nan=True)
                if (expected - actual).abs().max() <= 1e-5 * expected.abs().max():  # not for NaN
                    return split
        except torch.OutOfMemoryError:  # says nothing about this split point
            raise
        except _FAILURES:
            pass
        # The siblings are called by the same code, which would fail there too; a try takes time.
        failed = name.rpartition(".")[0]
        failed = failed and f"{failed}."
    return None


def _split_after(model: Model, i: int, one: list[Call], two: list[Call]) -> SplitPoint:
    """Split a model after call ``i``, given the calls recorded for one image and for two."""
    enclosing = {None, *enclosing_calls(one, i)}
    # Of the calls that have returned, the outermost are sufficient; those that enclose the boundary
    # have not returned.
    before = [j for j in range(i) if one[j].parent in enclosing and j not in enclosing]
    replaced = {one[j].name for j in (*before, i) if one[j].has_gradient}
    replayed = [
        (one[j].module, tree_map(_make_placeholder, one[j].output, two[j].output))
        if one[j].has_gradient
        else (one[j].module, _RECOMPUTE)
        for j in (*before, i)
        if one[j].name in replaced
    ]
    name = one[i].name
    number = sum(call.name == name for call in one[: i + 1])
    numbered = name if number == 1 else f"{name}:{number}"
    return SplitPoint(model, numbered, parameters_of(two[i].node), replayed, number)


def _make_placeholder(one: Any, two: Any) -> Any:
    """Make the placeholder of an output, given its values for one image and for two."""
    if not isinstance(one, Tensor):
        return one
    sizes = zip(one.shape, two.shape, strict=True)
    return _Placeholder(tuple((2 * a - b, b - a) for a, b in sizes), one.dtype)
