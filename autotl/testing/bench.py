"""The bench: one plugin, tried in one configuration after another, and what was found.

Shapes: B pictures in a batch, N in the part that is asked after training, C classes.
"""

from __future__ import annotations

import contextlib
import copy
import random
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor, nn

from autotl import models, training
from autotl.errors import Diverged, Incompatible, OutOfMemory, PluginError
from autotl.models import Model
from autotl.space.hyperparameter import Hyperparameter
from autotl.space.registry import AnyPlugin
from autotl.space.space import Choice, Config
from autotl.testing import toy

Params = Mapping[str, Any]


def ends(h: Hyperparameter) -> tuple[Any, ...]:
    """Both ends of a range, or every choice."""
    if h.range is None:
        return h.choices or ()
    return h.type(h.range.low), h.type(h.range.high)


def with_value(plugin: AnyPlugin, h: Hyperparameter, value: Any) -> dict[str, Any]:
    """The defaults with ``h`` at ``value``, and with what it depends on as it has to be."""
    known = {other.name: other for other in plugin.hyperparameters}
    needed: dict[str, Any] = {}
    waiting = [h]
    while waiting:
        when = waiting.pop().when
        for name, values in (when.conditions if when else {}).items():
            default = known[name].default
            needed.setdefault(name, default if default in values else values[0])
            waiting.append(known[name])
    return {**plugin.defaults, **needed, h.name: value}


def configurations(plugin: AnyPlugin) -> list[dict[str, Any]]:
    """The defaults, then each keyword at the ends of its range or at each of its choices."""
    found = [plugin.defaults]
    for h in plugin.hyperparameters:
        found += [with_value(plugin, h, value) for value in ends(h)]
    return [params for i, params in enumerate(found) if params not in found[:i]]


@dataclass
class Findings:
    """What broke, in sentences; one that holds for several configurations is said once."""

    plugin: AnyPlugin
    where: str = ""  # on what it is tried, if that is worth saying
    refused: list[str] = field(default_factory=list)  # reasons of Incompatible
    _places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, params: Params | None = None) -> None:
        """Note that something broke, and with which values other than the defaults."""
        given = self.plugin.defaults if params is None else params
        other = {k: v for k, v in given.items() if v != self.plugin.defaults.get(k)}
        values = ", ".join(f"{k}={v!r}" for k, v in other.items())
        place = " ".join(filter(None, (f"with {values}" if values else "", self.where)))
        self._places.setdefault(what, []).append(place)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Everything that broke, each once."""
        who = f"{self.plugin.kind} plugin {self.plugin.name!r}"
        found = []
        for what, places in self._places.items():
            more = f" and {len(places) - 1} more" if len(places) > 1 else ""
            found.append(f"{who} {what}" + (f" ({places[0]}{more})" if places[0] else ""))
        return tuple(found)

    @contextlib.contextmanager
    def watch(self, params: Params | None = None) -> Iterator[None]:
        """Note what is raised inside, with its line in the plugin's file."""
        who = f"{self.plugin.kind} plugin {self.plugin.name!r} "
        try:
            yield
        except Incompatible as reason:
            self.refused.append(str(reason))
        except Diverged as error:
            self.add(f"diverges on an easy set: {error}; narrow the range", params)
        except OutOfMemory:
            self.add(
                "runs out of memory with a single picture, or raises torch.OutOfMemoryError itself",
                params,
            )
        except PluginError as error:
            self.add(str(error).removeprefix(who), params)
        except Exception as error:  # a stranger's code may raise anything; it is told
            text = str(error).strip().partition("\n")[0]
            self.add(f"raises {type(error).__name__}{self._line(error)}: {text}", params)

    def _line(self, error: Exception) -> str:
        file = self.plugin.function.__code__.co_filename
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
        return f" in line {lines[-1]}" if lines else ""


class Bench:
    """Builds and trains models in which one plugin is the one under test."""

    def __init__(self, plugin: AnyPlugin, backbone: Choice, findings: Findings) -> None:
        self.plugin = plugin
        self.backbone = backbone
        self.findings = findings
        self.size: int | None = toy.SIDE
        self.small = plugin.kind == "backbone"  # real ones are large: fewer pictures do
        self._native = toy.SIDE
        self._trained = 0

    def config(self, params: Params, **others: AnyPlugin | Choice) -> Config:
        """A configuration with the plugin under test, plain companions and ``others``."""
        chosen: dict[str, Any] = {
            "backbone": self.backbone,
            "freeze": toy.thaw,
            "head": toy.plain,
            "augment": toy.still,
            "optimizer": toy.adam,
            **others,
            self.plugin.kind: Choice(self.plugin, params),
        }
        return {k: c if isinstance(c, Choice) else Choice(c, {}) for k, c in chosen.items()}

    def build(self, config: Config, seed: int = 0) -> Model:
        """The network of a configuration, on the CPU in float32."""
        return models.build_model(config, len(toy.COLOURS), self.size, toy.CPU, seed)

    def images(self, count: int = 8) -> Tensor:
        """Pictures ``uint8 [B, 3, S, S]``."""
        examples = toy.squares((count, 0, 0), 5, self.side)
        array = np.stack([e.image for e in examples])
        return torch.from_numpy(array).permute(0, 3, 1, 2)

    @property
    def side(self) -> int:
        """The side of the pictures, in pixels."""
        return self.size or self._native

    def find_size(self, params: Params) -> None:
        """Choose the smallest pictures that a backbone takes, its own size if it must be."""
        reasons = []
        for size in (32, 64, 96, 128, None):
            self.size = size
            try:
                network = self.build(self.config(params)).eval()
                self._native = network.input_spec.size
                with torch.no_grad():
                    network.features(self.images(2))
                return
            except (Incompatible, RuntimeError, ValueError, AssertionError, TypeError) as error:
                reasons.append(error)
        raise reasons[-1]

    def task(self, epochs: int, seed: int = 0) -> training.Task:
        """To tell three colours apart: 36 pictures to learn from in 3 steps, 18 others to ask."""
        counts, size, asked = (
            ((5, 4, 3), 6, (1, 1, 1)) if self.small else (toy.COUNTS, 12, (6,) * 3)
        )
        return training.Task(
            train=toy.batches(toy.squares(counts, 0, self.side), size),
            validation=toy.batches(toy.squares(asked, 1, self.side), 32, shuffle_seed=None),
            epochs=epochs,
            score=lambda probabilities: 0.0,
            device=toy.CPU,
            seed=seed,
        )

    def train(
        self,
        params: Params,
        epochs: int = 2,
        prepare: Callable[[Model], object] = lambda network: None,
        **others: AnyPlugin | Choice,
    ) -> tuple[Model, NDArray[np.float32]]:
        """Train, and note frozen parameters and running statistics that moved.

        Args:
            params: Of the plugin under test.
            epochs: How many.
            prepare: Is given the model before it is trained.
            others: Companions other than the plain ones.

        Returns:
            The trained model, and its probabilities ``[N, C]`` of pictures it has not seen.
        """
        self._trained += 1  # what Python and numpy draw differs, only torch is seeded
        random.seed(self._trained)
        np.random.seed(self._trained)
        config = self.config(params, **others)
        network = self.build(config)
        prepare(network)
        run = self.task(epochs)
        before = _snapshot(network)
        for _ in training.fine_tune(network, config, run):
            self._nothing_frozen_moved(network, before, params)
            before = _snapshot(network)
        assert run.validation is not None
        return network, training.predict(network, run.validation, run.device)

    def _nothing_frozen_moved(
        self, network: Model, before: dict[Tensor, Tensor], params: Params
    ) -> None:
        def moved(tensor: Tensor) -> bool:
            return tensor in before and not torch.equal(before[tensor], tensor)

        named = network.named_parameters()
        if found := [n for n, p in named if not p.requires_grad and moved(p)]:
            self.findings.add(
                f"moves {found[0]!r}, which no group holds and so is frozen; change only what is "
                "in the groups, and leave the other weights as they came",
                params,
            )
        for name, module in network.backbone.named_modules():
            own = list(module.parameters())
            if not own or any(p.requires_grad for p in own):
                continue
            if found := [n for n, b in module.named_buffers() if moved(b)]:
                path = ".".join(part for part in (name, found[0]) if part)
                self.findings.add(
                    f"moves {path!r}, running statistics of a frozen part; leave frozen parts in "
                    "eval mode, as the model sets them",
                    params,
                )
                return

    def saved(self, network: Model, params: Params) -> None:
        """Note whether a saved model is another one when it is loaded."""
        images = self.images()
        tensors = {name: t.detach().contiguous() for name, t in network.state_dict().items()}
        remedy = (
            "keep all that is learnt in parameters or buffers, of shapes known when it is built"
        )
        fresh = self.build(self.config(params), seed=1)  # another seed: nothing random may be lost
        try:
            fresh.load_state_dict(load(save(tensors)))
        except (RuntimeError, ValueError, safetensors.SafetensorError) as error:
            text = str(error).strip().splitlines()[-1].strip()
            self.findings.add(f"cannot be saved and loaded again: {text} -- {remedy}", params)
            return
        if not close(ask(network, images), ask(fresh, images), 1e-5):
            self.findings.add(
                f"gives other logits after it was saved and loaded; {remedy}, and nothing random "
                "outside them",
                params,
            )

    def copied(self, network: Model, params: Params) -> None:
        """Note whether a copy of a model is another one: costs are measured on copies."""
        images = self.images()
        try:
            twin = copy.deepcopy(network)
        except (RuntimeError, TypeError, AttributeError) as error:
            self.findings.add(
                f"cannot be copied ({str(error).partition(chr(10))[0]}); costs are measured on a "
                "copy: hold parameters, buffers and plain values only",
                params,
            )
            return
        if not close(ask(network, images), ask(twin, images), 1e-5):
            self.findings.add("gives other logits as a copy; do not share state", params)


def ask(network: nn.Module, images: Tensor) -> Tensor:
    """Logits of pictures, in eval mode."""
    with torch.no_grad():
        found: Tensor = network.eval()(images)
    return found


def _snapshot(network: Model) -> dict[Tensor, Tensor]:
    return {t: t.detach().clone() for t in (*network.parameters(), *network.buffers())}


def close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether two tensors have one shape and, within a tolerance, the same numbers."""
    return one.shape == other.shape and torch.allclose(one, other, tolerance, tolerance)


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """One thread, and random numbers of its own: the caller's stay as they were."""
    threads, python, numbers = torch.get_num_threads(), random.getstate(), np.random.get_state()
    torch.set_num_threads(1)  # the models are tiny: more threads only wait for each other
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(python)
        np.random.set_state(numbers)


def described(value: Any) -> str:
    """``float32 [8, 3]``, or the name of another type."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, tuple | list) and len(value) < 4:
        return f"({', '.join(map(described, value))})"
    return type(value).__name__
