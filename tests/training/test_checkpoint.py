"""A training that was interrupted continues as if it had not been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy import config, job, model
from training_helpers import have_equal_weights

from autotl.models import Device, Model
from autotl.space.kinds import SEARCHED_KINDS
from autotl.training import Checkpoint, Epoch, checkpoint, fine_tune
from autotl.training.loop import Training
from autotl.training.random_state import RandomState

EPOCHS = 4
FLOAT16 = Device(torch.device("cpu"), torch.float16)


@pytest.fixture(autouse=True)
def _always_due(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "fraction" not in request.node.name:
        monkeypatch.setattr(checkpoint, "SAVE_FRACTION", 1e9)


def train(
    folder: Path, stop_after: int | None = None, **settings: Any
) -> tuple[Model, list[Epoch]]:
    """Train for ``EPOCHS`` epochs with checkpoints in ``folder``, or only for some of them."""
    chosen = {k: v for k, v in settings.items() if k in SEARCHED_KINDS}
    changes = {k: v for k, v in settings.items() if k not in chosen}
    network = model(**chosen)
    run = job(EPOCHS, checkpoint=Checkpoint(folder / "training.safetensors"), **changes)
    epochs = []
    for epoch in fine_tune(network, config(**chosen), run):
        epochs.append(epoch)
        if epoch.number == stop_after:
            break
    return network, epochs


SETTINGS: dict[str, dict[str, Any]] = {
    "full": {"freeze": "full"},
    "sgd": {"freeze": "full", "optimizer": "sgd"},
    "lion": {"freeze": "full", "optimizer": "lion"},
    "average": {"freeze": "full", "ema": 0.9},
    "dropout": {"freeze": "full", "head": ("linear", {"dropout": 0.5})},
    "augmented": {"freeze": "full", "augment": "mixup"},
    "frozen layers": {"freeze": "last_blocks", "augment": "flip_crop"},
    "unfreezing": {"freeze": "gradual", "ema": 0.9},
    "probe first": {"freeze": "lp_ft"},
    "low rank": {"freeze": "lora"},
    "fitted head": {"freeze": "full", "head": "lda"},
    "float16": {"freeze": "full", "device": FLOAT16, "ema": 0.9},
    "float16 not fused": {"freeze": "full", "optimizer": "sgd", "device": FLOAT16},
}


@pytest.mark.parametrize("stop_after", [1, 3])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_it_ends_with_the_same_weights(
    settings: dict[str, Any], stop_after: int, tmp_path: Path
) -> None:
    whole, expected = train(tmp_path / "a", **settings)
    _, interrupted = train(tmp_path / "b", stop_after, **settings)
    continued, epochs = train(tmp_path / "b", **settings)
    assert [e.number for e in epochs] == list(range(1, EPOCHS + 1))
    assert [e.score for e in epochs] == [e.score for e in expected]
    assert [e.loss for e in epochs] == [e.loss for e in expected]
    assert have_equal_weights(whole, continued)
    assert epochs[stop_after - 1].seconds == interrupted[-1].seconds  # it was not run again
    assert np.array_equal(epochs[stop_after - 1].predictions, interrupted[-1].predictions)


def test_the_last_epoch_is_saved_for_a_caller_with_more_to_do(tmp_path: Path) -> None:
    def train_all(**changes: Any) -> tuple[Model, list[Epoch]]:
        network, chosen = model(freeze="full"), config(freeze="full")
        saved = Checkpoint(tmp_path / "last.safetensors", keeps_last=True)
        return network, list(fine_tune(network, chosen, job(EPOCHS, checkpoint=saved, **changes)))

    network, first = train_all()
    same, epochs = train_all()
    assert [e.seconds for e in epochs] == [e.seconds for e in first]  # nothing was run again
    assert np.array_equal(epochs[-1].predictions, first[-1].predictions)
    assert have_equal_weights(network, same)


def test_a_training_that_had_stalled_is_not_continued(tmp_path: Path) -> None:
    saved = tmp_path / "stalled.safetensors"
    for _ in range(2):
        run = job(EPOCHS, patience=1, score=lambda _: 0.5)
        run.checkpoint = Checkpoint(saved, keeps_last=True)
        assert len(list(fine_tune(model(freeze="full"), config(freeze="full"), run))) == 2


def test_a_damaged_or_other_checkpoint_is_ignored(tmp_path: Path) -> None:
    file = tmp_path / "training.safetensors"
    file.write_bytes(b"damaged")
    assert Checkpoint(file).facts == {}
    _, expected = train(tmp_path / "a", freeze="full")
    train(tmp_path, 2, freeze="full")
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    _, epochs = train(tmp_path, freeze="full")
    assert [e.score for e in epochs] == [e.score for e in expected]
    file.write_bytes(whole)
    _, epochs = train(tmp_path, freeze="full", views=2)  # planned differently
    assert epochs[0].predictions is not None
    file.write_bytes(whole)
    _, epochs = train(tmp_path, freeze="full", head="mlp")  # other weights
    assert epochs[0].predictions is not None


def test_a_continued_training_keeps_its_epochs_at_the_deadline(tmp_path: Path) -> None:
    train(tmp_path, 2, freeze="full")
    late = {"deadline": 0.0, "keep_completed_epochs": True}
    network, epochs = train(tmp_path, freeze="full", **late)
    assert [e.number for e in epochs] == [1, 2]
    expected, _ = train(tmp_path / "b", 2, freeze="full")
    assert have_equal_weights(network, expected)


def test_the_scale_of_gradients_continues(tmp_path: Path) -> None:
    train(tmp_path, 2, freeze="full", device=FLOAT16)
    saved = Checkpoint(tmp_path / "training.safetensors")
    assert (saved.facts["scaler"]["scale"], saved.facts["scaler"]["_growth_tracker"]) == (65536, 6)
    saved.facts["scaler"]["scale"] = 1024.0
    random = RandomState(FLOAT16, 0)
    chosen = config(freeze="full")
    training = Training(model(freeze="full"), chosen, job(EPOCHS, checkpoint=saved, device=FLOAT16))
    assert len(training.continue_from_checkpoint(random)) == 2
    assert training.loss.scaler.state_dict() == saved.facts["scaler"]


@pytest.mark.parametrize("was_scaled", [True, False])
def test_a_checkpoint_of_another_precision_is_ignored(was_scaled: bool, tmp_path: Path) -> None:
    precisions: list[dict[str, Any]] = [{}, {"device": FLOAT16}]
    before, after = precisions[::-1] if was_scaled else precisions
    _, expected = train(tmp_path / "a", freeze="full", **after)
    train(tmp_path / "b", 2, freeze="full", **before)
    _, epochs = train(tmp_path / "b", freeze="full", **after)
    assert [e.loss for e in epochs] == [e.loss for e in expected]
    assert epochs[0].predictions is not None  # it was run


@pytest.mark.parametrize("state", [[torch.zeros(1)], object()], ids=["tensors", "object"])
def test_an_optimizer_whose_state_cannot_be_saved_trains_without_checkpoints(
    state: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = {}, {"weight": {"key": state}}
    monkeypatch.setattr("autotl.training.loop.pack_optimizer", lambda *_: packed)
    _, epochs = train(tmp_path, freeze="full")
    assert len(epochs) == EPOCHS
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_cannot_be_written_does_not_stop_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    _, epochs = train(tmp_path / "file", freeze="full")
    assert len(epochs) == EPOCHS


def test_saving_takes_a_small_fraction_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    saved = Checkpoint(tmp_path / "a.safetensors")

    def save_slowly(tensors: Any, file: Path, metadata: Any) -> None:
        file.touch()
        now[0] += 1.0

    monkeypatch.setattr(checkpoint, "save_file", save_slowly)
    now[0] = 1.0
    assert saved.is_due
    saved.save({"a": torch.zeros(1)}, {})
    now[0] += 19.0
    assert not saved.is_due
    now[0] += 2.0
    assert saved.is_due
