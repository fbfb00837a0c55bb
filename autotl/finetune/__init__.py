"""Fine-tune one model, an epoch at a time. Knows torch; has never heard of Optuna.

``task`` says what a model is fine-tuned on, ``loop`` trains it, ``inputs`` feeds pictures or what
a frozen part made of them, ``predict`` asks it, and ``cost`` measures what all that takes.

Shapes: N pictures in a part, B in a batch, F features, C classes.
"""

from autotl.finetune.cost import Cost, latency, measure, milliseconds_per_picture
from autotl.finetune.loop import fine_tune, set_learning
from autotl.finetune.predict import predict, probabilities
from autotl.finetune.task import Epoch, Task

__all__ = [
    "Cost",
    "Epoch",
    "Task",
    "fine_tune",
    "latency",
    "measure",
    "milliseconds_per_picture",
    "predict",
    "probabilities",
    "set_learning",
]
