"""Every built-in plugin trains on a GPU, and lets the CPU run ahead of it.

See ``test_gpu`` for where these tests run.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from fitted_tasks import FITTED
from gpu import no_waiting
from toy import REGISTRY, batches, config, squares

from autotl import training
from autotl.data import Batches
from autotl.frozen import FeatureCache
from autotl.models import Device, build_model, select_device
from autotl.space.task import Label, Task
from autotl.tasks import numbered_classes
from autotl.testing.toy import COLOURS
from autotl.training.loop import Training
from autotl.training.random_state import RandomState
from autotl.training.teacher import teach

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),
]

CLASSES = numbered_classes(len(COLOURS))
FITTED_HEADS = [
    *("knn", "lda", "logistic_regression", "nearest_mean", "ridge"),
    *("stages_logistic", "stages_ridge"),
]


@pytest.fixture
def device() -> Device:
    return select_device("cuda", "float32")


def on_gpu(
    device: Device, seed: int, targets: Any = None, each: int = 8, **options: Any
) -> Batches:
    """Batches of images of three colours on the GPU."""
    examples = squares(each, seed)
    return batches(examples, class_targets=targets, device=device.torch_device, **options)


def make_job(device: Device, targets: Any = None, epochs: int = 3, **changes: Any) -> training.Job:
    """A job of three colours, with unlabelled images."""
    unlabelled = on_gpu(device, 5, each=12, shuffle_seed=None)
    unlabelled.data_id = "unlabelled"
    defaults: dict[str, Any] = {
        "validation": on_gpu(device, 1, targets, shuffle_seed=None),
        "score": lambda predictions: float(np.isfinite(predictions).all()),
        "cache": FeatureCache(),
        "views": 2,
        "unlabelled": lambda: unlabelled,
    }
    train = on_gpu(device, 0, targets)
    return training.Job(train, epochs=epochs, device=device, **(defaults | changes))


def train_without_waiting(
    device: Device,
    task: Task = CLASSES,
    job: training.Job | None = None,
    waits: bool = False,
    **chosen: Any,
) -> None:
    """Train for three epochs; the third, when all data are resident, must not wait.

    Args:
        device: The GPU.
        task: What is predicted.
        job: That of ``make_job`` by default.
        waits: Whether a plugin waits all the same.
        chosen: The plugins by their kinds.
    """
    choices = config(**({"freeze": "full"} | chosen))
    model = build_model(choices, task, None, device)
    run = Training(model, choices, job or make_job(device))
    with RandomState(device, 0).active():
        run.run_epoch(1)
        run.run_epoch(2)
        run.begin_epoch(3)
        with nullcontext() if waits else no_waiting():
            for batch, targets in run.inputs.training_batches(3):
                run.step(batch, targets)
        epoch = run.end_epoch()
    assert np.isfinite(epoch.loss)
    assert epoch.predictions is not None
    assert np.isfinite(epoch.predictions).all()
    tensors = (*model.parameters(), *model.buffers())
    assert {tensor.device.type for tensor in tensors} == {"cuda"}


def names(kind: str) -> list[str]:
    """The names of the built-in plugins of a kind whose training has steps."""
    return [name for name in REGISTRY.names(kind) if name not in FITTED_HEADS]


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in ("augment", "balance", "head", "optimizer") for name in names(kind)],
)
def test_plugins_of_each_kind(device: Device, kind: str, name: str) -> None:
    train_without_waiting(device, **{kind: name})


@pytest.mark.parametrize("name", names("freeze"))
def test_strategies(device: Device, name: str) -> None:
    # The decomposition of a matrix waits to see whether it succeeded.
    train_without_waiting(device, freeze=name, augment="flip_crop", waits=name == "bss")


@pytest.mark.parametrize("name", names("unlabelled"))
@pytest.mark.parametrize("freeze", ["full", "linear_probe"])
def test_methods_with_unlabelled_images(device: Device, name: str, freeze: str) -> None:
    if name == "adabn" and freeze == "linear_probe":
        pytest.skip("it adapts trained layers")
    train_without_waiting(device, unlabelled=name, augment="flip_crop", freeze=freeze)


LABELS: dict[str, list[Label]] = {
    "multilabel": [["cat"], ["dog", "owl"], []],
    "ordinal": ["1", "2", "3"],
    "regression": [2.0, 30.0, 10.0],
    "numbers": [{"x": 0.0, "y": 100.0}, {"x": 2.0, "y": 500.0}, {"x": 1.0, "y": 200.0}],
}


def encode(task: Task, labels: list[Label]) -> Any:
    return np.asarray(task.encode([task.parse(label) for label in labels]))


@pytest.mark.parametrize("name", LABELS)
def test_tasks(device: Device, name: str) -> None:
    task = FITTED[name].task
    job = make_job(device, encode(task, LABELS[name]), unlabelled=None)
    train_without_waiting(device, task, job, augment="flip_crop")


def test_losses(device: Device) -> None:
    for name in ("cross_entropy", "focal"):
        train_without_waiting(device, loss=name)


def test_two_views_of_each_image(device: Device) -> None:
    job = make_job(device, contrast=training.Contrast(), unlabelled=None)
    train_without_waiting(device, job=job, head=training.projection, augment="simclr")


def test_a_teacher(device: Device) -> None:
    job = make_job(device)
    choices = config(freeze="full", augment="flip_crop")
    teacher = build_model(choices, CLASSES, None, device, seed=3)
    lesson = teach(teacher, choices["augment"], job.train, device, 2)
    train_without_waiting(device, job=make_job(device, teacher=lesson), augment="flip_crop")


@pytest.mark.parametrize("name", FITTED_HEADS)
def test_heads_that_are_fitted(device: Device, name: str) -> None:
    task, targets = CLASSES, None
    if "ridge" in name:
        task = FITTED["numbers"].task
        targets = encode(task, LABELS["numbers"])
    choices = config(head=name)
    model = build_model(choices, task, None, device)
    [epoch, *_] = training.fine_tune(model, choices, make_job(device, targets))
    assert epoch.predictions is not None
    assert epoch.predictions.shape == (24, task.num_logits)
    assert np.isfinite(epoch.predictions).all()
