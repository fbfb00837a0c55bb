"""Networks: a backbone with a head, built from a configuration, and ensembles of them."""

from autotl.models.build import (
    blank_batch,
    build_backbone,
    build_model,
    count_features,
    replace_head,
)
from autotl.models.device import Device, count_gpus, limit_threads, select_device
from autotl.models.model import (
    STAGES,
    Model,
    Penalty,
    count_parameters,
    extract_features,
)
from autotl.models.param_groups import Group, merge_parametrizations, plan_groups

__all__ = [
    "STAGES",
    "Device",
    "Group",
    "Model",
    "Penalty",
    "blank_batch",
    "build_backbone",
    "build_model",
    "count_features",
    "count_gpus",
    "count_parameters",
    "extract_features",
    "limit_threads",
    "merge_parametrizations",
    "plan_groups",
    "replace_head",
    "select_device",
]
