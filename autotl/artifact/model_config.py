"""The schema of a model folder's ``config.json``, checked before anything is built from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from autotl.data import scale
from autotl.errors import ArtifactError, shorten
from autotl.space.input_kind import IMAGE
from autotl.space.kinds import MAX_CHANNELS, RGB
from autotl.space.task import DEFAULT_TASK

SCHEMA = 1
"""Version of the layout of ``config.json``."""

MAX_IMAGE_SIZE = 2048
"""The largest side of input images in pixels, as in a search."""

MAX_SIZE = 1_000_000
"""The largest size of other inputs, such as a number of tokens or of samples."""

MAX_VALUE = 1000
"""The largest magnitude of a mean or a std of the input, which are usually in the range 0..1."""

Finite = Annotated[float, Field(ge=-MAX_VALUE, le=MAX_VALUE, allow_inf_nan=False)]
Positive = Annotated[float, Field(ge=1 / MAX_VALUE, le=MAX_VALUE, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Source = Annotated[str, Field(pattern=r"^[^\x00]*$")]
PluginValues = Annotated[dict[str, dict[str, Any]], Field(min_length=1, max_length=1)]


class _Part(BaseModel):
    """A part of the file; keys that are not declared, e.g. of newer versions, are not checked."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class Input(_Part):
    """The entry ``input`` of images: see ``data.ImageInput``."""

    size: Annotated[int, Field(ge=2, le=MAX_IMAGE_SIZE)]
    mean: Annotated[list[Finite], Field(min_length=1, max_length=MAX_CHANNELS)]
    std: Annotated[list[Positive], Field(min_length=1, max_length=MAX_CHANNELS)]
    interpolation: Annotated[str, Field(min_length=1)]
    channels: Annotated[int, Field(ge=1, le=MAX_CHANNELS)] = RGB

    @model_validator(mode="after")
    def _count_channels(self) -> Input:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise ValueError(
                    f"{name} should have one value, or one for each of {self.channels} channels"
                )
        return self


class OtherInput(_Part):
    """The entry ``input`` of another kind than images: see ``ModelInput.describe``."""

    kind: Annotated[str, Field(min_length=1)]
    size: Annotated[int, Field(ge=1, le=MAX_SIZE)]
    key: Annotated[str, Field(min_length=1)]


def _input_type(content: Any) -> str:
    """``other`` for the description of an input that names its kind."""
    return "other" if isinstance(content, dict) and "kind" in content else "image"


AnyInput = Annotated[
    Annotated[Input, Tag("image")] | Annotated[OtherInput, Tag("other")],
    Discriminator(_input_type),
]


class Description(_Part):
    """One network: its plugins with their values, and its input."""

    backbone: PluginValues
    head: PluginValues
    input: AnyInput
    plugins: dict[str, str] = {}

    @model_validator(mode="after")
    def _check_image_size(self) -> Description:
        if isinstance(self, ModelConfig) and self.members:
            return self  # the input is that of the largest member, and the backbone of the first
        [values] = self.backbone.values()
        if values.get("image_size", None) not in (None, self.input.size):
            raise ValueError("the image_size of the backbone is not the size of the input")
        return self


class Data(_Part):
    """The entry ``data``: where the training examples were, and how they were read.

    ``path`` is relative to the model folder. Folders of earlier versions lack it; their ``source``
    is as the user typed it.
    """

    source: Source = ""
    path: Source = ""
    options: dict[str, str] = {}


class TaskDescription(_Part):
    """The entry ``task``: see ``Task.to_json``. It is missing for a classification."""

    name: Annotated[str, Field(min_length=1)]
    constants: dict[str, Any] = {}


class Calibration(_Part):
    """The entry ``calibration``: see ``Task.calibrate``; what is not declared, its task checks."""

    thresholds: list[Fraction] | None = None
    half_widths: list[NotNegative] | None = None
    level: Fraction | None = None
    coverage: Fraction | None = None


class ModelConfig(Description):
    """The content of ``config.json``."""

    schema_version: Annotated[Literal[1], Field(alias="schema")]
    task: TaskDescription | None = None
    classes: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    calibration: Calibration = Calibration()
    kind: Annotated[str, Field(min_length=1)] = IMAGE
    noun: str = "image"
    nouns: str = "images"
    temperature: Positive | None = None
    members: Annotated[list[Description], Field(max_length=100)] | None = None
    data: Data = Data()
    weights: dict[str, Any] = {}
    training: dict[str, Any] = {}
    versions: dict[str, str] = {}
    combination: dict[str, Any] = {}
    scales: dict[str, Any] = {}
    standalone_code: dict[str, str] = {}

    @field_validator("classes")
    @classmethod
    def _require_unique(cls, classes: list[str], info: ValidationInfo) -> list[str]:
        task = info.data.get("task")
        if len(classes) < 2 and (task is None or task.name == DEFAULT_TASK):
            raise ValueError("List should have at least 2 items")
        if len(set(classes)) < len(classes):
            raise ValueError("should not name a class twice")
        return classes

    @field_validator("calibration")
    @classmethod
    def _match_classes(cls, calibration: Calibration, info: ValidationInfo) -> Calibration:
        count = len(info.data.get("classes", ()))
        for name in ("thresholds", "half_widths"):
            values = getattr(calibration, name)
            if values and len(values) != count:
                raise ValueError(f"{name} has {len(values)} numbers, one for each class is {count}")
        return calibration

    @field_validator("scales")
    @classmethod
    def _check_scales(cls, scales: dict[str, Any]) -> dict[str, Any]:
        scale.from_json(scales)
        return scales

    @model_validator(mode="after")
    def _check_members(self) -> ModelConfig:
        if self.members and max(m.input.size for m in self.members) != self.input.size:
            raise ValueError("the size of the input is not the largest one of the members")
        return self


def read(folder: Path) -> dict[str, Any]:
    """Read and check the ``config.json`` of a model folder.

    Args:
        folder: The model folder.

    Returns:
        The content of the file.

    Raises:
        ArtifactError: The file is damaged, or a newer version wrote it.
        OSError: The file cannot be read.
    """
    text = (folder / "config.json").read_bytes()
    try:
        content = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
        version = content.get("schema") if isinstance(content, dict) else None
        if isinstance(version, int) and version > SCHEMA:
            raise ArtifactError(
                f"{folder} was written by another version of autotl; upgrade autotl"
            )
        ModelConfig.model_validate(content)
    except ValidationError as error:
        raise damage(folder, f"config.json: {_explain(error.errors()[0])}") from None
    except (ValueError, RecursionError) as error:
        raise damage(folder, f"config.json is not valid JSON: {error}") from None
    checked: dict[str, Any] = content
    return checked


def damage(folder: Path, reason: str) -> ArtifactError:
    """Return the error for a model folder that is damaged, with what is wrong in it."""
    return ArtifactError(f"{folder} is damaged: {reason}; copy it again")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _is_tag(location: Sequence[object], i: int) -> bool:
    return i > 0 and location[i - 1] == "input" and location[i] in ("image", "other")


def _explain(error: Mapping[str, Any]) -> str:
    """Return the message for an error of pydantic, in one line."""
    # The tag of the kind of input is not in the file.
    parts = [part for i, part in enumerate(error["loc"]) if not _is_tag(error["loc"], i)]
    where = ".".join(map(str, parts))
    reason = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] == "missing":
        return f"{where!r} is missing"
    value = "" if isinstance(error["input"], dict | list) else f" = {shorten(error['input'])}"
    return f"{where}{value}: {reason}" if where else reason
