"""How well a final selection tells candidates apart, and how often intervals contain the truth.

    python studies/benchmarks/selection.py --studies 1000

Predictions are simulated, and compared with the functions of autotl. An example has a difficulty
that all candidates share, with ``COMMON`` of the variance; a training moves the accuracy of a
candidate in a run. The tables are Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray
from scipy import integrate, optimize, stats

from autotl.scoring import metrics
from autotl.scoring.comparison import Comparison, Results, compare
from autotl.scoring.intervals import mean_interval, score_interval, wilson_interval
from autotl.scoring.metrics import Labels, Probabilities

Correct = NDArray[np.bool_]
"""Whether the predictions of k candidates in S runs on n images each are correct, ``[k, S, n]``."""

Ties = NDArray[np.bool_]
"""Which candidates are tied with the best, ``[k]``."""

ACCURACY, IMAGES, NOISE = 0.93, 287, 0.005
"""Of the candidates, of a run, and the standard deviation of the accuracy between trainings."""

COMMON = 0.7
"""With it two equal candidates disagree on 8 % of the images."""

FOLDS = 5


def simulate(
    random: np.random.Generator,
    accuracies: Sequence[float],
    runs: int,
    images: int = IMAGES,
    noise: float = NOISE,
) -> Correct:
    """Simulate the predictions of candidates with these true accuracies."""
    k = len(accuracies)
    drawn = np.array(accuracies)[:, None] + random.normal(0, noise, (k, runs))
    thresholds = stats.norm.ppf(np.clip(drawn, 1e-3, 1 - 1e-4))[..., None]
    common = random.normal(size=(runs, images)) * COMMON**0.5
    own = random.normal(size=(k, runs, images)) * (1 - COMMON) ** 0.5
    return common + own < thresholds


def moderated(correct: Correct) -> Comparison:
    """Compare candidates as the final selection does."""
    k, runs, images = correct.shape
    return compare(
        Results(
            correct.mean(2),
            correct.reshape(k, -1).astype(np.float64),
            np.repeat(np.arange(runs), images),
            np.arange(runs * images),
        )
    )


def tied_by_steps(correct: Correct) -> Ties:
    """The method of the final selection: the variance of all predictions, and stepwise ranges."""
    return np.array([s.tied for s in moderated(correct).standings])


def tied_by_one_range(correct: Correct) -> Ties:
    """The same variance, and one range for all candidates: the printed intervals contain 0."""
    differences = [s.difference for s in moderated(correct).standings]
    return np.array([d.low <= 0 <= d.high for d in differences])


def tied_by_run_scores(correct: Correct) -> Ties:
    """The earlier method: the variance of run scores, with Nadeau & Bengio's correction."""
    k, runs, images = correct.shape
    scores = correct.mean(2)
    means = scores.mean(1)
    residuals = scores - means[:, None] - scores.mean(0) + scores.mean()
    degrees = (k - 1) * (runs - 1)
    variance = max(float((residuals**2).sum()) / degrees, 1 / images**2 / 12)
    margin = _range(k, degrees) * (variance * (1 / runs + 1 / (FOLDS - 1))) ** 0.5
    return means.max() - means <= margin


def tied_by_overlap(correct: Correct) -> Ties:
    """The earlier method on one split: the best score is in the candidate's Wilson interval."""
    scores = correct.mean((1, 2))
    highs = [wilson_interval(score, correct.shape[2])[1] for score in scores]
    return np.array(highs) >= scores.max()


@cache
def _range(k: int, degrees: int) -> float:
    return float(stats.studentized_range.ppf(0.95, k, degrees))


# ---------------------------------------------------------------- telling candidates apart

Method = Callable[[Correct], Ties]

DESIGNS: tuple[tuple[str, Method, int, int], ...] = (
    ("run scores (earlier), 5 candidates x 3 runs", tied_by_run_scores, 5, 3),
    ("run scores, 3 x 5", tied_by_run_scores, 3, 5),
    ("moderated, one range, 5 x 3", tied_by_one_range, 5, 3),
    ("moderated, stepwise, 5 x 3", tied_by_steps, 5, 3),
    ("moderated, one range, 3 x 5", tied_by_one_range, 3, 5),
    ("**moderated, stepwise, 3 x 5**", tied_by_steps, 3, 5),
    ("moderated, stepwise, 4 x 5", tied_by_steps, 4, 5),
    ("moderated, stepwise, 3 x 2", tied_by_steps, 3, 2),
    ("validation split alone: overlap (earlier), 5 x 1", tied_by_overlap, 5, 1),
    ("validation split alone: moderated, stepwise, 5 x 1", tied_by_steps, 5, 1),
)
GAINS = (0.0, 0.02, 0.03, 0.04)


def rates(
    method: Method,
    k: int,
    runs: int,
    gain: float,
    studies: int,
    *,
    best: int = 1,
    noise: float = NOISE,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Simulate studies in which the first ``best`` of k candidates are better by ``gain``.

    Returns:
        How often exactly these are tied, how often all of these are, and how often the winner, the
        candidate with the best mean, is one of them.
    """
    random = np.random.default_rng(seed)
    accuracies = [ACCURACY + gain] * best + [ACCURACY] * (k - best)
    alone = included = wins = 0
    for _ in range(studies):
        correct = simulate(random, accuracies, runs, noise=noise)
        tied = method(correct)
        alone += bool(tied[:best].all() and not tied[best:].any())
        included += bool(tied[:best].all())
        wins += int(correct.mean((1, 2)).argmax()) < best
    return alone / studies, included / studies, wins / studies


def funnel(gain: float, studies: int, noise: float = NOISE, seed: int = 0) -> tuple[float, float]:
    """Simulate five candidates of a search; the three best by validation get five runs.

    Returns:
        How often the better one is alone, and how often it wins.
    """
    random = np.random.default_rng(seed)
    accuracies = np.array([ACCURACY + gain] + [ACCURACY] * 4)
    alone = wins = 0
    for _ in range(studies):
        validation = simulate(random, accuracies.tolist(), 1, noise=noise).mean((1, 2))
        chosen = np.argsort(-validation, kind="stable")[:3]
        correct = simulate(random, accuracies[chosen].tolist(), 5, noise=noise)
        wins += chosen[correct.mean((1, 2)).argmax()] == 0
        alone += chosen[tied_by_steps(correct)].tolist() == [0]
    return alone / studies, wins / studies


def selection_table(studies: int, noise: float = NOISE) -> Iterator[str]:
    """The rows of a table of designs."""
    head = ["equals all tied", *(f"{100 * gain:.0f} points: alone" for gain in GAINS[1:])]
    head += ["2 points: wins", "of two better ones, none left out"]
    yield f"| noise {100 * noise:.1f} points | " + " | ".join(head) + " |"
    yield "|---" * (len(head) + 1) + "|"
    for name, method, k, runs in DESIGNS:
        rate = partial(rates, method, k, runs, studies=studies, noise=noise)
        equal = rate(gain=0.0, best=k)[0]
        better = [rate(gain=gain) for gain in GAINS[1:]]
        cells = [equal, *(alone for alone, _, _ in better), better[0][2]]
        cells.append(rate(gain=0.02, best=2)[1])
        yield f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |"
    measured = [funnel(gain, studies, noise) for gain in GAINS[1:]]
    cells = [f"{alone:.3f}" for alone, _ in measured]
    name = "moderated, stepwise, the 3 best of 5 by validation x 5"
    yield f"| {name} | | {' | '.join(cells)} | {measured[0][1]:.3f} | |"


# ---------------------------------------------------------------- intervals


def mean_intervals(runs: int, studies: int, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """Intervals of the mean accuracy of the first of three candidates, ``[studies, 2]``."""
    random = np.random.default_rng(seed)
    metric = metrics.get("accuracy")
    intervals: dict[str, list[tuple[float, float]]] = {"run scores": [], "pooled": []}
    for _ in range(studies):
        correct = simulate(random, [ACCURACY] * 3, runs)
        scores = correct[0].mean(1)
        error = scores.std(ddof=1) * (1 / runs + 1 / (FOLDS - 1)) ** 0.5
        half_width = float(stats.t.ppf(0.975, runs - 1)) * error
        intervals["run scores"].append((scores.mean() - half_width, scores.mean() + half_width))
        values = correct[0].ravel().astype(np.float64)
        labels = np.zeros(len(values), np.int64)
        noise = moderated(correct).standings[0].training_variance
        intervals["pooled"].append(mean_interval(metric, values, labels, None, 2, noise))
    return {name: np.array(each) for name, each in intervals.items()}


def class_shift(classes: int, accuracy: float) -> float:
    """The distance of the label's logit with which so many logits with normal noise are correct."""

    def excess(shift: float) -> float:
        def density(x: float) -> float:
            return float(stats.norm.pdf(x - shift) * stats.norm.cdf(x) ** (classes - 1))

        return float(integrate.quad(density, -8, shift + 8, limit=200)[0]) - accuracy

    return float(optimize.brentq(excess, 0, 12, xtol=1e-6))


def predict(
    random: np.random.Generator, n: int, classes: int, shift: float, confidence: float = 1.0
) -> tuple[Labels, Probabilities]:
    """Labels ``[n]`` in equal numbers, and calibrated probabilities ``[n, classes]``.

    With a ``confidence`` of more than 1 they are too confident.
    """
    labels = np.arange(n) % classes
    logits = random.normal(size=(n, classes)).astype(np.float32)
    logits[np.arange(n), labels] += shift
    logits *= shift * confidence
    logits -= logits.max(1, keepdims=True)
    exponentials = np.exp(logits)
    return labels, exponentials / exponentials.sum(1, keepdims=True)


def true_score(name: str, classes: int, shift: float, confidence: float = 1.0) -> float:
    """The score on many images."""
    random, metric = np.random.default_rng(1), metrics.get(name)
    size = 2_000 if name == "auroc" else 20_000
    drawn = [predict(random, size, classes, shift, confidence) for _ in range(20)]
    return float(np.mean([metric.score(*each) for each in drawn]))


def coverage(
    name: str, n: int, classes: int, accuracy: float, studies: int, confidence: float = 1.0
) -> tuple[float, float]:
    """How often the interval of a score contains the true score, and its median width."""
    random, metric = np.random.default_rng(n + classes), metrics.get(name)
    shift = class_shift(classes, accuracy)
    truth = true_score(name, classes, shift, confidence)
    drawn = [predict(random, n, classes, shift, confidence) for _ in range(studies)]
    lows, highs = np.transpose([score_interval(metric, *each) for each in drawn])
    return float(np.mean((lows <= truth) & (truth <= highs))), float(np.median(highs - lows))


def coverage_table(studies: int) -> Iterator[str]:
    """The rows of a table of coverages, each with the median width."""
    yield "| classes | accuracy | n | " + " | ".join(metrics.METRICS) + " |"
    yield "|---" * (len(metrics.METRICS) + 3) + "|"
    for classes in (2, 10, 50):
        for accuracy in (0.6, 0.9, 0.99):
            for n in (30, 100, 300):
                each = [coverage(m, n, classes, accuracy, studies) for m in metrics.METRICS]
                cells = [f"{covered:.3f} ({width:.3f})" for covered, width in each]
                yield f"| {classes} | {accuracy} | {n} | " + " | ".join(cells) + " |"


def main() -> None:
    """Simulate, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    options = parser.parse_args()
    for noise in (NOISE, 0.0, 0.01):
        print(*selection_table(options.studies, noise), sep="\n", flush=True)
        print()
    print(
        "| runs | interval | coverage | median width | 10 to 90 % of widths |\n" + "|---" * 5 + "|"
    )
    for runs in (2, 5):
        for name, intervals in mean_intervals(runs, options.studies).items():
            widths = intervals[:, 1] - intervals[:, 0]
            covered = np.mean((intervals[:, 0] <= ACCURACY) & (intervals[:, 1] >= ACCURACY))
            low, middle, high = np.quantile(widths, (0.1, 0.5, 0.9))
            print(f"| {runs} | {name} | {covered:.3f} | {middle:.3f} | {low:.3f} to {high:.3f} |")
    print()
    for row in coverage_table(options.studies):
        print(row, flush=True)


if __name__ == "__main__":
    main()
