"""What every plugin keeps, whatever its kind."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from autotl.errors import Incompatible
from autotl.models import Model
from autotl.space import registry
from autotl.space.plugin import Hyperparameter
from autotl.space.registry import AnyPlugin
from autotl.space.space import Choice
from autotl.testing import kinds, network, toy
from autotl.testing.bench import (
    Bench,
    Findings,
    Params,
    apart,
    configurations,
    ends,
    with_value,
)

LONG = 8
"""Epochs of training after which a keyword is said to have no effect."""

FEW = 3
"""The most pictures that fit into the memory that is made to run out."""


@dataclass(frozen=True)
class Examination:
    """How many configurations of a plugin were tried, and in sentences what broke."""

    configurations: int
    broken: tuple[str, ...]


def examine(
    plugin: AnyPlugin, *, backbone: AnyPlugin | None = None, source: str = ""
) -> Examination:
    """Try a plugin. The arguments are those of ``check``; nothing that it does is raised."""
    findings = Findings(plugin)
    if lacks := registry.missing_requirements(plugin):
        wanted = " ".join(map(repr, lacks))
        findings.add(f"needs what is not installed: pip install {wanted}")
        return Examination(0, findings.sentences)
    if not plugin.summary:
        findings.add(
            "has no docstring; its first line is what the lists of plugins show: say what it is "
            "and which paper it comes from"
        )
    tried = 0
    with apart(), findings.watch():
        if plugin.kind == "dataset":
            kinds.dataset(plugin, source, findings)
            tried = 1
        else:
            tried = _on_some_backbone(kinds.member(findings), backbone, findings)
    return Examination(tried, findings.sentences)


def _on_some_backbone(plugin: AnyPlugin, backbone: AnyPlugin | None, findings: Findings) -> int:
    """Try a plugin on the first backbone that it does not refuse, its defaults on the other too."""
    toys = (Choice(toy.convolutions, {"batchnorm": True}), Choice(toy.tokens, {}))
    tried = 0
    for choice in (Choice(backbone, backbone.defaults),) if backbone else toys:
        if not tried:
            tried = _on(choice, plugin, findings)
        elif plugin.kind in ("freeze", "head") and not findings.sentences:
            findings.where = "on a transformer"
            _one(Bench(plugin, choice, findings), plugin.defaults)
    if tried:
        return tried
    if not findings.sentences:
        reasons = "; ".join(dict.fromkeys(findings.refused))
        findings.add(
            f"refuses the backbones that it was tried on ({reasons}); name one that it works with: "
            "check(plugin, backbone=...)"
        )
    return 0


def _on(backbone: Choice, plugin: AnyPlugin, findings: Findings) -> int:
    """Try a plugin on one backbone; returns how many configurations were not refused."""
    bench = Bench(plugin, backbone, findings)
    results: list[tuple[Params, NDArray[np.float32]]] = []
    tried = 0
    for params in configurations(plugin):
        refused = len(findings.refused)
        found = _one(bench, params)
        tried += len(findings.refused) == refused
        if found is None and params == plugin.defaults:
            return tried  # the rest would only say it again
        if found is not None:
            results.append((params, found))
    with findings.watch():
        _repeats(bench, results[0][1])
    with findings.watch():
        _lets_memory_run_out(bench)
    for h in plugin.hyperparameters:
        with findings.watch():
            _has_effect(bench, h, results)
    return tried


def _one(bench: Bench, params: Params) -> NDArray[np.float32] | None:
    """Look at one configuration, train, save and load it; returns what it says of new pictures."""
    with bench.findings.watch(params):
        if bench.plugin.kind == "backbone":
            bench.find_size(params)
        if not kinds.LOOKS[bench.plugin.kind](bench, params):
            return None
        model, probabilities = bench.train(params)
        network.learnt(bench, model, params)
        if bench.plugin.kind in ("backbone", "freeze", "head"):
            bench.saved(model, params)
            network.asked_alone(bench, model, params)
        return probabilities
    return None


def _repeats(bench: Bench, before: NDArray[np.float32]) -> None:
    _, again = bench.train(bench.plugin.defaults)
    if not np.array_equal(before, again):
        bench.findings.add(
            "gives another result when it is trained again with the same seed; draw random numbers "
            "from torch's global generator, which is seeded, and not from random or numpy"
        )


def _has_effect(
    bench: Bench, h: Hyperparameter, results: list[tuple[Params, NDArray[np.float32]]]
) -> None:
    """Note neighbouring values of a keyword that train the same model."""
    plugin = bench.plugin
    known = []
    for value in ends(h):
        params = with_value(plugin, h, value)
        known += [(value, params, found) for p, found in results if p == params]
    for (one, params, found), (other, changed, after) in itertools.pairwise(known):
        if not np.array_equal(found, after):
            continue
        # A few steps may be too few to tell, of a warm-up for example.
        _, found = bench.train(params, LONG)
        _, after = bench.train(changed, LONG)
        if np.array_equal(found, after):
            bench.findings.add(
                f"has a keyword {h.name!r} that changes nothing: {one!r} and {other!r} train the "
                "same model; use it, or do not let it be searched"
            )
            return


class _Memory(TorchFunctionMode):
    """Runs out in the first operation on a batch of more than a few pictures."""

    def __init__(self) -> None:
        self.ran_out = False
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.ran_out:
            self.ran_out = True
            raise torch.OutOfMemoryError("out of memory, made so by autotl.testing")
        return func(*args, **(kwargs or {}))


class _Short:
    """Lets memory run out in a part of a model; ``hidden`` if that part went on regardless."""

    def __init__(self, part: str) -> None:
        self.part = part
        self.hidden = False

    def __call__(self, model: Model) -> None:
        module: Any = getattr(model, self.part)
        forward = module.forward

        def limited(batch: Tensor) -> Tensor:
            if len(batch) <= FEW or not torch.is_grad_enabled():
                return forward(batch)  # type: ignore[no-any-return]
            with _Memory() as memory:
                answer: Tensor = forward(batch)
            self.hidden |= memory.ran_out
            return answer

        module.forward = limited


def _lets_memory_run_out(bench: Bench) -> None:
    """Note whether halved batches give another result, or an error is kept from the loop."""
    plugin = bench.plugin
    others: dict[str, Any] = {}
    part = "head"
    if plugin.kind == "backbone":
        others["freeze"] = toy.everything
        part = "backbone"
    elif bench.backbone.plugin is toy.convolutions:  # BatchNorm tells halves from the whole
        others["backbone"] = Choice(toy.convolutions, {"batchnorm": False})
    short = _Short(part)
    try:
        _, found = bench.train(plugin.defaults, prepare=short, **others)
        _, whole = bench.train(plugin.defaults, **others)
    except Incompatible:
        return  # needs the BatchNorm
    if short.hidden:
        bench.findings.add(
            "catches torch.OutOfMemoryError, which is a RuntimeError; let it through: the batch is "
            "then done again in halves"
        )
    elif not np.allclose(whole, found, atol=1e-3) and network.by_picture(bench, others):
        bench.findings.add(
            "trains another model when memory runs out and a batch is done in parts; let a step "
            "depend on nothing but the gradients"
        )
