"""Every family of timm keeps the contract that freezing, cutting and saving rely on.

Shapes: B pictures in a batch, S the side of a picture in pixels.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from families import FAMILIES, LEFT_OUT, UNCUT, UNUSED, Family
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from toy import COLOURS, config, model, toy

from autotl import backbone
from autotl.artifact import model_folder
from autotl.frozen import split_point
from autotl.models import Model
from autotl.training import set_trainable


def build_model(family: Family, seed: int) -> Model:
    """The network of a family with a linear head and random weights."""
    if not family.options:
        return model(seed, family.size, backbone=family.model)

    @backbone
    def thin(size: int) -> nn.Module:
        fixed = timm.models.get_pretrained_cfg(family.model).fixed_input_size
        options = {**family.options, **({"img_size": size} if fixed else {})}
        return timm.create_model(family.model, num_classes=0, **options)

    return model(seed, family.size, backbone=thin)


def pictures(network: Model, count: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    side = network.expects.size
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=random)


def liven(network: Model) -> None:
    """Let each parameter matter: weights that are zero or tiny at first would learn nothing."""
    for m in network.modules():
        if hasattr(m, "drop_prob"):
            m.drop_prob = 0.0  # a branch that is dropped learns nothing
    normalisations = [m for m in network.modules() if hasattr(m, "running_mean")]
    usual = [m.momentum for m in normalisations]
    for m in normalisations:
        m.momentum = 1.0
    with torch.no_grad():
        for name, p in network.backbone.named_parameters():
            if p.ndim < 2 and not name.endswith("bias"):
                p.fill_(1.0)  # the gains of residual branches
            p += 0.02 * torch.randn_like(p)
        network.train()(pictures(network, 8, seed=1))
    for m, momentum in zip(normalisations, usual, strict=True):
        m.momentum = momentum


class Case:
    """A family's network, and the values it began with."""

    def __init__(self, module: str) -> None:
        self.module, self.family = module, FAMILIES[module]
        self.network = build_model(self.family, seed=0)
        liven(self.network)
        self.start = {n: t.clone() for n, t in self.values().items()}

    def values(self) -> dict[str, Tensor]:
        named = [*self.network.named_parameters(), *self.network.named_buffers()]
        return {n: t.detach() for n, t in named}

    def moved(self) -> set[str]:
        return {n for n, t in self.values().items() if not torch.equal(t, self.start[n])}

    def restore(self) -> None:
        self.network.zero_grad()
        values = self.values()
        for n in self.moved():
            values[n].copy_(self.start[n])

    def depths(self) -> list[int]:
        """Numbers of blocks to learn: the highest, half of them, all but the lowest."""
        blocks = len(self.network.blocks)
        return sorted({1, max(1, blocks // 2), max(1, blocks - 1)})

    def learn_top(self, count: int) -> set[str]:
        """Let the head and the ``count`` highest blocks learn; return their names."""
        top = [p for block in self.network.blocks[-count:] for p in block]
        top += self.network.head.parameters()
        set_trainable(self.network, [{"params": top}])
        ids = {id(p) for p in top}
        return {n for n, p in self.network.named_parameters() if id(p) in ids}


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_every_module_of_timm_is_in_one_of_the_tables() -> None:
    assert not FAMILIES.keys() & LEFT_OUT.keys()
    assert FAMILIES.keys() | LEFT_OUT.keys() == set(timm.list_modules())
    assert all(len(reason) > 10 for reason in LEFT_OUT.values())
    for module, family in FAMILIES.items():
        assert family.model in timm.list_models(module=module)
    assert UNUSED.keys() | UNCUT.keys() <= FAMILIES.keys()


def test_three_dimensional_convolutions_can_be_built() -> None:
    assert build_model(Family("lambda_resnet26t"), seed=0)


def test_pictures_become_features_of_the_heads_width(case: Case) -> None:
    network = case.network.eval()
    images = pictures(network, 3)
    with torch.no_grad():
        features, logits = network.features(images), network(images)
    assert features.shape == (3, network.head[-1].in_features)
    assert logits.shape == (3, len(COLOURS))
    assert logits.isfinite().all()
    assert (features[0] - features[1]).abs().max() > 1e-3 * features.abs().max()


def test_blocks_hold_each_parameter_once(case: Case) -> None:
    blocks = case.network.blocks
    ids = [id(p) for block in blocks for p in block]
    assert all(blocks)
    assert len(set(ids)) == len(ids)
    assert set(ids) == {id(p) for p in case.network.backbone.parameters()}
    assert len(blocks) >= 2


def test_a_step_moves_what_learns_and_nothing_else(case: Case) -> None:
    network = case.network
    images, labels = pictures(network, 4), torch.tensor([0, 1, 2, 0])
    for count in case.depths():
        case.restore()
        learning = case.learn_top(count)
        named = dict(network.named_parameters())
        functional.cross_entropy(network.train()(images), labels).backward()
        with torch.no_grad():
            for p in named.values():
                if p.grad is not None:
                    p -= 0.01 * p.grad.sign()  # even the smallest gradient counts
        moved = case.moved()
        unused = {f"backbone.{n}" for n in UNUSED.get(case.module, ())}
        assert moved & named.keys() == learning - unused
        learn, rest = (
            {n.rpartition(".")[0] for n in names} for names in (learning, named.keys() - learning)
        )
        assert not {n for n in moved - named.keys() if n.rpartition(".")[0] in rest}
        assert {f"{n}.running_mean" for n in learn} & case.start.keys() <= moved
    case.restore()


def test_the_two_parts_of_a_cut_make_the_whole(case: Case) -> None:
    network = case.network
    cuts = []
    for count in case.depths():
        case.learn_top(count)
        if (found := split_point.find(network, pictures(network, 4))) is None:
            continue
        cuts.append(found.name)
        assert not found.parameters & {id(p) for p in network.parameters() if p.requires_grad}
        images = pictures(network.eval(), 3, seed=2)
        with torch.no_grad():
            activations = found.prefix(images)
            whole, parts = network.features(images), found.features(activations.clone())
        assert (whole - parts).abs().max() <= 1e-5 * whole.abs().max()
        network.train()
        found.suffix(activations).sum().backward()
        case.restore()
    assert bool(cuts) == (case.module not in UNCUT)


def test_what_is_saved_gives_the_same_logits(case: Case, tmp_path: Path) -> None:
    network = case.network.eval()
    images = pictures(network, 3)
    with torch.no_grad():
        logits = network(images)
    model_folder.save(tmp_path / "model", network, config(backbone=toy), list(COLOURS), {}, "")
    other = build_model(case.family, seed=1)
    assert any(not torch.equal(t, case.start[n]) for n, t in other.named_parameters())
    other.load_state_dict(load_file(tmp_path / "model" / "model.safetensors"))
    with torch.no_grad():
        assert torch.equal(other.eval()(images), logits)
