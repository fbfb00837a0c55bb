"""What a teacher is worth to a small student, on examples that neither was trained on.

    OMP_NUM_THREADS=1 python studies/distillation.py photos --seeds 0 1
    OMP_NUM_THREADS=1 python studies/distillation.py photos --seeds 0 1 --labels 10

With ``--labels`` only so many training images of each class have a label; of the others the student
has the predictions of the teacher alone. For each seed, a large backbone is fine-tuned by the
default recipe on the training split. A smaller one with smaller inputs is trained on the same
images, once by the labels alone and once taught by the first at each temperature, as ``autotl
search --student`` trains it. All are scored on the validation and the test split. The tables are
Markdown.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from autotl import data, models, study, training
from autotl.data import Batches, Dataset
from autotl.frozen import FeatureCache
from autotl.models import Model
from autotl.scoring import comparison
from autotl.search.student import choose_student
from autotl.space import registry
from autotl.space.plugin import SPLIT_WORDS, GivenSplit
from autotl.space.registry import Registry
from autotl.space.space import Choice, Config
from autotl.training import Job, Teacher
from autotl.training.teacher import TEMPERATURE

DRAWS = 2000
"""Number of bootstrap samples of the images, for the interval of a ratio."""

Correct = NDArray[np.float64]


@dataclass
class Experiment:
    """One seed: the data with its splits, and how models are trained on it."""

    dataset: Dataset
    plugins: Registry
    options: argparse.Namespace
    seed: int

    def __post_init__(self) -> None:
        self.device = models.select_device("cpu", "auto")
        self.train = self.dataset.indices("train")
        self.scored = self.dataset.indices("validation", "test")
        self.cache = FeatureCache(None, self.options.cache)
        usable = self.dataset.unlabelled_beside(self.dataset.indices("validation"))
        self.taught = data.join_unlabelled(self.dataset, usable) if len(usable) else self.dataset

    def config(self, backbone: str, *, is_teacher: bool) -> Config:
        """Return the recipe of a student, or for a teacher the default recipe."""
        values = {"student": backbone, "balance": ()}
        config = dict(choose_student(study.configure(self.options.data, values), self.plugins))
        if is_teacher:
            plugin = self.plugins.get("freeze", self.options.teacher_freeze)
            config["freeze"] = Choice(plugin, plugin.defaults)
        return config

    def batches(self, model: Model, indices: data.Indices, *, taught: bool = False) -> Batches:
        """Return batches of some images at the input size of a model; unlabelled ones if taught."""
        dataset = self.taught if taught else self.dataset
        packed = data.pack(dataset, model.expects, self.options.cache)
        device, targets = self.device.torch_device, dataset.targets
        return Batches(packed, targets, indices, 32, device, shuffle_seed=self.seed)

    def fit(self, config: Config, size: int, teacher: Teacher | None = None) -> Model:
        """Train a model of a configuration on the training split.

        A student without a teacher has as many steps as one that learns from unlabelled images too.
        """
        task = self.dataset.task
        model = models.build_model(config, task, size, self.device, self.seed)
        is_teacher, taught = size == self.options.teacher_size, teacher is not None
        dataset = self.taught if taught else self.dataset
        epochs = self.options.epochs if is_teacher else self.options.student_epochs
        job = Job(
            self.batches(model, dataset.indices("train"), taught=taught),
            None,
            epochs if taught or is_teacher else self.count_epochs(epochs),
            lambda _: 0.0,
            self.device,
            seed=self.seed,
            cache=self.cache,
            data_id=dataset.fingerprint,
            views=4 if is_teacher else self.options.views,
            label_smoothing=0.1,
        )
        compute = training.measure_cost(model, config, job).compute
        for _ in training.fine_tune(model, config, replace(job, compute=compute, teacher=teacher)):
            pass
        return model

    def count_epochs(self, epochs: int) -> int:
        """How many epochs of the labelled images have as many steps as ``epochs`` of all."""
        return round(epochs * len(self.taught.indices("train")) / len(self.train))

    def run(self) -> tuple[Correct, list[Model], list[float]]:
        """Train the teacher, the student alone, and the student at each temperature.

        Returns:
            Whether each model is right about each scored image, ``[k, N]``, the models, and the CPU
            seconds of each.
        """
        options, began = self.options, [time.process_time()]
        teacher = self.fit(self.config(options.teacher, is_teacher=True), options.teacher_size)
        began.append(time.process_time())
        config = self.config(options.student, is_teacher=False)
        trained = [teacher, self.fit(config, options.student_size)]
        began.append(time.process_time())
        every, views = self.taught.indices("train"), options.views
        batches = self.batches(teacher, every, taught=True)
        unlabelled = every >= len(self.dataset.examples)
        for temperature in options.temperatures:
            lesson = training.teach(
                teacher,
                config["augment"],
                batches,
                self.device,
                views,
                temperature=temperature,
                unlabelled=unlabelled,
            )
            trained.append(self.fit(config, options.student_size, lesson))
            began.append(time.process_time())
        targets = self.dataset.targets[self.scored]
        predictions = [
            training.predict(model, self.batches(model, self.scored), self.device)
            for model in trained
        ]
        correct = np.array([p.argmax(1) == targets for p in predictions], np.float64)
        return correct, trained, np.diff(began).tolist()


def main() -> None:
    """Run all seeds and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--teacher", default="tf_efficientnet_lite2")
    parser.add_argument("--teacher-size", type=int, default=224)
    parser.add_argument("--teacher-freeze", default="last_blocks")
    parser.add_argument("--student", default="tf_efficientnet_lite0")
    parser.add_argument("--student-size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--student-epochs", type=int, default=12)
    parser.add_argument("--views", type=int, default=12)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[TEMPERATURE])
    parser.add_argument("--labels", type=int, help="labelled training images of each class")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--cache", type=Path, default=Path("runs/distillation"))
    options = parser.parse_args()
    names = ["teacher", "alone", *(f"student, T = {t:g}" for t in options.temperatures)]
    plugins = registry.load()
    examples = data.read_source(options.data, plugins).examples
    rows: list[Correct] = []
    units: list[NDArray[np.int64]] = []
    for number, seed in enumerate(options.seeds):
        dataset = data.check(examples, options.data, seed=seed)
        if options.labels:
            dataset = hide_labels(dataset, options.labels, seed)
        experiment = Experiment(dataset, plugins, options, seed)
        correct, trained, seconds = experiment.run()
        if not number:
            _print_costs(trained)
            _print_heading("seed", "labelled", "unlabelled", "scored", *names, "CPU s")
        scores = [f"{score:.4f}" for score in correct.mean(1)]
        took = ", ".join(f"{each:.0f}" for each in seconds)
        unlabelled = len(experiment.taught.examples) - len(dataset.examples)
        counts = len(experiment.train), unlabelled, len(experiment.scored)
        _print_row(seed, *counts, *scores, took)
        rows.append(correct)
        units.append(np.array(dataset.units)[experiment.scored])
    _print_comparison(names, rows, units)


def hide_labels(dataset: Dataset, labels: int, seed: int) -> Dataset:
    """Return the data set with so many labelled training images of each class, by chance."""
    train = np.random.default_rng(seed).permutation(dataset.indices("train"))
    targets = dataset.targets[train]
    labelled = np.concatenate(
        [train[targets == number][:labels] for number in range(len(dataset.outputs))]
    )
    hidden = np.setdiff1d(train, labelled)
    splits: list[GivenSplit] = [SPLIT_WORDS[split] for split in dataset.splits]
    examples = [replace(e, split=s) for e, s in zip(dataset.examples, splits, strict=True)]
    unlabelled = [replace(examples[i], label="", split="unlabelled") for i in hidden.tolist()]
    usable = np.delete(np.arange(len(examples)), hidden).tolist()
    return data.check(
        [examples[i] for i in usable], dataset.source, seed=seed, unlabelled=unlabelled
    )


def _print_heading(*cells: str) -> None:
    print(f"\n| {' | '.join(cells)} |")
    print("|---" * len(cells) + "|", flush=True)


def _print_row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def _print_costs(trained: list[Model]) -> None:
    """Print parameters, floating-point operations and latency of the teacher and the student."""
    device = models.select_device("cpu", "auto")
    latencies = training.measure_latencies(trained[:2], device, 10.0)
    _print_heading("model", "input", "parameters", "GFLOPs", "ms for one image")
    for name, model, latency in zip(("teacher", "student"), trained, latencies, strict=False):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            model.eval()(models.blank_batch(model.expects, 1, device.torch_device))
        flops = counter.get_total_flops() / 1e9
        size, count = f"{model.expects.size} px", f"{models.count_parameters(model):,}"
        _print_row(name, size, count, f"{flops:.3f}", f"{latency.single.median:.1f}")


def _print_comparison(
    names: list[str], rows: list[Correct], units: list[NDArray[np.int64]]
) -> None:
    """Print paired differences over all seeds, and the fraction of the gap that is closed."""
    correct, unit = np.concatenate(rows, 1), np.concatenate(units)
    results = comparison.Results(
        np.array([each.mean(1) for each in rows]).T,
        correct,
        np.repeat(np.arange(len(rows)), [each.shape[1] for each in rows]),
        unit,
    )
    _print_heading("model", "accuracy", "minus alone", "minus teacher", "fraction of the gap")
    to_teacher, to_alone = (comparison.compare(results, reference=i).standings for i in (0, 1))
    _, own = np.unique(unit, return_inverse=True)
    sums = np.array([np.bincount(own, each) for each in correct])
    count = len(sums[0])
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), DRAWS)
    for i, name in enumerate(names):
        gaps = [
            f"{gap.mean:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})"
            for gap in (to_alone[i].difference, to_teacher[i].difference)
        ]
        closed = _fraction(sums.sum(1), i)
        low, high = np.nanquantile([_fraction(each, i) for each in drawn @ sums.T], [0.025, 0.975])
        fraction = f"{closed:.2f} ({low:.2f} to {high:.2f})" if i > 1 else ""
        _print_row(name, f"{to_alone[i].mean:.4f}", *gaps, fraction)


def _fraction(sums: Correct, index: int) -> float:
    """The fraction of the gap between the student alone and the teacher that a model closes."""
    gap = sums[0] - sums[1]
    return float((sums[index] - sums[1]) / gap) if gap > 0 else float("nan")


if __name__ == "__main__":
    main()
