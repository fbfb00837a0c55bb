"""Which events a search sends to its listener, and in which order."""

from __future__ import annotations

from collections.abc import Callable

from autotl import engine, study
from autotl.events import EpochCompleted, Event, SearchStarted, Stage, TrialFinished, TrialStarted


def test_events_are_sent_in_chronological_order(
    settings: Callable[..., study.StudyConfig],
) -> None:
    received: list[Event] = []
    engine.run(settings(trials=2, head=["linear", "mlp"]), received.append)
    assert isinstance(received[0], SearchStarted)
    assert (received[0].study, received[0].max_trials, received[0].earlier_trials) == (
        "photos",
        2,
        0,
    )
    trials = [e for e in received if isinstance(e, TrialStarted | EpochCompleted | TrialFinished)]
    for number in (0, 1):
        own = [e for e in trials if e.number == number]
        assert [type(e) for e in own] == [TrialStarted, *[EpochCompleted] * 3, TrialFinished]
        assert [e.epoch for e in own if isinstance(e, EpochCompleted)] == [1, 2, 3]
        assert own == trials[number * 5 : number * 5 + 5]
    scores = [e.score for e in trials if isinstance(e, EpochCompleted)]
    assert [e.score for e in trials if isinstance(e, TrialFinished)] == [scores[2], scores[5]]
    stages = list(dict.fromkeys(e.name.split()[0] for e in received if isinstance(e, Stage)))
    assert stages == [
        *("checking", "measuring", "packing", "searching"),
        *("final", "timing", "refitting", "opening"),
    ]


def test_a_second_run_reports_the_number_of_earlier_trials(
    settings: Callable[..., study.StudyConfig],
) -> None:
    engine.run(settings(trials=2))
    received: list[Event] = []
    engine.run(settings(trials=3), received.append)
    assert isinstance(received[0], SearchStarted)
    assert received[0].earlier_trials == 2
