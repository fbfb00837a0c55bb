"""Networks: a configuration becomes a model, several models become one."""

from autotl.models.model import (
    STAGES,
    Device,
    Group,
    Input,
    Model,
    Penalty,
    build,
    build_backbone,
    device,
    extract,
    merge,
    parameters,
    plan,
    with_head,
)

__all__ = [
    "STAGES",
    "Device",
    "Group",
    "Input",
    "Model",
    "Penalty",
    "build",
    "build_backbone",
    "device",
    "extract",
    "merge",
    "parameters",
    "plan",
    "with_head",
]
