"""A search that begins, joins or is done, whichever process comes first: ``run_or_join``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest
from images import read_trials

from autotl import engine
from autotl.errors import StudyError
from autotl.events import Event, Note, TrialFinished
from autotl.store import Store, default_url
from autotl.study import StudyConfig

Settings = Callable[..., StudyConfig]


def let_it_begin_earlier(settings: StudyConfig, seconds: float, state: str) -> None:
    """Change a study as if its last run had begun earlier and had ended in some state."""
    with closing(Store(default_url(settings.out))) as store:
        run = store.study(settings.name).run
        assert run
        earlier = run.model_copy(update={"began": run.began - seconds})
        store.update_study(settings.name, run=earlier, state=state)


def test_a_study_that_is_done_is_left_as_it_is(settings: Settings) -> None:
    first = engine.run_or_join(settings(trials=2))
    events: list[Event] = []
    second = engine.run_or_join(settings(trials=2), events.append)
    assert [event.text for event in events if isinstance(event, Note)] == [
        "study 'photos' is done; for more, give a larger --budget or more --trials"
    ]
    assert second.summary == first.summary
    assert not second.interrupted
    engine.run_or_join(settings(trials=3))
    assert len(read_trials(settings())) == 3


@pytest.mark.parametrize("state", ["interrupted", "failed", "running"])
def test_the_budget_includes_runs_that_ended_before_the_study_was_done(
    settings: Settings, state: str
) -> None:
    engine.run(settings(trials=1))
    let_it_begin_earlier(settings(), 1000.0, state)
    engine.run_or_join(settings(trials=2, budget=3000.0))
    with closing(Store(default_url(settings().out))) as store:
        facts = store.study("photos")
    assert 1000.0 < facts.run_seconds < 2000.0
    assert len(read_trials(settings())) == 2


def test_a_study_whose_budget_has_elapsed_is_finished(settings: Settings) -> None:
    engine.run(settings(trials=2))
    let_it_begin_earlier(settings(), 1000.0, "running")
    result = engine.run_or_join(settings(trials=None, budget=500.0))
    assert result.summary["state"] == "done"
    assert len(read_trials(settings())) == 2


def test_ctrl_c_of_the_only_process_interrupts_the_study(settings: Settings) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, TrialFinished):
            raise KeyboardInterrupt

    assert engine.run_or_join(settings(trials=3), interrupt).interrupted
    result = engine.run_or_join(settings(trials=3))
    assert result.summary["state"] == "done"
    assert len(read_trials(settings())) == 3


def test_an_error_is_not_tried_again(settings: Settings) -> None:
    with pytest.raises(StudyError, match="acuracy"):
        engine.run_or_join(settings(metric="acuracy"))
