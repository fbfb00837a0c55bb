"""The settings of a study: study files (TOML), their defaults, and recipes."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from autotl.errors import StudyError, did_you_mean
from autotl.space.kinds import OPTIONAL_KINDS, SEARCHED_KINDS

SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str | float) -> float:
    """Parse a duration in seconds: ``"90s"``, ``"10m"``, ``"1h30m"``, or a number of seconds.

    Text without a unit is refused, because ``--budget 4`` may mean minutes or hours. Pydantic's
    ``timedelta`` does not read these forms.

    Raises:
        StudyError: The text is not a duration, or not a positive one.

    >>> parse_duration("1h30m")
    5400.0
    """
    normalised = str(text).strip().lower()
    if isinstance(text, str) and re.fullmatch(r"\d+(\.\d+)?", normalised):
        raise StudyError(
            f"{text!r} is not a valid duration: expected a unit, "
            f"{normalised}s, {normalised}m or {normalised}h"
        )
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", normalised)
    if not parts or "".join(number + unit for number, unit in parts) != normalised:
        raise StudyError(f"{text!r} is not a valid duration: expected e.g. 90s, 10m, 1h30m or 2d")
    seconds = sum(float(number) * SECONDS[unit] for number, unit in parts)
    if seconds <= 0:
        raise StudyError(
            f"{text!r} is not a valid duration: expected more than 0, e.g. 90s, 10m, 1h30m or 2d"
        )
    return seconds


def _parse_seconds(value: Any) -> float:
    try:
        return parse_duration(value)
    except StudyError as error:
        raise ValueError(str(error)) from None


def _parse_number(value: Any, units: Mapping[str, float], example: str) -> float:
    """Parse a number with one of ``units``, whose factors are the values."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([a-z]*)", str(value).strip().lower())
    if not match or match[2] not in units:
        raise ValueError(f"expected e.g. {example}")
    return float(match[1]) * units[match[2]]


def _parse_count(value: Any) -> int:
    units = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}
    return round(_parse_number(value, units, "500k, 30M or 1.5B"))


def _to_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str | Path | int) else value


Duration = Annotated[float, BeforeValidator(_parse_seconds)]  # seconds
ParameterCount = Annotated[int, BeforeValidator(_parse_count)]
Milliseconds = Annotated[
    float,
    BeforeValidator(
        partial(_parse_number, units={"": 1, "ms": 1, "s": 1000}, example="20ms or 0.5s")
    ),
]
Names = Annotated[tuple[str, ...], BeforeValidator(_to_tuple)]
ImageSizes = Annotated[
    tuple[Annotated[int, Field(ge=16, le=2048)], ...], BeforeValidator(_to_tuple)
]
DEVICES = r"^(auto|cpu|mps|cuda(:\d{1,4})?)$"
"""The names of devices. Whether this machine has one is checked when it is selected."""

DEVICE_EXPECTED = "is not a valid device; expected auto, cpu, cuda, cuda:1 or mps"

Fraction = Annotated[float, Field(gt=0, lt=0.9)]


class StudyConfig(BaseModel):
    """The settings of a search. The options of the command line have the same names.

    ``space`` pins and narrows keywords: ``space.freeze.last_blocks.lr = [1e-4, 1e-3]``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    study: Annotated[str, Field(pattern=r"^[^/\\.][^/\\]{0,199}$")] = ""
    budget: Duration | None = None
    trials: Annotated[int, Field(ge=1)] | None = None
    metric: str = "accuracy"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    epochs: Annotated[int, Field(ge=1)] = 12
    patience: Annotated[int, Field(ge=1)] | None = None  # epochs without a better score
    views: Annotated[int, Field(ge=1, le=64)] = 4  # augmented views of an image, for frozen layers
    batch_size: Annotated[int, Field(ge=2)] = 32
    image_size: ImageSizes = ()  # pixels; empty: the backbone's own; several: searched
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of averaged weights; 0: no average
    validation: Fraction | None = None  # None: a fifth, more for a small data set
    test: Fraction = 0.2
    backbone: Names = ()
    freeze: Names = ()
    head: Names = ()
    augment: Names = ()
    optimizer: Names = ()
    balance: Names = ()
    max_parameters: ParameterCount | None = None
    max_latency: Milliseconds | None = None  # for one image
    licence: Names = ()  # accepted licences of weights; empty: any
    space: dict[str, dict[str, dict[str, Any]]] = {}
    plugin: Annotated[tuple[Path, ...], BeforeValidator(_to_tuple)] = ()
    weights: Path | None = None
    prefer: Literal["accuracy", "cheap"] = "accuracy"  # cheap: the cheapest of tied contenders
    retest: bool = False  # test a new winner, although the test split was used for another one
    history: bool = True  # start with the best configurations of studies on similar data
    learn_from: str | None = None  # database with those studies; None: the study's own
    cache_size: Annotated[ByteSize, Field(ge=0)] | None = None  # None: 10 GB at most
    storage: str | None = None
    out: Path = Path("runs")
    device: Annotated[str, Field(pattern=DEVICES)] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    @field_validator("data")
    @classmethod
    def _expand_home(cls, data: str) -> str:
        return str(Path(data).expanduser()) if data.startswith("~") else data

    @field_validator("storage")
    @classmethod
    def _refuse_memory(cls, storage: str | None) -> str | None:
        is_file = re.match(r"sqlite[^:]*:///(?!file::memory:|:memory:)[^?]", storage or "")
        if storage and storage.startswith("sqlite") and (not is_file or "mode=memory" in storage):
            raise ValueError("is a database in memory, which is lost; expected sqlite:///FILE.db")
        return storage

    @property
    def name(self) -> str:
        """The study's name; by default that of the data."""
        path = Path(self.data.split(":")[-1]).resolve()
        return self.study or (path.name if path.is_dir() else path.stem) or "study"

    @property
    def size(self) -> int | None:
        """The side of the input images in pixels; None if it is the backbone's own, or searched."""
        return self.image_size[0] if len(self.image_size) == 1 else None

    @property
    def requested(self) -> dict[str, tuple[str, ...]]:
        """The requested names or patterns, by kind of plugin."""
        return {kind: getattr(self, kind) for kind in SEARCHED_KINDS}

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.out / self.name


DEFAULT_BUDGET = 600.0
"""Budget in seconds if neither a budget nor a number of trials is given."""


def configure(source: str, options: Mapping[str, Any]) -> StudyConfig:
    """Configure the study of a data source or of a study file.

    Args:
        source: A data source, or a study file, which ends in ``.toml``. Paths in a study file to
            files that are read are relative to it.
        options: Settings that override those of the file.

    Raises:
        StudyError: The file cannot be read, or a setting in it or in the options is not valid.
    """
    values: dict[str, Any] = {"data": source}
    where = "options"
    if source.endswith(".toml"):
        where = source
        values = {"study": Path(source).stem, **_read_toml(Path(source))}
        _resolve_paths(values, Path(source).parent)
    return _validate({**values, **options}, where)


def _resolve_paths(values: dict[str, Any], folder: Path) -> None:
    """Resolve the paths of a study file or a recipe, which are relative to its ``folder``."""
    for key in {"data", "weights", "plugin", "learn_from"} & set(values):
        values[key] = _resolve_path(values[key], folder)


def _resolve_path(value: Any, folder: Path) -> Any:
    """Resolve a path, or a list of paths, against ``folder``; keep sources that are not paths."""
    if isinstance(value, list):
        return [_resolve_path(v, folder) for v in value]
    inside = folder / Path(str(value)).expanduser()
    return str(inside) if inside.exists() or ":" not in str(value) else value


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        near = (p.name for p in path.parent.glob("*.toml"))
        raise StudyError(
            f"{path} cannot be read ({error.strerror}); {did_you_mean(path.name, near)}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} is not valid TOML: {error}") from None


def _validate(values: dict[str, Any], where: str) -> StudyConfig:
    """Validate settings; ``where`` names their source for the message of a StudyError."""
    try:
        return StudyConfig.model_validate(values)
    except ValidationError as error:
        raise StudyError(f"{where}: {_explain(error.errors()[0], where)}") from None


def _explain(error: Mapping[str, Any], where: str) -> str:
    """Return the message for an error of pydantic."""
    # Indices of lists are left out.
    name = ".".join(str(part) for part in error["loc"] if not isinstance(part, int))
    if name in SEARCHED_KINDS and isinstance(error["input"], dict):
        return f"this is a recipe; use: autotl train {shlex.quote(where)}"
    if error["type"] == "extra_forbidden":
        return f"{name!r} is not an option; {did_you_mean(name, StudyConfig.model_fields)}"
    if error["type"] == "missing":
        return f"{name!r} is missing; add it"
    reason = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if name == "study":
        reason = "is not a valid name of a folder; expected 1 to 200 characters without / or \\"
    elif name == "device":
        reason = DEVICE_EXPECTED
    elif error["type"].startswith("byte_size"):
        reason = "is not a valid size; expected e.g. 500MB or 20GB"
    return f"{name} = {error['input']!r}: {reason}"


def write_recipe(
    path: Path, config: Mapping[str, Any], training: Mapping[str, Any], of: int = 1
) -> None:
    """Write a recipe: a configuration and the settings with which it was trained.

    Args:
        path: The TOML file to write.
        config: One plugin with its values for each kind, as ``space.to_json`` returns it.
        training: Settings that affect the result: epochs, batch_size, seed, metric, ...
        of: Number of members, if the winner is an ensemble or a soup.
    """
    settings = {key: value for key, value in training.items() if value is not None}
    member = f"# This is one of the {of} members of an ensemble.\n" if of > 1 else ""
    path.write_text(
        f"# Retrain: autotl train {path.name} DATA\n{member}{tomli_w.dumps({**settings, **config})}"
    )


def configure_recipe(path: Path, source: str | None, options: Mapping[str, Any]) -> StudyConfig:
    """Configure the study that retrains a recipe, in a single trial.

    Args:
        path: A ``recipe.toml`` as ``write_recipe`` wrote it. The study is named like the folder of
            such a file, and like a file of another name.
        source: The data; None for the data that the recipe names.
        options: Settings that override those of the recipe.

    Raises:
        StudyError: The file is not a recipe, or an option is not valid.
    """
    values = _read_toml(path)
    config = {kind: values.pop(kind, None) for kind in SEARCHED_KINDS}
    for kind, chosen in list(config.items()):
        if chosen is None and kind in OPTIONAL_KINDS:
            del config[kind]
            continue
        if not isinstance(chosen, dict) or len(chosen) != 1:
            raise StudyError(f"{path} is not a valid recipe: expected one table [{kind}.NAME]")
        values[kind] = list(chosen)
    values.pop("versions", None)
    _resolve_paths(values, path.parent)
    own = re.fullmatch(r"recipe(-\d+)?", path.stem)  # recipe-2.toml is a member of an ensemble
    name = f"{path.resolve().parent.name}-retrained{own[1] or ''}" if own else path.stem
    fixed = {"study": name, "trials": 1, "space": config, **({"data": source} if source else {})}
    return _validate({**values, **fixed, **options}, str(path))
