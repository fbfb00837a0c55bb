"""Every architecture family of timm can be frozen, split, saved and loaded.

Shapes: B images in a batch, S the side of an image in pixels.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from families import EXCLUDED, FAMILIES, UNUSED_PARAMETERS, WITHOUT_SPLIT_POINT, Family
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from toy import COLOURS, config, model, toy

from autotl import backbone
from autotl.artifact import model_folder
from autotl.frozen.split_point import find_split_point
from autotl.models import Model
from autotl.tasks import Classification
from autotl.training import set_trainable


def build(family: Family, seed: int) -> Model:
    """The network of a family with a linear head and random weights."""
    if not family.options:
        return model(seed, family.size, backbone=family.model)

    @backbone
    def reduced(size: int) -> nn.Module:
        fixed = timm.models.get_pretrained_cfg(family.model).fixed_input_size
        options = {**family.options, **({"img_size": size} if fixed else {})}
        return timm.create_model(family.model, num_classes=0, **options)

    return model(seed, family.size, backbone=reduced)


def random_images(network: Model, count: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    side = network.expects.size
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=random)


def make_every_parameter_matter(network: Model) -> None:
    """Replace initial weights that are zero or tiny, which would get no gradients."""
    for m in network.modules():
        if hasattr(m, "drop_prob"):
            m.drop_prob = 0.0  # a dropped branch gets no gradients
    normalisations = [m for m in network.modules() if hasattr(m, "running_mean")]
    momenta = [m.momentum for m in normalisations]
    for m in normalisations:
        m.momentum = 1.0
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for name, p in network.backbone.named_parameters():
            if p.ndim < 2 and not name.endswith("bias"):
                p.fill_(1.0)  # the gains of residual branches
            p += 0.02 * torch.randn_like(p)
        network.train()(random_images(network, 8, seed=1))
    for m, momentum in zip(normalisations, momenta, strict=True):
        m.momentum = momentum


class Case:
    """A family's network, and the values that its parameters and buffers started with."""

    def __init__(self, module: str) -> None:
        self.module, self.family = module, FAMILIES[module]
        self.network = build(self.family, seed=0)
        make_every_parameter_matter(self.network)
        self.start = {n: t.clone() for n, t in self.values().items()}

    def values(self) -> dict[str, Tensor]:
        named = [*self.network.named_parameters(), *self.network.named_buffers()]
        return {n: t.detach() for n, t in named}

    def changed(self) -> set[str]:
        return {n for n, t in self.values().items() if not torch.equal(t, self.start[n])}

    def restore(self) -> None:
        self.network.zero_grad()
        values = self.values()
        for n in self.changed():
            values[n].copy_(self.start[n])

    def depths(self) -> list[int]:
        """Numbers of blocks to train: the last, half of them, all but the first."""
        blocks = len(self.network.blocks)
        return sorted({1, max(1, blocks // 2), max(1, blocks - 1)})

    def train_last_blocks(self, count: int) -> set[str]:
        """Make the head and the last ``count`` blocks trainable; return their parameter names."""
        last = [p for block in self.network.blocks[-count:] for p in block]
        last += self.network.head.parameters()
        set_trainable(self.network, [{"params": last}])
        ids = {id(p) for p in last}
        return {n for n, p in self.network.named_parameters() if id(p) in ids}


@pytest.fixture(autouse=True)
def seed() -> None:
    """Make dropout in the tests independent of their order."""
    torch.manual_seed(0)


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_every_module_of_timm_is_tested_or_excluded_for_a_reason() -> None:
    assert not FAMILIES.keys() & EXCLUDED.keys()
    assert FAMILIES.keys() | EXCLUDED.keys() == set(timm.list_modules())
    assert all(len(reason) > 10 for reason in EXCLUDED.values())
    for module, family in FAMILIES.items():
        assert family.model in timm.list_models(module=module)
    assert UNUSED_PARAMETERS.keys() | WITHOUT_SPLIT_POINT.keys() <= FAMILIES.keys()


def test_three_dimensional_convolutions_can_be_built() -> None:
    assert build(Family("lambda_resnet26t"), seed=0)


def test_images_become_features_of_the_heads_width(case: Case) -> None:
    network = case.network.eval()
    images = random_images(network, 3)
    with torch.no_grad():
        features, logits = network.features(images), network(images)
    assert features.shape == (3, network.head[-1].in_features)
    assert logits.shape == (3, len(COLOURS))
    assert logits.isfinite().all()
    assert (features[0] - features[1]).abs().max() > 1e-3 * features.abs().max()


def test_blocks_contain_each_parameter_once(case: Case) -> None:
    blocks = case.network.blocks
    ids = [id(p) for block in blocks for p in block]
    assert all(blocks)
    assert len(set(ids)) == len(ids)
    assert set(ids) == {id(p) for p in case.network.backbone.parameters()}
    assert len(blocks) >= 2


def test_a_step_changes_all_trainable_parameters_and_nothing_else(case: Case) -> None:
    network = case.network
    images, labels = random_images(network, 4), torch.tensor([0, 1, 2, 0])
    for count in case.depths():
        case.restore()
        trainable = case.train_last_blocks(count)
        named = dict(network.named_parameters())
        functional.cross_entropy(network.train()(images), labels).backward()
        with torch.no_grad():
            for p in named.values():
                if p.grad is not None:
                    p -= 0.01 * p.grad.sign()  # even the smallest gradient counts
        changed = case.changed()
        unused = {f"backbone.{n}" for n in UNUSED_PARAMETERS.get(case.module, ())}
        assert changed & named.keys() == trainable - unused
        trainable_modules, frozen_modules = (
            {n.rpartition(".")[0] for n in names} for names in (trainable, named.keys() - trainable)
        )
        changed_buffers = changed - named.keys()
        assert not {n for n in changed_buffers if n.rpartition(".")[0] in frozen_modules}
        assert {f"{n}.running_mean" for n in trainable_modules} & case.start.keys() <= changed
    case.restore()


def test_prefix_and_suffix_compute_the_whole_models_features(case: Case) -> None:
    network = case.network
    names = []
    for count in case.depths():
        case.train_last_blocks(count)
        if (split := find_split_point(network, random_images(network, 4))) is None:
            continue
        names.append(split.name)
        trainable = {id(p) for p in network.parameters() if p.requires_grad}
        assert not split.prefix_parameters & trainable
        images = random_images(network.eval(), 3, seed=2)
        with torch.no_grad():
            activations = split.prefix(images)
            expected, actual = network.features(images), split.features(activations.clone())
        assert (expected - actual).abs().max() <= 1e-5 * expected.abs().max()
        network.train()
        split.suffix(activations).sum().backward()
        case.restore()
    assert bool(names) == (case.module not in WITHOUT_SPLIT_POINT)


def test_a_saved_model_gives_the_same_logits_when_it_is_loaded(case: Case, tmp_path: Path) -> None:
    network = case.network.eval()
    images = random_images(network, 3)
    with torch.no_grad():
        logits = network(images)
    model_folder.save(
        tmp_path / "model", network, config(backbone=toy), Classification(list(COLOURS)), {}, ""
    )
    other = build(case.family, seed=1)
    assert any(not torch.equal(t, case.start[n]) for n, t in other.named_parameters())
    other.load_state_dict(load_file(tmp_path / "model" / "model.safetensors"))
    with torch.no_grad():
        assert torch.equal(other.eval()(images), logits)
