"""Masked language modelling: what is learned, and that it is what a search then starts from."""

from __future__ import annotations

import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from autotl_text import backbones
from autotl_text import masked_language_model as mlm
from autotl_text.kind import text
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from tiny_encoder import WORDS, write_encoder
from torch import Tensor
from torch.nn import functional

from autotl import engine, events, study
from autotl.cli import main
from autotl.errors import PluginError, StoreError, StudyError
from autotl.models import Device
from autotl.search.budget import Budget
from autotl.training.memory import MicroBatches

PAIRS = (("cat", "dog"), ("bread", "rain"), ("piano", "with"))


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table without labels; each second word of a pair is told by the first."""
    chance = random.Random(0)
    rows = {" ".join(" ".join(chance.choice(PAIRS)) for _ in range(8)) for _ in range(150)}
    file = tmp_path_factory.mktemp("sentences") / "sentences.csv"
    file.write_text("\n".join(["text", *sorted(rows)]), encoding="utf-8")
    return file


def pretrain(data: Path, encoder: Path, out: Path, **options: Any) -> engine.SourceTraining:
    values = {"method": "mlm", "start": "pretrained", "epochs": 12, "lr": 0.01, "batch_size": 16}
    values |= {"backbone": f"hf:{encoder}", "out": out, "device": "cpu", **options}
    return engine.pretrain(study.configure_source_training(str(data), values))


def test_hidden_tokens_are_learned_and_a_search_starts_from_the_weights(
    sentences: Path, encoder: Path, tmp_path: Path
) -> None:
    result = pretrain(sentences, encoder, tmp_path)
    facts, folder = result.facts, result.file
    assert folder == tmp_path / "tiny"
    assert (facts["epochs"], facts["labels"], facts["size"]) == (12, "not used for training", 40)
    assert facts["before"] > 6, "about as many as there are words"
    assert 1 < facts["low"] < facts["score"] < facts["high"] < 4, "half of the words can be told"
    assert facts["backbone"] == f"hf:{folder}"
    weights = backbones.locate(facts["backbone"], None)
    after = backbones.transformer(facts["backbone"], weights).state_dict()
    before = backbones.transformer(f"hf:{encoder}", backbones.locate(f"hf:{encoder}", None))
    before = before.state_dict()
    assert before.keys() == after.keys()
    stored = load_file(folder / "model.safetensors")
    for name, tensor in after.items():
        assert torch.equal(tensor, stored[name.removeprefix("encoder.")])
    assert not all(torch.equal(before[name], after[name]) for name in before)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"autotl search DATA --backbone hf:{folder}" in card
    assert "perplexity of hidden tokens" in card


def test_the_same_seed_gives_the_same_weights_whatever_the_labels(
    encoder: Path, tmp_path: Path
) -> None:
    examples = text.toy((12, 12))
    for number in (1, 2):
        lines = [f"{e.item},{e.label[::number]}" for e in examples]
        table = tmp_path / str(number) / "notes.csv"
        table.parent.mkdir()
        table.write_text("\n".join(["text,label", *lines]), encoding="utf-8")
        pretrain(table, encoder, table.parent, epochs=1)
    first, second = (load_file(tmp_path / n / "tiny" / "model.safetensors") for n in "12")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_ctrl_c_keeps_the_last_complete_epoch(
    sentences: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(event: events.Event) -> None:
        if isinstance(event, events.Note) and event.text.startswith("epoch 2"):
            raise KeyboardInterrupt

    values = {"method": "mlm", "backbone": f"hf:{encoder}", "out": tmp_path, "epochs": 5}
    result = engine.pretrain(study.configure_source_training(str(sentences), values), interrupt)
    assert (result.interrupted, result.facts["epochs"]) == (True, 2)
    assert result.facts["stopped"] == "interrupted"
    assert result.facts["started_from"] == "random weights"
    assert result.file
    second = pretrain(sentences, encoder, tmp_path, epochs=1)
    assert second.facts["epochs"] == 1, "a folder that was written here is replaced"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_budget_limits_the_epochs(
    sentences: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([math.inf] * 100)
    monkeypatch.setattr(Budget, "usable", lambda _: next(seconds, 0.0))
    result = pretrain(sentences, encoder, tmp_path, epochs=50, budget=60)
    assert 1 < result.facts["epochs"] < 50
    assert result.facts["stopped"] == "the budget limited them"
    with pytest.raises(StudyError, match="before an epoch was complete; give a larger --budget"):
        pretrain(sentences, encoder, tmp_path, budget=60)


def test_what_cannot_be_trained_is_explained(
    sentences: Path, encoder: Path, tmp_path: Path
) -> None:
    with pytest.raises(PluginError, match="is called 'mml'; did you mean 'mlm'"):
        pretrain(sentences, encoder, tmp_path, method="mml")
    decoder = write_encoder(tmp_path / "decoder", "gpt2", n_embd=16, n_layer=1, n_head=2)
    with pytest.raises(StudyError, match="gpt2, which predicts no hidden tokens; name"):
        pretrain(sentences, decoder, tmp_path / "weights")
    (tmp_path / "own" / "tiny").mkdir(parents=True)
    with pytest.raises(StoreError, match="autotl pretrain did not write it, so it is not replaced"):
        pretrain(sentences, encoder, tmp_path / "own")


def test_a_folder_of_texts_is_trained_on_from_the_command_line(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    notes = tmp_path / "notes"
    notes.mkdir()
    for number in range(30):
        words = random.Random(number).choices(WORDS, k=12)
        (notes / f"{number}.txt").write_text(" ".join(words), encoding="utf-8")
    words = ["pretrain", notes, "--backbone", f"hf:{encoder}", "--method", "mlm", "--epochs", "1"]
    result: Result = CliRunner().invoke(main, [*map(str, words), "--out", "own"])
    assert result.exit_code == 0, result.output
    assert f"hf:{encoder} was trained by mlm without labels for 1 epoch on 27" in result.output
    assert "autotl search DATA --backbone hf:./own/tiny" in result.output


class Guess(torch.nn.Module):
    """Predicts each token by itself, and runs out of memory with more than ``most`` texts."""

    def __init__(self) -> None:
        super().__init__()
        self.most, self.weight = 99, torch.nn.Parameter(torch.eye(5))

    def forward(self, input_ids: Tensor, labels: Tensor) -> Any:
        if len(input_ids) > self.most:
            raise torch.OutOfMemoryError("no memory is left")
        logits = self.weight[input_ids].flatten(0, 1)
        return SimpleNamespace(loss=functional.cross_entropy(logits, labels.flatten()))


def test_a_batch_that_does_not_fit_is_divided_and_has_the_same_gradients() -> None:
    ids = torch.arange(28).reshape(7, 4) % 5
    hidden = torch.tensor([3, 0, 1, 0, 0, 4, 2])  # some parts have no hidden token
    labels = ids.where(torch.arange(4) < hidden[:, None], -100)
    batch, device = {"input_ids": ids, "labels": labels}, Device(torch.device("cpu"), None)
    model, scaler = Guess(), torch.amp.GradScaler("cpu", enabled=False)
    whole = mlm._backward(model, batch, device, scaler, MicroBatches())
    expected = model.weight.grad
    model.most = 1
    loss = mlm._backward(model, batch, device, scaler, MicroBatches())
    torch.testing.assert_close(loss, whole)
    torch.testing.assert_close(model.weight.grad, expected)
