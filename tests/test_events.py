"""What a listener is told, in which order."""

from __future__ import annotations

from collections.abc import Callable

from autotl import engine, study
from autotl.events import EpochCompleted, Event, SearchStarted, Stage, TrialFinished, TrialStarted


def test_events_come_in_the_order_of_what_happens(
    settings: Callable[..., study.StudyConfig],
) -> None:
    told: list[Event] = []
    engine.run(settings(trials=2, head=["linear", "mlp"]), told.append)
    assert isinstance(told[0], SearchStarted)
    assert (told[0].study, told[0].trials, told[0].done) == ("photos", 2, 0)
    trials = [e for e in told if isinstance(e, TrialStarted | EpochCompleted | TrialFinished)]
    for number in (0, 1):
        own = [e for e in trials if e.number == number]
        assert [type(e) for e in own] == [TrialStarted, *[EpochCompleted] * 3, TrialFinished]
        assert [e.epoch for e in own if isinstance(e, EpochCompleted)] == [1, 2, 3]
        assert own == trials[number * 5 : number * 5 + 5]
    scores = [e.score for e in trials if isinstance(e, EpochCompleted)]
    assert [e.score for e in trials if isinstance(e, TrialFinished)] == [scores[2], scores[5]]
    stages = list(dict.fromkeys(e.name.split()[0] for e in told if isinstance(e, Stage)))
    assert stages == ["checking", "searching", "packing", "finals,", "refitting", "opening"]


def test_a_second_run_says_what_was_there(settings: Callable[..., study.StudyConfig]) -> None:
    engine.run(settings(trials=2))
    told: list[Event] = []
    engine.run(settings(trials=3), told.append)
    assert isinstance(told[0], SearchStarted)
    assert told[0].done == 2
