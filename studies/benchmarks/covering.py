"""A portfolio that is learned from other data sets: recipes that together are good on all of them.

Recipes are chosen greedily, as in auto-sklearn 2 (Feurer et al. 2022, JMLR 23) and TabRepo (Salinas
& Erickson 2024, arXiv:2311.02971): each next one adds most to the mean of the best score so far.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from curves import OVERHEAD, Cell, Curves
from numpy.typing import NDArray


def normalised_scores(curves: Curves) -> NDArray[np.float64]:
    """Return final scores ``[seeds, cells...]``: 1 for the best of a seed, 0 below its median."""
    scores = curves.scores[..., -1] if curves.direction == "maximize" else -curves.scores[..., -1]
    cells = tuple(range(1, scores.ndim))
    best, median = (f(scores, axis=cells, keepdims=True) for f in (np.nanmax, np.nanmedian))
    return np.maximum(0.0, np.nan_to_num((scores - median) / (best - median)))


def choose_recipes(
    data_sets: Sequence[Curves], count: int, *, per_second: bool, given: Sequence[Cell] = ()
) -> list[Cell]:
    """Choose cells greedily.

    Args:
        data_sets: The curves to learn from, of the same grid. Each seed counts as a data set of its
            own, so that a cell is not chosen because it was lucky once.
        count: The most cells.
        per_second: Whether the gain is divided by the mean seconds of a trial.
        given: Cells that are tried before.

    Returns:
        The cells in the order of choice; fewer than ``count`` if no other cell adds anything.
    """
    scores = np.concatenate([normalised_scores(curves) for curves in data_sets])
    seconds = OVERHEAD + np.mean([curves.seconds.sum(-1) for curves in data_sets], axis=0)
    best = np.zeros((len(scores), *(1,) * seconds.ndim))
    chosen = list(given)
    while len(chosen) < len(given) + count:
        for cell in chosen:
            best = np.maximum(best, scores[(slice(None), *cell)].reshape(best.shape))
        gained = np.maximum(0.0, scores - best).mean(0)
        if not gained.any():
            break
        value = gained / seconds if per_second else gained
        chosen.append(tuple(int(i) for i in np.unravel_index(value.argmax(), value.shape)))
    return chosen[len(given) :]
