"""Unlabelled examples in a training: which are in a step, what a method is given, what counts."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy import batches, config, job, model, squares
from training_helpers import have_equal_weights, refusing_head

from autotl import Outputs, UnlabelledMethod, augment, head, unlabelled
from autotl.data import Batches
from autotl.errors import Incompatible, PluginError
from autotl.frozen import FeatureCache
from autotl.models import Model
from autotl.testing.toy import convnet
from autotl.training import (
    Checkpoint,
    Job,
    checkpoint,
    cost,
    fine_tune,
    measure_cost,
    set_trainable,
)
from autotl.training.inputs import Inputs
from autotl.training.loss import TrainingLoss
from autotl.training.probes import train_probes
from autotl.training.unlabelled import require_suitable

LABELLED, UNLABELLED = 36, 90


@augment
def inverted(size: int, uniform: Any) -> Any:
    """The inverse of each image, in all draws."""
    return lambda images: 255 - images


def make_job(epochs: int = 2, count: int = UNLABELLED, **changes: Any) -> Job:
    """The job of ``toy`` with ``count`` unlabelled images."""

    @cache
    def make() -> Batches:
        own = batches(squares(count // 3, seed=5), shuffle_seed=None)
        own.data_id = "unlabelled"
        return own

    return job(epochs, unlabelled=make, **changes)


def recorded(calls: list[tuple[Any, ...]], mu: int = 2, **options: Any) -> Any:
    """A plugin whose loss records what it is given."""

    @unlabelled
    def recording() -> UnlabelledMethod:
        def loss(*arguments: Any) -> Tensor:
            calls.append(arguments)
            return torch.zeros(())

        return UnlabelledMethod(loss, mu, **options)

    return recording


def train(plugin: Any, network: Model | None = None, **changes: Any) -> Model:
    chosen = {k: changes.pop(k) for k in ("augment", "freeze", "head") if k in changes}
    network = network or model(**chosen)
    list(fine_tune(network, config(unlabelled=plugin, **chosen), make_job(**changes)))
    return network


@pytest.mark.parametrize("freeze", ["full", "linear_probe"])
def test_a_step_has_labelled_examples_and_two_copies_of_unlabelled_ones(freeze: str) -> None:
    calls: list[tuple[Any, ...]] = []
    train(recorded(calls), freeze=freeze, augment=inverted)
    passes = 2  # 2 * 36 unlabelled images are in one, and there are 90
    assert len(calls) == 2 * passes * 3
    assert [call[3] for call in calls] == pytest.approx(np.arange(12) / 12)
    for labelled, weak, strong, _ in calls:
        assert labelled.logits.shape == labelled.targets.shape == (12, 3)
        assert weak.logits.shape == strong.logits.shape == (24, 3)
        assert weak.features.shape == (24, 24)
        assert weak.targets is None
        assert not torch.equal(weak.logits, strong.logits)


def test_cached_rows_and_images_are_the_same_examples() -> None:
    """Weak ones are as they are, and strong ones are the same, augmented, in the same order."""
    outputs = []
    for cached in (True, False):
        calls: list[tuple[Any, ...]] = []
        settings = replace(job().compute, cache_activations=cached)
        train(recorded(calls), augment=inverted, epochs=1, compute=settings)
        outputs.append(calls)
    for one, other in zip(*outputs, strict=True):
        for mine, its in zip(one[1:3], other[1:3], strict=True):
            torch.testing.assert_close(mine.features, its.features)
    [[_, weak, strong, _], *_] = outputs[0]
    network = model()
    own = make_job().unlabelled
    assert own is not None
    images = torch.cat([images for images, _ in own()])
    with torch.no_grad():
        every = network.eval().features(images)
        inverse = network.features(255 - images)
    chosen = torch.cdist(weak.features, every).argmin(1)
    torch.testing.assert_close(weak.features.detach(), every[chosen], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(strong.features.detach(), inverse[chosen], atol=1e-4, rtol=1e-4)


def test_an_epoch_passes_over_all_unlabelled_examples_once() -> None:
    inputs = Inputs(model(), config(unlabelled=recorded([])), make_job(count=72))
    assert inputs.unlabelled is not None
    assert inputs.passes == 1
    drawn = inputs.unlabelled.draw(1, [12, 12, 12])
    assert [len(positions) for positions in drawn] == [24, 24, 24]
    assert sorted(np.concatenate(drawn)) == list(range(72))
    other = inputs.unlabelled.draw(2, [12, 12, 12])
    assert not np.array_equal(np.concatenate(drawn), np.concatenate(other))
    few = Inputs(model(), config(unlabelled=recorded([], mu=7)), make_job(count=9))
    assert few.unlabelled is not None
    [positions] = few.unlabelled.draw(1, [4])
    assert np.bincount(positions).tolist() == [4, *[3] * 8] or np.bincount(positions).max() == 4
    many = Inputs(model(), config(unlabelled=recorded([], mu=1)), make_job(count=3000))
    assert many.passes == 8


@pytest.mark.parametrize("augmentation", ["none", "mixup"])
def test_without_an_augmentation_of_its_own_strong_is_weak(augmentation: str) -> None:
    calls: list[tuple[Any, ...]] = []
    train(recorded(calls), augment=augmentation, epochs=1)
    assert all(weak is strong for _, weak, strong, _ in calls)


def test_the_loss_is_added_and_reaches_the_weights() -> None:
    @unlabelled
    def constant(classes: int) -> UnlabelledMethod:
        """Wants the first class for all."""
        return UnlabelledMethod(
            lambda labelled, weak, strong, progress: -10 * strong.logits.log_softmax(1)[:, 0].mean()
        )

    network = train(constant, epochs=6, freeze="full", augment=inverted)
    own = make_job().unlabelled
    assert own is not None
    with torch.no_grad():
        predicted = torch.cat([network.eval()(255 - images).argmax(1) for images, _ in own()])
    assert (predicted == 0).float().mean() > 0.9


def test_labelled_and_unlabelled_examples_share_the_statistics_of_a_batch() -> None:
    network = model(freeze="full")
    sizes: list[int] = []
    norm = network.backbone.stem[1]
    norm.register_forward_hook(lambda m, a, out: sizes.append(len(out)) if m.training else None)
    calls: list[tuple[Any, ...]] = []
    train(recorded(calls), network, freeze="full", augment=inverted, epochs=1)
    assert sizes == [12 + 2 * 24] * 6


@pytest.mark.parametrize("freeze", ["full", "linear_probe"])
def test_a_batch_that_does_not_fit_is_divided_with_its_unlabelled_examples(freeze: str) -> None:
    limit = 20
    calls: list[tuple[Any, ...]] = []
    refusing = refusing_head(lambda size: size > limit)
    train(recorded(calls, mu=1), head=refusing, freeze=freeze, augment=inverted, epochs=1)
    shapes = {tuple(len(outputs.logits) for outputs in call[:3]) for call in calls}
    assert shapes == {(6, 6, 6)}


def test_parts_of_a_batch_have_the_gradients_of_the_whole_batch() -> None:
    gradients = []
    for size in (None, 5):
        network = model()
        chosen = config(unlabelled=("fixmatch", {"threshold": 0.0}), augment=inverted)
        inputs = Inputs(network, chosen, make_job())
        set_trainable(network, [{"params": list(network.head.parameters())}])
        inputs.find_split_point(set())
        loss = TrainingLoss(inputs)
        loss.micro_batches.size = size
        batch, targets = next(inputs.training_batches(2))
        loss.backward(batch, targets)
        gradients.append(network.head[1].weight.grad)
    torch.testing.assert_close(*gradients)


# Teachers.


def test_a_teacher_is_the_averaged_weights_and_the_result() -> None:
    calls: list[tuple[Any, ...]] = []
    chosen: dict[str, Any] = {"freeze": "full", "backbone": (convnet, {"batchnorm": False})}
    results = []
    for plugin, ema in (
        (recorded(calls, mu=1, teacher_decay=0.9), 0.0),
        (recorded([], mu=1), 0.9),
        (recorded([], mu=1), 0.0),
    ):
        network = model(**chosen)
        of = config(unlabelled=plugin, augment=inverted, **chosen)
        list(fine_tune(network, of, make_job(ema=ema)))
        results.append(network.backbone.stem[0].weight)
    taught, averaged, plain = results
    torch.testing.assert_close(taught, averaged)
    assert not torch.allclose(taught, plain, rtol=1e-3)
    _, weak, strong, _ = calls[-1]
    assert not weak.logits.requires_grad
    assert strong.logits.requires_grad
    assert len(weak.logits) == len(strong.logits) == 12


# Modules.


class Scaled(nn.Module):
    """A loss with a parameter, which counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, labelled: Outputs, weak: Outputs, strong: Outputs, progress: float) -> Tensor:
        self.calls += 1
        return (self.scale - 3) ** 2 + 0 * weak.logits.sum()


def scaled(made: list[Scaled]) -> Any:
    @unlabelled
    def scaled() -> UnlabelledMethod:
        made.append(Scaled())
        return UnlabelledMethod(made[-1])

    return scaled


def test_parameters_of_a_method_are_trained_with_the_learning_rate_of_the_head() -> None:
    made: list[Scaled] = []
    chosen = ("linear_probe", {"lr": 0.1})
    train(scaled(made), epochs=4, freeze=chosen)
    assert made[-1].scale > 0.5
    assert made[-1].calls == 4 * 3 * 3


@pytest.mark.parametrize("freeze", ["full", "linear_probe"])
def test_an_interrupted_training_continues_with_the_state_of_its_method(
    freeze: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SAVE_FRACTION", 1e9)
    made: list[Scaled] = []
    chosen = {"unlabelled": scaled(made), "freeze": freeze, "augment": inverted}

    def run(name: str, stop_after: int) -> Model:
        network = model(freeze=freeze)
        saved = Checkpoint(tmp_path / name)
        for epoch in fine_tune(network, config(**chosen), make_job(3, checkpoint=saved)):
            if epoch.number == stop_after:
                break
        return network

    whole = run("whole", 3)
    run("part", 1)
    continued = run("part", 3)
    assert have_equal_weights(whole, continued)
    first, _, last = made
    assert torch.equal(first.scale, last.scale)
    assert first.calls == last.calls == 27


def test_no_checkpoint_is_saved_of_a_method_with_hidden_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SAVE_FRACTION", 1e9)

    class Counter:
        count = 0

        def __call__(self, *arguments: Any) -> Tensor:
            self.count += 1
            return torch.zeros(())

    @unlabelled
    def counting() -> UnlabelledMethod:
        return UnlabelledMethod(Counter())

    for plugin, is_saved in ((counting, False), (recorded([]), True)):
        saved = Checkpoint(tmp_path / plugin.name)
        list(fine_tune(model(), config(unlabelled=plugin), make_job(checkpoint=saved)))
        assert saved.path.exists() == is_saved


# Heads in closed form.


class Means(nn.Module):
    """Nearest mean, which records to how many examples it was fitted."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(classes, features))
        self.counts: list[int] = []

    def fit(self, features: Tensor, labels: Tensor) -> None:
        self.counts.append(len(labels))
        for c in range(len(self.means)):
            self.means[c] = features[labels == c].mean(0)

    def forward(self, features: Tensor) -> Tensor:
        return -torch.cdist(features, self.means.to(features))


@head
def means(features: int, classes: int) -> nn.Module:
    """Nearest mean."""
    return Means(features, classes)


def test_a_head_in_closed_form_is_fitted_to_its_own_predictions_in_rounds() -> None:
    rounds: list[tuple[tuple[int, ...], int]] = []

    @unlabelled
    def half() -> UnlabelledMethod:
        def select(predictions: Tensor, number: int) -> Tensor:
            rounds.append((tuple(predictions.shape), number))
            torch.testing.assert_close(predictions.sum(1), torch.ones(UNLABELLED))
            return torch.arange(UNLABELLED) < 30 * number

        return UnlabelledMethod(select=select, rounds=2)

    network = train(half, head=means)
    assert network.head.counts == [36, 36 + 30, 36 + 60]
    assert rounds == [((UNLABELLED, 3), 1), ((UNLABELLED, 3), 2)]


def test_a_method_that_does_not_suit_the_head_is_incompatible() -> None:
    @unlabelled
    def selecting() -> UnlabelledMethod:
        return UnlabelledMethod(select=lambda predictions, number: predictions[:, 0] > 2)

    loss, selection = (config(unlabelled=plugin) for plugin in (recorded([]), selecting))
    with pytest.raises(Incompatible, match="recording needs a head that is trained by gradients"):
        require_suitable(loss, has_fit=True, is_trained=False)
    with pytest.raises(Incompatible, match="selecting needs a head that is fitted in closed form"):
        require_suitable(selection, has_fit=False, is_trained=True)
    for has_fit, is_trained in ((False, True), (True, True), (True, False)):
        require_suitable(config(unlabelled="fixmatch"), has_fit, is_trained)
        require_suitable(config(), has_fit, is_trained)
    require_suitable(loss, has_fit=True, is_trained=True)
    require_suitable(selection, has_fit=True, is_trained=False)


# What else.


def test_without_unlabelled_examples_or_with_none_everything_is_as_before() -> None:
    plain, none, absent = model(), model(), model()
    list(fine_tune(plain, config(), job()))
    list(fine_tune(none, config(unlabelled="none"), make_job()))
    list(fine_tune(absent, config(unlabelled=recorded([])), job()))
    assert have_equal_weights(plain, none)
    assert have_equal_weights(plain, absent)


def test_several_heads_are_trained_in_one_pass_as_alone() -> None:
    own, method = make_job(cache=FeatureCache()), ("fixmatch", {"threshold": 0.5})
    heads: list[Any] = [("linear", {"dropout": 0.0}), "cosine", "lda"]
    configs = [config(head=h, unlabelled="pseudo_labels", augment=inverted) for h in heads]
    configs = [config(head=h, unlabelled=method, augment=inverted) for h in heads]
    together: dict[int, Any] = {}
    for results in train_probes(model(head=heads[0]), configs, own):
        for number, result in enumerate(results):
            assert not isinstance(result, Exception)
            if result:
                together[number] = result
    for number, chosen in enumerate(configs):
        network = model(head=heads[number])
        last = list(fine_tune(network, chosen, make_job()))[-1]
        np.testing.assert_allclose(
            last.predictions, together[number].epoch.predictions, rtol=1e-4, atol=1e-5
        )


def test_what_a_step_costs_includes_the_unlabelled_examples(monkeypatch: Any) -> None:
    sizes: list[int] = []
    original = TrainingLoss.backward
    monkeypatch.setattr(
        TrainingLoss,
        "backward",
        lambda self, b, t: (sizes.append(len(b) // len(t)), original(self, b, t))[1],
    )
    chosen = partial(config, freeze="full", augment=inverted)
    costs = {
        mu: measure_cost(
            model(freeze="full"), chosen(unlabelled=("fixmatch", {"mu": mu})), make_job(count=720)
        )
        for mu in (1, 4)
    }
    assert set(sizes) == {3, 9}
    assert len(costs) == 2


def test_rows_of_unlabelled_examples_count_in_the_cost_of_cached_layers(monkeypatch: Any) -> None:
    monkeypatch.setattr(cost, "_time", lambda function, device: 0.01)  # whatever the machine does
    plain = measure_cost(model(), config(augment=inverted), make_job())
    more = measure_cost(model(), config(augment=inverted, unlabelled="fixmatch"), make_job())
    assert plain.view_seconds > 0
    assert more.view_seconds > plain.view_seconds


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (3, "returns int; it must return an autotl.UnlabelledMethod"),
        (UnlabelledMethod(lambda *_: 1.0), "its loss returns float; return a scalar tensor"),
        (UnlabelledMethod(lambda *_: torch.zeros(2)), r"its loss returns \[2\]; return a scalar"),
    ],
)
def test_a_wrong_result_is_named(result: Any, message: str) -> None:
    @unlabelled
    def wrong() -> UnlabelledMethod:
        return result  # type: ignore[no-any-return]

    with pytest.raises(PluginError, match=f"unlabelled plugin 'wrong'.*{message}"):
        train(wrong)


def test_the_width_of_features_is_that_of_the_head() -> None:
    widths: list[tuple[int, int]] = []

    @unlabelled
    def wide(classes: int, features: int) -> UnlabelledMethod:
        widths.append((classes, features))
        return UnlabelledMethod()

    train(wide, epochs=1)
    assert widths[0] == (3, 24)
