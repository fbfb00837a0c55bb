"""The settings of a source training, which makes the weights of a backbone for later searches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from autotl import files
from autotl.errors import StudyError
from autotl.space.kinds import MAX_CHANNELS, RGB
from autotl.space.task import AUTO
from autotl.study.config import (
    OPTIONS,
    Settings,
    StudyConfig,
    check_source,
    explain,
    rename_size,
)
from autotl.study.values import DEVICES, Duration, Fraction, Text, to_tuple

SHARED = (
    *("data", "data_options", "task", "metric", "seed", "epochs", "batch_size"),
    *("in_chans", "validation", "weights", "plugin", "device", "precision"),
)
"""The settings that mean the same in a search."""


SUPERVISED, SIMCLR = "supervised", "simclr"
METHODS = (SUPERVISED, SIMCLR)
"""The methods for every model of timm. Families of backbones may have others of their own. All but
the first neither need nor use labels."""

SIMCLR_EPOCHS = 100
"""The default number of epochs of SimCLR, which learns less from each."""


class SourceTrainingConfig(Settings):
    """The settings of ``autotl pretrain``, whose options have the same names.

    ``start`` is the option ``--from``: what the training starts from.
    """

    data: str
    method: Text = SUPERVISED  # or "simclr", or one of the family of the backbone
    backbone: str
    data_options: dict[str, Text] = Field(default_factory=dict)
    out: Path = Path("weights")
    start: Literal["scratch", "pretrained"] = "scratch"
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 20  # 100 without labels
    budget: Duration | None = None
    image_size: Annotated[int, Field(ge=16, le=2048)] | None = None
    in_chans: Annotated[int, Field(ge=1, le=MAX_CHANNELS)] = RGB
    validation: Fraction = 0.1  # of the examples, held out
    task: str = "auto"
    metric: str = ""
    lr: Annotated[float, Field(gt=0, le=1)] | None = None  # None: that of the freeze strategy
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 64
    augment: str = ""  # the default augmentation, or that for training without labels
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    licence: str = "unknown"
    weights: Path | None = None
    plugin: Annotated[tuple[Path, ...], BeforeValidator(to_tuple)] = ()
    device: Annotated[str, Field(pattern=DEVICES)] = "auto"
    precision: Literal["auto", "float32", "tf32", "bfloat16", "float16"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _choose_epochs(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("method") != SIMCLR:
            return values
        return {"epochs": SIMCLR_EPOCHS, **values}

    @field_validator("task", "metric")
    @classmethod
    def _refuse_labels(cls, value: str, info: ValidationInfo) -> str:
        method = info.data.get("method")
        if method != SUPERVISED and value not in ("", AUTO):
            raise ValueError(f"is for labels, which the method {method} does not use; leave it out")
        return value

    @field_validator("data")
    @classmethod
    def _check_source(cls, data: str) -> str:
        return check_source(data)

    @property
    def uses_labels(self) -> bool:
        """Whether the method trains with labels."""
        return self.method == SUPERVISED

    @field_validator("backbone")
    @classmethod
    def _check_backbone(cls, name: str, info: ValidationInfo) -> str:
        if not name.strip() or set(name) & set("*?[]@"):
            raise ValueError("expected the name of one backbone, such as resnet18")
        if info.data.get("method") in METHODS and set(name) & set(":/\\"):
            raise ValueError("expected a model of timm, whose weights a search finds by its name")
        return name

    def as_search(self, out: Path | None = None) -> StudyConfig:
        """Return the settings of a search that reads the same data and trains in the same way.

        Args:
            out: The folder for temporary files; None for that of the weights.
        """
        return StudyConfig(
            **{key: getattr(self, key) for key in SHARED},
            study="source-training",
            out=out or self.out,
            image_size=() if self.image_size is None else (self.image_size,),
            backbone=(self.backbone,),
            augment=(self.augment,) if self.augment else (),
            # Weights that were trained on smoothed labels transfer worse (Kornblith et al. 2021,
            # arXiv:2010.16402).
            label_smoothing=0.0,
            history=False,
        )


def configure_source_training(source: str, options: Mapping[str, Any]) -> SourceTrainingConfig:
    """Configure a source training.

    Args:
        source: The data source.
        options: The settings by name.

    Raises:
        StudyError: A setting is missing or not valid.
    """
    values = {"data": source, **rename_size(options)}
    try:
        config = SourceTrainingConfig.model_validate(values)
    except ValidationError as errors:
        error = errors.errors()[0]
        fields = SourceTrainingConfig.model_fields
        raise StudyError(f"{OPTIONS}: {explain(error, OPTIONS, True, fields)}") from None
    folder = Path(config.data)
    if folder.is_dir() and files.is_within(config.out, folder):
        raise StudyError(
            f"the weights in {config.out} would be inside the data {folder}; give another folder "
            "with --out"
        )
    return config
