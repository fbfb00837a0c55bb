"""Builds and trains small models with the plugin under test."""

from __future__ import annotations

import contextlib
import copy
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor, nn

from autotl import models, training
from autotl.data import IMAGES, encode, to_channels_first, toy_images
from autotl.errors import DataError, Incompatible
from autotl.models import Model
from autotl.space.input_kind import InputKind, ModelInput
from autotl.space.plugin import AnyPlugin, Example
from autotl.space.space import Choice, Config
from autotl.space.task import DEFAULT_TASK, Task
from autotl.tasks import numbered_classes
from autotl.testing import toy
from autotl.testing.configurations import Params
from autotl.testing.toy_tasks import ToyTask, find_toy_tasks
from autotl.testing.violations import Violations, first_line

SIZES = (32, 64, 96, 128, None)
"""Input sizes that are tried with a backbone; None for the size that it chooses."""


class PluginHarness:
    """Builds and trains models with the plugin under test and simple companions.

    Args:
        plugin: The plugin under test.
        backbone: The backbone that it is tried on.
        violations: Where violations of the contract are added.
        kind: What the examples are.

    Attributes:
        size: The size of the inputs, e.g. the side of images in pixels; None for the backbone's
            own.
        expects: The input of the backbone.
        task: What is predicted: classes, if the plugin suits them.
        class_targets: The target of each class of the toy examples, ``[C, ...]``.
        companions: Companions in the place of the simple ones, by kind.
        rows_per_example: The largest number of rows of a batch for each labelled example.
    """

    def __init__(
        self,
        plugin: AnyPlugin,
        backbone: Choice,
        violations: Violations,
        kind: InputKind = IMAGES,
    ) -> None:
        self.plugin = plugin
        self.backbone = backbone
        self.violations = violations
        self.kind = kind
        self.size: int | None = toy.SIDE
        self._is_backbone = plugin.kind == "backbone"  # real ones are large: fewer examples suffice
        self._trainings = 0
        self.companions: dict[str, AnyPlugin] = {}
        self.rows_per_example = 1
        if plugin.kind == "unlabelled" and kind is IMAGES:
            self.companions["augment"] = toy.shifted
        self.task: Task = numbered_classes(len(toy.COLOURS))
        self.class_targets: NDArray[Any] = np.arange(len(toy.COLOURS))
        if not plugin.suits(DEFAULT_TASK) and plugin.kind in ("head", "loss"):
            self._use_task(self.toy_tasks[0])

    @cached_property
    def toy_tasks(self) -> list[ToyTask]:
        """The tasks that the plugin suits."""
        return find_toy_tasks(self.plugin)

    def _use_task(self, toy_task: ToyTask) -> None:
        """Train on a task, three targets of which replace the classes of the toy examples."""
        self.task = toy_task.task
        indices = np.unique(toy_task.labels, return_index=True)[1]
        self.class_targets = toy_task.targets[np.resize(indices, len(toy.COLOURS))]

    def cycle_targets(self, count: int) -> Tensor:
        """Targets ``[count, ...]`` of all classes in turn."""
        return torch.from_numpy(self.class_targets)[toy.cycle_labels(count)]

    def make_config(self, params: Params, **others: AnyPlugin | Choice) -> Config:
        """Make a configuration of the plugin under test, simple companions and ``others``."""
        chosen: dict[str, Any] = {
            "backbone": self.backbone,
            "freeze": toy.unfreeze_upper_half,
            "head": toy.linear,
            "augment": toy.identity,
            "optimizer": toy.adam,
            **self.companions,
            **others,
            self.plugin.kind: Choice(self.plugin, params),
        }
        return {k: c if isinstance(c, Choice) else Choice(c, {}) for k, c in chosen.items()}

    def build(
        self, config: Config, seed: int = 0, saved: Path | None = None, task: Task | None = None
    ) -> Model:
        """Build the model of a configuration, on the CPU in float32."""
        return models.build_model(config, task or self.task, self.size, toy.CPU, seed, saved)

    @cached_property
    def expects(self) -> ModelInput:
        """The input of the backbone."""
        return models.build_backbone(self.backbone, self.size)[1]

    @cached_property
    def scales(self) -> Mapping[str, Any]:
        """What the kind measures on easy examples; nothing for images."""
        return self.kind.measure([e.item for e in self.kind.toy(toy.CLASS_COUNTS)])

    def make_examples(self, counts: Sequence[int], seed: int) -> list[Example]:
        """Make easy examples, whose items are encoded; ``counts`` has the number of each class."""
        if self.kind is IMAGES:
            return toy_images.squares(counts, seed, self.expects.size)
        return [
            replace(example, item=encode(self.kind, example.item, self.expects, self.scales))
            for example in self.kind.toy(counts, seed)
        ]

    def make_inputs(self, count: int = 8) -> Tensor:
        """Make encoded examples ``[B, ...]`` of one class; images are ``uint8 [B, 3, S, S]``."""
        examples = self.make_examples((count, 0, 0), 5)
        return to_channels_first(torch.from_numpy(np.stack([e.item for e in examples])))

    def find_size(self, params: Params) -> None:
        """Set the size to the smallest one that the backbone accepts, and what it expects.

        Raises:
            Exception: The backbone accepts none; the error is that of its own size.
        """
        errors = []
        for size in SIZES:
            self.size = size
            try:
                network = self.build(self.make_config(params)).eval()
                self.expects = network.expects
                with torch.no_grad():
                    network.features(self.make_inputs(2))
                return
            except DataError:
                return  # it encodes otherwise than it says, which another check describes
            except (Incompatible, RuntimeError, ValueError, AssertionError, TypeError) as error:
                errors.append(error)
        raise errors[-1]

    def make_job(self, epochs: int, seed: int = 0) -> training.Job:
        """Make a job of three classes: 36 training examples in 3 steps, and 18 for validation."""
        counts, batch_size, validation_counts = toy.CLASS_COUNTS, 12, (6, 6, 6)
        if self._is_backbone:
            counts, batch_size, validation_counts = (5, 4, 3), 6, (1, 1, 1)
        validation = self.make_examples(validation_counts, 1)
        unlabelled = None
        if self.plugin.kind == "unlabelled":
            batches = toy.make_batches(self.make_examples(counts, 2), shuffle_seed=None)
            unlabelled = lambda: batches  # noqa: E731
        return training.Job(
            train=toy.make_batches(
                self.make_examples(counts, 0), batch_size, class_targets=self.class_targets
            ),
            validation=toy.make_batches(
                validation, 32, shuffle_seed=None, class_targets=self.class_targets
            ),
            epochs=epochs,
            score=lambda probabilities: 0.0,
            device=toy.CPU,
            seed=seed,
            unlabelled=unlabelled,
        )

    def train(
        self,
        params: Params,
        epochs: int = 2,
        prepare: Callable[[Model], object] = lambda network: None,
        **others: AnyPlugin | Choice,
    ) -> tuple[Model, NDArray[np.float32]]:
        """Train; report frozen parameters and running statistics that change.

        Args:
            params: Values of the plugin under test.
            epochs: Number of epochs.
            prepare: Called with the model before it is trained.
            others: Companions in place of the simple ones.

        Returns:
            The trained model, and its probabilities ``[N, C]`` for the validation split.
        """
        # Python and NumPy are seeded differently each time; only torch is seeded by the training.
        self._trainings += 1
        random.seed(self._trainings)
        np.random.seed(self._trainings)
        config = self.make_config(params, **others)
        network = self.build(config)
        prepare(network)
        job = self.make_job(epochs)
        before = _copy_tensors(network)
        for _ in training.fine_tune(network, config, job):
            self._check_frozen_tensors(network, before, params)
            before = _copy_tensors(network)
        assert job.validation is not None
        torch.manual_seed(0)  # randomness in eval mode is reported by another check
        return network, training.predict(network, job.validation, job.device)

    def _check_frozen_tensors(
        self, network: Model, before: dict[Tensor, Tensor], params: Params
    ) -> None:
        def changed(tensor: Tensor) -> bool:
            return tensor in before and not torch.equal(before[tensor], tensor)

        named = network.named_parameters()
        if names := [n for n, p in named if not p.requires_grad and changed(p)]:
            self.violations.add(
                f"changes {names[0]!r}, which is in no group and therefore frozen; change only "
                "what is in the groups",
                params,
            )
        for path, module in network.backbone.named_modules():
            own = list(module.parameters())
            if not own or any(p.requires_grad for p in own):
                continue
            if names := [n for n, b in module.named_buffers() if changed(b)]:
                name = ".".join(part for part in (path, names[0]) if part)
                self.violations.add(
                    f"changes {name!r}, running statistics of a frozen layer; leave frozen layers "
                    "in eval mode, which the model sets",
                    params,
                )
                return

    def check_saving(self, network: Model, params: Params) -> None:
        """Report a model that differs after it was saved and loaded."""
        inputs = self.make_inputs()
        tensors = {name: t.detach().contiguous() for name, t in network.state_dict().items()}
        advice = "keep everything that is learned in parameters or buffers of fixed shapes"
        with tempfile.TemporaryDirectory() as folder:
            network.expects.save(Path(folder))
            # Another seed: nothing random is lost.
            other = self.build(self.make_config(params), 1, Path(folder))
        try:
            other.load_state_dict(load(save(tensors)))
        except (RuntimeError, ValueError, safetensors.SafetensorError) as error:
            text = str(error).strip().splitlines()[-1].strip()
            self.violations.add(f"cannot be saved and loaded again: {text}; {advice}", params)
            return
        if not are_close(eval_logits(network, inputs), eval_logits(other, inputs), 1e-5):
            self.violations.add(
                f"gives different logits after it is saved and loaded; {advice}, and nothing "
                "random outside of them",
                params,
            )

    def check_copying(self, network: Model, params: Params) -> None:
        """Report a model whose copy differs: costs are measured on copies."""
        inputs = self.make_inputs()
        try:
            copied = copy.deepcopy(network)
        except (RuntimeError, TypeError, AttributeError) as error:
            self.violations.add(
                f"cannot be copied ({first_line(error)}); costs are measured on a copy: hold "
                "parameters, buffers and plain values only",
                params,
            )
            return
        if not are_close(eval_logits(network, inputs), eval_logits(copied, inputs), 1e-5):
            self.violations.add("gives different logits as a copy; do not share state", params)


def eval_logits(network: nn.Module, inputs: Tensor) -> Tensor:
    """Compute the logits of encoded examples in eval mode."""
    with torch.no_grad():
        logits: Tensor = network.eval()(inputs)
    return logits


def are_close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether two tensors have the same shape and, within a tolerance, the same values."""
    return one.shape == other.shape and torch.allclose(one, other, tolerance, tolerance)


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Run on one thread, and leave the caller's random number generators as they were."""
    threads, python, numpy = torch.get_num_threads(), random.getstate(), np.random.get_state()
    torch.set_num_threads(1)  # the models are tiny: more threads only wait for each other
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(python)
        np.random.set_state(numpy)


def _copy_tensors(network: Model) -> dict[Tensor, Tensor]:
    return {t: t.detach().clone() for t in (*network.parameters(), *network.buffers())}
