"""A saved model as code that needs timm, torch and safetensors, not autotl: for its model card.

The code is run on the saved files before it is told to anybody. Where it cannot be had, because
the backbone is not timm's or the head needs more than torch, there is a reason instead.
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

from autotl.models import STAGES, Model
from autotl.space.space import Choice, Config

TOLERANCE = 1e-3
"""By how much a probability may differ: other kernels, or the GPU's shorter mantissas."""

BUILD = Template("""\
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
about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
weights = load_file(folder / "model.safetensors")
$definitions
backbone = $backbone
head = $head
for name, part in (("backbone.", backbone), ("head.", head)):
    own = {k.removeprefix(name): tensor for k, tensor in weights.items() if k.startswith(name)}
    part.load_state_dict(own)
    part.eval()


@torch.inference_mode()
def probabilities(images):  # uint8 [B, 3, size, size] -> float32 [B, classes]
    mean, std = (255 * torch.tensor(about["input"][k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    x = (images - mean) / std
    $features
    return (head(x) / (about.get("temperature") or 1)).softmax(1)
""")

USE = """

size = about["input"]["size"]
picture = Image.open("photo.jpg")
picture.draft(None, (2 * size, 2 * size))  # as in training: a large JPEG is decoded reduced
picture = ImageOps.exif_transpose(picture).convert("RGB")
how = getattr(Image.Resampling, about["input"]["interpolation"].upper(), Image.Resampling.BICUBIC)
pixels = torch.from_numpy(np.array(picture.resize((size, size), how)))
for name, p in zip(about["classes"], probabilities(pixels.permute(2, 0, 1)[None])[0].tolist()):
    print(f"{p:.6f} {name}")
"""

PLAIN = {"torch", "timm", *sys.stdlib_module_names}
"""What the code may import for a head."""


class _NotPlain(Exception):
    """Why a head cannot be written as code that stands alone."""


def plain(folder: Path, network: Model, config: Config) -> dict[str, str]:
    """The parts of the code that builds the model in ``folder``, or the reason why there is none.

    Args:
        folder: Has ``config.json`` and ``model.safetensors``.
        network: The model that was saved there.
        config: Its backbone and head.

    Returns:
        What ``code`` takes, or ``{"reason": ...}``.
    """
    import timm

    backbone = config["backbone"]
    if not timm.is_model(backbone.name.partition(".")[0]):
        return {"reason": f"the backbone {backbone.name} comes from {backbone.plugin.origin}"}
    training = network.training
    network.eval()
    try:
        # Its first weights are random, but whoever saves a model shall draw no other numbers.
        with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _that_agrees(folder, network, config)
    finally:
        network.train(training)


def code(parts: Mapping[str, str], folder: str = ".") -> str:
    """The code that ``plain`` found the parts of; it defines ``probabilities``."""
    return BUILD.substitute(parts, folder=json.dumps(folder))


def _that_agrees(folder: Path, network: Model, config: Config) -> dict[str, str]:
    """The first way to write backbone and head that answers as ``network`` does."""
    pictures = _pictures(network.expects.size)
    fed = network.features(pictures.to(network.mean.device))
    logits = network.head(fed).float().cpu()
    try:
        heads = list(_heads(network.head, config["head"], fed.shape[-1], logits.shape[1]))
    except _NotPlain as error:
        return {"reason": str(error)}
    name, size = config["backbone"].name, network.expects.size
    features = _features(network)
    reason = ""
    # Models of a fixed size must be told of another one; the others refuse to be.
    for head, option in product(heads, ("", f", img_size={size}")):
        backbone = f"timm.create_model({json.dumps(name)}, num_classes=0{option})"
        parts = {**head, "backbone": backbone, "features": features}
        try:
            answer, temperature = _run(code(parts, folder.as_posix()), pictures)
        except Exception as error:  # another architecture or a plugin's source: anything
            reason = reason or f"timm's {name} cannot take its place: {_short(error)}"
            continue
        if torch.allclose(answer, (logits / temperature).softmax(1), rtol=0, atol=TOLERANCE):
            return parts
        reason = f"timm's {name} answers otherwise with its weights"
    return {"reason": reason}


def _run(text: str, pictures: Tensor) -> tuple[Tensor, float]:
    """What the code answers, and the temperature by which it does."""
    names: dict[str, Any] = {}
    exec(compile(text, "model card", "exec"), names)
    return names["probabilities"](pictures), names["about"].get("temperature") or 1.0


def _short(error: Exception) -> str:
    return textwrap.shorten(str(error) or type(error).__name__, 120)


def _pictures(size: int) -> Tensor:
    """Four smooth pictures, ``uint8 [4, 3, size, size]``: noise would tell models less apart."""
    coarse = 255 * torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    return smooth.to(torch.uint8)


def _features(network: Model) -> str:
    """The line that makes what the head is fed, as ``model.extract`` does."""
    if network.takes == "features":
        return "x = backbone(x)"
    if network.takes == "stages":
        info: Any = network.backbone.feature_info
        count = min(STAGES, len(getattr(info, "info", info)))
        return (
            f"last, maps = backbone.forward_intermediates(x, indices={count}, norm=False)\n"
            "    x = torch.cat([*(m.mean((2, 3)) for m in maps), backbone.forward_head(last)], 1)"
        )
    backbone: Any = network.backbone
    size = network.expects.size
    shape = backbone.forward_features(network.mean.new_zeros(1, 3, size, size)).shape
    found = "x = backbone.forward_features(x)"
    if len(shape) == 3:
        return f"{found}[:, {getattr(backbone, 'num_prefix_tokens', 0)}:]  # [B, positions, F]"
    last = getattr(backbone, "output_fmt", "NCHW") == "NHWC" or shape[1] != backbone.num_features
    flat = "flatten(1, 2)" if last else "flatten(2).transpose(1, 2)"
    return f"{found}.{flat}  # [B, positions, F]"


def _heads(head: nn.Module, choice: Choice, width: int, classes: int) -> Iterator[dict[str, str]]:
    """Ways to write a head: with torch's own layers, else by the source of its plugin.

    Raises:
        _NotPlain: There is none.
    """
    built = _layers(head)
    if built:
        yield {"imports": "", "definitions": "", "head": built}
    function = choice.plugin.function
    try:
        imports, definitions = _source(function)
    except _NotPlain as error:
        if built:
            return
        raise _NotPlain(f"the head {choice.name} {error}") from None
    given = {"features": width, "classes": classes}
    words = [str(given[p]) for p in inspect.signature(function).parameters if p in given]
    words += [f"{key}={value!r}" for key, value in choice.params.items()]
    call = f"{function.__name__}({', '.join(words)})"
    lines = "".join(f"{line}\n" for line in imports)
    yield {"imports": lines, "definitions": f"\n\n{definitions}\n\n", "head": call}


def _layers(module: nn.Module, indent: str = "") -> str:
    """A module as a call of torch's own layers, which print what they are made with; or ``""``.

    A layer that a plugin derived from one of torch's is taken for that; whether it answers alike
    is found out.
    """
    kind: Any = next(k for k in type(module).__mro__ if k.__module__.startswith("torch.nn."))
    if kind is nn.Sequential:
        inside = [_layers(child, indent + "    ") for child in module.children()]
        lines = "".join(f"\n{indent}    {child}," for child in inside)
        return f"nn.Sequential({lines}\n{indent})" if all(inside) else ""
    if kind is nn.Module or next(module.children(), None) is not None:
        return ""
    return f"nn.{kind.__name__}({kind.extra_repr(module)})"


def _source(function: Any) -> tuple[list[str], str]:
    """The imports and definitions that a head plugin's function stands on, its own last.

    Raises:
        _NotPlain: It needs more than torch and the standard library, or has no source.
    """
    home = vars(sys.modules[function.__module__])
    imports: set[str] = set()
    definitions: dict[str, str] = {}

    def add(thing: Any) -> None:
        try:
            source = textwrap.dedent(inspect.getsource(thing))
        except (OSError, TypeError):
            raise _NotPlain("has no source file") from None
        tree = _Bare().visit(ast.parse(source))
        if thing is function:
            tree.body[0].decorator_list = []
        text = ast.unparse(ast.fix_missing_locations(tree))
        definitions[thing.__name__] = ""  # it may use itself
        for name in sorted(_globals(text) & home.keys() - definitions.keys()):
            use(name, home[name])
        del definitions[thing.__name__]
        definitions[thing.__name__] = text

    def use(name: str, value: Any) -> None:
        if isinstance(value, ModuleType):
            parent, _, leaf = value.__name__.rpartition(".")
            line = f"from {parent} import {leaf}" if parent else f"import {leaf}"
            origin = value.__name__
        elif getattr(value, "__module__", None) == function.__module__:
            return add(value)
        elif isinstance(value, int | float | str):
            definitions[name] = f"{name} = {value!r}"
            return None
        else:
            origin = getattr(value, "__module__", None) or type(value).__module__
            leaf = getattr(value, "__name__", name)
            line = f"from {origin} import {leaf}"
        if origin.partition(".")[0] not in PLAIN:
            raise _NotPlain(f"needs {name} from {origin}")
        imports.add(line if leaf == name else f"{line} as {name}")
        return None

    add(function)
    imports -= set(BUILD.template.splitlines())
    return sorted(imports), "\n\n\n".join(definitions.values())


class _Bare(ast.NodeTransformer):
    """Takes away docstrings and annotations, which may name what torch does not have."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """A function with its code alone."""
        node.returns = None
        return self._without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """A class with its code alone."""
        return self._without_docstring(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """An argument without its type."""
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        """An assignment without its type; a mere declaration goes."""
        if node.value is None:
            return None
        return ast.Assign([node.target], node.value)

    def _without_docstring(self, node: ast.FunctionDef | ast.ClassDef) -> ast.AST:
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return node


def _globals(text: str) -> set[str]:
    """The names that code takes from its module."""

    def walk(table: symtable.SymbolTable) -> Iterator[str]:
        for symbol in table.get_symbols():
            outermost = table.get_type() == "module" and not symbol.is_assigned()
            if symbol.is_referenced() and (outermost or symbol.is_global()):
                yield symbol.get_name()
        for child in table.get_children():
            yield from walk(child)

    return set(walk(symtable.symtable(text, "head", "exec")))
