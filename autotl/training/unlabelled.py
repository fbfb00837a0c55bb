"""What a training does with unlabelled examples: which are in a step, and the loss of them.

A step has ``mu`` unlabelled examples for each labelled one. Their rows follow those of the labelled
ones in one batch, so that all pass the network together and share the statistics of BatchNorm:
first as they are (weak), then, if that differs, augmented (strong).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autotl.data import Batches
from autotl.errors import Incompatible, PluginError
from autotl.models import Model, count_features
from autotl.space.plugin import AnyPlugin
from autotl.space.space import Choice, Config
from autotl.space.unlabelled import Outputs, UnlabelledMethod
from autotl.training.batch_norm import MAX_EXAMPLES
from autotl.training.job import Job

MAX_PASSES = 8
"""The maximum number of passes over the labelled examples in an epoch. There are as many as pass
over the unlabelled ones once."""


class Rows(NamedTuple):
    """How much unlabelled examples add to a training.

    Attributes:
        unlabelled: The number of unlabelled examples.
        passes: The number of passes over the labelled examples in an epoch.
        relative: The number of rows of a batch for each labelled example in it.
        adapted: The number of unlabelled examples that pass the network after each epoch.
    """

    unlabelled: int = 0
    passes: int = 1
    relative: int = 1
    adapted: int = 0


class UnlabelledInputs:
    """The unlabelled examples of a training, and the method of its configuration.

    Args:
        method: What the plugin returned.
        name: The name of the plugin.
        batches: The unlabelled examples; their targets mean nothing.
        job: The data and the settings.

    Attributes:
        passes: The number of passes over the labelled examples in an epoch.
    """

    def __init__(self, method: UnlabelledMethod, name: str, batches: Batches, job: Job) -> None:
        self.method, self.name, self.batches = method, name, batches
        self._seed = job.seed
        self.passes = 1
        if method.loss is not None:
            once = math.ceil(batches.num_examples / (method.mu * job.train.num_examples))
            self.passes = min(once, MAX_PASSES)
        self.module = method.loss if isinstance(method.loss, nn.Module) else None

    @cached_property
    def sample(self) -> Batches:
        """Some examples in random order, on which the statistics of BatchNorm are computed."""
        own = self.batches
        indices = np.random.default_rng(self._seed).permutation(own.indices)[:MAX_EXAMPLES]
        targets = np.zeros(len(own.packed.array), np.int64)
        size, device = own.batch_size, own.device
        return Batches(own.packed, targets, indices, size, device, data_id=own.data_id)

    @property
    def is_stateless(self) -> bool:
        """Whether a checkpoint can have all that the loss remembers."""
        loss = self.method.loss
        while isinstance(loss, partial):
            loss = loss.func
        return self.module is not None or loss is None or isinstance(loss, FunctionType)

    def draw(self, number: int, sizes: Sequence[int]) -> list[NDArray[np.int64]]:
        """Draw the positions of the unlabelled examples of each step of a pass.

        No example is drawn twice before all have been drawn.

        Args:
            number: The number of the pass, which determines the order together with the seed.
            sizes: The number of labelled examples in each step.
        """
        counts = [self.method.mu * size for size in sizes]
        random = np.random.default_rng((self._seed, number))
        total, size = sum(counts), self.batches.num_examples
        orders = [random.permutation(size) for _ in range(math.ceil(total / size))]
        return np.split(np.concatenate(orders)[:total], np.cumsum(counts)[:-1])

    def compute_loss(
        self, labelled: Outputs, weak: Outputs, strong: Outputs, progress: float
    ) -> Tensor:
        """Compute what the unlabelled examples add to the loss of a step: a scalar.

        Raises:
            PluginError: The plugin returns something else.
        """
        assert self.method.loss is not None
        value = self.method.loss(labelled, weak, strong, progress)
        if not isinstance(value, Tensor) or value.shape != ():
            what = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise PluginError(
                f"unlabelled plugin {self.name!r}: its loss returns {what}; return a scalar tensor"
            )
        return value


def make_method(choice: Choice | None, context: dict[str, Any]) -> UnlabelledMethod:
    """Call the plugin of a configuration; without one the method does nothing.

    Raises:
        PluginError: It returns something else than a method.
    """
    if choice is None:
        return UnlabelledMethod()
    method = choice.plugin.call(context, choice.params)
    if not isinstance(method, UnlabelledMethod):
        raise PluginError(
            f"unlabelled plugin {choice.name!r} returns {type(method).__name__}; it must return an "
            "autotl.UnlabelledMethod"
        )
    return method


def make_unlabelled_inputs(model: Model, config: Config, job: Job) -> UnlabelledInputs | None:
    """Make the unlabelled inputs of a training; None if it uses no unlabelled examples."""
    choice = config.get("unlabelled")
    if choice is None or job.unlabelled is None:
        return None
    context: dict[str, Any] = {"classes": model.task.num_logits}
    if choice.plugin.takes_argument("features"):
        context["features"] = count_features(model)
    method = make_method(choice, context)
    if method.does_nothing:
        return None
    batches = job.unlabelled()
    if not batches.num_examples:
        return None
    if isinstance(method.loss, nn.Module):
        method.loss.to(job.device.torch_device)
    return UnlabelledInputs(method, choice.name, batches, job)


def uses_unlabelled(plugin: AnyPlugin) -> bool:
    """Whether a plugin does anything with unlabelled examples."""
    return not _try_method(Choice(plugin, plugin.defaults)).does_nothing


def require_suitable(config: Config, has_fit: bool, is_trained: bool) -> None:
    """Check that the method of a configuration can be used with its head.

    Args:
        config: The configuration.
        has_fit: Whether the head is fitted in closed form.
        is_trained: Whether anything is trained by gradients.

    Raises:
        Incompatible: It cannot.
    """
    if (choice := config.get("unlabelled")) is None:
        return
    method = _try_method(choice)
    needs_training = method.loss is not None or method.adapts_batch_norm
    if needs_training and not method.select and not is_trained:
        raise Incompatible(f"{choice.name} needs a head that is trained by gradients")
    if method.select and not method.loss and not has_fit:
        raise Incompatible(f"{choice.name} needs a head that is fitted in closed form")


def _try_method(choice: Choice) -> UnlabelledMethod:
    """Return the method for some classes and features; random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        return make_method(choice, {"classes": 2, "features": 1})


def self_train(
    fit: Callable[[Tensor, Tensor], object],
    predict: Callable[[Tensor], Tensor],
    features: Tensor,
    labels: Tensor,
    unlabelled: Tensor,
    method: UnlabelledMethod,
) -> None:
    """Fit a head in rounds, in each to its own confident predictions of the last one as well.

    Args:
        fit: Fits the head to features and labels.
        predict: Returns the predictions ``[U, C]`` of the head.
        features: Those of the labelled examples, ``[N, ...]``.
        labels: Their classes, ``int64 [N]``.
        unlabelled: The features of the unlabelled examples, ``[U, ...]``.
        method: Selects among these.
    """
    fit(features, labels)
    if method.select is None:
        return
    for number in range(1, method.rounds + 1):
        predictions = predict(unlabelled)
        chosen = method.select(predictions, number)
        guesses = predictions.argmax(1).to(labels.dtype)
        fit(torch.cat([features, unlabelled[chosen]]), torch.cat([labels, guesses[chosen]]))
