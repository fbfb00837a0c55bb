"""Plugins: the decorators that make a function a plugin, and the types that plugins return.

A plugin is a function. The arguments left of the ``*`` are given by the core; the keywords right
of it are chosen by the search and have a default, which is tried first:

>>> from typing import Annotated
>>> from autotl.space.hyperparameter import Range
>>> @head
... def wide(features: int, classes: int, *, width: Annotated[int, Range(64, 1024)] = 256):
...     '''One hidden layer.'''
>>> wide.kind, wide.name, [h.name for h in wide.hyperparameters]
('head', 'wide', ['width'])

The module imports only the standard library, so a search space can be listed without loading
torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Generic, Literal, ParamSpec, Protocol, TypeVar, overload

from autotl.errors import PluginError
from autotl.space.hyperparameter import Hyperparameter
from autotl.space.input_kind import IMAGE
from autotl.space.kinds import IMAGE_SIZE, HeadInput
from autotl.space.pretraining import PretrainingMethods
from autotl.space.signature import read_signature

NO_PACKAGE = "a notebook or script"
"""The origin of a plugin that comes neither from a package nor from a plugin file."""

FILE = "file "
"""The beginning of the origin of a plugin from a single file."""

P = ParamSpec("P")
R = TypeVar("R")

UNLABELLED: Final = "unlabelled"
"""The split of examples that have no label, or whose label is not used."""

GivenSplit = Literal["", "train", "validation", "test", "unlabelled"]
"""The split of an example as its source gives it; empty if it gives none."""

SPLIT_WORDS: Mapping[str, GivenSplit] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
    "unlabelled": "unlabelled",
    "unlabeled": "unlabelled",
}
"""The splits by the words, in lower case, that sources use for them."""


def is_unlabelled_path(path: Path) -> bool:
    """Whether a file is in a folder ``unlabelled`` at the top; the path is relative to the data."""
    return len(path.parts) > 1 and SPLIT_WORDS.get(path.parts[0].lower()) == UNLABELLED


@dataclass(frozen=True)
class Example:
    """One example, as a dataset plugin returns it.

    Args:
        name: Identifies the example to people; unique in its source.
        item: What it is an example of, as its kind of input has it. For images a file, or an array
            ``uint8 [H, W]`` or ``[H, W, C]``.
        label: The class, or what else the task predicts, see ``autotl.Label``: a number, several
            labels, or several numbers by name. An example with an empty text has no label; one of
            the validation or test split is then left out, and another one is unlabelled.
        split: The split it belongs to; if empty, AutoTL chooses one. ``unlabelled`` examples are
            used without their label, in training alone.
        group: Examples of one group (a patient, a video) are always put into the same split.
    """

    name: str
    item: Any
    label: Any
    split: GivenSplit = ""
    group: str = ""


@dataclass(frozen=True)
class Issue:
    """A problem of the data: one row of ``issues.csv``.

    A dataset plugin returns them beside the examples for what it left out or is in doubt about.

    Args:
        name: The example, class, file or column.
        problem: What is wrong with it.
        action: What is done about it, and what the user can do.
    """

    name: str
    problem: str
    action: str


@dataclass(frozen=True)
class Weights:
    """Where the pretrained weights of a backbone come from.

    Args:
        origin: The source as text, e.g. ``hub timm/resnet18.a1_in1k``.
        licence: The licence of the weights.
        file: A local file; None if the backbone has to download the weights.
        parameters: Number of parameters of the backbone without its classifier; None if unknown.
        size: Size of the inputs on which they were trained, e.g. the side of images in pixels; None
            for that of the backbone.
        architecture: What backbones have in common that differ in nothing but their weights; empty
            if unknown.
        is_random: Whether they are drawn at random, as a baseline that is trained from scratch.
    """

    origin: str
    licence: str = "unknown"
    file: Path | None = None
    parameters: int | None = None
    size: int | None = None
    architecture: str = ""
    is_random: bool = False


@dataclass(frozen=True)
class Balance:
    """How training compensates for class imbalance: one number for each class, or None.

    Args:
        weights: Factors on the loss of a class's examples.
        offsets: Numbers that are added to the logits in training.
        sampling: Relative probabilities of drawing an example of a class.
    """

    weights: Sequence[float] | None = None
    offsets: Sequence[float] | None = None
    sampling: Sequence[float] | None = None


class Uniform(Protocol):
    """Draws the random numbers of an augmentation, each image's from a stream of its own.

    A plugin that takes ``uniform`` promises that without mixing, an augmented image depends only on
    the image and on these numbers. Cached views are then augmented batch by batch.
    """

    def __call__(self, images: Any, *shape: int, device: str | None = None) -> Any:
        """Draw uniform random numbers, different ones in each call.

        Args:
            images: The whole batch ``uint8 [B, C, S, S]`` that is augmented.
            shape: The shape of the numbers of one image.
            device: The device of the numbers; that of the images by default. On the ``"cpu"`` a
                plugin can decide by them what to compute, and need not wait for a GPU.

        Returns:
            A tensor ``float32 [B, *shape]``, at least 0 and below 1.
        """


Direction = Literal["maximize", "minimize"]
"""Which values of a metric are better, in Optuna's terms."""

Members = Callable[[Sequence[str], str, float | None], list[str]]
"""The members of a family that match some patterns, or the default set for a device and budget."""

Refuse = Callable[[str], None]
"""Raises ``PluginError`` for a name or pattern of no member of a family, without loading a library.

``errors.OtherFamily`` is for names of another form, of which other families say more.
What it cannot tell passes.
"""

Locate = Callable[[str, Path | None], Weights]
"""Finds the weights of a member, first in a folder; raises ``WeightsError`` if there are none."""


@dataclass(frozen=True)
class Plugin(Generic[P, R]):
    """A plugin: a function with its hyperparameters; calling it calls the function.

    A family is a plugin that provides many backbones: ``members`` lists those that match some
    patterns (without patterns, the default set for a device and a budget in seconds), ``locate``
    finds the weights of one or raises ``WeightsError``, and ``member`` returns the plugin of one.
    ``refuse`` tells misspelt names before the libraries are loaded.

    A backbone that takes ``size`` has the setting ``image_size`` in pixels, which overrides the
    study's; narrowed to several values it is searched.
    """

    kind: str
    name: str
    function: Callable[P, R]
    hyperparameters: tuple[Hyperparameter, ...]
    settings: Mapping[str, Any]
    requires: tuple[str, ...] = ()
    order: int | None = None
    matches: tuple[str, ...] = ()
    accepts: Callable[[str], bool] | None = None
    input: str = IMAGE
    members: Members | None = None
    locate: Locate | None = None
    refuse: Refuse | None = None
    variant_of: str = ""
    owns_folder: bool = False
    from_scratch: bool = False
    takes: HeadInput = "features"
    mixes: bool = False
    contrastive: bool = False
    tasks: tuple[str, ...] = ()
    direction: Direction = "maximize"
    bounds: tuple[float, float] = (0.0, 1.0)
    per_example: bool = False
    has_unit: bool = False
    across_domains: bool = False
    pretraining: PretrainingMethods = field(default_factory=dict)
    origin: str = NO_PACKAGE
    family: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function."""
        return self.function(*args, **kwargs)

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def suits(self, task: str) -> bool:
        """Whether the plugin suits the task of that name."""
        return not self.tasks or task in self.tasks

    @property
    def weights(self) -> Weights | None:
        """The weights of a member of a family; None if it is no member, or for a saved model."""
        weights: Weights | None = self.given.get("weights")
        return weights

    @property
    def has_random_weights(self) -> bool:
        """Whether it is a backbone that is trained from scratch."""
        return self.weights is not None and self.weights.is_random

    @property
    def defaults(self) -> dict[str, Any]:
        """The default of every hyperparameter."""
        return {h.name: h.default for h in self.hyperparameters}

    def call(self, context: Mapping[str, Any], params: Mapping[str, Any]) -> R:
        """Call the function with the arguments it takes from ``context``, and with ``params``.

        Args:
            context: The arguments that the core can give, by name.
            params: The values of keywords: hyperparameters and settings.
        """
        keywords = dict(params)
        context = {**context, **self.given}
        if size := keywords.pop(IMAGE_SIZE, None):
            context["size"] = size
        given = {n: context[n] for n in self._arguments if n in context}
        return self.function(**given, **keywords)  # type: ignore[call-arg]

    def takes_argument(self, name: str) -> bool:
        """Whether the function takes this argument from the core."""
        return name in self._arguments

    @property
    def _arguments(self) -> list[str]:
        parameters = inspect.signature(self.function).parameters.values()
        return [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]

    def member(self, name: str, weights: Weights | None) -> Plugin[P, R]:
        """The plugin of one member of this family; without weights it is initialised randomly."""
        given = {**self.given, "name": name, "weights": weights}
        return replace(self, name=name, family=self.name, given=given)


AnyPlugin = Plugin[..., Any]


class Kind:
    """A decorator that makes a function a plugin of one kind; used with or without parentheses.

    Args of the decorator:
        name: The name of the plugin; the function's by default.
        requires: Distributions that it needs, as requirement specifiers: ``["peft>=0.10"]``.
        order: Rank among the defaults that are tried before the sampler chooses, 1 first. Plugins
            without a rank are left to the sampler.
        input: For a dataset, a backbone or an augmentation: the kind of input that it gives or
            takes, see ``InputKind``; an augmentation for ``ANY_INPUT`` takes every kind.
        matches: For a dataset: the sources it reads, as glob patterns (a folder ends in ``/``).
        accepts: For a dataset: looks into a source that matches, e.g. at the columns of a table,
            and returns whether this plugin reads it; without it, everything that matches is read.
        takes: For a head, its input: pooled ``features [B, F]``; the ``map [B, positions, F]``
            of any architecture; or ``stages [B, F]``, the concatenated means of the last stages'
            maps and the pooled features.
        mixes: For an augmentation: it takes and returns images and targets ``[B, C]``.
        contrastive: For an augmentation: it makes views of an image for a training without labels,
            and is too strong for others, which use it only if it is named.
        tasks: For a head, a balance, an unlabelled method, a loss or a metric: the names of the
            tasks that it suits; every task by default.
        direction: For a metric: which values are better.
        bounds: For a metric: the smallest and the largest value, which may be infinite.
        per_example: For a metric: it returns ``[N]``, what each example contributes, and the score
            is the mean of that. Without it, it returns a number, and its variance is estimated by
            leaving out examples, which takes longer.
        has_unit: For a metric: its values are in the unit of the targets.
        across_domains: For an unlabelled method: it is made for unlabelled examples of another
            domain than that of the labelled ones, and tried early where they are.
        members, locate, refuse: For a family of backbones, see ``Plugin``.
        variant_of: For a family of backbones: the family whose members it has with other weights,
            as ``FAMILY:NAME``.
        owns_folder: For a family of backbones: its weights are those in the folder of weights
            alone. In a search with such a backbone, other families do not look there.
        pretraining: For a family of backbones: the methods of ``autotl pretrain`` that train its
            members without labels, see ``autotl.space.pretraining``.
        from_scratch: For a freeze strategy: it suits a backbone with random weights, because it
            trains all layers.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    @overload
    def __call__(self, function: Callable[P, R], /) -> Plugin[P, R]: ...
    @overload
    def __call__(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        requires: Sequence[str] = (),
        order: int | None = None,
        input: str = IMAGE,
        matches: Iterable[str] = (),
        accepts: Callable[[str], bool] | None = None,
        members: Members | None = None,
        locate: Locate | None = None,
        refuse: Refuse | None = None,
        variant_of: str = "",
        owns_folder: bool = False,
        from_scratch: bool = False,
        takes: HeadInput = "features",
        mixes: bool = False,
        contrastive: bool = False,
        tasks: Iterable[str] = (),
        direction: Direction = "maximize",
        bounds: tuple[float, float] = (0.0, 1.0),
        per_example: bool = False,
        has_unit: bool = False,
        across_domains: bool = False,
        pretraining: PretrainingMethods = ...,
    ) -> Callable[[Callable[P, R]], Plugin[P, R]]: ...
    def __call__(
        self,
        function: Callable[P, R] | None = None,
        /,
        *,
        name: str | None = None,
        requires: Sequence[str] = (),
        matches: Iterable[str] = (),
        tasks: Iterable[str] = (),
        **options: Any,
    ) -> Any:
        """Make ``function`` a ``Plugin``, or return the decorator that does."""

        def register(function: Callable[P, R]) -> Plugin[P, R]:
            for option, value in (
                ("requires", requires),
                ("matches", matches),
                ("tasks", tasks),
            ):
                if isinstance(value, str):
                    raise PluginError(
                        f"{self.kind} plugin {function.__name__!r}: {option} must be a list: "
                        f"write {option}=[{value!r}]."
                    )
            return Plugin(
                self.kind,
                name or getattr(function, "name", None) or function.__name__,
                function,
                *read_signature(self.kind, function),
                requires=tuple(requires),
                matches=tuple(matches),
                tasks=tuple(tasks),
                **options,
            )

        return register if function is None else register(function)


backbone = Kind("backbone")
freeze = Kind("freeze")
head = Kind("head")
augment = Kind("augment")
optimizer = Kind("optimizer")
balance = Kind("balance")
unlabelled = Kind("unlabelled")
loss = Kind("loss")
dataset = Kind("dataset")
task = Kind("task")
metric = Kind("metric")
