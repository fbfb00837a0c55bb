"""The model card: its code runs without autotl, its numbers are those given, its text is inert."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from images import TINY
from PIL import Image
from toy import CPU

from autotl import models
from autotl.artifact import model_card, model_folder
from autotl.cli import main
from autotl.models import Model
from autotl.space import registry, space
from autotl.space.registry import Registry
from autotl.space.space import Config

HEADS = [p.name for p in registry.load() if p.kind == "head" and p.origin.startswith("autotl ")]

OWN = '''
import torch
from torch import nn
from autotl import Incompatible, backbone, head

SCALE = 3.0


class Loud(nn.Linear):
    """Taken for a plain linear layer, it answers otherwise."""

    def forward(self, features):
        return SCALE * super().forward(features)


@head
def loud(features: int, classes: int) -> nn.Module:
    """A layer that is not what it is derived from."""
    return Loud(features, classes)


class Picky(nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(classes, features))

    def forward(self, features):
        if features.ndim != 2:
            raise Incompatible("features must be pooled")
        return features @ self.weight.T


@head
def picky(features: int, classes: int) -> nn.Module:
    """Needs autotl itself."""
    return Picky(features, classes)


class Other(nn.Module):
    num_features = 16
    pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 16, 4, 4)

    def forward(self, images):
        return self.layer(images).mean((2, 3))


@backbone
def resnet18():
    """Called like one of timm's."""
    return Other()
'''


@pytest.fixture
def plugins(tmp_path: Path) -> Registry:
    (tmp_path / "own plugins.py").write_text(TINY + OWN)
    return registry.load([tmp_path / "own plugins.py"])


def parts(backbone: str, head: str, plugins: Registry) -> Config:
    chosen = {
        "backbone": {backbone: {}},
        "head": {head: dict(plugins.without_weights("head", head).defaults)},
    }
    return space.from_json(chosen, plugins, kinds=("backbone", "head"), pretrained=False)


def built(config: Config, size: int = 64) -> Model:
    """The network with statistics and weights as if it had learned something."""
    network = models.build_model(config, 3, size, CPU, seed=1)
    pictures = torch.randint(0, 255, (12, 3, size, size), dtype=torch.uint8)
    with torch.no_grad():
        network.train()(pictures)
        network.eval()
        if fit := getattr(network.head, "fit", None):
            fit(network.features(pictures), torch.arange(12) % 3)
    return network


Saved = Callable[..., dict[str, Any]]


@pytest.fixture
def saved(tmp_path: Path, plugins: Registry) -> Saved:
    """Save a model of that backbone and head into ``tmp_path/NAME``; returns its config.json."""

    def save(backbone: str, head: str, name: str = "model", **facts: Any) -> dict[str, Any]:
        config = parts(backbone, head, plugins)
        model_folder.save(tmp_path / name, built(config), config, ["a", "b", "ü"], facts)
        about: dict[str, Any] = json.loads((tmp_path / name / "config.json").read_text())
        return about

    return save


def blocks(text: str) -> list[str]:
    return re.findall(r"^(`{3,})python\n(.*?)^\1$", text, re.S | re.M)


def code_of(folder: Path) -> str:
    [(_, code)] = blocks((folder / "README.md").read_text())
    return code


def photo(folder: Path, seed: int = 0) -> Path:
    """A JPEG that is large enough to be decoded reduced, lying on its side."""
    pixels = np.random.default_rng(seed).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((700, 900), Image.Resampling.BICUBIC)
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(folder / "photo.jpg", exif=exif)
    return folder / "photo.jpg"


def test_the_printed_code_predicts_as_autotl_does_without_it(saved: Saved, tmp_path: Path) -> None:
    names = []
    for backbone, head in (
        ("test_resnet", "linear"), ("test_vit", "gem"), ("test_efficientnet", "stages"),
    ):  # fmt: skip
        saved(backbone, head, backbone, temperature=1.7)
        photo(tmp_path / backbone)
        (tmp_path / backbone / "printed.py").write_text(code_of(tmp_path / backbone))
        names.append(backbone)
    script = (
        "import os, runpy, sys\n"
        "for name in sys.argv[1:]:\n"
        "    os.chdir(name); runpy.run_path('printed.py'); os.chdir('..'); print()\n"
        "assert not [m for m in sys.modules if m.startswith('autotl')]\n"
    )
    command = [sys.executable, "-W", "error", "-c", script, *names]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, printed in zip(names, done.stdout.strip().split("\n\n"), strict=True):
        rows = [line.split(" ") for line in printed.splitlines()]
        picture = str(tmp_path / name / "photo.jpg")
        words = ["predict", str(tmp_path / name), picture, "--format", "json", "--device", "cpu"]
        ours = json.loads(CliRunner().invoke(main, words).stdout)["classes"]
        assert {c: float(p) for p, c in rows} == pytest.approx(ours, abs=1e-5)
        assert max(ours.values()) < 1


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", ["test_convnext", "test_vit"])
def test_every_head_that_comes_with_autotl_is_plain(
    saved: Saved, tmp_path: Path, backbone: str, head: str
) -> None:
    about = saved(backbone, head)
    assert "reason" not in about["plain"]
    code = code_of(tmp_path / "model")
    compile(code, "README.md", "exec")
    assert "autotl" not in code
    assert "sklearn" not in code


def test_a_layer_that_answers_otherwise_is_printed_by_its_source(
    saved: Saved, tmp_path: Path
) -> None:
    about = saved("test_resnet", "loud")
    assert about["plain"]["head"] == "loud(96, 3)"
    assert "SCALE = 3.0" in about["plain"]["definitions"]


@pytest.mark.parametrize(
    ("backbone", "head", "says"),
    [
        ("tiny", "linear", "the backbone tiny comes from file own plugins.py"),
        ("test_resnet", "picky", "the head picky needs Incompatible from autotl.errors"),
        ("resnet18", "linear", "timm's resnet18 cannot take its place"),
    ],
)
def test_what_is_not_timms_is_printed_with_autotl_and_the_reason(
    saved: Saved,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    backbone: str,
    head: str,
    says: str,
) -> None:
    about = saved(backbone, head)
    assert says in about["plain"]["reason"]
    text = (tmp_path / "model" / "README.md").read_text()
    assert says in text
    assert "autotl predict . photo.jpg --plugin 'own plugins.py'" in text
    monkeypatch.chdir(tmp_path / "model")
    (tmp_path / "model" / "own plugins.py").write_text(TINY + OWN)
    photo(tmp_path / "model")
    exec(compile(code_of(tmp_path / "model"), "README.md", "exec"), {})
    assert "'ü': 0." in capsys.readouterr().out


def test_code_that_answers_otherwise_is_not_printed(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "autotl.artifact.standalone._features", lambda network: "x = backbone(x).flip(1)"
    )
    assert "answers otherwise" in saved("test_resnet", "linear")["plain"]["reason"]


def test_saving_draws_no_random_numbers_and_leaves_the_mode(
    tmp_path: Path, plugins: Registry
) -> None:
    config = parts("test_resnet", "linear", plugins)
    network = built(config).train()
    before = torch.random.get_rng_state()
    model_folder.save(tmp_path / "model", network, config, ["a", "b", "c"], {})
    assert torch.equal(before, torch.random.get_rng_state())
    assert network.training


EVIDENCE = {
    "metric": "accuracy",
    "pictures": {"train": 600, "validation": 150, "test": 200},
    "validation": {"score": 0.91, "low": 0.88, "high": 0.94, "n": 150},
    "finals": {
        "runs": 5,
        "winner": "trial 3",
        "candidates": [
            {"name": "trial 1", "mean": 0.1, "low": 0.1, "high": 0.1},
            {"name": "trial 3", "mean": 0.8765, "low": 0.8543, "high": 0.8987},
        ],
    },
    "optimism": 0.0123,
    "calibration": {"temperature": 1.25, "ece_before": 0.07, "ece_after": 0.02, "n": 750},
    "test": {
        "score": 0.8812, "low": 0.8432, "high": 0.9101, "n": 200,
        "per_class": [
            {"class": "a", "n": 120, "score": 0.75},
            {"class": "b", "n": 0, "score": None},
        ],
    },
    "refitted": True,
}  # fmt: skip


def test_the_card_has_the_evidence(saved: Saved, tmp_path: Path) -> None:
    saved(
        "test_resnet", "linear", temperature=1.25,
        data={"source": "my photos", "fingerprint": "0123456789abcdef0123"},
        weights={"backbone": "test_resnet", "origin": "hub timm/x", "licence": "apache-2.0"},
        training={"freeze": {"lora": {"lr": 0.0012345678}}, "epochs": 7, "validation": None},
        versions={"torch": "2.9"},
    )  # fmt: skip
    folder = tmp_path / "model"
    bare = (folder / "README.md").read_text()
    assert "It was not tested." in bare
    model_card.write(folder, "pets", EVIDENCE)
    text = (folder / "README.md").read_text()
    assert text.startswith("# `pets`\n")
    assert "It was not tested." not in text
    for says in (
        "| 200 | 0.8812 | 0.8432 to 0.9101 |",
        "| finals: mean of 5 runs with pictures held back anew | | 0.8765 | 0.8543 to 0.8987 |",
        "| 150 | 0.9100 | 0.8800 to 0.9400 |",
        "it is too good: by 0.0123, the finals say",
        "a temperature of 1.25, which on 750 pictures",
        "from\n0.0700 to 0.0200.",
        "| `a` | 120 | 0.750 |",
        "| `b` | 0 |  |",
        "`my photos` (600 train, 150 validation, 200 test pictures)",
        "`0123456789abcdef`",
        "from `hub timm/x`,\nlicence `apache-2.0`",
        "| freeze | `lora(lr=0.001235)` |",
        "| epochs | `7` |",
        "torch 2.9",
    ):
        assert says in text
    assert "| validation | `None`" not in text
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip


def test_a_score_without_an_interval_has_none() -> None:
    about = {"classes": ["a", "b"], "input": {"size": 8, "interpolation": "bicubic"}}
    row = {"score": 0.5, "low": None, "high": None, "n": 9}
    text = model_card.render(about, "x", {"validation": row, "test": {**row, "score": None}})
    assert "| 9 | 0.5000 |  |" in text
    assert "| 9 | |  |" in text


def test_a_folder_of_an_older_version_gets_a_card(saved: Saved, tmp_path: Path) -> None:
    about = saved("test_resnet", "linear")
    del about["plain"]
    text = model_card.render(about, "old")
    assert "an older version of autotl saved it" in text
    assert "model_folder.load" in text


HOSTILE = [
    "<script>alert(1)</script>",
    "a|b",
    "# x\n\n- y",
    "`tick``",
    "[l](javascript:x)",
    "\x1b[31m",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_shown_as_they_are(name: str) -> None:
    about = {"classes": [name, "other"], "input": {"size": 8, "interpolation": "bicubic"}}
    about |= {"data": {"source": name, "fingerprint": "f"}}
    test = {**EVIDENCE["test"], "per_class": [{"class": name, "n": 1, "score": 1.0}]}  # type: ignore[dict-item]
    text = model_card.render(about, name, {**EVIDENCE, "test": test})
    assert "\x1b" not in text
    [row] = [line for line in text.splitlines() if line.endswith("| 1 | 1.000 |")]
    assert len(re.split(r"(?<!\\)\|", row)) == 5, "one row of three cells"
    without_code = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", text)
    for bad in ("<script", "](java", "- y", "tick"):
        assert bad not in without_code


def test_code_cannot_end_its_block() -> None:
    text = model_card.block('x = """\n```\n"""')
    assert text.startswith("````python\n")
    assert text.endswith("\n````")
