"""The study file (TOML), its defaults, and recipes: what a search or a training is asked to do."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from autotl.errors import StudyError, did_you_mean
from autotl.space.plugin import OPTIONAL_KINDS, SEARCHED_KINDS

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str | float) -> float:
    """A time span in seconds: ``90``, ``"90s"``, ``"10m"``, ``"1h30m"``.

    Raises:
        StudyError: The text is no time span, or not longer than nothing.

    >>> parse_duration("1h30m")
    5400.0
    """
    plain = str(text).strip().lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", plain)
    if not parts or "".join(n + u for n, u in parts) != plain:
        raise StudyError(f"{text!r} is no time span; write 90s, 10m, 1h30m or 2d")
    span = sum(float(n) * UNITS[u or "s"] for n, u in parts)
    if span <= 0:
        raise StudyError(f"a budget of {text!r} leaves no time; write 90s, 10m, 1h30m or 2d")
    return span


def _seconds(value: Any) -> Any:
    try:
        return None if value is None else parse_duration(value)
    except StudyError as error:
        raise ValueError(str(error)) from None


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str | Path | int) else value


def _count(value: Any) -> Any:
    """A number of parameters: ``5000000``, ``"5M"``, ``"1.5B"``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([kmb]?)", str(value).strip().lower())
    if value is None:
        return None
    if not found:
        raise ValueError("write 500k, 30M or 1.5B")
    return round(float(found[1]) * {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}[found[2]])


def _bytes(value: Any) -> Any:
    """A size in bytes: ``"20GB"``, ``"500MB"``; ``0`` for none."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([kmgt]?)i?b?", str(value).strip().lower())
    if not found:
        raise ValueError("write 500MB or 20GB")
    return round(float(found[1]) * 1024 ** " kmgt".index(found[2] or " "))


def _milliseconds(value: Any) -> Any:
    """A time in milliseconds: ``20``, ``"20ms"``, ``"0.1s"``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(ms|s|)", str(value).strip().lower())
    if value is None:
        return None
    if not found:
        raise ValueError("write 20ms or 0.5s")
    return float(found[1]) * (1000 if found[2] == "s" else 1)


Names = Annotated[tuple[str, ...], BeforeValidator(_several)]
Sizes = Annotated[tuple[Annotated[int, Field(ge=16, le=2048)], ...], BeforeValidator(_several)]
Share = Annotated[float, Field(gt=0, lt=0.9)]


class StudyConfig(BaseModel):
    """Everything a search is asked to do. The command line's options have the same names.

    ``space`` pins and narrows: ``space.freeze.last_blocks.lr = [1e-4, 1e-3]``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    study: Annotated[str, Field(pattern=r"^[^/\\.][^/\\]{0,199}$")] = ""
    budget: Annotated[float | None, BeforeValidator(_seconds)] = None  # seconds
    trials: Annotated[int, Field(ge=1)] | None = None
    metric: str = "accuracy"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    epochs: Annotated[int, Field(ge=1)] = 12
    views: Annotated[int, Field(ge=1, le=64)] = 4  # of a picture that a frozen part sees
    batch_size: Annotated[int, Field(ge=2)] = 32
    image_size: Sizes = ()  # pixels; none: the backbone's; several: searched
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of an average of the weights; 0: none
    validation: Share | None = None  # None: a fifth, more of a small set
    test: Share = 0.2
    backbone: Names = ()
    freeze: Names = ()
    head: Names = ()
    augment: Names = ()
    optimizer: Names = ()
    balance: Names = ()
    max_parameters: Annotated[int | None, BeforeValidator(_count)] = None
    max_latency: Annotated[float | None, BeforeValidator(_milliseconds)] = None  # for one picture
    licence: Names = ()  # that weights may have; none: any
    space: dict[str, dict[str, dict[str, Any]]] = {}
    plugin: Annotated[tuple[Path, ...], BeforeValidator(_several)] = ()
    weights: Path | None = None
    prefer: Literal["accuracy", "cheap"] = "accuracy"  # cheap: the cheapest of those tied
    again: bool = False  # test a later winner too, though the test part was opened before
    history: bool = True  # begin with what did best on similar data
    learn_from: str | None = None  # the database to look in; None: the study's own
    cache_size: Annotated[int | None, BeforeValidator(_bytes)] = None  # bytes; None: a tenth
    storage: str | None = None
    out: Path = Path("runs")
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    @field_validator("data")
    @classmethod
    def _home(cls, data: str) -> str:
        return str(Path(data).expanduser()) if data.startswith("~") else data

    @property
    def name(self) -> str:
        """The study's name; without one given, that of the data."""
        path = Path(self.data.split(":")[-1]).resolve()
        return self.study or (path.name if path.is_dir() else path.stem) or "study"

    @property
    def size(self) -> int | None:
        """The one side of pictures in pixels; None where it is the backbone's, or searched."""
        return self.image_size[0] if len(self.image_size) == 1 else None

    @property
    def requested(self) -> dict[str, tuple[str, ...]]:
        """The names or patterns asked for, by kind of plugin."""
        return {kind: getattr(self, kind) for kind in SEARCHED_KINDS}

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.out / self.name


DEFAULT_BUDGET = 600.0
"""Seconds that a search takes when neither a budget nor a number of trials is given."""


def configure(source: str, options: Mapping[str, Any]) -> StudyConfig:
    """The study of a data source or of a study file, overridden by ``options``.

    Paths in a study file to what is read are relative to the file.

    Raises:
        StudyError: The file cannot be read, or something in it or in the options is wrong.
    """
    values: dict[str, Any] = {"data": source}
    where = "options"
    if source.endswith(".toml"):
        where = source
        values = {"study": Path(source).stem, **_read(Path(source))}
        for key in {"data", "weights", "plugin", "learn_from"} & set(values):
            values[key] = _relative(values[key], Path(source).parent)
    return _validated({**values, **options}, where)


def _relative(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_relative(v, folder) for v in value]
    inside = folder / Path(str(value)).expanduser()
    return str(inside) if inside.exists() or ":" not in str(value) else value


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        near = (p.name for p in path.parent.glob("*.toml"))
        raise StudyError(
            f"{path} cannot be read ({error.strerror}); {did_you_mean(path.name, near)}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} is not valid TOML: {error}") from None


def _validated(values: dict[str, Any], where: str) -> StudyConfig:
    try:
        return StudyConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        # The place in a list says nothing to people.
        name = ".".join(str(part) for part in first["loc"] if not isinstance(part, int))
        if name in SEARCHED_KINDS and isinstance(first["input"], dict):
            use = f"autotl train {shlex.quote(where)}"
            raise StudyError(f"{where} is a recipe; use: {use}") from None
        if first["type"] == "extra_forbidden":
            message = f"{name!r} is no option; {did_you_mean(name, StudyConfig.model_fields)}"
        elif first["type"] == "missing":
            message = f"{name!r} is missing; add it"
        else:
            said = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
            said = "is no name of a folder" if name == "study" else said
            message = f"{name} = {first['input']!r}: {said}"
        raise StudyError(f"{where}: {message}") from None


def write_recipe(
    path: Path, config: Mapping[str, Any], training: Mapping[str, Any], of: int = 1
) -> None:
    """Write a recipe: ``config`` as ``space.to_json`` makes it, and how it was trained.

    Args:
        path: The TOML file to write.
        config: One plugin with its values for each kind.
        training: Other facts that decide the result: epochs, batch_size, seed, metric, ...
        of: How many such recipes the winner is made of.
    """
    known = {key: value for key, value in training.items() if value is not None}
    text = tomli_w.dumps({**known, **config})
    one = f"# It makes one of the {of} models that the winner is made of.\n" if of > 1 else ""
    path.write_text(f"# Train it again: autotl train {path.name} DATA\n{one}{text}")


def configure_recipe(path: Path, source: str | None, options: Mapping[str, Any]) -> StudyConfig:
    """The study that has one trial only: the recipe's.

    Args:
        path: A ``recipe.toml`` as ``write_recipe`` wrote it.
        source: The data; None for what the recipe was made for.
        options: Settings that are to be others than the recipe's.

    Raises:
        StudyError: The file is no recipe, or an option is wrong.
    """
    values = _read(path)
    config = {kind: values.pop(kind, None) for kind in SEARCHED_KINDS}
    for kind, chosen in list(config.items()):
        if chosen is None and kind in OPTIONAL_KINDS:
            del config[kind]
            continue
        if not isinstance(chosen, dict) or len(chosen) != 1:
            raise StudyError(f"{path} is no recipe: it needs one table [{kind}.NAME]")
        values[kind] = list(chosen)
    values.pop("versions", None)
    member = path.stem.removeprefix("recipe")  # recipe-2.toml is an ensemble's second
    name = f"{path.resolve().parent.name}-again{member}"
    fixed = {"study": name, "trials": 1, "space": config, **({"data": source} if source else {})}
    return _validated({**values, **fixed, **options}, str(path))
