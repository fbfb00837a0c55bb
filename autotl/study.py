"""The settings of a study: study files (TOML), their defaults, and recipes."""

from __future__ import annotations

import json
import math
import re
import shlex
import tomllib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal
from unicodedata import category

import tomli_w
from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from autotl import files
from autotl.errors import StudyError, did_you_mean, find_path_fault, shorten
from autotl.space.kinds import OPTIONAL_KINDS, SEARCHED_KINDS

RUN_FILES = (
    "model",
    "report.html",
    "summary.json",
    "recipe.toml",
    "splits.csv",
    "issues.csv",
    "out_of_fold.csv",
    "error.txt",
)
"""What a search writes into the run folder."""

RESERVED_NAMES = frozenset(
    ["cache", "artifacts", "con", "prn", "aux", "nul"]
    + [f"{device}{number}" for device in ("com", "lpt") for number in range(1, 10)]
)
"""Names that are not valid names of studies: folders beside the run folders, devices of Windows."""

MAX_NAME_BYTES = 200
"""The maximum length of the name of a study in UTF-8: a file name has 255 bytes at most."""

SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
MAX_SECONDS = 365 * SECONDS["d"]
"""The longest duration of a setting."""


def parse_duration(text: str | float) -> float:
    """Parse a duration in seconds: ``"90s"``, ``"10m"``, ``"1h30m"``, or a number of seconds.

    Text without a unit is refused, because ``--budget 4`` may mean minutes or hours. Pydantic's
    ``timedelta`` does not read these forms.

    Raises:
        StudyError: The text is not a duration, or is not in the range of 0 s to 365 days.

    >>> parse_duration("1h30m")
    5400.0
    """
    normalised = str(text).strip().lower()
    if isinstance(text, str) and re.fullmatch(r"\d+(\.\d+)?", normalised):
        examples = ", ".join(f"{normalised[:9]}{unit}" for unit in "smh")
        raise StudyError(f"{shorten(text)} is not a valid duration: expected a unit, {examples}")
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", normalised)
    invalid = f"{shorten(text)} is not a valid duration: expected"
    if not parts or "".join(number + unit for number, unit in parts) != normalised:
        raise StudyError(f"{invalid} e.g. 90s, 10m, 1h30m or 2d")
    seconds = sum(float(number) * SECONDS[unit] for number, unit in parts)
    if seconds <= 0:
        raise StudyError(f"{invalid} more than 0, e.g. 90s, 10m, 1h30m or 2d")
    if seconds > MAX_SECONDS:
        raise StudyError(f"{invalid} at most 365d, e.g. 90s, 10m, 1h30m or 2d")
    return seconds


def _parse_seconds(value: Any) -> float:
    try:
        return parse_duration(value)
    except StudyError as error:
        raise ValueError(str(error)) from None


def _parse_number(value: Any, units: Mapping[str, float], example: str) -> float:
    """Parse a number with one of ``units``, whose factors are the values."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([a-z]*)", str(value).strip().lower())
    if not match or match[2] not in units or float(match[1]) == math.inf:
        raise ValueError(f"expected e.g. {example}")
    return float(match[1]) * units[match[2]]


def _parse_count(value: Any) -> float:
    units = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}
    number = _parse_number(value, units, "500k, 30M or 1.5B")
    return round(number) if number < MAX_PARAMETERS else number


def _parse_bytes(value: Any) -> Any:
    # ByteSize converts numbers of any length to an integer, and infinity is none.
    if isinstance(value, str) and len(value) > 40:
        raise ValueError("expected e.g. 500MB or 20GB")
    return value


def _has_null(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_null(part) for part in (*value, *value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_null, value))
    return "\0" in str(value)


def _to_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str | Path | int) else value


MAX_PARAMETERS = 10**12
"""The largest limit of the number of parameters."""

Duration = Annotated[float, BeforeValidator(_parse_seconds)]  # seconds
Count = Annotated[int, Field(ge=1, le=1_000_000)]
ParameterCount = Annotated[int, BeforeValidator(_parse_count), Field(ge=1, le=MAX_PARAMETERS)]
Milliseconds = Annotated[
    float,
    BeforeValidator(
        partial(_parse_number, units={"": 1, "ms": 1, "s": 1000}, example="20ms or 0.5s")
    ),
    Field(gt=0, le=1000 * SECONDS["d"]),
]
Bytes = Annotated[ByteSize, BeforeValidator(_parse_bytes), Field(ge=0, le=10**18)]
Names = Annotated[tuple[str, ...], BeforeValidator(_to_tuple)]
ImageSizes = Annotated[
    tuple[Annotated[int, Field(ge=16, le=2048)], ...],
    BeforeValidator(_to_tuple),
    Field(max_length=100),
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
    study: str = ""
    budget: Duration | None = None
    trials: Count | None = None
    metric: str = "accuracy"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 12
    patience: Count | None = None  # epochs without a better score
    views: Annotated[int, Field(ge=1, le=64)] = 4  # augmented views of an image, for frozen layers
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 32
    image_size: ImageSizes = ()  # pixels; empty: the backbone's own; several: searched
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
    cache_size: Bytes | None = None  # None: 10 GB at most
    storage: str | None = None
    out: Path = Path("runs")
    device: Annotated[str, Field(pattern=DEVICES)] = "auto"
    precision: Literal["auto", "float32", "tf32", "bfloat16", "float16"] = "auto"

    @field_validator("*")
    @classmethod
    def _refuse_null(cls, value: Any) -> Any:
        if _has_null(value):
            raise ValueError("has a null character")
        return value

    @field_validator("study")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name and (problem := name_problem(name)):
            raise ValueError(f"is not a valid name of a study: {problem}")
        return name

    @field_validator("data")
    @classmethod
    def _expand_home(cls, data: str) -> str:
        if not data.strip():
            raise ValueError("it is empty; is a variable of the shell not set?")
        if fault := "" if ":" in data else find_path_fault(data):
            raise ValueError(f"is not a valid path: {fault}")
        return str(Path(data).expanduser()) if data.startswith("~") else data

    @field_validator("plugin", "weights", "out")
    @classmethod
    def _check_paths(cls, value: Any) -> Any:
        for path in value if isinstance(value, tuple) else (value,):
            if fault := "" if path is None else find_path_fault(path):
                raise ValueError(f"is not a valid path: {fault}")
        return value

    @field_validator("folds")
    @classmethod
    def _check_folds(cls, folds: int | None, info: ValidationInfo) -> int | None:
        if folds is not None and info.data.get("validation") is not None:
            raise ValueError("folds take the place of a validation split; give no validation")
        return folds

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
        values = {"study": Path(source).stem, **_read_toml(Path(source))}
        _resolve_paths(values, Path(source).parent)
    return _validate(values, options, where)


def _resolve_paths(values: dict[str, Any], folder: Path) -> None:
    """Resolve the paths of a study file or a recipe, which are relative to its ``folder``."""
    for key in {"data", "weights", "plugin", "learn_from"} & set(values):
        values[key] = _resolve_path(values[key], folder)


def name_problem(name: str) -> str:
    """Return why a name is not a valid name of a study; empty if it is valid.

    The name is that of the run folder, beside the database and the cache, on any system.
    """
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        return "expected the name of a folder, without / or \\ and no dot at its start"
    # Surrogates cannot be stored; others change how the name looks, or end a line.
    joiners = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
    if any(category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in joiners for c in name):
        return "it contains characters that are not visible"
    if name != name.strip() or name.endswith("."):
        return "it begins or ends with a blank, or ends with a dot"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"it is longer than {MAX_NAME_BYTES} bytes"
    lower = name.lower()
    if lower.split(".")[0] in RESERVED_NAMES or lower.startswith("autotl.db"):
        return "it is reserved"
    return ""


def check_places(folder: Path, source: str) -> None:
    """Check that the run folder replaces neither images nor other files of the user.

    Args:
        folder: The run folder.
        source: The data.

    Raises:
        StudyError: One of the run folder and the data is inside the other, or the run folder has
            files that AutoTL did not write.
    """
    data = Path(source) if Path(source).exists() else Path(source.split(":")[-1])
    for place, what in ((folder, "the run folder"), (folder.parent / "cache", "the cache")):
        if data.is_dir() and files.is_within(place, data):
            raise StudyError(
                f"{what} {place} would be inside the data {data}; give another folder with --out"
            )
        if data.exists() and files.is_within(data, place):
            raise StudyError(
                f"the data {data} are inside {what} {place}, whose files are replaced; give a "
                "folder elsewhere with --out, or another name with --study"
            )
    foreign = next((name for name in RUN_FILES if (folder / name).exists()), None)
    if foreign and not _is_run_folder(folder):
        raise StudyError(
            f"{folder} has {foreign!r}, which AutoTL did not write and would replace; give another "
            "name with --study, or another folder with --out"
        )


def _is_run_folder(folder: Path) -> bool:
    """Whether AutoTL made a folder: it has our mark, or a summary of a version without marks."""
    if (folder / files.MARK).is_file():
        return True
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and {"study", "trials", "metric"} <= summary.keys()


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


def _read_toml(path: Path) -> dict[str, Any]:
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


def _validate(values: dict[str, Any], options: Mapping[str, Any], where: str) -> StudyConfig:
    """Validate settings.

    Args:
        values: The settings of a file, or the data source.
        options: Settings that override them.
        where: The source of ``values``, for the message of a StudyError.
    """
    try:
        settings = StudyConfig.model_validate({**values, **options})
    except ValidationError as errors:
        error = errors.errors()[0]
        given = error["loc"][0] in options
        raise StudyError(
            f"{OPTIONS if given else where}: {_explain(error, where, given)}"
        ) from None
    if problem := name_problem(settings.name):
        raise StudyError(
            f"{shorten(settings.name)}, the name of the data, is not a valid name of a study: "
            f"{problem}; give another one with --study"
        )
    check_places(settings.folder, settings.data)
    return settings


def _explain(error: Mapping[str, Any], where: str, is_option: bool) -> str:
    """Return the message for an error of pydantic."""
    # Indices of lists are left out.
    name = ".".join(str(part) for part in error["loc"] if not isinstance(part, int))
    if name in SEARCHED_KINDS and isinstance(error["input"], dict):
        return f"this is a recipe; use: autotl train {shlex.quote(where)}"
    if error["type"] == "extra_forbidden":
        return f"{shorten(name)} is not an option; {did_you_mean(name, StudyConfig.model_fields)}"
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


def write_recipe(
    path: Path,
    config: Mapping[str, Any],
    training: Mapping[str, Any],
    of: int = 1,
    effective: Mapping[str, Any] | None = None,
) -> None:
    """Write a recipe: a configuration and the settings with which it was trained.

    Args:
        path: The TOML file to write.
        config: One plugin with its values for each kind, as ``space.to_json`` returns it.
        training: Settings that affect the result: epochs, batch_size, seed, metric, ...
        of: Number of members, if the winner is an ensemble or a soup.
        effective: The configuration without what has no effect, which a comment names; None if
            everything has one.

    Raises:
        OSError: The file cannot be written.
    """
    settings = {key: value for key, value in training.items() if value is not None}
    member = f"# This is one of the {of} members of an ensemble.\n" if of > 1 else ""
    unused = [kind for kind in config if kind not in (effective or config)]
    if unused:
        member += (
            "# The head is fitted in closed form on a frozen backbone: no effect have "
            f"{', '.join(unused)} and the learning rate.\n"
        )
    text = f"# Retrain: autotl train {path.name} DATA\n{member}"
    files.write_text(path, text + tomli_w.dumps({**settings, **config}))


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
    fixed = {
        "study": name,
        "trials": 1,
        "space": config,
        **({"data": source} if source is not None else {}),
    }
    return _validate({**values, **fixed}, options, str(path))
