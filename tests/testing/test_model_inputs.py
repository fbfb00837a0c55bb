"""Backbones of another kind of input: a backbone of time series, each time with one fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autotl import ANY_INPUT, ModelInput, Uniform, augment, backbone
from autotl.space import registry
from autotl.space.plugin import AnyPlugin
from autotl.testing import check, examine

PLUGIN = Path(__file__).parents[2] / "plugins" / "examples" / "autotl_series.py"
PLUGINS = registry.load([PLUGIN])
SERIES: Any = PLUGINS.input_kinds["series"]


class Samples(ModelInput):
    """A series of ``size`` samples, divided by a number that is saved."""

    kind, dtype = "series", "float32"

    def __init__(self, size: int, scale: float = 2.0) -> None:
        self.size, self.shape, self.scale = size, (size,), scale
        self.key = f"samples-{size}-{scale}"

    def encode(self, item: Any) -> Any:
        return np.resize(item / self.scale, self.size).astype(np.float32)

    def save(self, folder: Path) -> None:
        (folder / "scale.json").write_text(json.dumps(self.scale), encoding="utf-8")


class Network(nn.Module):
    """The means of the parts of a series and their spectrum, through a layer."""

    num_features = 8

    def __init__(self, expects: ModelInput) -> None:
        super().__init__()
        self.expects = expects
        self.layer = nn.Linear(16, 8)

    def forward(self, series: Tensor) -> Tensor:
        spectrum: Tensor = torch.fft.rfft(series)[:, :16].abs()
        return self.layer(spectrum)


def backbone_with(expects: type[ModelInput] = Samples, **attributes: Any) -> AnyPlugin:
    """A backbone whose input has other attributes or methods."""
    chosen = type("Chosen", (expects,), attributes)

    @backbone(name="spectra", input="series")
    def spectra(size: int | None = None, saved: Path | None = None) -> nn.Module:
        """A layer on spectra."""
        file = saved / "scale.json" if saved else None
        scale = json.loads(file.read_text(encoding="utf-8")) if file and file.exists() else 2.0
        return Network(chosen(size or 64, scale))

    return spectra


class Sequential(Samples):
    """Encodes the number of items that were encoded."""

    count = 0

    def encode(self, item: Any) -> Any:
        self.count += 1
        return super().encode(item) + self.count


class Unequal(Samples):
    """Depends on a number that is not saved."""

    instances = 0

    def __init__(self, size: int, scale: float = 2.0) -> None:
        super().__init__(size, scale)
        type(self).instances += 1
        self.scale = self.instances


class Unsaved(Samples):
    """Forgets its number when it is saved: it is another one when it is loaded."""

    def save(self, folder: Path) -> None:
        (folder / "scale.json").write_text("3.0", encoding="utf-8")


def encode_other(values: Any) -> Any:
    return lambda self, item: values


BROKEN = [
    (backbone_with(encode=encode_other(np.zeros(5, np.float32))), "encodes an item as float32 [5]"),
    (
        backbone_with(encode=lambda self, item: np.zeros(self.size)),
        "encodes an item as float64 [32], and expects says float32 [32]",
    ),
    (
        backbone_with(encode=lambda self, item: np.full(self.size, np.nan, np.float32)),
        "numbers that are not finite",
    ),
    (backbone_with(Sequential), "differently the second time or after other items"),
    (backbone_with(Unequal), "when it is built a second time"),
    (backbone_with(Unsaved), "when it is built with the files of expects.save"),
    (backbone_with(key=property(lambda s: "a/b", lambda s, v: None)), "is a part of file names"),
    (
        backbone_with(key=property(lambda s: "samples", lambda s, v: None)),
        "has the key 'samples' for the size 32 and for 64",
    ),
    (backbone_with(describe=lambda self: {"size": 1, "key": np.zeros(2)}), "is no JSON"),
    (backbone_with(describe=lambda self: {"size": 1}), "lacks size or key"),
]


@pytest.mark.parametrize(("plugin", "words"), BROKEN, ids=[words[:30] for _, words in BROKEN])
def test_a_violation_of_an_input_is_reported_in_words(plugin: AnyPlugin, words: str) -> None:
    broken = examine(plugin, kind=SERIES).broken
    assert len(broken) == 1, broken
    assert words in broken[0]


def test_valid_backbones_of_other_kinds_pass() -> None:
    assert check(backbone_with(), kind=SERIES) == 1
    assert check(PLUGINS.get("backbone", "random_kernels"), kind=SERIES) == 1


def test_files_that_no_one_reads_are_reported() -> None:
    @backbone(input="series")
    def spectra(size: int | None = None) -> nn.Module:
        """A layer on spectra."""
        return Network(Samples(size or 64))

    [sentence] = examine(spectra, kind=SERIES).broken
    assert "saves files of its input but does not take saved" in sentence


def test_inputs_of_ones_must_be_accepted() -> None:
    class Choosy(Network):
        def forward(self, series: Tensor) -> Tensor:
            if (series == 1).all():
                raise ValueError("a constant series")
            return super().forward(series)

    @backbone(input="series")
    def spectra(size: int | None = None, saved: Path | None = None) -> nn.Module:
        """A layer on spectra."""
        return Choosy(Samples(size or 64))

    [sentence] = examine(spectra, kind=SERIES).broken
    assert "cannot compute inputs of ones (ValueError: a constant series)" in sentence


def test_a_plugin_of_another_kind_needs_the_kind_and_a_backbone() -> None:
    @augment(input="series")
    def noise(expects: ModelInput, uniform: Uniform) -> Any:
        """Add noise."""
        return lambda series: series + uniform(series, expects.size)

    @augment(input="series")
    def rounding(expects: ModelInput) -> Any:
        """Round the samples."""
        return lambda series: series.int()

    kernels = PLUGINS.get("backbone", "random_kernels")
    for plugin in (noise, kernels, PLUGINS.get("dataset", "series_file")):
        [sentence] = examine(plugin).broken
        assert "is for series inputs, not for images; call check(plugin, kind=KIND)" in sentence
    [sentence] = examine(noise, kind=SERIES).broken
    assert "needs a backbone of series inputs to try it on" in sentence
    assert check(noise, kind=SERIES, backbone=kernels) == 1
    [sentence] = examine(rounding, kind=SERIES, backbone=kernels).broken
    assert "returns series int32 [8, 32]" in sentence
    assert "return them as float32" in sentence


def test_plugins_for_all_kinds_are_tried_on_the_kind_that_is_given() -> None:
    @augment(input=ANY_INPUT)
    def brighter(size: int) -> Any:
        """Works on images alone."""
        return lambda images: (images.int() + 9).clamp(0, 255).to(torch.uint8)

    assert check(brighter) == 1
    kernels = PLUGINS.get("backbone", "random_kernels")
    [sentence] = examine(brighter, kind=SERIES, backbone=kernels).broken
    assert "returns series uint8" in sentence
    plugins = registry.load()
    for kind, name in (("head", "linear"), ("optimizer", "adamw"), ("augment", "none")):
        assert check(plugins.get(kind, name), kind=SERIES, backbone=kernels) >= 1
