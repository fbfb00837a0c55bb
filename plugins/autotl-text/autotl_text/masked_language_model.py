"""Masked language modelling: an encoder is trained on texts without labels.

Of each text 15 % of the tokens are chosen; most of them are replaced by the mask, and the model is
trained to predict them (BERT, Devlin et al. 2018, arXiv:1810.04805). Continued on texts of the
domain of a task, this improves what is fine-tuned later (Gururangan et al. 2020, arXiv:2004.10964).
The model, its head for tokens and the masking are those of the library transformers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotl_plugins.hub import HUB, explain_failure, find_source, quiet

from autotl import Incompatible
from autotl.errors import OutOfTime
from autotl.space.pretraining import Pretrained, Pretraining

from .packaged import DEFAULT_SIZE
from .pretrained import find_limit, load_tokenizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from autotl.models import Device
    from autotl.training.memory import MicroBatches

HIDDEN = 0.15
"""The fraction of the tokens that are predicted."""

RATE, WARMUP, DECAY = 5e-5, 0.06, 0.01
"""The largest learning rate, the fraction of the steps in which it rises, and the weight decay."""

MOST_HELD_OUT = 2000
"""The maximum number of texts on which the model is scored."""

ADVICE = "name another one, such as all-MiniLM-L6-v2 or hf:distilroberta-base"

Batch = dict[str, Any]
"""``input_ids``, ``attention_mask`` and ``labels``, each ``int64 [B, L]``; no label is -100."""


def train(task: Pretraining, untrained: str) -> Pretrained:
    """Train an encoder, and write it and its tokenizer as ``save_pretrained`` does.

    Args:
        task: What is trained on what.
        untrained: Where the configuration and the tokenizer are, to start from random weights.

    Raises:
        Incompatible: The tokenizer has no mask, or the architecture no head for tokens.
        WeightsError: The model cannot be loaded.
        OutOfTime: No epoch was complete at the end of the budget.
    """
    from transformers import DataCollatorForLanguageModeling

    from autotl.training.random_state import torch_seeded

    source = find_source(task.name.removeprefix(HUB), task.weights) if task.weights else untrained
    with quiet(), torch_seeded(task.device.torch_device, task.seed):
        tokenizer, model = _load(source, task.name, trained=task.weights is not None)
        size = task.size or DEFAULT_SIZE
        size = min(size, find_limit(tokenizer, model, model.config) or size)
        collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=HIDDEN)
        texts, held_out = (
            tokenizer(list(items), truncation=True, max_length=size)["input_ids"]
            for items in (task.train, task.held_out[:MOST_HELD_OUT])
        )
        masked = _mask_once(held_out, collate, task)
        model.to(task.device.torch_device)
        before, _ = _score(model, masked, task.device)
        epochs, interrupted = _train(model, texts, collate, task)
        loss, error = _score(model, masked, task.device)
        model.base_model.cpu().save_pretrained(task.folder)
        tokenizer.save_pretrained(task.folder)
    for file in task.folder.iterdir():  # safetensors makes its files readable by their owner
        file.chmod((task.folder / "config.json").stat().st_mode)
    return Pretrained(
        backbone=_name(task.target),
        epochs=epochs,
        interrupted=interrupted,
        size=size,
        recipe=f"AdamW(lr={task.lr or RATE:g}, weight_decay={DECAY:g}), {HIDDEN:.0%} of the tokens",
        metric="perplexity of hidden tokens",
        score=math.exp(loss) if masked else None,
        low=math.exp(loss - 1.96 * error),
        high=math.exp(loss + 1.96 * error),
        before=math.exp(before) if masked and task.weights else None,
    )


def _name(folder: Path) -> str:
    """The name of the backbone in a folder: one that is relative begins with a dot."""
    return f"{HUB}{folder if folder.is_absolute() else f'./{folder}'}"


def _load(source: str, name: str, *, trained: bool) -> tuple[Any, Any]:
    """Load the tokenizer and the model with a head for tokens.

    Raises:
        Incompatible: There is no mask, or no such head.
        WeightsError: They cannot be loaded.
    """
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM

    safe = {"trust_remote_code": False}
    with explain_failure(source, "texts", ADVICE):
        tokenizer = load_tokenizer(source)
        configuration = AutoConfig.from_pretrained(source, **safe)
    if tokenizer.mask_token_id is None:
        raise Incompatible(f"the tokenizer of {name} has no mask, so mlm cannot train it; {ADVICE}")
    if type(configuration) not in AutoModelForMaskedLM._model_mapping:
        kind = configuration.model_type
        raise Incompatible(f"{name} is a {kind}, which predicts no hidden tokens; {ADVICE}")
    with explain_failure(source, "texts", ADVICE):
        if not trained:
            return tokenizer, AutoModelForMaskedLM.from_config(configuration, **safe)
        options = {"dtype": torch.float32, "use_safetensors": True, **safe}
        return tokenizer, AutoModelForMaskedLM.from_pretrained(source, **options)


def _train(
    model: Any, texts: Sequence[Sequence[int]], collate: Any, task: Pretraining
) -> tuple[int, bool]:
    """Train; the weights are then those after the last complete epoch.

    Returns:
        The number of complete epochs, and whether Ctrl-C ended the training.

    Raises:
        KeyboardInterrupt: It did before an epoch was complete.
        OutOfTime: The budget ended before.
    """
    import torch
    from transformers import get_linear_schedule_with_warmup

    from autotl.training.memory import MicroBatches

    kind = task.device.torch_device.type
    rate, fused = task.lr or RATE, kind in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=DECAY, fused=fused)
    scaler = torch.amp.GradScaler(kind, enabled=task.device.autocast == torch.float16)
    sizes = MicroBatches()
    steps = task.epochs * math.ceil(len(texts) / task.batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, round(WARMUP * steps), steps)
    order = torch.Generator().manual_seed(task.seed)
    state: dict[str, Tensor] = {}
    number = longest = 0.0
    try:
        while number < task.epochs and (not number or task.seconds_left() > longest):
            began, losses = time.monotonic(), []
            for batch in _batches(texts, collate, task, order):
                if task.seconds_left() <= 0:
                    raise OutOfTime("the budget ended before an epoch was complete")
                losses.append(_backward(model, batch, task.device, scaler, sizes))
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                scaler.step(optimizer)
                scaler.update()
                schedule.step()
            number, longest = number + 1, max(longest, time.monotonic() - began)
            state = {name: t.detach().cpu().clone() for name, t in model.state_dict().items()}
            mean = float(torch.stack(losses).mean())
            task.report(int(number), f"loss {mean:.4f}, {time.monotonic() - began:.1f} s")
    except (KeyboardInterrupt, OutOfTime) as stop:
        if not state:
            raise
        model.load_state_dict(state)
        return int(number), isinstance(stop, KeyboardInterrupt)
    return int(number), False


def _backward(model: Any, batch: Batch, device: Device, scaler: Any, sizes: MicroBatches) -> Tensor:
    """Compute the mean loss of the hidden tokens and its gradients, in parts where memory is short.

    Raises:
        OutOfMemory: A single text does not fit on the device.
    """
    import torch

    from autotl.training.predict import autocast

    def count_hidden(labels: Tensor) -> int:
        return int((labels != -100).sum())  # on the CPU

    def compute(parts: int) -> Tensor:
        model.zero_grad(set_to_none=True)
        total = torch.zeros((), device=device.torch_device)
        for tensors in zip(*(each.tensor_split(parts) for each in batch.values()), strict=True):
            part = dict(zip(batch, tensors, strict=True))
            if not (own := count_hidden(part["labels"])):
                continue
            with autocast(device):
                loss = model(**_send(part, device)).loss * (own / hidden)
            scaler.scale(loss).backward()
            total += loss.detach()
            del loss  # and with it the graph, before that of the next part is built
        return total

    hidden = count_hidden(batch["labels"])
    return sizes.run(compute, len(batch["labels"]), device.torch_device)


def _send(batch: Batch, device: Device) -> Batch:
    """Copy a batch to the device, without waiting for a GPU."""
    target = device.torch_device
    if target.type != "cuda":
        return {name: tensor.to(target) for name, tensor in batch.items()}
    pinned = ((name, tensor.pin_memory()) for name, tensor in batch.items())
    return {name: tensor.to(target, non_blocking=True) for name, tensor in pinned}


def _batches(
    texts: Sequence[Sequence[int]], collate: Any, task: Pretraining, order: torch.Generator
) -> Iterator[Batch]:
    """Yield all texts in batches of texts of similar length, whose tokens are hidden anew."""
    import torch

    shuffled = torch.randperm(len(texts), generator=order).tolist()
    # Sorted within pieces, because a short text is filled up to the longest of its batch.
    piece = 50 * task.batch_size
    pieces = (shuffled[i : i + piece] for i in range(0, len(texts), piece))
    for own in pieces:
        own.sort(key=lambda i: len(texts[i]))
        batches = [own[i : i + task.batch_size] for i in range(0, len(own), task.batch_size)]
        for i in torch.randperm(len(batches), generator=order).tolist():
            batch = collate([{"input_ids": texts[j]} for j in batches[i]])
            if (batch["labels"] != -100).any():  # the loss of no hidden token is not defined
                yield batch


def _mask_once(texts: Sequence[Sequence[int]], collate: Any, task: Pretraining) -> list[Batch]:
    """Hide tokens of the held-out texts, the same ones for every model that is scored."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rows = [[texts[j] for j in order[i : i + 32]] for i in range(0, len(order), 32)]
    batches = [collate([{"input_ids": text} for text in own]) for own in rows]
    return [batch for batch in batches if (batch["labels"] != -100).any()]


def _score(model: Any, batches: Sequence[Batch], device: Device) -> tuple[float, float]:
    """The mean loss of hidden tokens in nats and its standard error; 0 without any."""
    import torch
    from torch.nn import functional

    from autotl.training.predict import autocast

    if not batches:
        return 0.0, 0.0
    was_training = model.training
    model.eval()
    losses = []
    with torch.inference_mode():
        for batch in batches:
            on_device = _send(batch, device)
            labels = on_device.pop("labels")
            with autocast(device):
                logits = model(**on_device).logits.float()
            loss = functional.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), reduction="none"
            )
            losses.append(loss[labels.flatten() != -100].cpu())
    model.train(was_training)
    every = torch.cat(losses)
    error = float(every.std()) / math.sqrt(len(every)) if len(every) > 1 else 0.0
    return float(every.mean()), error
