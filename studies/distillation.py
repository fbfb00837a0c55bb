"""What a teacher is worth to a small student, on examples that neither was trained on.

    OMP_NUM_THREADS=1 python studies/distillation.py photos --seeds 0 1

For each seed, a large backbone is fine-tuned by the default recipe on the training split. A smaller
one with smaller inputs is trained on the same images, once by the labels alone and once taught by
the first, as ``autotl search --student`` trains it. All three are scored on the validation and the
test split. The tables are Markdown.
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
from autotl.space.registry import Registry
from autotl.space.space import Choice, Config
from autotl.training import Job, Teacher

NAMES = ("teacher", "student", "alone")
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

    def config(self, backbone: str, *, is_teacher: bool) -> Config:
        """Return the recipe of a student, or for a teacher the default recipe."""
        values = {"student": backbone, "balance": ()}
        config = dict(choose_student(study.configure(self.options.data, values), self.plugins))
        if is_teacher:
            plugin = self.plugins.get("freeze", self.options.teacher_freeze)
            config["freeze"] = Choice(plugin, plugin.defaults)
        return config

    def batches(self, model: Model, indices: data.Indices) -> Batches:
        """Return batches of some images at the input size of a model."""
        packed = data.pack(self.dataset, model.expects, self.options.cache)
        device, targets = self.device.torch_device, self.dataset.targets
        return Batches(packed, targets, indices, 32, device, shuffle_seed=self.seed)

    def fit(self, config: Config, size: int, teacher: Teacher | None = None) -> Model:
        """Train a model of a configuration on the training split."""
        task = self.dataset.task
        model = models.build_model(config, task, size, self.device, self.seed)
        job = Job(
            self.batches(model, self.train),
            None,
            self.options.epochs,
            lambda _: 0.0,
            self.device,
            seed=self.seed,
            cache=self.cache,
            data_id=self.dataset.fingerprint,
            views=self.options.views,
            label_smoothing=0.1,
        )
        compute = training.measure_cost(model, config, job).compute
        for _ in training.fine_tune(model, config, replace(job, compute=compute, teacher=teacher)):
            pass
        return model

    def run(self) -> tuple[Correct, list[Model], list[float]]:
        """Return whether each model is right about each scored image, ``[3, N]``, and its costs."""
        options, began = self.options, [time.process_time()]
        teacher = self.fit(self.config(options.teacher, is_teacher=True), options.teacher_size)
        began.append(time.process_time())
        config = self.config(options.student, is_teacher=False)
        alone = self.fit(config, options.student_size)
        began.append(time.process_time())
        batches = self.batches(teacher, self.train)
        lesson = training.teach(teacher, config["augment"], batches, self.device, options.views)
        student = self.fit(config, options.student_size, lesson)
        began.append(time.process_time())
        targets = self.dataset.targets[self.scored]
        trained = [teacher, student, alone]
        predictions = [
            training.predict(model, self.batches(model, self.scored), self.device)
            for model in trained
        ]
        correct = np.array([p.argmax(1) == targets for p in predictions], np.float64)
        seconds = np.diff(began)
        return correct, trained, [seconds[0], seconds[2], seconds[1]]


def main() -> None:
    """Run all seeds and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--teacher", default="tf_efficientnet_lite2")
    parser.add_argument("--teacher-size", type=int, default=260)
    parser.add_argument("--teacher-freeze", default="last_blocks")
    parser.add_argument("--student", default="tf_efficientnet_lite0")
    parser.add_argument("--student-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--cache", type=Path, default=Path("runs/distillation"))
    options = parser.parse_args()
    plugins = registry.load()
    examples = data.read_source(options.data, plugins).examples
    rows: list[Correct] = []
    units: list[NDArray[np.int64]] = []
    for number, seed in enumerate(options.seeds):
        dataset = data.check(examples, options.data, seed=seed)
        experiment = Experiment(dataset, plugins, options, seed)
        correct, trained, seconds = experiment.run()
        if not number:
            _print_costs(trained)
            print(
                f"\n| seed | train | scored | {' | '.join(NAMES)} | CPU s |"
                + "\n"
                + "|---" * 7
                + "|"
            )
        scores = " | ".join(f"{score:.4f}" for score in correct.mean(1))
        took = ", ".join(f"{each:.0f}" for each in seconds)
        sizes = f"{len(experiment.train)} | {len(experiment.scored)}"
        print(f"| {seed} | {sizes} | {scores} | {took} |", flush=True)
        rows.append(correct)
        units.append(np.array(dataset.units)[experiment.scored])
    _print_comparison(rows, units)


def _print_costs(trained: list[Model]) -> None:
    """Print parameters, floating-point operations and latency of the teacher and the student."""
    device = models.select_device("cpu", "auto")
    latencies = training.measure_latencies(trained[:2], device, 10.0)
    print("| model | input | parameters | GFLOPs | ms for one image |\n" + "|---" * 5 + "|")
    for name, model, latency in zip(NAMES, trained, latencies, strict=False):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            model.eval()(models.blank_batch(model.expects, 1, device.torch_device))
        count = models.count_parameters(model)
        flops = counter.get_total_flops() / 1e9
        size = model.expects.size
        print(f"| {name} | {size} px | {count:,} | {flops:.3f} | {latency.single.median:.1f} |")


def _print_comparison(rows: list[Correct], units: list[NDArray[np.int64]]) -> None:
    """Print paired differences over all seeds, and the fraction of the gap that is closed."""
    correct, unit = np.concatenate(rows, 1), np.concatenate(units)
    sizes = [each.shape[1] for each in rows]
    results = comparison.Results(
        np.array([each.mean(1) for each in rows]).T,
        correct,
        np.repeat(np.arange(len(rows)), sizes),
        unit,
    )
    print(
        "\n| accuracy | mean | minus alone (95 % interval) | minus teacher |\n" + "|---" * 4 + "|"
    )
    to_alone = comparison.compare(results, reference=2).standings
    to_teacher = comparison.compare(results, reference=0).standings
    for name, one, other in zip(NAMES, to_alone, to_teacher, strict=True):
        gaps = [
            f"{gap.mean:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})"
            for gap in (one.difference, other.difference)
        ]
        print(f"| {name} | {one.mean:.4f} | {' | '.join(gaps)} |")
    _, own = np.unique(unit, return_inverse=True)
    sums = np.array([np.bincount(own, each) for each in correct])
    random = np.random.default_rng(0)
    drawn = random.multinomial(len(sums[0]), np.full(len(sums[0]), 1 / len(sums[0])), DRAWS)
    teacher, student, alone = (drawn @ sums.T).T
    fractions = (student - alone) / np.where(teacher > alone, teacher - alone, np.nan)
    low, high = np.nanquantile(fractions, [0.025, 0.975])
    gap = sums[0].sum() - sums[2].sum()
    closed = (sums[1].sum() - sums[2].sum()) / gap if gap > 0 else float("nan")
    print(f"\nFraction of the gap that is closed: {closed:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
