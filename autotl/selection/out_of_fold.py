"""The out-of-fold predictions of the winner: ``out_of_fold.csv`` in the run folder."""

from __future__ import annotations

from autotl import data
from autotl.events import Note
from autotl.search.context import TrainingContext
from autotl.search.folds import predicted_indices
from autotl.selection.trial_ensemble import stored_predictions
from autotl.store import Contender, Store, TrialRow

FILE = "out_of_fold.csv"
"""The name of the file in the run folder."""


def write_out_of_fold(
    store: Store, context: TrainingContext, row: TrialRow, winner: Contender
) -> None:
    """Write the predictions of the winner for all images outside the test split.

    The columns are name, label, fold (from 1), predicted, and the probability of each class, whose
    names they have. Each image is predicted by the model of the fold that did not train on it. A
    file of an earlier winner is replaced, or removed if the predictions were too many to be stored.

    Args:
        store: The database.
        context: The context of all trainings of the study, with folds.
        row: The trial of the winner with the largest weight.
        winner: A trial, or an ensemble of trials.

    Raises:
        StoreError: The file cannot be written.
    """
    dataset, path = context.dataset, context.settings.folder / FILE
    indices = predicted_indices(dataset, row.facts.folds)
    probabilities = stored_predictions(store, context.settings.name, winner)
    if dataset.folds is None or probabilities is None or len(probabilities) != len(indices):
        path.unlink(missing_ok=True)
        context.listener(Note(f"the predictions are too many for {path}", warning=True))
        return
    rows = [
        (
            dataset.examples[i].name,
            dataset.examples[i].label,
            dataset.folds[i] + 1,
            dataset.outputs[p.argmax()],
            *(f"{value:.6f}" for value in p),
        )
        for i, p in zip(indices, probabilities, strict=True)
    ]
    data.write_csv(path, ("name", "label", "fold", "predicted", *dataset.outputs), rows)
