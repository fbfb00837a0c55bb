"""The kinds of plugin: their names, and the arguments that the core gives to each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

GIVEN_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "backbone": ("name", "weights", "size", "saved", "in_chans"),
    "freeze": ("model", "epochs"),
    "head": ("features", "classes", "padding"),
    "augment": ("size", "expects", "uniform"),
    "optimizer": ("groups", "steps"),
    "balance": ("counts",),
    "unlabelled": ("classes", "features"),
    "loss": ("output_weights", "label_smoothing"),
    "dataset": ("source", "needs_labels"),
    "task": ("outputs", "constants"),
    "metric": ("targets", "predictions"),
}
"""The arguments that each kind of plugin may have; AutoTL passes those that a plugin declares."""

SEARCHED_KINDS = tuple(k for k in GIVEN_ARGUMENTS if k not in ("dataset", "task", "metric"))
"""The kinds of plugin that the search chooses, in the order in which they are sampled."""

FREEZE_FROM_SCRATCH = "freeze_from_scratch"
"""The parameter of a trial that chooses the freeze strategy of a backbone with random weights."""

OPTIONAL_KINDS = ("balance", "unlabelled", "loss")
"""The searched kinds that a configuration may lack: only some data sets need the first two, and
every task has a loss of its own."""

REQUESTED_KINDS = ("loss",)
"""The optional kinds that are searched only if plugins are named."""

IMAGE_SIZE = "image_size"
"""The setting of a backbone that holds the side of its input images in pixels."""

IN_CHANS = "in_chans"
"""The argument of a backbone that is given the number of channels of its images, as in timm."""

RGB = 3
"""The number of channels of images in colour, which every backbone of images takes."""

MAX_CHANNELS = 512
"""The largest number of channels, beyond that of hyperspectral images."""

HeadInput = Literal["features", "map", "stages"]
"""The input of a head: pooled features, the map by position, or the features of several stages."""
