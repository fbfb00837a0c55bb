"""A student is trained on labels and on what a teacher predicts for the same views."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from autotl_plugins.multilabel import Multilabel
from autotl_plugins.regression import Regression
from autotl_plugins.tasks import Ordinal
from toy import CPU, batches, config, job, model, squares
from training_helpers import TOP

from autotl.errors import Incompatible, OutOfTime
from autotl.models import build_model
from autotl.tasks import numbered_classes
from autotl.testing.toy import SIDE
from autotl.training import Teacher, fine_tune, measure_cost, predict, set_trainable, teach
from autotl.training.augmentation import Augmentation
from autotl.training.inputs import Inputs
from autotl.training.loss import TrainingLoss

FLIP = "flip_crop"
VIEWS = 3


def lesson(size: int | None = None, augment: str = FLIP, **options: Any) -> Teacher:
    """What a model with random weights teaches about the training images of ``job``."""
    network = model(3, size)
    train = batches(squares(side=size or SIDE))
    return teach(network, config(augment=augment)["augment"], train, CPU, VIEWS, **options)


def test_the_first_view_is_the_image_itself_and_others_are_those_of_the_student() -> None:
    network, taught = model(3), lesson()
    train = batches(squares())
    assert taught.targets.shape == (VIEWS, train.num_examples, 3)
    assert taught.targets.dtype == torch.float16
    plain = torch.from_numpy(predict(network, train, CPU))
    expected = network.task.soften(plain, taught.temperature)
    assert torch.allclose(taught.targets[0].float(), expected, atol=1e-3)
    augmentation = Augmentation(
        config(augment=FLIP)["augment"], network.expects, network.task, CPU.torch_device
    )
    [positions, *_] = train.sequential_indices()
    [(images, _), *_] = train.load([positions])
    view = augmentation.make_view(images, train.indices[positions], 2)
    with torch.inference_mode():
        predictions = network.task.activate(network.eval()(view))
    expected = network.task.soften(predictions, taught.temperature)
    assert torch.allclose(taught.targets[2, positions].float(), expected, atol=1e-3)
    assert not torch.allclose(taught.targets[1], taught.targets[2], atol=1e-3)


def test_an_augmentation_that_changes_nothing_has_one_view() -> None:
    assert lesson(augment="none").views == 1


def test_the_teacher_may_have_another_size() -> None:
    assert lesson(2 * SIDE).targets.shape == (VIEWS, 36, 3)


def test_the_teacher_ends_with_the_time() -> None:
    def check_time() -> None:
        raise OutOfTime("the time budget ended")

    with pytest.raises(OutOfTime):
        lesson(check_time=check_time)


@pytest.mark.parametrize("freeze", ["linear_probe", "full"])
def test_a_batch_has_the_targets_of_its_images_in_its_view(freeze: str) -> None:
    """With cached activations and without."""
    taught, network = lesson(), model()
    own = job(6, teacher=taught)
    inputs = Inputs(network, config(freeze=freeze, augment=FLIP), own)
    parameters = network if freeze == "full" else network.head
    set_trainable(network, [{"params": list(parameters.parameters())}])
    inputs.find_split_point(set())
    assert (inputs.frozen is None) == (freeze == "full")
    assert inputs.views == VIEWS
    for epoch in (1, 2, 5):
        positions = own.train.epoch_indices(epoch)
        for place, (_, targets) in zip(positions, inputs.training_batches(epoch), strict=True):
            labels, predicted = targets.chunk(2, 1)
            assert torch.equal(labels.argmax(1), own.train.targets[place])
            assert torch.equal(predicted, taught.targets[(epoch - 1) % VIEWS, place].float())


def test_an_example_without_a_label_has_the_predictions_instead() -> None:
    taught = lesson()
    unlabelled = torch.zeros(taught.targets.shape[1], dtype=torch.bool)
    unlabelled[1] = True
    positions = torch.tensor([1, 2])
    labels = torch.eye(taught.targets.shape[2])[:2]
    own, predicted = replace(taught, unlabelled=unlabelled).join(labels, 1, positions).chunk(2, 1)
    assert torch.equal(predicted, taught.targets[1, positions].float())
    assert torch.equal(own[0], predicted[0])
    assert torch.equal(own[1], labels[1])


def test_images_without_cached_activations_have_the_views_of_the_teacher() -> None:
    taught, network = lesson(), model()
    own = job(3, teacher=taught)
    inputs = Inputs(network, config(freeze="full", augment=FLIP), own)
    [positions, *_] = own.train.epoch_indices(2)
    [(images, _), *_] = inputs.training_batches(2)
    [(plain, _)] = own.train.load([positions])
    view = inputs.augmentation.make_view(plain, own.train.indices[positions], 1)
    assert torch.equal(images, view)


def test_the_loss_is_a_mean_weighted_by_the_teacher_and_balances_labels_alone() -> None:
    taught = replace(lesson(), weight=0.75, temperature=4.0)
    network = model()
    chosen = config(balance=("class_weights", {"power": 1.0}))
    inputs = Inputs(network, chosen, job(2, teacher=taught, label_smoothing=0.1))
    plain = Inputs(network, chosen, job(2, label_smoothing=0.1))
    [(images, targets), *_] = inputs.training_batches(1)
    labels, predicted = targets.chunk(2, 1)
    network.eval()
    logits = network(images)
    own = torch.nn.functional.cross_entropy(logits / 4, predicted)
    expected = 0.25 * TrainingLoss(plain).compute(images, labels) + 0.75 * 16 * own
    assert torch.isclose(TrainingLoss(inputs).compute(images, targets), expected, rtol=1e-4)


@pytest.mark.parametrize("freeze", [TOP, "full"])
def test_a_student_learns_what_the_teacher_predicts_and_not_the_labels(freeze: Any) -> None:
    """The teacher knows the colours in another order."""
    truth = np.repeat([np.arange(3)], 12, 0).ravel()
    wrong = torch.eye(3)[torch.from_numpy((truth + 1) % 3)]
    teacher = Teacher(wrong[None].half(), temperature=1.0, weight=1.0)
    network, chosen = model(), config(freeze=freeze)
    labels = job().train.targets.numpy()
    wrong = torch.eye(3)[torch.from_numpy((labels + 1) % 3)]
    teacher = replace(teacher, targets=wrong[None].half())
    epochs = list(fine_tune(network, chosen, job(12, teacher=teacher)))
    predictions = epochs[-1].predictions
    assert predictions is not None
    assert (predictions.argmax(1) == (labels + 1) % 3).mean() > 0.8


def test_mixed_examples_have_no_teacher() -> None:
    with pytest.raises(Incompatible, match="mixed"):
        Inputs(model(), config(augment="mixup"), job(teacher=lesson(augment="none")))


def test_what_a_training_costs_does_not_depend_on_its_teacher() -> None:
    network, chosen = model(), config(freeze="full")
    assert measure_cost(network, chosen, job(teacher=lesson(augment="none"))).epoch_seconds > 0


def test_tasks_say_whether_models_can_be_taught() -> None:
    assert numbered_classes(3).can_be_taught
    for plugin, taught in ((Regression, True), (Multilabel, True), (Ordinal, False)):
        assert plugin.function().can_be_taught == taught
    assert Ordinal.function(["1", "2"]).soften(torch.ones(1, 2) / 2, 1.0) is None


def test_a_student_of_numbers_learns_those_of_its_teacher() -> None:
    task = Regression.function(["value"], {"mean": [100.0], "std": [10.0]})
    network = build_model(config(), task, None, CPU)
    train = batches(squares())
    taught = teach(network, config()["augment"], train, CPU, 1)
    predictions = torch.from_numpy(predict(network, train, CPU))
    assert torch.allclose(2 * taught.targets[0].float(), (predictions - 100) / 10, atol=1e-2)
