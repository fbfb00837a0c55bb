"""The contract kit: it says what broke in plugins made to break, and nothing of the built-in ones.

A broken plugin is a working one with a single fault, so that the sentence can only be about that.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autotl import (
    Balance,
    Example,
    Incompatible,
    Range,
    When,
    augment,
    backbone,
    balance,
    dataset,
    freeze,
    head,
    optimizer,
)
from autotl.errors import PluginError
from autotl.models import Group, Model
from autotl.space import registry
from autotl.space.registry import AnyPlugin
from autotl.testing import check, configurations, examine, toy

BUILT_IN = [p for p in registry.load() if p.kind != "dataset"]


def name_of(plugin: AnyPlugin) -> str:
    return f"{plugin.kind}-{plugin.name}"


@pytest.mark.parametrize("plugin", BUILT_IN, ids=name_of)
def test_built_in_plugins_keep_the_contract(plugin: AnyPlugin) -> None:
    assert check(plugin) >= 1


# Plugins that work: what is tried, and what is left alone.


@head
def good(
    features: int,
    classes: int,
    *,
    depth: Literal[0, 1, 2] = 1,
    width: Annotated[int, Range(8, 64, log=True), When(depth=(1, 2))] = 16,
    second: Annotated[int, Range(8, 32), When(depth=2)] = 8,
    dropout: Annotated[float, Range(0.0, 0.5)] = 0.1,
    note: str = "a setting",
) -> nn.Module:
    """Up to two hidden layers."""
    sizes = [features, width, second][: depth + 1]
    layers: list[nn.Module] = [nn.Dropout(dropout)]
    for wide, narrow in itertools.pairwise(sizes):
        layers += [nn.Linear(wide, narrow), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))


def test_everything_that_can_be_drawn_is_tried_once_with_its_conditions_met() -> None:
    tried = configurations(good)
    assert tried[0] == {"depth": 1, "width": 16, "second": 8, "dropout": 0.1}
    assert {t["depth"] for t in tried} == {0, 1, 2}
    assert {8, 64} <= {t["width"] for t in tried if t["depth"] == 1}
    assert {8, 32} == {t["second"] for t in tried if t["depth"] == 2}
    assert {0.0, 0.5} <= {t["dropout"] for t in tried}
    assert len(tried) == 8  # depth=2 has second=8 in it already
    assert check(good) == 8


def test_a_condition_may_hang_on_a_condition() -> None:
    @head
    def chained(
        features: int,
        classes: int,
        *,
        one: bool = False,
        two: Annotated[Literal["a", "b"], When(one=True)] = "a",
        three: Annotated[float, Range(0, 1), When(two="b")] = 0.5,
    ) -> nn.Module:
        """Three deep."""
        return nn.Linear(features, classes)

    assert {"one": True, "two": "b", "three": 1.0} in configurations(chained)


def test_the_callers_random_numbers_and_threads_stay_as_they_were() -> None:
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    before = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    threads = torch.get_num_threads()
    check(toy.plain)
    assert (torch.rand(1), random.random(), np.random.rand()) == before
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    "plugin", [toy.convolutions, toy.tokens, toy.thaw, toy.still, toy.adam], ids=name_of
)
def test_the_companions_keep_the_contract_themselves(plugin: AnyPlugin) -> None:
    assert check(plugin) >= 1


@pytest.mark.parametrize("make", [toy.Blocks, toy.Tokens])
def test_the_toys_can_be_cut_and_give_maps_and_stages(make: Callable[[], Any]) -> None:
    made = make().eval()
    images = torch.rand(2, 3, toy.SIDE, toy.SIDE)
    last, maps = made.forward_intermediates(images, indices=2)
    assert [m.shape for m in maps] == [(2, toy.WIDTH, 4, 4)] * 2
    torch.testing.assert_close(made.forward_head(last), made(images))
    torch.testing.assert_close(last, made.forward_features(images))


def test_a_plugin_is_tried_on_another_backbone_when_it_refuses_the_first() -> None:
    @freeze
    def attention_only(model: Model) -> list[Group]:
        """Train the head and the attention."""
        found = [p for n, p in model.backbone.named_parameters() if ".attn." in n]
        if not found:
            raise Incompatible("there is no attention")
        return [{"params": [*model.head.parameters(), *found], "lr": 1e-3}]

    assert check(attention_only) == 1
    with pytest.raises(PluginError, match=r"refuses .* \(there is no attention\).*backbone="):
        check(attention_only, backbone=toy.convolutions)


def test_defaults_that_work_on_convolutions_are_tried_on_a_transformer() -> None:
    @freeze
    def stem(model: Model) -> list[Group]:
        """Train the head and what is called the stem."""
        found = model.backbone.get_submodule("stem").parameters()
        return [{"params": [*model.head.parameters(), *found], "lr": 1e-3}]

    [text] = examine(stem).broken
    assert "raises AttributeError in line" in text
    assert text.endswith("(on a transformer)")


# Heads made to break.


class Wrapped(nn.Module):
    """A linear layer with something done to its features or logits."""

    def __init__(self, features: int, classes: int, work: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(features, classes)
        self.work = work

    def forward(self, features: Tensor) -> Tensor:
        return self.work(self, features)


def wrapped(work: Callable[[Any, Tensor], Tensor]) -> AnyPlugin:
    @head(name="broken")
    def broken(features: int, classes: int) -> nn.Module:
        """A linear layer, nearly."""
        return Wrapped(features, classes, work)

    return broken


def hiding(module: Any, features: Tensor) -> Tensor:
    try:
        return module.layer(features)
    except RuntimeError:
        return features[:, :3] * 0 + sum(p.sum() for p in module.parameters())


@head
def too_wide(features: int, classes: int) -> nn.Module:
    """One logit too many."""
    return nn.Linear(features, classes + 1)


@head
def no_module(features: int, classes: int) -> Any:
    """A function where a module was asked for."""
    return lambda features: features


@head
def falls(features: int, classes: int, *, depth: Literal[1, 2] = 1) -> nn.Module:
    """Cannot be built at one of its choices."""
    if depth == 2:
        raise ValueError("two are too many")
    return nn.Linear(features, classes)


@head
def idle(
    features: int,
    classes: int,
    *,
    depth: Literal[1, 2] = 1,
    width: Annotated[int, Range(8, 64), When(depth=2)] = 16,
) -> nn.Module:
    """Depth is used, width is not."""
    layers = [nn.Linear(features, features) for _ in range(depth - 1)]
    return nn.Sequential(*layers, nn.Linear(features, classes))


class Unsaved(nn.Module):
    """Looks at a random projection of the features that is not among its buffers."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.projection = torch.randn(features, features)
        self.layer = nn.Linear(features, classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features @ self.projection)


@head
def unsaved(features: int, classes: int) -> nn.Module:
    """Forgets what it drew."""
    return Unsaved(features, classes)


@head
def tied(features: int, classes: int) -> nn.Module:
    """Two layers with one weight."""
    one, other = nn.Linear(features, features), nn.Linear(features, features)
    other.weight = one.weight
    return nn.Sequential(one, other, nn.Linear(features, classes))


@head
def uncopied(features: int, classes: int) -> nn.Module:
    """Holds a tensor in the middle of a graph."""
    made = nn.Linear(features, classes)
    made.extra = made.weight * 2  # type: ignore[assignment]
    return made


class Growing(nn.Linear):
    """Every pass through it in training changes what the next one does."""

    steps: Tensor

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.register_buffer("steps", torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.steps += 1
        return super().forward(features) * self.steps


@head
def growing(features: int, classes: int) -> nn.Module:
    """Counts its passes."""
    return Growing(features, classes)


class Partly(nn.Module):
    """A second layer that is run, but off the graph."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.layer, self.second = nn.Linear(features, classes), nn.Linear(features, classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features) + self.second(features).detach()


@head
def partly(features: int, classes: int) -> nn.Module:
    """Learns with one of two layers."""
    return Partly(features, classes)


class Misfit(nn.Linear):
    """A closed form that gets the order of the classes wrong."""

    def fit(self, features: Tensor, labels: Tensor) -> None:
        for i in range(len(self.weight)):
            mean = features[labels == i].mean(0)
            self.weight[i - 1], self.bias[i - 1] = mean, -mean.square().sum() / 2


@head
def misfit(features: int, classes: int) -> nn.Module:
    """Fits the wrong classes."""
    return Misfit(features, classes)


@head
def luck(features: int, classes: int) -> nn.Module:
    """Begins with Python's random numbers."""
    made = nn.Linear(features, classes)
    nn.init.constant_(made.bias, random.random())
    return made


@head
def undescribed(features: int, classes: int) -> nn.Module:
    return nn.Linear(features, classes)


@head(requires=["surely-not-installed>=3"])
def lacking(features: int, classes: int) -> nn.Module:
    """Needs what is not there."""
    return nn.Linear(features, classes)


HEADS = [
    (too_wide, "returns logits float32 [8, 4] for 8 pictures; return [8, 3]"),
    (no_module, "returned function; it must return a torch.nn.Module"),
    (wrapped(lambda m, x: m.layer(x).round().long()), "returns logits of int64"),
    (wrapped(lambda m, x: m.layer(x) / 0), "not finite"),
    (wrapped(lambda m, x: m.layer(x).detach()), "its logits carry no gradient"),
    (wrapped(lambda m, x: m.layer(x * 0)), "names 25% of the points of four separate clouds"),
    (wrapped(lambda m, x: m.layer(nn.functional.dropout(x))), "gives other logits each time"),
    (wrapped(lambda m, x: m.layer(x).squeeze()), "cannot answer for a single picture"),
    (wrapped(lambda m, x: m.layer(x - x.mean(0))), "answers otherwise for a picture alone"),
    (wrapped(hiding), "catches torch.OutOfMemoryError"),
    (falls, "raises ValueError in line"),
    (falls, "two are too many (with depth=2)"),
    (idle, "keyword 'width' that changes nothing: 8 and 64 train the same model"),
    (unsaved, "gives other logits after it was saved and loaded"),
    (tied, "cannot be saved and loaded again"),
    (uncopied, "cannot be copied"),
    (growing, "trains another model when memory runs out"),
    (partly, "its parameter 'second.weight' did not move"),
    (misfit, "names 0% of the points of four separate clouds"),
    (luck, "gives another result when it is trained again with the same seed"),
    (undescribed, "has no docstring"),
    (lacking, "pip install 'surely-not-installed>=3'"),
]


# Freeze strategies made to break.


def strategy(make: Callable[[Model], Any]) -> AnyPlugin:
    @freeze(name="broken")
    def broken(model: Model) -> Any:
        """Train the head, nearly."""
        return make(model)

    return broken


def head_of(model: Model, **more: Any) -> Group:
    return {"params": model.head.parameters(), "lr": 1e-2, **more}


def shaken(model: Model) -> list[Group]:
    model.blocks[0][0].data.mul_(1.01)
    return [head_of(model)]


def stirred(model: Model) -> Iterator[list[Group]]:
    yield [head_of(model)]
    model.blocks[0][0].data.mul_(1.01)
    yield [head_of(model)]


def restless(model: Model) -> list[Group]:
    for module in model.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.train = lambda mode=True, module=module: module  # type: ignore
    return [head_of(model)]


@freeze
def one_epoch_is_too_few(model: Model, epochs: int) -> list[Group]:
    """Needs two epochs at least."""
    return [head_of(model, lr=1e-2 / (epochs - 1))]


@freeze
def unheard(
    model: Model, *, lr: Annotated[float, Range(1e-4, 1e-1, log=True)] = 1e-2
) -> list[Group]:
    """Has a learning rate of its own and does not use it."""
    return [head_of(model)]


STRATEGIES = [
    (strategy(lambda m: [head_of(m), head_of(m)]), "puts a parameter in two groups"),
    (
        strategy(lambda m: [head_of(m), {"params": [nn.Parameter(torch.ones(1))], "lr": 1e-2}]),
        "that are not the model's",
    ),
    (strategy(lambda m: [{"params": m.blocks[-1], "lr": 1e-2}]), "freezes the head"),
    (strategy(lambda m: [{"params": m.head.parameters()}]), "without 'lr'"),
    (strategy(lambda m: [head_of(m, lr=0.0)]), "returns a group with lr=0.0"),
    (strategy(lambda m: [head_of(m, lr=float("nan"))]), "returns a group with lr=nan"),
    (strategy(shaken), "moves 'backbone.stem.0.weight', which no group holds"),
    (strategy(stirred), "moves 'backbone.stem.0.weight', which no group holds"),
    (strategy(restless), "running statistics of a frozen part"),
    (one_epoch_is_too_few, "raises ZeroDivisionError in line"),
    (unheard, "keyword 'lr' that changes nothing"),
]


# Augmentations made to break.


def augmentation(transform: Callable[..., Any], mixes: bool = False) -> AnyPlugin:
    @augment(name="broken", mixes=mixes)
    def broken(size: int) -> Any:
        """Change pictures, wrongly."""
        return transform

    return broken


def brighter(images: Tensor, by: Any) -> Tensor:
    return (images.int() + by).clamp(0, 255).to(torch.uint8)


def in_place(images: Tensor) -> Tensor:
    return images.bitwise_xor_(1)


def crowded(images: Tensor) -> Tensor:
    assert len(images) > 1, "needs company"
    return images


AUGMENTATIONS = [
    (augmentation(lambda x: x.float()), "returns pictures float32 [8, 3, 16, 16]"),
    (augmentation(lambda x: x[:, :, 1:]), "returns pictures uint8 [8, 3, 15, 16]"),
    (augmentation(in_place), "changes the pictures it is given in place"),
    (augmentation(lambda x: brighter(x, random.randrange(50))), "though the seed is the same"),
    (augmentation(lambda x: brighter(x, np.random.randint(50))), "though the seed is the same"),
    (augmentation(lambda x: brighter(x, torch.randint(50, ()))), "in the same way"),
    (augmentation(lambda x: x.reshape(-1)[0] + x * 0 if x.stride(1) == 1 else x), "channels_last"),
    (augmentation(lambda x: (x, x)), "return pictures alone, or say mixes=True"),
    (augmentation(lambda x, y: x, mixes=True), "return pictures and targets, or say mixes=False"),
    (augmentation(lambda x, y: (x, y / 2), mixes=True), "each row with the sum 1"),
    (augmentation(lambda x, y: (x, y.argmax(1)), mixes=True), "targets int64 [8]"),
    (augmentation(crowded), "raises AssertionError in line"),
]


# Optimizers made to break.


def optimizing(make: Callable[[list[Group], int], Any]) -> AnyPlugin:
    @optimizer(name="broken")
    def broken(groups: list[Group], steps: int) -> Any:
        """Optimize, nearly."""
        return make(groups, steps)

    return broken


def steady(made: torch.optim.Optimizer) -> Any:
    return made, torch.optim.lr_scheduler.LambdaLR(made, lambda step: 1.0)


def flat(groups: list[Group]) -> list[Group]:
    return [{"params": [p for g in groups for p in g["params"]], "lr": 1e-3}]


class Lazy(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        pass


@optimizer
def explosive(
    groups: list[Group],
    steps: int,
    *,
    scale: Annotated[float, Range(1.0, 1e30, log=True)] = 1.0,
) -> Any:
    """SGD that may be far too fast."""
    return steady(torch.optim.SGD([{**g, "lr": scale * g["lr"]} for g in groups]))


OPTIMIZERS = [
    (explosive, "diverges on an easy set"),
    (explosive, "narrow the range (with scale=1e+30)"),
    (optimizing(lambda g, n: torch.optim.Adam(g)), "return a torch.optim.Optimizer and a"),
    (optimizing(lambda g, n: (torch.optim.Adam(g), None)), "returns NoneType as scheduler"),
    (optimizing(lambda g, n: steady(torch.optim.Adam(g[:1]))), "take each of them once"),
    (optimizing(lambda g, n: steady(torch.optim.Adam(flat(g)))), "keep their ratio"),
    (
        optimizing(lambda g, n: steady(torch.optim.AdamW([{**x, "weight_decay": 0.1} for x in g]))),
        "decays by 0.1 a group that says weight_decay=0",
    ),
    (optimizing(lambda g, n: steady(Lazy(g))), "does not move 'weight' of the head"),
]


# Balancing made to break.


def balancing(make: Callable[[list[int]], Any]) -> AnyPlugin:
    @balance(name="broken")
    def broken(counts: list[int]) -> Any:
        """Make up for unequal classes, nearly."""
        return make(counts)

    return broken


BALANCING = [
    (balancing(lambda n: [1.0] * len(n)), "return an autotl.Balance"),
    (balancing(lambda n: Balance(weights=[1.0])), "returns weights=[1.0] for [15, 12, 9] pictures"),
    (balancing(lambda n: Balance(weights=[1 / x for x in n])), "ZeroDivisionError in line"),
    (balancing(lambda n: Balance(offsets=[float("-inf") for _ in n])), "one finite number"),
    (balancing(lambda n: Balance(sampling=[1.0, -1.0, 1.0])), "not below 0"),
]


# Backbones made to break.


def network(change: Callable[[Any], Any]) -> AnyPlugin:
    @backbone(name="broken")
    def broken() -> nn.Module:
        """Four blocks, nearly."""
        made = toy.convolutions()
        change(made)
        return made

    return broken


class Hiding(toy.Blocks):
    """Goes on when memory runs out."""

    def forward(self, images: Tensor) -> Tensor:
        try:
            return super().forward(images)
        except torch.OutOfMemoryError:
            return images.mean((2, 3)).repeat(1, 8)


@backbone
def hiding_backbone() -> nn.Module:
    """Four blocks that hide what happened."""
    return Hiding()


class Never(nn.BatchNorm2d):
    """BatchNorm that computes with the batch's statistics and keeps them, frozen or not."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.batch_norm(
            images, self.running_mean, self.running_var, self.weight, self.bias, True
        )


@backbone
def never() -> nn.Module:
    """Four blocks with a BatchNorm of its own will."""
    made = toy.convolutions()
    assert isinstance(made, toy.Blocks)
    made.stem[1] = Never(8)
    return made


BACKBONES = [
    (network(lambda m: setattr(m, "num_features", 25)), "return [8, 25]"),
    (network(lambda m: delattr(m, "pretrained_cfg")), "does not speak timm's protocol"),
    (hiding_backbone, "catches torch.OutOfMemoryError"),
    (never, "running statistics of a frozen part"),
    (
        backbone(
            members=lambda patterns, device, seconds: ["a"] if patterns else [],
        )(toy.convolutions.function),
        "does not know its own members",
    ),
]

BROKEN = [*HEADS, *STRATEGIES, *AUGMENTATIONS, *OPTIMIZERS, *BALANCING, *BACKBONES]


@pytest.mark.parametrize(
    ("plugin", "words"), BROKEN, ids=[f"{name_of(p)}-{w[:25]}" for p, w in BROKEN]
)
def test_what_broke_is_said_in_words(plugin: AnyPlugin, words: str) -> None:
    with pytest.raises(PluginError) as caught:
        check(plugin)
    assert words in str(caught.value)
    assert f"{plugin.kind} plugin {plugin.name!r} " in str(caught.value)


def test_all_that_broke_is_told_at_once_each_once() -> None:
    @head
    def several(
        features: int, classes: int, *, a: bool = False, b: Annotated[int, Range(1, 3)] = 1
    ) -> nn.Module:
        """Neither keyword is used, and it is random when asked."""
        return Wrapped(features, classes, lambda m, x: m.layer(nn.functional.dropout(x)))

    broken = examine(several).broken
    assert sum("keyword" in text for text in broken) == 2
    [random_when_asked] = [text for text in broken if "each time it is asked" in text]
    with pytest.raises(PluginError) as caught:
        check(several)
    assert str(caught.value).splitlines() == list(broken)
    assert "self.training" in random_when_asked


def test_values_that_break_are_named_with_how_many_more() -> None:
    @head
    def only_shallow(
        features: int, classes: int, *, depth: Annotated[int, Range(1, 9)] = 5
    ) -> nn.Module:
        """Fails away from its default."""
        if depth != 5:
            raise ValueError("no")
        return nn.Linear(features, classes)

    [text] = examine(only_shallow).broken
    assert text.endswith("no (with depth=1 and 1 more)")
    assert examine(only_shallow).configurations == 3


def test_a_default_outside_its_range_is_refused_before_there_is_anything_to_check() -> None:
    with pytest.raises(PluginError, match="choose a default inside"):

        @head
        def outside(
            features: int, classes: int, *, dropout: Annotated[float, Range(0, 1)] = 2.0
        ) -> nn.Module:
            """A default that is never drawn."""
            return nn.Linear(features, classes)


# Data sets.


def reading(make: Callable[[], Any], matches: tuple[str, ...] = ("made:*",)) -> AnyPlugin:
    @dataset(name="read", matches=list(matches))
    def read(source: str) -> Any:
        """Two pictures, nearly."""
        return make()

    return read


def two(**changes: Any) -> list[Example]:
    values: dict[str, Any] = {"image": np.zeros((4, 4, 3), np.uint8), **changes}
    return [Example("a", label="x", **values), Example("b", label="y", **values)]


def test_a_data_set_that_is_fine() -> None:
    assert check(reading(two), source="made:up") == 1
    assert check(reading(two)) == 1


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        (reading(two, ()), "does not say which sources it reads"),
        (reading(two, ("other:*",)), "none of which fits 'made:up'"),
        (reading(lambda: [("a", 1)]), "return a list of autotl.Example"),
        (reading(lambda: iter(two())), "return a list of autotl.Example"),
        (reading(lambda: [*two(), *two()]), "calls several examples 'a'"),
        (reading(lambda: two(split="valid")), "puts 'a' into 'valid'"),
        (reading(lambda: two(image="no/such.png")), "a file that exists"),
        (reading(lambda: two(image=np.zeros((4, 4)))), "the image float64 [4, 4]"),
        (reading(lambda: two()[:1]), "fewer than two classes"),
        (
            reading(
                lambda: random.sample(
                    [*two(), Example(str(random.random()), two()[0].image, "x")], 3
                )
            ),
            "the second time",
        ),
    ],
)
def test_what_broke_in_a_data_set(plugin: AnyPlugin, words: str) -> None:
    with pytest.raises(PluginError) as caught:
        check(plugin, source="made:up")
    assert words in str(caught.value)


def test_the_built_in_data_set_that_needs_no_file() -> None:
    sklearn = registry.load().dataset("sklearn:digits")
    assert check(sklearn, source="sklearn:digits") == 1
