"""Networks of other libraries as backbones with timm's interface.

The module imports torch; the plugins import it only inside their functions.

Shapes: B images in a batch, S their side in pixels, F features, T tokens.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from autotl.errors import Incompatible

STAGES = 4
"""The largest number of stages."""

JOINED = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
"""Normalisation layers, which belong to the block before them."""

Hook = Callable[[nn.Module, Any, Any], None]


class WrappedBackbone(nn.Module):
    """``images [B, C, S, S] -> features [B, F]``.

    Subclasses compute; this class finds blocks and gives heads what they take.

    Args:
        network: The network without its classifier.

    Attributes:
        num_features: Number of channels of the map, or of the numbers of a token.
        head_hidden_size: Number of features F that are pooled.
        num_prefix_tokens: Number of tokens before those of the positions.
        output_fmt: ``NHWC`` where channels are last in the map.
        feature_info: The stages, as timm has them: ``module`` is the name of the module.
    """

    num_features: int
    head_hidden_size: int
    num_prefix_tokens = 0
    output_fmt = "NCHW"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.feature_info: list[dict[str, Any]] = []

    def forward(self, images: Tensor) -> Tensor:
        """``images [B, C, S, S]`` to pooled features ``[B, F]``."""
        return self.run(images)[0]

    def forward_features(self, images: Tensor) -> Tensor:
        """``images [B, C, S, S]`` to the map ``[B, F, H, W]``, or to tokens ``[B, T, F]``."""
        return self.run(images)[1]

    def run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled features, and the map or the tokens."""
        raise NotImplementedError

    def forward_intermediates(
        self, images: Tensor, indices: int | Sequence[int] | None = None, norm: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """The pooled features, and the maps of stages.

        Args:
            images: ``[B, C, S, S]``.
            indices: Number of last stages, or their indices; None for all.
            norm: Ignored: maps are as the stages return them.

        Returns:
            Features ``[B, F]``, and maps ``[B, channels, H, W]``; tokens are ``H`` of one column.

        Raises:
            LookupError: The network has no stages.
        """
        if not self.feature_info:
            raise LookupError("it has no list of layers")
        names = [stage["module"] for stage in self.feature_info]
        if isinstance(indices, int):
            indices = range(len(names) - indices, len(names))
        chosen = names if indices is None else [names[i] for i in indices]
        with record_outputs(self, chosen) as outputs:
            features = self.forward(images)
        return features, [self._to_map(outputs[name]) for name in chosen]

    def forward_head(self, features: Tensor) -> Tensor:
        """What ``forward_intermediates`` returned first, which is pooled already."""
        return features

    def _to_map(self, output: Tensor) -> Tensor:
        if output.ndim == 3:
            return output[:, self.num_prefix_tokens :].transpose(1, 2).unsqueeze(3)
        return output.permute(0, 3, 1, 2) if self.output_fmt == "NHWC" else output

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Return the function that tells the block of a parameter by its name, from the stem on."""
        blocks: dict[str, int] = {}
        block = 0
        has_layer = False
        for names, joins in _find_units(self.network, "network."):
            block += has_layer and not joins
            has_layer |= not joins
            blocks |= dict.fromkeys(names, block)
        return blocks.__getitem__


def _find_units(module: nn.Module, prefix: str) -> Iterator[tuple[list[str], bool]]:
    """Yield the names of parameters that belong together, and whether they join those before."""
    own = [prefix + name for name, _ in module.named_parameters(recurse=False)]
    if own:
        yield own, True
    for name, child in module.named_children():
        if _is_container(child):
            yield from _find_units(child, f"{prefix}{name}.")
        elif names := [f"{prefix}{name}.{n}" for n, _ in child.named_parameters()]:
            yield names, isinstance(child, JOINED)


def _is_container(module: nn.Module) -> bool:
    """Whether a module is a sequence of blocks, or a stage or an encoder with such a sequence."""
    children = list(module.children())
    if isinstance(module, nn.ModuleList | nn.ModuleDict) or type(module) is nn.Sequential:
        return True
    if isinstance(module, nn.Sequential):
        return len(set(map(type, children))) == 1
    return hasattr(module, "layers") or any(isinstance(c, nn.ModuleList) for c in children)


@contextmanager
def record_outputs(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of some modules, in the order in which they are called.

    Args:
        model: The model.
        names: The names of the modules.

    Yields:
        The outputs by name; of several tensors the first.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Hook:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            outputs[name] = output if isinstance(output, Tensor) else output[0]

        return hook

    handles = [model.get_submodule(n).register_forward_hook(keep(n)) for n in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def find_stages(outputs: Mapping[str, Tensor], channels_last: bool = False) -> list[dict[str, Any]]:
    """The stages of a network: the last modules at each resolution, as timm describes them.

    Args:
        outputs: The outputs of the modules in order: maps, or tokens.
        channels_last: Whether maps are ``[B, H, W, channels]``.

    Returns:
        For each of up to ``STAGES`` stages ``module`` and ``num_chs``.
    """
    if any(output.ndim == 4 for output in outputs.values()):
        outputs = {name: output for name, output in outputs.items() if output.ndim == 4}
    last = {_resolution(output, channels_last): name for name, output in outputs.items()}
    # A transformer has one resolution, and each of its layers is a stage.
    names = list(last.values()) if len(last) > 1 else list(outputs)
    axis = -1 if channels_last else 1
    return [
        {"module": name, "num_chs": outputs[name].shape[axis if outputs[name].ndim == 4 else -1]}
        for name in names[-STAGES:]
    ]


def _resolution(output: Tensor, channels_last: bool) -> int:
    """The height of a map, or the number of tokens."""
    return output.shape[1 if channels_last or output.ndim == 3 else 2]


@contextmanager
def refuse_size(name: str, size: int) -> Iterator[None]:
    """Turn what a network raises on images of another size into ``Incompatible``."""
    try:
        yield
    except torch.OutOfMemoryError:  # a RuntimeError
        raise
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as e:
        reason = textwrap.shorten(str(e), 200)
        raise Incompatible(f"{name} does not accept images of {size} x {size}: {reason}") from e


def change_channels(network: nn.Module, name: str, in_chans: int, own: int = 3) -> None:
    """Let a network take images of another number of channels, by timm's rule.

    The weights of the first convolution are summed for one channel, and repeated and scaled for
    several.

    Args:
        network: The network.
        name: Its name, for errors.
        in_chans: Number of channels of the images.
        own: Number of channels that the network takes.

    Raises:
        Incompatible: The first layer is no convolution of three channels.
    """
    if in_chans == own:
        return
    convolutions = ((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    path, old = next(convolutions, ("", None))
    if old is None or old.in_channels != 3 or old.groups != 1:
        raise Incompatible(f"{name} cannot be changed from {own} to {in_chans} channels")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on the meta device nothing is initialised
        new = nn.Conv2d(
            in_chans,
            old.out_channels,
            old.kernel_size,  # type: ignore[arg-type]
            old.stride,  # type: ignore[arg-type]
            old.padding,  # type: ignore[arg-type]
            old.dilation,  # type: ignore[arg-type]
            bias=old.bias is not None,
            padding_mode=old.padding_mode,
        )
    new.weight = nn.Parameter(adapt_input_conv(in_chans, old.weight.detach()))
    new.bias = old.bias
    holder, _, attribute = path.rpartition(".")
    setattr(network.get_submodule(holder), attribute, new)
    for module in network.modules():  # transformers compares the images with them
        if getattr(module, "num_channels", None) == own:
            vars(module)["num_channels"] = in_chans
