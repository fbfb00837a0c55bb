"""What a competent user would do with the time of a search: three peers, one process each.

    python studies/benchmarks/peers.py expert photos/ --splits RUN/splits.csv --seconds 120

- *expert*: one recipe: EfficientNet-Lite2 at 224 px, all layers, AdamW with layer-wise decay, a
  moving average of the weights, random flips and crops, a cosine schedule as long as the time;
- *loop*: Optuna (TPE, median pruner) over three backbones, the number of trainable layers and the
  learning rate at 160 px, scored on a fifth of the training images; the best model is used;
- *logistic*: logistic regression on the features of EfficientNet-Lite0 at 224 px.

They are trained on the train and validation splits of ``splits.csv``, and use the test split once.
All have what a careful user would have: images decoded once, channels last, bfloat16 where it is
measured to be faster. The result is a line of JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from peer_task import BATCH, DEVICE, Task, build, load, train
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

EXPERT_EPOCHS = 60
"""No recipe for so few images is longer; what is left of a long budget then remains unused."""

LOOP_EPOCHS = 6
CS = (1e-3, 1e-2, 1e-1, 1.0, 1e-4)
"""Inverse regularisation strengths, in the order in which they are tried if time is short."""


def expert(task: Task, seed: int) -> tuple[float, str]:
    """One good recipe, as long as the time lasts."""
    model = build("tf_efficientnet_lite2", task.classes)
    task.measure(model)
    ema = ModelEmaV3(model, decay=0.99, use_warmup=True)
    end = task.deadline - task.time_for(len(task.test_images))
    rows = torch.arange(len(task.images), device=DEVICE)
    epochs = list(train(task, rows, model, 1e-3, EXPERT_EPOCHS, end, ema))[-1]
    return task.accuracy(ema.module, task.test_images, task.test_labels), f"{epochs:.1f} epochs"


def loop(task: Task, seed: int) -> tuple[float, str]:
    """Optuna's usual loop over timm; the best model on a fifth of the images is used."""
    indices = np.arange(len(task.images))
    stratify = task.labels.cpu().numpy()
    split = train_test_split(indices, test_size=0.2, stratify=stratify, random_state=seed)
    rows, held_out = (torch.from_numpy(part).to(DEVICE) for part in split)
    best: tuple[float, str, nn.Module | None] = (-1.0, "", None)
    task.measure(build("tf_efficientnet_lite2", task.classes))  # the slowest of them
    end = task.deadline - task.time_for(len(held_out) + len(task.test_images))

    def objective(trial: optuna.Trial) -> float:
        nonlocal best
        name = f"tf_efficientnet_lite{trial.suggest_int('lite', 0, 2)}"
        layers = trial.suggest_categorical("layers", ["head", "last", "full"])
        lr = trial.suggest_float("lr", 1e-4, 1e-2, log=True)
        model = build(name, task.classes)
        trainable = {
            "head": (),
            "last": ("blocks.5", "blocks.6", "conv_head", "bn2"),
            "full": ("",),
        }
        for key, parameter in model.named_parameters():
            parameter.requires_grad = key.startswith(("classifier", *trainable[layers]))
        score = 0.0
        for epoch in train(task, rows, model, lr, LOOP_EPOCHS, end):
            score = task.accuracy(model, task.images[held_out], task.labels[held_out])
            if score > best[0]:
                what = f"{name}, {layers}, lr {lr:.1g}, {epoch:.1f} epochs"
                best = (score, what, copy.deepcopy(model))
            trial.report(score, math.ceil(epoch))
            if trial.should_prune():
                raise optuna.TrialPruned
        return score

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(),
    )
    study.enqueue_trial({"lite": 0, "layers": "full", "lr": 1e-3})  # what one would try first
    study.optimize(objective, timeout=max(1, end - time.monotonic()))
    assert best[2]
    accuracy = task.accuracy(best[2], task.test_images, task.test_labels)
    return accuracy, f"{best[1]}, best of {len(study.trials)} trials"


def logistic(task: Task, seed: int) -> tuple[float, str]:
    """Logistic regression on features; on fewer images if the time is short."""
    model = build("tf_efficientnet_lite0", 0)
    task.measure(model, training=False)
    test = task.predict(model, task.test_images).cpu().numpy()
    extraction_end = task.deadline - 0.2 * (task.deadline - time.monotonic())
    features: list[Tensor] = []
    order = torch.randperm(len(task.images), device=DEVICE)
    for batch in torch.split(order, BATCH):
        if features and time.monotonic() > extraction_end:
            break
        features.append(task.predict(model, task.images[batch]))
    x = torch.cat(features).cpu().numpy()
    y = task.labels[order[: len(x)]].cpu().numpy()
    scores: dict[float, float] = {}
    longest = 0.0
    for c in CS:
        began = time.monotonic()
        if scores and began + longest * 1.5 > task.deadline:
            break
        scores[c] = cross_val_score(regression(c), x, y, cv=3).mean()
        longest = max(longest, time.monotonic() - began)
    c = max(scores, key=scores.__getitem__)
    accuracy = (regression(c).fit(x, y).predict(test) == task.test_labels.cpu().numpy()).mean()
    return float(accuracy), f"C = {c:g}, {len(x)} of {len(task.images)} images"


def regression(c: float) -> Any:
    """Logistic regression on standardised features."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=300))


PEERS = {"expert": (expert, 224), "loop": (loop, 160), "logistic": (logistic, 224)}


def main() -> None:
    """Run one peer and print its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("data", help="a folder, or sklearn:digits")
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    help_began = "begin of the time, in seconds since the epoch (default: after the imports)"
    parser.add_argument("--began", type=float, default=time.time(), help=help_began)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    deadline = time.monotonic() + options.began + options.seconds - time.time()
    torch.manual_seed(options.seed)
    function, size = PEERS[options.peer]
    task = load(options.data, options.splits, size, deadline)
    accuracy, detail = function(task, options.seed)
    bfloat16 = {"training": task.training_bfloat16, "inference": task.inference_bfloat16}
    print(f"device {DEVICE}, bfloat16 {bfloat16}", file=sys.stderr)
    print(json.dumps({"accuracy": accuracy, "detail": detail, "n": len(task.test_labels)}))


if __name__ == "__main__":
    main()
