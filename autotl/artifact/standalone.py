"""Python code that loads a saved model with timm, torch and safetensors, without autotl.

The code is printed in the model card. It is run on the saved files first, and its predictions are
compared with the model's. If there is no such code, because the backbone is not timm's, or the head
or the task needs more than torch, the reason is returned instead.

Shapes: B images in a batch, F features, K numbers in a prediction.
"""

from __future__ import annotations

import ast
import inspect
import json
import symtable
import sys
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from string import Template
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from autotl.data import ImageInput
from autotl.models import STAGES, Model
from autotl.space.kinds import RGB
from autotl.space.space import Choice, Config
from autotl.space.task import Task
from autotl.tasks import measure_difference

TOLERANCE = 1e-3
"""Largest difference of a probability, or of a logit of a task without probabilities: kernels and
the GPU's shorter mantissas may differ."""

CODE = Template("""\
import json
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torch import nn
$imports
folder = Path($folder)  # with config.json and model.safetensors
config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
weights = load_file(folder / "model.safetensors")
$definitions
backbone = $backbone
head = $head
for prefix, module in (("backbone.", backbone), ("head.", head)):
    state = {k.removeprefix(prefix): t for k, t in weights.items() if k.startswith(prefix)}
    module.load_state_dict(state)
    module.eval()


@torch.inference_mode()
def $function(images):  # uint8 [B, 3, size, size] -> float32 [B, classes]
    mean, std = (255 * torch.tensor(config["input"][k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    x = (images - mean) / std
    $features
    logits = head(x) / (config.get("temperature") or 1)
    return $activation
""")
"""The code that defines ``probabilities``, or ``predictions`` of a task without them."""

DEFAULT_PARTS = {"function": "probabilities", "activation": "logits.softmax(1)"}
"""Parts that are missing in models which were saved when classification was the only task."""

OPEN_IMAGE = """

size = config["input"]["size"]
interpolation = config["input"]["interpolation"].upper()
image = Image.open("photo.jpg")
image.draft(None, (2 * size, 2 * size))  # as in training: decode a large JPEG at lower resolution
image = ImageOps.exif_transpose(image).convert("RGB")
resampling = getattr(Image.Resampling, interpolation, Image.Resampling.BICUBIC)
pixels = torch.from_numpy(np.array(image.resize((size, size), resampling)))
"""
"""Code that encodes a file."""

PRINT = Template("""\
for name, p in zip(config["classes"], $function(pixels.permute(2, 0, 1)[None])[0].tolist()):
    print(f"{p:.6f} {name}")
""")
"""Code that prints the predictions for a file."""

PRINT_LABELS = Template("""\
values = $function(pixels.permute(2, 0, 1)[None])[0].tolist()
for name, p, threshold in zip(config["classes"], values, config["calibration"]["thresholds"]):
    print(f"{p:.6f} {name}", "(predicted)" if p >= threshold else "")
""")
"""The same for a task whose outputs have thresholds."""

ALLOWED_PACKAGES = {"torch", "timm", *sys.stdlib_module_names}
"""The packages that the code of a head may import."""


class _NotStandalone(Exception):
    """The reason why a head cannot be written as standalone code."""


def find_parts(folder: Path, network: Model, config: Config) -> dict[str, str]:
    """Find the parts of the code that builds the model in ``folder``.

    Args:
        folder: A folder with ``config.json`` and ``model.safetensors``.
        network: The model that was saved there.
        config: Its configuration, of which backbone and head are used.

    Returns:
        The arguments of ``render``, or ``{"reason": ...}`` if the model needs autotl.
    """
    import timm

    backbone = config["backbone"]
    if not isinstance(network.expects, ImageInput):
        return {"reason": f"its input is {network.expects.kind}"}
    if network.expects.channels != RGB:
        return {"reason": f"its images have {network.expects.channels} channels"}
    name = backbone.name
    if not timm.is_model(name.partition(".")[0]):
        name = _find_timm_name(network, backbone)
    if not name:
        return {"reason": f"the backbone {backbone.name} comes from {backbone.plugin.origin}"}
    if not network.task.activation_code:
        return {"reason": f"the task {network.task.name} has no code without autotl"}
    training = network.training
    network.eval()
    try:
        # The code draws random initial weights; the caller's random state must not change.
        with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _find_equivalent(folder, network, config, name)
    finally:
        network.train(training)


def _find_timm_name(network: Model, backbone: Choice) -> str:
    """The name in timm of a backbone that a family calls something else; empty if it has none."""
    config: Any = getattr(network.backbone, "pretrained_cfg", None)
    is_own = type(network.backbone).__module__.startswith("timm.")
    if not (backbone.plugin.family and is_own and isinstance(config, Mapping)):
        return ""
    return str(config.get("architecture") or "")


def render(parts: Mapping[str, str], folder: str = ".") -> str:
    """Return the code that defines ``probabilities``, from the result of ``find_parts``."""
    return CODE.substitute({**DEFAULT_PARTS, **parts}, folder=json.dumps(folder))


def output_name(task: Task) -> str:
    """Return what a task predicts, as exported files and the code call it."""
    return "probabilities" if task.has_probabilities else "predictions"


def render_example(parts: Mapping[str, str], has_thresholds: bool = False) -> str:
    """Return code that uses what ``render`` defines on the file of an image.

    Args:
        parts: The result of ``find_parts``.
        has_thresholds: Whether the model has a threshold for each output.
    """
    template = PRINT_LABELS if has_thresholds else PRINT
    return OPEN_IMAGE + template.substitute({**DEFAULT_PARTS, **parts})


def _find_equivalent(
    folder: Path, network: Model, config: Config, timm_name: str
) -> dict[str, str]:
    """Find code for backbone and head whose predictions equal those of ``network``."""
    task, size = network.task, network.expects.size
    what = output_name(task)
    common = {"function": what, "activation": task.activation_code}
    images = _smooth_images(size)
    features = network.features(images.to(network.device))
    logits = network.head(features).float().cpu()
    try:
        heads = list(_write_head(network.head, config["head"], features.shape[-1], logits.shape[1]))
    except _NotStandalone as error:
        return {"reason": str(error)}
    name, features_code = timm_name, _write_features(network)
    reason = ""
    # Models with a fixed input size need img_size for another one; the others do not accept it.
    for head, option in product(heads, ("", f", img_size={size}")):
        backbone = f"timm.create_model({json.dumps(name)}, num_classes=0{option})"
        parts = {**head, **common, "backbone": backbone, "features": features_code}
        try:
            actual, temperature = _run(render(parts, folder.as_posix()), what, images)
        except Exception as error:  # another architecture or the source of a plugin: anything
            message = textwrap.shorten(str(error) or type(error).__name__, 120)
            reason = reason or f"timm's {name} is a different architecture: {message}"
            continue
        expected = task.activate(logits / temperature)
        same_shape = actual.shape == expected.shape
        if same_shape and measure_difference(task, expected, actual) <= TOLERANCE:
            return parts
        reason = f"timm's {name} computes different {what} with these weights"
    return {"reason": reason}


def _run(code: str, function: str, images: Tensor) -> tuple[Tensor, float]:
    """Run the code; return its predictions ``[B, K]`` of the images and its temperature."""
    namespace: dict[str, Any] = {}
    exec(compile(code, "model card", "exec"), namespace)
    return namespace[function](images), namespace["config"].get("temperature") or 1.0


def _smooth_images(size: int) -> Tensor:
    """Draw four smooth images, ``uint8 [4, 3, size, size]``: noise would separate models less."""
    coarse = 255 * torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    return smooth.to(torch.uint8)


def _write_features(network: Model) -> str:
    """Write the line that computes the input of the head, as ``models.extract_features`` does."""
    if network.head_input == "features":
        return "x = backbone(x)"
    if network.head_input == "stages":
        info: Any = network.backbone.feature_info
        count = min(STAGES, len(getattr(info, "info", info)))
        return (
            f"last, maps = backbone.forward_intermediates(x, indices={count}, norm=False)\n"
            "    x = torch.cat([*(m.mean((2, 3)) for m in maps), backbone.forward_head(last)], 1)"
        )
    backbone: Any = network.backbone
    size = network.expects.size
    blank = torch.zeros(1, 3, size, size, device=network.device)
    shape = backbone.forward_features(blank).shape
    line = "x = backbone.forward_features(x)"
    if len(shape) == 3:
        return f"{line}[:, {getattr(backbone, 'num_prefix_tokens', 0)}:]  # [B, positions, F]"
    channels_last = (
        getattr(backbone, "output_fmt", "NCHW") == "NHWC" or shape[1] != backbone.num_features
    )
    flatten = "flatten(1, 2)" if channels_last else "flatten(2).transpose(1, 2)"
    return f"{line}.{flatten}  # [B, positions, F]"


def _write_head(
    head: nn.Module, choice: Choice, features: int, classes: int
) -> Iterator[dict[str, str]]:
    """Write a head as a call of torch's layers, and as the source of its plugin.

    Yields:
        The parts ``imports``, ``definitions`` and ``head`` of each possible code.

    Raises:
        _NotStandalone: Neither is possible.
    """
    layers = _write_layers(head)
    if layers:
        yield {"imports": "", "definitions": "", "head": layers}
    function = choice.plugin.function
    source = _PluginSource(function)
    try:
        source.add(function)
    except _NotStandalone as error:
        if layers:
            return
        raise _NotStandalone(f"the head {choice.name} {error}") from None
    given = {"features": features, "classes": classes}
    arguments = [str(given[p]) for p in inspect.signature(function).parameters if p in given]
    arguments += [f"{key}={value!r}" for key, value in choice.params.items()]
    imports = sorted(source.imports - set(CODE.template.splitlines()))
    definitions = "\n\n\n".join(source.definitions.values())
    yield {
        "imports": "".join(f"{line}\n" for line in imports),
        "definitions": f"\n\n{definitions}\n\n",
        "head": f"{function.__name__}({', '.join(arguments)})",
    }


def _write_layers(module: nn.Module, indent: str = "") -> str:
    """Write a module as a call of torch's layers with the arguments in their repr, or ``""``.

    A layer that a plugin derived from one of torch's is written as torch's; whether it computes the
    same is checked by ``_find_equivalent``.
    """
    layer: Any = next(k for k in type(module).__mro__ if k.__module__.startswith("torch.nn."))
    if layer is nn.Sequential:
        children = [_write_layers(child, indent + "    ") for child in module.children()]
        lines = "".join(f"\n{indent}    {child}," for child in children)
        return f"nn.Sequential({lines}\n{indent})" if all(children) else ""
    if layer is nn.Module or next(module.children(), None) is not None:
        return ""
    return f"nn.{layer.__name__}({layer.extra_repr(module)})"


class _PluginSource:
    """The imports and definitions that the function of a head plugin needs.

    Args:
        function: The function of the plugin.

    Attributes:
        imports: Import statements.
        definitions: Source code by name; each follows those that it uses.
    """

    def __init__(self, function: Any) -> None:
        self.function = function
        self.imports: set[str] = set()
        self.definitions: dict[str, str] = {}

    def add(self, thing: Any) -> None:
        """Add a function or class of the plugin's module, and everything that it uses.

        Raises:
            _NotStandalone: It needs more than torch and the standard library, or has no source.
        """
        try:
            source = textwrap.dedent(inspect.getsource(thing))
        except (OSError, TypeError):
            raise _NotStandalone("has no source file") from None
        tree = _RemoveAnnotations().visit(ast.parse(source))
        if thing is self.function:
            tree.body[0].decorator_list = []
        code = ast.unparse(ast.fix_missing_locations(tree))
        name = thing.__name__
        self.definitions[name] = ""  # ends the recursion of code that uses itself
        module = vars(sys.modules[self.function.__module__])
        for used in sorted(_global_names(code) & module.keys() - self.definitions.keys()):
            self._add_used(used, module[used])
        del self.definitions[name]
        self.definitions[name] = code

    def _add_used(self, name: str, value: Any) -> None:
        """Add what the plugin's module knows as ``name``: an import, definition or constant."""
        if isinstance(value, ModuleType):
            package, _, attribute = value.__name__.rpartition(".")
            statement = f"from {package} import {attribute}" if package else f"import {attribute}"
            origin = value.__name__
        elif getattr(value, "__module__", None) == self.function.__module__:
            self.add(value)
            return
        elif isinstance(value, int | float | str):
            self.definitions[name] = f"{name} = {value!r}"
            return
        else:
            origin = getattr(value, "__module__", None) or type(value).__module__
            attribute = getattr(value, "__name__", name)
            statement = f"from {origin} import {attribute}"
        if origin.partition(".")[0] not in ALLOWED_PACKAGES:
            raise _NotStandalone(f"needs {name} from {origin}")
        self.imports.add(statement if attribute == name else f"{statement} as {name}")


class _RemoveAnnotations(ast.NodeTransformer):
    """Remove docstrings and annotations, which may use names that torch does not have."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Remove the docstring and the annotations of a function."""
        node.returns = None
        return self._remove_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Remove the docstring of a class and the annotations in it."""
        return self._remove_docstring(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Remove the annotation of an argument."""
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        """Remove the annotation of an assignment, and a declaration without a value."""
        if node.value is None:
            return None
        return ast.Assign([node.target], node.value)

    def _remove_docstring(self, node: ast.FunctionDef | ast.ClassDef) -> ast.AST:
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return node


def _global_names(code: str) -> set[str]:
    """Find the names that code takes from its module."""

    def walk(table: symtable.SymbolTable) -> Iterator[str]:
        for symbol in table.get_symbols():
            outermost = table.get_type() == "module" and not symbol.is_assigned()
            if symbol.is_referenced() and (outermost or symbol.is_global()):
                yield symbol.get_name()
        for child in table.get_children():
            yield from walk(child)

    return set(walk(symtable.symtable(code, "head", "exec")))
