"""Fine-tuning of one model, epoch by epoch. It depends on torch and not on Optuna.

``job`` defines what a model is fine-tuned on; ``loop`` trains it; ``inputs`` feeds it images or
the activations of its frozen layers, which ``frozen_inputs`` gets from the cache; ``loss`` is what
it minimises; ``augmentation`` changes images, at random or to a certain view; ``predict`` computes
predictions.
``teacher`` computes what a student learns from besides the labels.
``weight_average`` averages the weights over the steps. ``probes`` trains many heads on one frozen
backbone at once. ``cost`` measures what all that takes, and ``compute`` holds the settings that
follow. ``unlabelled`` is what a training does with unlabelled examples, and ``contrastive`` what
one without labels does.
``checkpoint`` saves the state after an epoch. ``random_state`` and ``kernels`` keep it all
apart from the host process, and ``memory`` goes on when that of the device runs out.

Shapes: N images in a split, B in a batch, S their side in pixels, F features, C classes.
"""

from autotl.training.checkpoint import Checkpoint
from autotl.training.compute import ComputeSettings
from autotl.training.contrastive import Contrast, nt_xent, projection
from autotl.training.cost import (
    Cost,
    measure_cost,
    measure_forward,
)
from autotl.training.job import Epoch, Job
from autotl.training.kernels import cuda_kernels
from autotl.training.latency import measure_latencies, measure_latency
from autotl.training.loop import fine_tune, set_trainable
from autotl.training.memory import build_model
from autotl.training.predict import logits_to_predictions, predict
from autotl.training.probes import (
    ProbeEpoch,
    extract_backbone_features,
    extract_features,
    extract_mirrored_features,
    keeps_backbone_frozen,
    train_probes,
)
from autotl.training.teacher import Teacher, teach
from autotl.training.unlabelled import require_suitable, uses_unlabelled

__all__ = [
    "Checkpoint",
    "ComputeSettings",
    "Contrast",
    "Cost",
    "Epoch",
    "Job",
    "ProbeEpoch",
    "Teacher",
    "build_model",
    "cuda_kernels",
    "extract_backbone_features",
    "extract_features",
    "extract_mirrored_features",
    "fine_tune",
    "keeps_backbone_frozen",
    "logits_to_predictions",
    "measure_cost",
    "measure_forward",
    "measure_latencies",
    "measure_latency",
    "nt_xent",
    "predict",
    "projection",
    "require_suitable",
    "set_trainable",
    "teach",
    "train_probes",
    "uses_unlabelled",
]
