"""Source training without labels: what is read, and how the features are scored.

Labels that the data have anyway score the features of held-out images, by the vote of the most
similar training images. They reach neither the splits nor the training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autotl import data, training
from autotl.data import Dataset, Indices, Source
from autotl.engine.inputs import read_examples
from autotl.errors import DataError, PluginError
from autotl.models import Model
from autotl.scoring import intervals, metrics, neighbours
from autotl.search.context import TrainingContext
from autotl.space.plugin import UNLABELLED, AnyPlugin, Example
from autotl.space.registry import Registry
from autotl.space.space import Choice, default_plugin
from autotl.study import StudyConfig
from autotl.tasks import ANY, WithoutLabels, choose_task

FEWEST = 2
"""The minimum number of training images, which are compared with each other."""

MOST_LABELLED = 10_000
"""The maximum number of training images, and of held-out ones, whose features score a backbone."""


@dataclass(frozen=True)
class Labels:
    """The labels of examples, for scores alone.

    Attributes:
        classes: The names of the classes; empty if the labels are none of classes.
        by_name: The index of the class of each example that has one, by the name of the example.
    """

    classes: tuple[str, ...] = ()
    by_name: Mapping[str, int] = field(default_factory=dict)

    def find(self, dataset: Dataset, split: str) -> tuple[Indices, NDArray[np.int64]]:
        """Return the indices of the examples of a split that have a class, and their classes.

        There are at most ``MOST_LABELLED``, evenly spaced.
        """
        indices = dataset.indices(split)
        names = (dataset.examples[i].name for i in indices.tolist())
        classes = np.array([self.by_name.get(name, -1) for name in names], np.int64)
        chosen = np.flatnonzero(classes >= 0)
        chosen = chosen[_space_evenly(len(chosen))]
        return indices[chosen], classes[chosen]


class Score(NamedTuple):
    """How good the features of held-out images are.

    Attributes:
        metric: What was measured; '' if too few images are held out.
        value: The score, from 0 to 1; None if there is none.
        low, high: Its 95 % interval.
        images: The number of held-out images that it is of.
    """

    metric: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    images: int = 0


def read_without_labels(settings: StudyConfig, plugins: Registry) -> tuple[Source, Labels]:
    """Read the examples of the data; labels are replaced by one that all examples have.

    Returns:
        The examples, and their labels if these are classes.

    Raises:
        DataError: The data cannot be read, or there are too few examples.
    """
    source = read_examples(settings, plugins, needs_labels=False)
    offered = [*source.examples, *source.unlabelled]
    if len(offered) <= FEWEST:
        raise DataError(_describe_too_few(settings.data, len(offered), source.kind.nouns))
    examples = [
        replace(e, label=ANY, split="train" if e.split == UNLABELLED else e.split) for e in offered
    ]
    labels = _read_labels(source.examples, plugins)
    return source._replace(examples=examples, unlabelled=(), task=WithoutLabels()), labels


def require_enough(dataset: Dataset) -> None:
    """Check that there are images to compare.

    Raises:
        DataError: There are too few usable training images.
    """
    count = len(dataset.indices("train"))
    if count < FEWEST:
        raise DataError(_describe_too_few(dataset.source, count, dataset.kind.nouns))


def _describe_too_few(source: str, count: int, nouns: str) -> str:
    """The message for too few examples."""
    return (
        f"{source}: too few {nouns}: {count}; a training without labels compares {nouns} with each "
        f"other, so at least {FEWEST} to train on and one to hold out are needed"
    )


def _read_labels(examples: Sequence[Example], plugins: Registry) -> Labels:
    """Read the classes of examples; no labels if they are not classes, or only one."""
    task, _ = choose_task("auto", [example.label for example in examples], plugins)
    if not task.has_classes:
        return Labels()
    texts = {e.name: data.parse_label(e.label, task)[0] for e in examples}
    classes = sorted(set(texts.values()) - {""})
    if len(classes) < 2:
        return Labels()
    index = {name: i for i, name in enumerate(classes)}
    return Labels(tuple(classes), {name: index[text] for name, text in texts.items() if text})


def choose_augmentation(plugins: Registry, name: str) -> AnyPlugin:
    """Choose the augmentation that makes views: the named one, or one made for that, or the first.

    Raises:
        PluginError: There is no such augmentation, or it mixes images.
    """
    if not name:
        made = (p for p in plugins if p.kind == "augment" and p.contrastive)
        return next(made, None) or default_plugin(plugins, "augment")
    plugin = plugins.get("augment", name)
    if plugin.mixes:
        raise PluginError(
            f"the augmentation {name!r} mixes images, and views of one image are compared; leave "
            "out --augment, or name another one"
        )
    return plugin


def score_features(
    context: TrainingContext, model: Model, augment: Choice, labels: Labels
) -> Score:
    """Score the features of held-out images.

    With classes it is the accuracy of a vote of the most similar training images, otherwise the
    fraction of the images whose other view is the most similar one among some.

    Args:
        context: Has the data.
        model: Its backbone is scored.
        augment: The augmentation that makes the views.
        labels: The classes.
    """
    dataset = context.dataset
    voters, classes = labels.find(dataset, "train")
    scored, targets = labels.find(dataset, "validation")
    if len(np.unique(classes)) > 1 and len(scored):
        features, others = (
            training.extract_features(model, context.batches_of(model, own), context.device)
            for own in (scored, voters)
        )
        count = min(neighbours.NEIGHBOURS, len(others))
        predictions = neighbours.classify_by_neighbours(
            features, others, classes, len(labels.classes), count
        )
        return _score(f"kNN accuracy (k={count})", targets, predictions, dataset.units[scored])
    scored = dataset.indices("validation")
    scored = scored[_space_evenly(len(scored))]
    if len(scored) < FEWEST:
        return Score()
    batches = context.batches_of(model, scored)
    first, second = (
        training.extract_features(model, batches, context.device, augment, view) for view in (1, 2)
    )
    count = min(neighbours.CANDIDATES, len(scored))
    is_nearest = neighbours.recognise_views(first, second, count)
    predictions = np.stack([is_nearest, ~is_nearest], 1).astype(np.float32)
    targets = np.zeros(len(scored), np.int64)
    name = f"contrastive accuracy (among {count})"
    return _score(name, targets, predictions, dataset.units[scored])


def count_scored(dataset: Dataset, labels: Labels) -> int:
    """Return about how many images ``score_features`` computes features of."""
    held_out = min(MOST_LABELLED, len(dataset.indices("validation")))
    voters = len(labels.find(dataset, "train")[0])
    return held_out + (voters or held_out)


def _score(
    name: str,
    targets: NDArray[np.int64],
    predictions: NDArray[np.float32],
    units: NDArray[np.int64],
) -> Score:
    accuracy = metrics.get("accuracy")
    low, high = intervals.score_interval(accuracy, targets, predictions, units)
    return Score(name, accuracy.score(targets, predictions), low, high, len(targets))


def _space_evenly(count: int) -> NDArray[np.int64]:
    """Positions of at most ``MOST_LABELLED`` of ``count`` examples, evenly spaced."""
    return np.linspace(0, count - 1, min(MOST_LABELLED, count)).astype(np.int64)
