"""Fine-tune one model, an epoch at a time. Knows torch; has never heard of Optuna.

``task`` says what a model is fine-tuned on, ``loop`` trains it, ``inputs`` feeds pictures or what
a frozen part made of them, which ``frozen`` has from the cache, and ``predict`` asks it. ``probes``
trains many heads on one frozen backbone at once. ``cost`` measures what all that takes, and
``setting`` is what that decides.

Shapes: N pictures in a part, B in a batch, F features, C classes.
"""

from autotl.training.compute import Setting
from autotl.training.cost import Cost, latency, measure, milliseconds_per_picture
from autotl.training.loop import fine_tune, set_learning
from autotl.training.predict import predict, probabilities
from autotl.training.probes import Probed, features, probe, stays_frozen
from autotl.training.task import Epoch, Task

__all__ = [
    "Cost",
    "Epoch",
    "Probed",
    "Setting",
    "Task",
    "features",
    "fine_tune",
    "latency",
    "measure",
    "milliseconds_per_picture",
    "predict",
    "probabilities",
    "probe",
    "set_learning",
    "stays_frozen",
]
