"""Small studies with chosen scores, tests and final selections, for tests of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import example_study
from example_study import add_trial, config, facts

from autotl import report
from autotl.store import (
    Calibration,
    Contender,
    DataFacts,
    Interval,
    Kind,
    MajorityClass,
    Member,
    Role,
    SavedModel,
    Selection,
    Standing,
    Store,
    StudentFacts,
    StudentScores,
)


def data_facts(**changes: Any) -> DataFacts:
    """The data of the example study, changed as the keywords say."""
    standard: DataFacts = facts()["data"]
    return standard.model_copy(update=changes)


def label_facts(**changes: Any) -> DataFacts:
    """The data of the example study with several labels."""
    words = {
        "task": "multilabel",
        "output_noun": "label",
        "output_nouns": "labels",
        "constant_noun": "the frequencies of the labels",
        "score_noun": "F1",
        "has_classes": False,
    }
    return data_facts(**{**words, **changes})


def number_facts(**changes: Any) -> DataFacts:
    """The data of the example study with numbers."""
    words = {
        "task": "regression",
        "classes": ["value"],
        "output_noun": "number",
        "output_nouns": "numbers",
        "constant_noun": "the mean",
        "score_noun": "R²",
        "has_classes": False,
        "has_probabilities": False,
        "majority": MajorityClass(name="12.5", validation=45.25, test=44.0),
    }
    return data_facts(**{**words, **changes})


def add_study(store: Store, *scores: float | None, **changes: Any) -> None:
    """Write a study with trials of these scores; a trial without one has failed."""
    example_study.begin(store, **changes)
    for number, score in enumerate(scores):
        add_trial(store, number, score, "failed" if score is None else "complete")


def describe(store: Store) -> list[str]:
    """The sentences of the result of the study ``birds``."""
    return report.describe_result(report.summarise(store, "birds"))


def trial_contender(
    trial: int, mean: float, tied: bool, role: Role = "finalist", kind: Kind = "trial"
) -> Contender:
    """A trial as a contender of a final selection, in which the best mean is 0.9."""
    return Contender(
        kind=kind,
        role=role,
        members=(Member(trial=trial),),
        config=config() if kind == "trial" else None,
        scores=(mean - 0.01, mean + 0.01),
        standing=Standing(
            score=Interval(mean=mean, low=mean - 0.02, high=mean + 0.02),
            difference=Interval(mean=mean - 0.9, low=mean - 0.91, high=mean - 0.89),
            tied=tied,
        ),
        seconds=3.0,
        parameters=7,
    )


def ensemble_contender(weights: dict[int, float], mean: float, tied: bool) -> Contender:
    """An ensemble of trials with these weights as a contender of a final selection."""
    members = tuple(Member(trial=trial, weight=weight) for trial, weight in weights.items())
    contender = trial_contender(members[0].trial, mean, tied, "ensemble", "ensemble")
    return contender.model_copy(update={"members": members})


def add_selection(
    store: Store,
    contenders: Sequence[Contender],
    *,
    winner: Contender,
    cheapest: Contender | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Write a final selection and its saved winner, and return the summary of the study."""
    selection = Selection(
        repeats=2,
        contenders=list(contenders),
        winner=winner,
        cheapest=cheapest or winner,
        optimism=0.0123,
        optimism_of=winner.lead,
        optimism_interval=Interval(mean=0.0123, low=-0.01, high=0.0346),
        detectable=0.028,
    )
    store.update_study(
        "birds",
        selection=selection.model_copy(update=changes),
        model=SavedModel(contender=winner, refitted=True),
        calibration=Calibration(temperature=1.0, ece_before=0.1, ece_after=0.1, n=9),
    )
    return report.summarise(store, "birds")


def student_facts(fraction: float | None = 0.6, **changes: Any) -> StudentFacts:
    """A student of trial 1 that is better than the same model without a teacher by 0.03."""

    def interval(mean: float) -> Interval:
        return Interval(mean=mean, low=mean - 0.05, high=mean + 0.05)

    scores = StudentScores(
        n=150,
        teacher=interval(0.9),
        student=interval(0.88),
        alone=interval(0.85),
        to_alone=interval(0.03),
        to_teacher=interval(-0.02),
        fraction_kept=fraction,
    )
    standard: dict[str, Any] = {
        "teacher": Contender(members=(Member(trial=1),)),
        "signature": "0",
        "backbone": "tf_efficientnet_lite0",
        "config": config(),
        "size": 96,
        "epochs": 12,
        "views": 4,
        "temperature": 2.0,
        "weight": 0.9,
        "scores": scores,
        "parameters": 3_400_000,
        "teacher_parameters": 4_900_000,
        "latency": example_study.latency(2.0),
        "teacher_latency": example_study.latency(9.0),
    }
    return StudentFacts(**{**standard, **changes})
