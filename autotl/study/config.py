"""The settings of a study, from the options of a command and from a study file (TOML)."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from autotl.errors import StudyError, did_you_mean, find_path_fault, shorten
from autotl.space.kinds import MAX_CHANNELS, RGB, SEARCHED_KINDS
from autotl.study.places import check_places, name_problem
from autotl.study.values import (
    DEVICE_EXPECTED,
    DEVICES,
    Bytes,
    Count,
    Duration,
    Fraction,
    ImageSizes,
    Milliseconds,
    Names,
    ParameterCount,
    Size,
    Text,
    has_null,
    to_tuple,
)


class Settings(BaseModel):
    """What the settings of all commands have in common: how their values are checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*")
    @classmethod
    def _refuse_null(cls, value: Any) -> Any:
        if has_null(value):
            raise ValueError("has a null character")
        return value

    @field_validator("plugin", "weights", "out", check_fields=False)
    @classmethod
    def _check_paths(cls, value: Any) -> Any:
        return check_paths(value)


class StudyConfig(Settings):
    """The settings of a search. The options of the command line have the same names.

    ``space`` pins and narrows keywords: ``space.freeze.last_blocks.lr = [1e-4, 1e-3]``.
    ``data_options`` sets keywords of the dataset plugin that reads the data.
    """

    data: str
    data_options: dict[str, Text] = {}
    study: str = ""
    budget: Duration | None = None
    trials: Count | None = None
    task: str = "auto"  # auto: the one that the labels tell
    metric: str = ""  # empty: the default of the task
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 12
    patience: Count | None = None  # epochs without a better score
    views: Annotated[int, Field(ge=1, le=64)] = 4  # augmented views of an image, for frozen layers
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 32
    image_size: ImageSizes = ()  # or size; empty: the backbone's own; several: searched
    in_chans: Annotated[int, Field(ge=1, le=MAX_CHANNELS)] = RGB  # channels of images
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of averaged weights; 0: no average
    validation: Fraction | None = None  # None: a fifth, more for a small data set
    folds: Annotated[int, Field(ge=2, le=20)] | None = None  # instead of a validation split
    test: Fraction = 0.2
    backbone: Names = ()
    freeze: Names = ()
    head: Names = ()
    augment: Names = ()
    optimizer: Names = ()
    balance: Names = ()
    unlabelled: Names = ()
    loss: Names = ()  # empty: that of the task
    max_parameters: ParameterCount | None = None
    max_latency: Milliseconds | None = None  # for one image
    licence: Names = ()  # accepted licences of weights; empty: any
    space: dict[str, dict[str, dict[str, Any]]] = {}
    plugin: Annotated[tuple[Path, ...], BeforeValidator(to_tuple)] = ()
    weights: Path | None = None
    target: str | None = None  # examples of another domain, which are the ones that count
    source: str | None = None  # data on which the weights of the backbone are trained first
    continue_pretraining: Literal["", "simclr"] = ""  # of the first backbone, on these images
    prefer: Literal["accuracy", "cheap"] = "accuracy"  # cheap: the cheapest of tied contenders
    student: str = ""  # backbone of a small model that the winner teaches
    student_size: Size | None = None  # of its input; None: as in the search
    retest: bool = False  # test a new winner, although the test split was used for another one
    history: bool = True  # start with the best configurations of studies on similar data
    learn_from: str | None = None  # database with those studies; None: the study's own
    cache_size: Bytes | None = None  # None: 10 GB at most
    storage: str | None = None
    out: Path = Path("runs")
    device: Annotated[str, Field(pattern=DEVICES)] = "auto"
    precision: Literal["auto", "float32", "tf32", "bfloat16", "float16"] = "auto"

    @field_validator("study")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name and (problem := name_problem(name)):
            raise ValueError(f"is not a valid name of a study: {problem}")
        return name

    @field_validator("data", "source", "target")
    @classmethod
    def _expand_home(cls, data: str | None) -> str | None:
        return None if data is None else check_source(data)

    @field_validator("folds")
    @classmethod
    def _check_folds(cls, folds: int | None, info: ValidationInfo) -> int | None:
        if folds is not None and info.data.get("validation") is not None:
            raise ValueError("folds take the place of a validation split; give no validation")
        return folds

    @field_validator("student_size")
    @classmethod
    def _require_student(cls, size: int | None, info: ValidationInfo) -> int | None:
        if size is not None and not info.data.get("student"):
            raise ValueError("is the size of a student; name its backbone with --student")
        return size

    @field_validator("target")
    @classmethod
    def _refuse_folds(cls, target: str | None, info: ValidationInfo) -> str | None:
        if target is not None and info.data.get("folds") is not None:
            raise ValueError(
                "folds are of labelled examples, all of which train if there is a target, and only "
                "those of the target score; leave out folds"
            )
        return target

    @field_validator("storage")
    @classmethod
    def _refuse_memory(cls, storage: str | None) -> str | None:
        is_file = re.match(r"sqlite[^:]*:///(?!file::memory:|:memory:)[^?]", storage or "")
        if storage and storage.startswith("sqlite") and (not is_file or "mode=memory" in storage):
            raise ValueError("is a database in memory, which is lost; expected sqlite:///FILE.db")
        return storage

    @property
    def name(self) -> str:
        """The study's name; by default that of the data, with a target ``DATA-to-TARGET``."""
        names = [_name_of(data) for data in (self.data, self.target) if data]
        return self.study or "-to-".join(filter(None, names)) or "study"

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


def _name_of(source: str) -> str:
    """The name of a data source: that of a folder, or of a file without its ending."""
    path = Path(source.split(":")[-1]).resolve()
    return path.name if path.is_dir() else path.stem


def check_source(data: str) -> str:
    """Return a data source with the folder of a user in the place of ``~``.

    Raises:
        ValueError: It is empty, or a path that no file can have.
    """
    if not data.strip():
        raise ValueError("it is empty; is a variable of the shell not set?")
    if fault := "" if ":" in data else find_path_fault(data):
        raise ValueError(f"is not a valid path: {fault}")
    return str(Path(data).expanduser()) if data.startswith("~") else data


def check_paths(value: Any) -> Any:
    """Return a path, several paths or None.

    Raises:
        ValueError: No file can have such a path.
    """
    for path in value if isinstance(value, tuple) else (value,):
        if fault := "" if path is None else find_path_fault(path):
            raise ValueError(f"is not a valid path: {fault}")
    return value


OPTIONS = "options"
"""The source of settings that are not in a file, for messages."""

FILE_SETTINGS = ("data", "space", "views", "label_smoothing")
"""The settings that are no options of the command line."""

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
    where = OPTIONS
    if source.endswith(".toml"):
        where = source
        values = {"study": Path(source).stem, **read_toml(Path(source))}
        resolve_paths(values, Path(source).parent)
    return validate(values, options, where)


def resolve_paths(values: dict[str, Any], folder: Path) -> None:
    """Resolve the paths of a study file or a recipe, which are relative to its ``folder``."""
    for key in {"data", "source", "target", "weights", "plugin", "learn_from"} & set(values):
        values[key] = _resolve_path(values[key], folder)


def _resolve_path(value: Any, folder: Path) -> Any:
    """Resolve a path, or a list of paths, against ``folder``; keep sources that are not paths."""
    if isinstance(value, list):
        return [_resolve_path(v, folder) for v in value]
    if not str(value).strip():
        return value  # not the folder itself
    if find_path_fault(str(value)):
        return value  # the check of the setting explains it
    inside = folder / Path(str(value)).expanduser()
    return str(inside) if inside.exists() or ":" not in str(value) else value


def read_toml(path: Path) -> dict[str, Any]:
    """Read a study file or a recipe.

    Raises:
        StudyError: It cannot be read, or is not valid TOML.
    """
    if fault := find_path_fault(path):
        raise StudyError(f"{shorten(str(path))} cannot be read: {fault}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        near = (p.name for p in path.parent.glob("*.toml"))
        raise StudyError(
            f"{path} cannot be read ({error.strerror}); {did_you_mean(path.name, near)}"
        ) from None
    except (ValueError, RecursionError) as error:  # numbers of too many digits are ValueErrors
        raise StudyError(f"{path} is not valid TOML: {error}") from None


def validate(values: dict[str, Any], options: Mapping[str, Any], where: str) -> StudyConfig:
    """Validate settings.

    Args:
        values: The settings of a file, or the data source.
        options: Settings that override them.
        where: The source of ``values``, for the message of a StudyError.
    """
    values, options = rename_size(values), rename_size(options)
    try:
        settings = StudyConfig.model_validate({**values, **options})
    except ValidationError as errors:
        error = errors.errors()[0]
        given = error["loc"][0] in options
        raise StudyError(f"{OPTIONS if given else where}: {explain(error, where, given)}") from None
    if problem := name_problem(settings.name):
        raise StudyError(
            f"{shorten(settings.name)}, the name of the data, is not a valid name of a study: "
            f"{problem}; give another one with --study"
        )
    for place in (settings.data, settings.target):
        if place:
            check_places(settings.folder, place)
    return settings


def rename_size(values: Mapping[str, Any]) -> dict[str, Any]:
    """Let ``size`` stand for ``image_size``, as it is called where inputs are no images."""
    renamed = {"size": "image_size"}
    return {renamed.get(key, key): value for key, value in values.items()}


def explain(
    error: Mapping[str, Any], where: str, is_option: bool, fields: Iterable[str] = ()
) -> str:
    """Return the message for an error of pydantic.

    Args:
        error: The error.
        where: The source of the settings.
        is_option: Whether the setting was given as an option.
        fields: The names of all settings; those of a search if there are none.
    """
    # Indices of lists are left out.
    name = ".".join(str(part) for part in error["loc"] if not isinstance(part, int))
    if name in SEARCHED_KINDS and isinstance(error["input"], dict):
        return f"this is a recipe; use: autotl train {shlex.quote(where)}"
    if error["type"] == "extra_forbidden":
        near = did_you_mean(name, fields or StudyConfig.model_fields)
        return f"{shorten(name)} is not an option; {near}"
    if error["type"] == "missing":
        return f"{name!r} is missing; add it"
    reason = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if name == "device":
        reason = DEVICE_EXPECTED
    elif error["type"].startswith("byte_size"):
        reason = "is not a valid size; expected e.g. 500MB or 20GB"
    if is_option and name not in FILE_SETTINGS:
        name = f"--{name.replace('_', '-')}"
    return f"{name} = {shorten(error['input'])}: {reason}"
