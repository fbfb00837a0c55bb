"""The cut: what lies below the first learning layer runs once, and its output is kept.

A model is cut after one of the modules that timm names in ``feature_info``. Below, the model runs
until that module has returned. Above, the model runs again with every module below replaced by
what it returned: the boundary by its kept output, the others by phantoms, zeros without memory of
the shape they had. What the model's own code makes of the phantoms between modules (joining a
class token, reshaping) is thrown away at the boundary. A model that carries something around the
boundary gives another result that way, so ``find`` compares the two on real pictures and cuts lower
down, or not at all, where they differ.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from autotl.model import Model


class Cut:
    """A model in two parts: ``below(images)`` is frozen, ``above(activations)`` gives logits.

    Attributes:
        name: The module after which the model is cut; ``backbone`` for all of it.
    """

    def __init__(self, model: Model, name: str, finished: dict[str, Any]) -> None:
        self.model = model
        self.name = name
        self._finished = finished  # what the modules below return, shapes only
        self._side = (3, model.expects.size, model.expects.size)

    @property
    def parameters(self) -> set[int]:
        """The ids of the backbone's parameters that may be used below the cut."""
        named = self.model.backbone.named_parameters(remove_duplicate=False)
        if self.name == "backbone":
            return {id(p) for _, p in named}
        below, around = (*self._finished, self.name), _holders(self.name)
        return {id(p) for n, p in named if _inside(n, below) or n.rpartition(".")[0] in around}

    def below(self, images: Tensor) -> Tensor:
        """``uint8 [B, 3, S, S]`` to activations ``[B, ...]``; use it in inference mode."""
        if self.name == "backbone":
            return self.model.features(images)
        boundary = self.model.backbone.get_submodule(self.name)
        with _hooked(boundary, _stop):
            try:
                self.model.features(images)
            except _Stop as stop:
                found: Tensor = stop.output
                return found
        raise RuntimeError(f"{self.name} was not reached")  # find() has seen it run

    def above(self, activations: Tensor) -> Tensor:
        """Activations ``[B, ...]`` to logits ``[B, classes]``."""
        logits: Tensor = self.model.head(self.features(activations))
        return logits

    def features(self, activations: Tensor) -> Tensor:
        """Activations ``[B, ...]`` to what the head is fed."""
        if self.name == "backbone":
            return activations
        count = len(activations)

        def phantom(seen: Tensor) -> Tensor:
            rows = count if seen.shape[:1] == (1,) else seen.shape[0]
            return activations.new_zeros(()).to(seen.dtype).expand(rows, *seen.shape[1:])

        outputs = {n: tree_map_only(Tensor, phantom, out) for n, out in self._finished.items()}
        outputs[self.name] = activations
        blank = activations.new_zeros((), dtype=torch.float32).expand(count, *self._side)
        with contextlib.ExitStack() as stack:
            for name, output in outputs.items():
                module = self.model.backbone.get_submodule(name)
                stack.enter_context(_answering(module, output))
            return self.model.extract(blank)


class _Stop(Exception):
    def __init__(self, output: Any) -> None:
        self.output = output


def _stop(module: nn.Module, args: Any, output: Any) -> None:
    raise _Stop(output)


@contextlib.contextmanager
def _hooked(module: nn.Module, hook: Callable[..., None]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _answering(module: nn.Module, output: Any) -> Iterator[None]:
    """Let ``module`` return ``output`` without computing anything."""
    module.__dict__["forward"] = lambda *args, **kwargs: output  # found before the class's own
    try:
        yield
    finally:
        del module.__dict__["forward"]


def find(model: Model, images: Tensor) -> Cut | None:
    """The highest cut of ``model`` with nothing that learns below it, or None.

    Args:
        model: With its learning parameters set.
        images: Real pictures ``uint8 [B, 3, S, S]``, two at least, to compare the two ways on.
    """
    if not model.backbone_learns:
        return Cut(model, "backbone", {})
    if any(p.requires_grad for p in model.backbone.parameters(recurse=False)):
        return None  # a parameter of the model itself may be used anywhere
    learning = {id(p) for p in model.backbone.parameters() if p.requires_grad}
    info: Any = getattr(model.backbone, "feature_info", None) or []
    stages = [s for s in getattr(info, "info", info) if isinstance(s, dict) and "module" in s]
    known = {name for name, _ in model.backbone.named_modules()}
    for name in reversed([s["module"] for s in stages if s["module"] in known]):
        cut = _cut_at(model, name, images[:1])
        if cut and not cut.parameters & learning and _agrees(cut, images):
            return cut
    return None


def _cut_at(model: Model, name: str, image: Tensor) -> Cut | None:
    """The cut after ``name``, from what the modules return for one image until it has returned."""
    seen: dict[str, Any] = {}

    def remember(module_name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            seen.setdefault(module_name, output)

        return hook

    was_training = model.training
    model.eval()
    try:
        with contextlib.ExitStack() as stack, torch.no_grad():
            for n, module in model.backbone.named_modules():
                if n:
                    stack.enter_context(_hooked(module, remember(n)))
            stack.enter_context(_hooked(model.backbone.get_submodule(name), _stop))
            model.features(image)
    except _Stop as stop:
        if not isinstance(stop.output, Tensor):
            return None
    else:
        return None
    finally:
        model.train(was_training)
    # Of what has finished, the outermost modules are enough; those that hold the boundary go on.
    holds = {name, *_holders(name)}
    done = [n for n in seen if n not in holds and not _inside(n, (name,))]
    outermost = [n for n in done if not _inside(n, [d for d in done if d != n])]
    return Cut(model, name, {n: seen[n] for n in outermost})


def _holders(name: str) -> set[str]:
    """The modules that the module ``name`` is part of; the empty name is the model itself."""
    parts = name.split(".")
    return {".".join(parts[:i]) for i in range(len(parts))}


def _inside(name: str, modules: Any) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _agrees(cut: Cut, images: Tensor) -> bool:
    was_training = cut.model.training
    cut.model.eval()
    try:
        with torch.no_grad():
            whole = cut.model.features(images)
            split = cut.features(cut.below(images).clone())
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):
        return False  # the model's own code cannot live with phantoms
    finally:
        cut.model.train(was_training)
    return bool((whole - split).abs().max() <= 1e-5 * whole.abs().max())  # never so for NaN
