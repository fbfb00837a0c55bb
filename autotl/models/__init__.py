"""Networks: a configuration becomes a model, several models become one."""

from autotl.models.model import (
    STAGES,
    Device,
    Group,
    InputSpec,
    Model,
    Penalty,
    build_backbone,
    build_model,
    device,
    extract,
    merge_parametrizations,
    parameters,
    plan_groups,
    replace_head,
)

__all__ = [
    "STAGES",
    "Device",
    "Group",
    "InputSpec",
    "Model",
    "Penalty",
    "build_model",
    "build_backbone",
    "device",
    "extract",
    "merge_parametrizations",
    "parameters",
    "plan_groups",
    "replace_head",
]
