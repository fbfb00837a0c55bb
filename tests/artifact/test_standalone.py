"""Standalone code: it predicts as autotl does without importing it, or the reason is given."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fitted_tasks import FITTED
from images import TINY
from PIL import Image
from toy import CPU

import autotl
from autotl import models
from autotl.artifact import model_folder, standalone
from autotl.models import Model
from autotl.space import registry, space
from autotl.space.registry import Registry
from autotl.space.space import Config
from autotl.space.task import Task
from autotl.tasks import Classification

THREE = Classification(["a", "b", "ü"])
HEADS = [
    p.name
    for p in registry.load()
    if p.kind == "head" and p.origin.startswith("autotl ") and p.suits("classification")
]

OWN_PLUGINS = '''
import torch
from torch import nn
from autotl import Incompatible, backbone, head

SCALE = 3.0


class Scaled(nn.Linear):
    """Has the repr of a plain linear layer, but computes something else."""

    def forward(self, features):
        return SCALE * super().forward(features)


@head
def scaled(features: int, classes: int) -> nn.Module:
    """A layer that differs from the one that it is derived from."""
    return Scaled(features, classes)


class UsesAutoTL(nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(classes, features))

    def forward(self, features):
        if features.ndim != 2:
            raise Incompatible("features must be pooled")
        return features @ self.weight.T


@head
def uses_autotl(features: int, classes: int) -> nn.Module:
    """Needs autotl itself."""
    return UsesAutoTL(features, classes)


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
    """Has the name of one of timm's models."""
    return Other()
'''


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    file = tmp_path_factory.mktemp("plugins") / "own plugins.py"
    file.write_text(TINY + OWN_PLUGINS)
    return registry.load([file])


def make_config(backbone: str, head: str, plugins: Registry) -> Config:
    chosen = {
        "backbone": {backbone: {}},
        "head": {head: dict(plugins.get_untrained("head", head).defaults)},
    }
    return space.from_json(chosen, plugins, kinds=("backbone", "head"), pretrained=False)


def build(config: Config, size: int = 64, task: Task = THREE) -> Model:
    """Build a network with BatchNorm statistics and a fitted head, as if it had been trained."""
    network = models.build_model(config, task, size, CPU, seed=1)
    images = torch.randint(0, 255, (12, 3, size, size), dtype=torch.uint8)
    with torch.no_grad():
        network.train()(images)
        network.eval()
        if fit := getattr(network.head, "fit", None):
            fit(network.features(images), torch.arange(12) % 3)
    return network


Save = Callable[..., dict[str, Any]]


@pytest.fixture
def save(tmp_path: Path, plugins: Registry) -> Save:
    """A function that saves a model in ``tmp_path/name`` and returns its ``config.json``."""

    def save_model(
        backbone: str, head: str, name: str = "model", task: Task = THREE, **facts: Any
    ) -> dict[str, Any]:
        config = make_config(backbone, head, plugins)
        model_folder.save(tmp_path / name, build(config, task=task), config, task, facts)
        content: dict[str, Any] = json.loads((tmp_path / name / "config.json").read_text())
        return content

    return save_model


def read_code(folder: Path) -> str:
    """Read the only code block of the model card."""
    text = (folder / "README.md").read_text()
    [(_, code)] = re.findall(r"^(`{3,})python\n(.*?)^\1$", text, re.S | re.M)
    return code


def write_photo(folder: Path) -> Path:
    """Write a JPEG with an EXIF rotation, so large that it is decoded at a lower resolution."""
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((700, 900), Image.Resampling.BICUBIC)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(folder / "photo.jpg", exif=exif)
    return folder / "photo.jpg"


RUN_ALL = """
import os, runpy, sys
for folder in sys.argv[1:]:
    os.chdir(folder)
    runpy.run_path("code.py")
    os.chdir("..")
    print()
assert not [m for m in sys.modules if m.startswith("autotl")]
"""


def test_the_code_predicts_as_autotl_does_without_importing_it(save: Save, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("test_resnet", "test_vit", "test_efficientnet")]
    for folder, head in zip(folders, ("linear", "gem", "stages"), strict=True):
        save(folder.name, head, folder.name, temperature=1.7)
        write_photo(folder)
        (folder / "code.py").write_text(read_code(folder))
    output = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN_ALL, *(folder.name for folder in folders)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert output.returncode == 0, output.stderr
    for folder, printed in zip(folders, output.stdout.strip().split("\n\n"), strict=True):
        rows = [line.split(" ") for line in printed.splitlines()]
        predictor = model_folder.load(folder, device=CPU)
        [expected] = predictor.predict([folder / "photo.jpg"])
        assert {name: float(p) for p, name in rows} == pytest.approx(expected, abs=1e-5)
        assert max(expected.values()) < 1


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", ["test_convnext", "test_vit"])
def test_every_head_of_autotl_has_standalone_code(
    save: Save, tmp_path: Path, backbone: str, head: str
) -> None:
    assert "reason" not in save(backbone, head)["standalone_code"]
    code = read_code(tmp_path / "model")
    compile(code, "README.md", "exec")
    assert "autotl" not in code
    assert "sklearn" not in code


@pytest.mark.parametrize("backbone", ["scratch:test_resnet", "source:test_vit.r160_in1k"])
def test_timms_models_with_other_weights_have_standalone_code(save: Save, backbone: str) -> None:
    architecture = backbone.partition(":")[2].partition(".")[0]
    parts = save(backbone, "linear")["standalone_code"]
    assert parts["backbone"].startswith(f'timm.create_model("{architecture}", num_classes=0')


def test_a_head_that_differs_from_its_repr_is_written_as_the_source_of_its_plugin(
    save: Save,
) -> None:
    parts = save("test_resnet", "scaled")["standalone_code"]
    assert parts["head"] == "scaled(96, 3)"
    assert "SCALE = 3.0" in parts["definitions"]


@pytest.mark.parametrize(
    ("backbone", "head", "reason"),
    [
        ("tiny", "linear", "the backbone tiny comes from file own plugins.py"),
        ("test_resnet", "uses_autotl", "the head uses_autotl needs Incompatible from autotl."),
        ("resnet18", "linear", "timm's resnet18 is a different architecture"),
    ],
)
def test_a_model_that_timm_cannot_build_is_loaded_with_autotl_and_the_reason_is_given(
    save: Save,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    backbone: str,
    head: str,
    reason: str,
) -> None:
    folder = tmp_path / "model"
    assert reason in save(backbone, head)["standalone_code"]["reason"]
    text = (folder / "README.md").read_text()
    assert reason in text
    assert "autotl predict . photo.jpg --plugin 'own plugins.py'" in text
    monkeypatch.chdir(folder)
    (folder / "own plugins.py").write_text(TINY + OWN_PLUGINS)
    photo = write_photo(folder)
    exec(compile(read_code(folder), "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "'ü': 0." in printed
    assert printed.strip() == str(autotl.load(".", plugin=["own plugins.py"]).predict([photo]))


def test_code_with_other_probabilities_is_rejected(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standalone, "_write_features", lambda network: "x = backbone(x).flip(1)")
    parts = save("test_resnet", "linear")["standalone_code"]
    assert "computes different probabilities" in parts["reason"]


@pytest.mark.parametrize("name", FITTED)
def test_the_code_of_other_tasks_predicts_as_autotl_does(
    save: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    task, calibration = FITTED[name]
    parts = save("test_resnet", "linear", task=task, temperature=1.2, calibration=calibration)
    folder, photo = tmp_path / "model", write_photo(tmp_path)
    assert parts["standalone_code"]["function"] == (
        "probabilities" if task.has_probabilities else "predictions"
    )
    code = read_code(folder).replace('"photo.jpg"', repr(str(photo))).replace('Path(".")', "here")
    exec(compile(code, "README.md", "exec"), {"here": folder})
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    predictor = model_folder.load(folder, device=CPU)
    [expected] = predictor.predict_items([photo])
    assert [row[1] for row in rows] == list(task.outputs)
    np.testing.assert_allclose([float(row[0]) for row in rows], expected, rtol=1e-4, atol=2e-6)
    if name == "multilabel":
        chosen = [row[1] for row in rows if row[2:] == ["(predicted)"]]
        assert chosen == predictor.predict(photo)[0]["prediction"]
        assert 0 < len(chosen) < 3, "the test needs labels on both sides of the thresholds"


def test_a_task_without_code_is_named(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = FITTED["regression"].task
    monkeypatch.setattr(type(task), "activation_code", "")
    parts = save("test_resnet", "linear", task=task)["standalone_code"]
    assert parts == {"reason": "the task regression has no code without autotl"}
    monkeypatch.setattr(type(task), "activation_code", "logits")
    parts = save("test_resnet", "linear", task=task)["standalone_code"]
    assert "computes different predictions" in parts["reason"]


def test_the_code_of_an_older_model_is_that_of_classes() -> None:
    older = {"imports": "", "definitions": "", "head": "h", "backbone": "b", "features": "f"}
    assert "def probabilities(images)" in standalone.render(older)
    assert "return logits.softmax(1)" in standalone.render(older)
    assert ", probabilities(" in standalone.render_example(older)


def test_saving_draws_no_random_numbers_and_restores_training_mode(
    tmp_path: Path, plugins: Registry
) -> None:
    config = make_config("test_resnet", "linear", plugins)
    network = build(config).train()
    before = torch.random.get_rng_state()
    model_folder.save(tmp_path / "model", network, config, Classification(["a", "b", "c"]), {})
    assert torch.equal(before, torch.random.get_rng_state())
    assert network.training
