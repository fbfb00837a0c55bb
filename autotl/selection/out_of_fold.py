"""The out-of-fold predictions of the winner: ``out_of_fold.csv`` in the run folder."""

from __future__ import annotations

from autotl import data
from autotl.events import Note
from autotl.search.context import TrainingContext
from autotl.search.folds import predicted_indices
from autotl.selection.final_selection import apply_calibration
from autotl.selection.trial_ensemble import stored_predictions
from autotl.store import Calibration, Contender, Store, TrialRow

FILE = "out_of_fold.csv"
"""The name of the file in the run folder."""


def write_out_of_fold(
    store: Store,
    context: TrainingContext,
    row: TrialRow,
    winner: Contender,
    calibration: Calibration | None,
) -> None:
    """Write the predictions of the winner for all images outside the test split.

    The columns are name, label, fold (from 1), predicted, and what is predicted of each output,
    such as the probability of each class, whose names they have; a single number is only in
    predicted. Each image is predicted by the model of the fold that did not train on it. Labels are
    predicted with the temperature and the thresholds of the calibration, their probabilities are
    those of the network. A file of an earlier winner is replaced, or removed if the predictions
    were too many to be stored.

    Args:
        store: The database.
        context: The context of all trainings of the study, with folds.
        row: The trial of the winner with the largest weight.
        winner: A trial, or an ensemble of trials.
        calibration: Its calibration; None without one.

    Raises:
        StoreError: The file cannot be written.
    """
    task = context.dataset.task
    dataset, path = context.dataset, context.settings.folder / FILE
    indices = predicted_indices(dataset, row.facts.folds)
    predictions = stored_predictions(store, context.settings.name, winner)
    if dataset.folds is None or predictions is None or len(predictions) != len(indices):
        path.unlink(missing_ok=True)
        context.listener(Note(f"the predictions are too many for {path}", warning=True))
        return
    calibrated, values = apply_calibration(task, predictions, calibration)
    is_one_number = not task.has_probabilities and len(task.outputs) == 1
    outputs = () if is_one_number else task.outputs
    number_format = ".6f" if task.has_probabilities else ".9g"
    rows = [
        (
            dataset.examples[i].name,
            dataset.examples[i].label,
            dataset.folds[i] + 1,
            task.decide(c, values),
            *(format(value, number_format) for value in p[: len(outputs)]),
        )
        for i, p, c in zip(indices, predictions, calibrated, strict=True)
    ]
    data.write_csv(path, ("name", "label", "fold", "predicted", *outputs), rows)
