"""What plugins of one kind keep.

Shapes: B pictures in a batch, S the side of a picture in pixels, C classes, F features.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotl.models import plan_groups
from autotl.space.plugin import Balance, Example
from autotl.space.registry import AnyPlugin
from autotl.space.space import Choice
from autotl.testing import network, toy
from autotl.testing.bench import Bench, Findings, Params, close, described

PARTS = ("", "train", "validation", "test")


def member(findings: Findings) -> AnyPlugin:
    """The plugin itself, or of a family of backbones its first default member, untrained.

    From here on the findings are of that member.
    """
    plugin = findings.plugin
    if not plugin.members:
        return plugin
    names = plugin.members((), "cpu", None)
    if not names or plugin.members(names[:1], "cpu", None) != names[:1]:
        findings.add(
            "does not know its own members: without patterns members() returns the default set, "
            "and for the name of a member that name alone"
        )
        return plugin
    findings.plugin = plugin.member(names[0], None)
    return findings.plugin


# Each of these returns whether the plugin can be trained with.


def backbone(bench: Bench, params: Params) -> bool:
    """Features of the right shape and type."""
    model = bench.build(bench.config(params)).eval()
    module: Any = model.backbone
    width = getattr(module, "head_hidden_size", None) or module.num_features
    if not network.answers(bench, model.features, bench.images(), width, params):
        return False
    bench.copied(model, params)
    return True


def head(bench: Bench, params: Params) -> bool:
    """Logits of the right shape and type; it learns, and can be fitted if it says so."""
    model, images = bench.build(bench.config(params)).eval(), bench.images()
    with torch.no_grad():
        features = model.features(images)
    network.fit(model.head, features, torch.arange(len(images)) % len(toy.COLOURS))
    if not network.answers(bench, model.head, features, len(toy.COLOURS), params):
        return False
    bench.copied(model, params)
    return params != bench.plugin.defaults or network.learns_clouds(bench, params)


def freeze(bench: Bench, params: Params) -> bool:
    """Groups with learning rates, for a single epoch as for many."""
    for epochs in (1, 12):
        model = bench.build(bench.config(params))
        for groups in plan_groups(model, Choice(bench.plugin, params), epochs):
            for rate in (g["lr"] for g in groups):
                if not isinstance(rate, int | float) or not 0 < rate < math.inf:
                    bench.findings.add(
                        f"returns a group with lr={rate!r}; a learning rate is a number above 0, "
                        "and what is not to learn is left out",
                        params,
                    )
                    return False
    return True


def augment(bench: Bench, params: Params) -> bool:
    """Pictures of the same shape and type, changed each on its own and by the seed."""
    plugin, findings = bench.plugin, bench.findings
    transform: Any = plugin.call({"size": bench.side}, params)
    if not callable(transform):
        findings.add(f"returns {type(transform).__name__}; return a function of pictures", params)
        return False

    def changed(images: Tensor, seed: int) -> tuple[Tensor, Tensor | None] | None:
        targets = torch.eye(len(toy.COLOURS))[torch.arange(len(images)) % len(toy.COLOURS)]
        torch.manual_seed(seed)
        random.seed(next(draws))
        np.random.seed(next(draws))
        answer = transform(images, targets) if plugin.mixes else transform(images)
        made, mixed = answer if _is_pair(answer) else (answer, None)
        if plugin.mixes != (mixed is not None) or not isinstance(made, Tensor):
            right = "pictures and targets" if plugin.mixes else "pictures alone"
            findings.add(
                f"returns {described(answer)}; return {right}, or say mixes={not plugin.mixes}",
                params,
            )
            return None
        if made.shape != images.shape or made.dtype != torch.uint8:
            findings.add(
                f"returns pictures {described(made)} for {described(images)}; keep their shape, "
                "and round and clamp them to uint8",
                params,
            )
            return None
        if mixed is not None and not _are_targets(mixed, targets):
            findings.add(
                f"returns targets {described(mixed)} that are no shares; return float32 "
                f"{list(targets.shape)}, none below 0, each row with the sum 1",
                params,
            )
            return None
        return made, mixed

    draws = iter(range(10**6))
    images = bench.images()
    before = images.clone()
    if not (found := changed(images, 0)):
        return False
    if not torch.equal(before, images):
        findings.add("changes the pictures it is given in place; work on a copy", params)
        return False
    again, other = changed(images, 0), changed(images, 1)
    if not again or not other:
        return False
    if not torch.equal(found[0], again[0]):
        findings.add(
            "changes pictures in another way each time though the seed is the same; draw random "
            "numbers from torch's global generator, and not from random or numpy",
            params,
        )
        return False
    layout = changed(images.contiguous(), 0)  # before, as training has them, in channels_last
    if layout and not torch.equal(found[0], layout[0]):
        findings.add(
            "changes pictures in another way when they are contiguous in memory than when they are "
            "channels_last; do not depend on the layout",
            params,
        )
    with findings.watch(params):
        changed(images[:1], 0)
    same = changed(images[:1].expand(24, -1, -1, -1).clone(), 0)
    if same and not torch.equal(found[0], other[0]) and _all_alike(*same):
        findings.add(
            "changes all pictures of a batch in the same way; draw random numbers for each",
            params,
        )
    return True


def optimizer(bench: Bench, params: Params) -> bool:
    """An optimizer of exactly the groups' parameters, at their rates, and a scheduler."""
    findings, model = bench.findings, bench.build(bench.config(params))
    upper, lower = list(model.head.parameters()), list(model.backbone.parameters())
    groups = [
        {"params": upper, "lr": 1e-2},
        {"params": lower, "lr": 1e-3, "weight_decay": 0.0},
    ]
    answer: Any = bench.plugin.call({"groups": groups, "steps": 20}, params)
    if not _is_pair(answer) or not isinstance(answer[0], torch.optim.Optimizer):
        findings.add(
            f"returns {described(answer)}; return a torch.optim.Optimizer and a scheduler", params
        )
        return False
    made, scheduler = answer
    if not hasattr(scheduler, "step_update") and not hasattr(scheduler, "last_epoch"):
        findings.add(
            f"returns {type(scheduler).__name__} as scheduler; return one of torch's, or one of "
            "timm's, which are set by the step",
            params,
        )
        return False
    held = [p for g in made.param_groups for p in g["params"]]
    if len(held) != len(set(held)) or set(held) != {*upper, *lower}:
        findings.add(
            f"holds {len(held)} parameters where its groups have {len(upper) + len(lower)}; take "
            "each of them once, and no other",
            params,
        )
        return False
    rates = {p: g.get("initial_lr", g["lr"]) for g in made.param_groups for p in g["params"]}
    if not math.isclose(rates[upper[0]], 10 * rates[lower[0]], rel_tol=1e-3):
        findings.add(
            f"makes of the learning rates 0.01 and 0.001 {rates[upper[0]]:g} and "
            f"{rates[lower[0]]:g}; keep their ratio, the freeze strategy has chosen it",
            params,
        )
    kept = [g.get("weight_decay", 0.0) for g in made.param_groups if lower[0] in set(g["params"])]
    if any(kept):
        findings.add(
            f"decays by {kept[0]:g} a group that says weight_decay=0; what a group says goes first",
            params,
        )
    return True


def balance(bench: Bench, params: Params) -> bool:
    """One finite number for each class, or None, whatever the counts."""
    for counts in ([15, 12, 9], [12, 12, 12], [40, 1, 0]):
        answer: Any = bench.plugin.call({"counts": counts}, params)
        if not isinstance(answer, Balance):
            bench.findings.add(f"returns {described(answer)}; return an autotl.Balance", params)
            return False
        for name, values in vars(answer).items():
            if values is None:
                continue
            fine = len(values) == len(counts) and all(math.isfinite(v) for v in values)
            if fine and name != "offsets":
                fine = min(values) >= 0 and max(values[:2]) > 0
            if not fine:
                bench.findings.add(
                    f"returns {name}={list(values)} for {counts} pictures; return one finite "
                    f"number for each class{'' if name == 'offsets' else ', not below 0'}",
                    params,
                )
                return False
    return True


LOOKS: Mapping[str, Callable[[Bench, Params], bool]] = {
    "backbone": backbone,
    "freeze": freeze,
    "head": head,
    "augment": augment,
    "optimizer": optimizer,
    "balance": balance,
}


def dataset(plugin: AnyPlugin, source: str, findings: Findings) -> None:
    """It says what it reads; and of a source it returns examples with names of their own."""
    if not plugin.matches:
        findings.add(
            "does not say which sources it reads; write @dataset(matches=['*.tar']), a folder "
            "ends in '/'"
        )
    if not source:
        return
    text = f"{source.rstrip('/')}/" if Path(source).is_dir() else source
    if not any(fnmatchcase(text.lower(), pattern.lower()) for pattern in plugin.matches):
        findings.add(f"reads {list(plugin.matches)}, none of which fits {text!r}; mend matches")
    examples: Any = plugin.call({"source": source}, plugin.defaults)
    if not isinstance(examples, list) or not all(isinstance(e, Example) for e in examples):
        findings.add(f"returns {described(examples)}; return a list of autotl.Example")
        return
    names = [e.name for e in examples]
    if len(set(names)) < len(names):
        double = max(names, key=names.count)
        findings.add(f"calls several examples {double!r}; a name is unique in its source")
    for e in examples:
        if e.split not in PARTS:
            findings.add(f"puts {e.name!r} into {e.split!r}; a split is one of {PARTS}")
            return
        if not _is_picture(e.image):
            findings.add(
                f"gives {e.name!r} the image {described(e.image)}; give a file that exists, or "
                "uint8 [H, W] or [H, W, 3]"
            )
            return
    if len({e.label for e in examples} - {""}) < 2:
        findings.add("returns examples of fewer than two classes; there is nothing to tell apart")
    if names != [e.name for e in plugin.call({"source": source}, plugin.defaults)]:
        findings.add("returns other examples the second time; sort what you list")


def _is_pair(answer: Any) -> bool:
    return isinstance(answer, tuple | list) and len(answer) == 2


def _are_targets(found: Any, targets: Tensor) -> bool:
    if not isinstance(found, Tensor) or found.shape != targets.shape:
        return False
    sums = torch.ones(len(targets))
    return (
        found.dtype == torch.float32 and bool(found.min() >= 0) and close(found.sum(1), sums, 1e-4)
    )


def _all_alike(images: Tensor, targets: Tensor | None) -> bool:
    """Whether copies of one picture came out as copies of one; by shares, if they were mixed."""
    if targets is None:
        return bool((images == images[:1]).all())
    largest = targets.amax(1)
    return bool((largest == largest[0]).all() and largest[0] < 1)


def _is_picture(image: Any) -> bool:
    if isinstance(image, str | Path):
        return Path(image).is_file()
    array = isinstance(image, np.ndarray) and image.dtype == np.uint8
    return bool(array and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)))
