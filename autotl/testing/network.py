"""What holds for the networks that plugins make: what they answer, and that they learn.

Shapes: B pictures in a batch, C classes, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autotl.models import Model, plan_groups
from autotl.space.space import Choice
from autotl.testing import toy
from autotl.testing.bench import Bench, Params, close, described

ENOUGH = 0.8
"""The share of the points of four separate clouds that a head must learn to name."""


def answers(
    bench: Bench, work: Callable[[Tensor], Any], batch: Tensor, width: int, params: Params
) -> bool:
    """Whether ``work``, in eval mode, makes numbers ``[B, width]`` of a batch.

    What else is wrong with them is noted as well.
    """
    findings, what = bench.findings, "logits" if bench.plugin.kind == "head" else "features"
    with torch.no_grad():
        found = work(batch)
        if not isinstance(found, Tensor) or found.shape != (len(batch), width):
            findings.add(
                f"returns {what} {described(found)} for {len(batch)} pictures; return "
                f"{[len(batch), width]}",
                params,
            )
            return False
        if not found.is_floating_point():
            kind = str(found.dtype).removeprefix("torch.")
            findings.add(f"returns {what} of {kind}; return floating-point numbers", params)
            return False
        if not found.isfinite().all():
            findings.add(f"returns {what} that are not finite; look for log(0) and x / 0", params)
            return False
        if not torch.equal(found, work(batch)):
            findings.add(
                f"gives other {what} each time it is asked; be random in training only, where "
                "self.training is true",
                params,
            )
    return True


def asked_alone(bench: Bench, network: Model, params: Params) -> None:
    """Note whether a picture on its own is answered otherwise than among others."""
    images = bench.images()
    with torch.no_grad():
        found = network.eval()(images)
        try:
            alone = network(images[:1])
        except Exception as error:  # a stranger's code may raise anything; it is told
            text = str(error).strip().partition("\n")[0]
            alone = None
            reason = f"{type(error).__name__}: {text}"
        else:
            reason = f"it returns {described(alone)}"
    if alone is None or alone.shape != (1, found.shape[1]):
        bench.findings.add(
            f"cannot answer for a single picture ({reason}); keep the batch when it is one, and "
            "need no statistics of it",
            params,
        )
    elif not close(found[:1], alone, 1e-3):
        bench.findings.add(
            "answers otherwise for a picture alone than among others; in eval mode compute each "
            "picture for itself",
            params,
        )


def learns_clouds(bench: Bench, params: Params) -> bool:
    """Note whether a head cannot learn to tell four clouds of points apart."""
    torch.manual_seed(0)
    labels = torch.arange(4).repeat(16)
    positions = [9] if bench.plugin.takes == "map" else []
    centres = torch.randn(4, *[1 for _ in positions], 10)
    features = centres[labels] + 0.3 * torch.randn(64, *positions, 10)
    share = 0.0
    for rate in (0.02, 0.002, 0.2):
        made: nn.Module = bench.plugin.call({"features": 10, "classes": 4}, params)
        if not fit(made, features, labels):
            steps = torch.optim.Adam(made.parameters(), lr=rate)
            for _ in range(60):
                steps.zero_grad()
                loss = functional.cross_entropy(made.train()(features), labels)
                if not loss.requires_grad:
                    bench.findings.add(
                        "does not learn: its logits carry no gradient; let them depend on its "
                        "parameters without detach or no_grad, or give it a fit(features, labels)",
                        params,
                    )
                    return False
                loss.backward()  # type: ignore[no-untyped-call]
                steps.step()
        with torch.no_grad():
            share = max(share, float((made.eval()(features).argmax(1) == labels).float().mean()))
        if share > ENOUGH:
            return True
    bench.findings.add(
        f"does not learn: after 60 steps of Adam it names {share:.0%} of the points of four "
        "separate clouds; is the order of the classes kept, and does every layer get a gradient?",
        params,
    )
    return True


def fit(module: nn.Module, features: Tensor, labels: Tensor) -> bool:
    """Fit a head in closed form, if it can be; whether it could."""
    fitting: Any = getattr(module, "fit", None)
    if fitting is None:
        return False
    with torch.no_grad():
        fitting(features.float(), labels)
    return True


def learnt(bench: Bench, network: Model, params: Params) -> None:
    """Note what of the head should have moved in training and did not."""
    remedies = {
        "head": "does not learn: its parameter {!r} did not move, its gradient is 0 or none; use "
        "it in forward without detach, or make it a buffer",
        "freeze": "leaves {!r} of the head as it was; put the head's parameters into a group",
        "optimizer": "does not move {!r} of the head; step on every parameter it is given",
    }
    if bench.plugin.kind not in remedies:
        return
    before = bench.build(bench.config(params))
    old = dict(before.head.named_parameters())
    if still := [n for n, p in network.head.named_parameters() if torch.equal(p, old[n])]:
        bench.findings.add(remedies[bench.plugin.kind].format(still[0]), params)


def by_picture(bench: Bench, others: Mapping[str, Any]) -> bool:
    """Whether training computes each picture for itself: no batch statistics, nothing random."""
    plugin = bench.plugin
    network = bench.build(bench.config(plugin.defaults, **others))
    if plugin.kind == "freeze":
        list(plan_groups(network, Choice(plugin, plugin.defaults), 2))
        return not network.penalties
    if plugin.kind not in ("backbone", "head"):
        return True
    images = bench.images()
    work: Callable[[Tensor], Tensor] = network.features
    with torch.no_grad():
        if plugin.kind == "head":
            images, work = network.eval().features(images), network.head
            fit(network.head, images, torch.arange(len(images)) % len(toy.COLOURS))
        network.train()
        torch.manual_seed(0)
        whole = work(images)
        torch.manual_seed(0)
        parts = torch.cat([work(part) for part in images.tensor_split(2)])
    return close(whole, parts, 1e-4)
