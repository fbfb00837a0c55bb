"""Fine-tune one model, an epoch at a time. Knows torch; has never heard of Optuna.

``task`` says what a model is fine-tuned on, ``loop`` trains it, ``inputs`` feeds pictures or what
a frozen part made of them, which ``frozen`` has from the cache, and ``predict`` asks it. ``probes``
trains many heads on one frozen backbone at once. ``cost`` measures what all that takes, and
``compute`` is what that decides.

Shapes: N pictures in a part, B in a batch, F features, C classes.
"""

from autotl.training.compute import ComputeSettings
from autotl.training.cost import Cost, latency, measure, milliseconds_per_image
from autotl.training.loop import fine_tune, set_trainable
from autotl.training.predict import predict, probabilities
from autotl.training.probes import ProbeEpoch, features, keeps_backbone_frozen, probe
from autotl.training.task import Epoch, Task

__all__ = [
    "Cost",
    "Epoch",
    "ProbeEpoch",
    "ComputeSettings",
    "Task",
    "features",
    "fine_tune",
    "latency",
    "measure",
    "milliseconds_per_image",
    "predict",
    "probabilities",
    "probe",
    "set_trainable",
    "keeps_backbone_frozen",
]
