"""The end of a search: the winner is refitted, saved, and tested once on the sealed part."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from autotl import artifact, finetune, metrics, progress, report, space, study
from autotl.errors import StudyError, TrialEnd
from autotl.model import Model
from autotl.space import Config
from autotl.store import TrialRow
from autotl.trials import Trials


def finish(trials: Trials, versions: dict[str, str]) -> None:
    """Refit the best trial on train and validation, save the model, open the test part once.

    A winner that has been tested already is left as it is. When the refit does not come to its
    end, the model of the trial itself is taken, and that is said.

    Raises:
        StudyError: The refit failed, and the trial's own model is not at hand.
    """
    winner = trials.ranked()[0]
    done = [t.trial for t in trials.store.tests(trials.name) if t.facts]
    if done and done[-1] == winner.number and (trials.settings.folder / "model").is_dir():
        trials.watch(progress.Note(f"trial {winner.number} is still the best; its model stands"))
        return
    config = trials.config(winner.number)
    began = time.monotonic()
    network, refitted = _own(trials, winner), False
    try:
        network, refitted = _refit(trials, winner, config), True
    except TrialEnd as end:
        if network is None:
            raise StudyError(f"the refit of trial {winner.number} ended early: {end}") from None
        text = f"the winner was not refitted ({end}); its model has learned from train alone"
        trials.watch(progress.Note(text, warning=True))
    except KeyboardInterrupt:
        keep(trials, versions)
        raise
    seconds = time.monotonic() - began
    save(trials, winner, config, network, versions)
    with trials.budget.stage("test"):
        _test(trials, winner, config, refit_seconds=seconds, refitted=refitted)


def keep(trials: Trials, versions: dict[str, str]) -> None:
    """Save the best trial's own model, without a refit or a test: for a search cut short."""
    for winner in trials.ranked()[:1]:
        if network := _own(trials, winner):
            save(trials, winner, trials.config(winner.number), network, versions)


def _own(trials: Trials, winner: TrialRow) -> Model | None:
    """The model that the winning trial itself trained, if that was in this run."""
    here = trials.best and trials.best.number == winner.number
    return trials.best.network if trials.best and here else None


def _refit(trials: Trials, winner: TrialRow, config: Config) -> Model:
    """The winner's training again, on train and validation."""
    name = "refitting the winner on train + validation"
    trials.watch(progress.Stage(name, 0, winner.epochs))
    network = trials.build(config)
    views = trials.views(winner)
    task = trials.task(network, "train", "validation", epochs=winner.epochs, views=views)
    if _own(trials, winner):  # without anything to fall back on, late is better than never
        task.deadline = trials.budget.grace(trials.test_seconds(winner))
    with trials.budget.stage("refit"):
        for epoch in finetune.fine_tune(network, config, task):
            trials.watch(progress.Stage(name, epoch.number, winner.epochs))
    return network


def save(
    trials: Trials, winner: TrialRow, config: Config, network: Model, versions: dict[str, str]
) -> None:
    """Write ``model/`` and ``recipe.toml`` into the run folder."""
    folder = trials.settings.folder
    weights = config["backbone"].plugin.given.get("weights")
    source = {
        "backbone": config["backbone"].name,
        "origin": weights.origin if weights else config["backbone"].plugin.origin,
        "licence": weights.licence if weights else "unknown",
    }
    trials.store.update(trials.name, weights=source)
    training = {
        **trials.training(),
        "epochs": winner.epochs,
        "views": trials.views(winner),
        "image_size": network.expects.size,
    }
    facts = {
        "data": {"source": trials.dataset.source, "fingerprint": trials.dataset.fingerprint},
        "weights": source,
        "training": {**space.to_json(config), **training},
        "versions": versions,
    }
    card = _card(trials, winner, source, network, "it was not tested")
    artifact.save(folder / "model", network, config, trials.dataset.classes, facts, card)
    study.write_recipe(
        folder / "recipe.toml",
        space.to_json(config),
        {"data": str(Path(trials.dataset.source)), **training, "versions": versions},
    )


def _test(
    trials: Trials, winner: TrialRow, config: Config, *, refit_seconds: float, refitted: bool
) -> None:
    """Score the saved model on the test part, through the same door as ``autotl predict``."""
    rows = trials.dataset.indices("test")
    if not len(rows):
        return
    trials.watch(progress.Stage("opening the test part"))
    opening = trials.store.open_test(trials.name, winner.number, space.to_json(config))
    predictor = artifact.load(trials.settings.folder / "model", trials.registry, trials.where)
    batches = trials.batches(predictor.network, "test")
    probabilities = finetune.predict(predictor.network, batches, predictor.where)
    labels = trials.dataset.labels[rows]
    low, high = metrics.interval(trials.metric, labels, probabilities, trials.settings.seed)
    score = trials.metric.score(labels, probabilities)
    images, _ = next(iter(batches))
    trials.store.close_test(
        opening,
        score=score,
        low=low,
        high=high,
        n=len(rows),
        ms_per_item=finetune.milliseconds_per_picture(
            predictor.network, images[:32], predictor.where
        ),
        parameters=winner.parameters,
        learned_parameters=winner.learned_parameters,
        refit_seconds=refit_seconds,
        refitted=refitted,
        **_by_class(labels, probabilities.argmax(1), trials.dataset.classes),
    )
    tested = (
        f"{trials.metric.name} {score:.4f} on {len(rows)} pictures that the search never saw, "
        f"95 % interval {low:.4f} to {high:.4f}"
    )
    weights = trials.store.require(trials.name)["weights"]
    card = _card(trials, winner, weights, predictor.network, tested)
    (trials.settings.folder / "model" / "README.md").write_text(card)


def _by_class(labels: Any, guesses: Any, classes: tuple[str, ...]) -> dict[str, Any]:
    """Recall of each class and the confusion matrix, rows the truth and columns the answer."""
    from sklearn.metrics import confusion_matrix

    confusion = confusion_matrix(labels, guesses, labels=np.arange(len(classes)))
    counts = Counter(int(label) for label in labels)
    per_class = [
        {"class": name, "n": counts[i], "score": confusion[i, i] / counts[i] if counts[i] else None}
        for i, name in enumerate(classes)
    ]
    return {"per_class": per_class, "confusion": confusion.tolist()}


CARD = """# {study}

An image classifier for {count} classes, made by AutoTL: {classes}.

- **Transfer**: {recipe}
- **Validation**: {metric} {score:.4f} in the search (the best of its trials, so rather too good)
- **Test**: {tested}
- **Trained on**: {source} (fingerprint {fingerprint})
- **Pretrained weights**: {backbone}, from {origin}, licence {licence}
- **Pictures**: RGB, resized to {size} x {size} as a whole, without cropping

Use it: `autotl predict {folder} photo.jpg`, or from Python:

```python
from pathlib import Path
from autotl import artifact

artifact.load(Path("{folder}")).predict(["photo.jpg"])
```
"""


def _card(
    trials: Trials, winner: TrialRow, weights: dict[str, Any], network: Model, tested: str
) -> str:
    """The text of the model card."""
    names = [f"`{name.replace('`', '')}`" for name in trials.dataset.classes]
    config = space.to_json(trials.config(winner.number))
    folder = trials.settings.folder / "model"
    return CARD.format(
        study=trials.name,
        count=len(names),
        classes=", ".join(names),
        recipe=report.recipe_line(config),
        metric=trials.metric.name,
        score=winner.score,
        tested=tested,
        source=trials.dataset.source,
        fingerprint=trials.dataset.fingerprint[:16],
        size=network.expects.size,
        folder=folder,
        **weights,
    )
