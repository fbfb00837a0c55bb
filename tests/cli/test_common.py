"""What several commands share."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from autotl.cli.common import interruptible
from autotl.events import Note


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_at_the_next_event_and_a_second_one_immediately(number: int) -> None:
    events: list[Any] = []
    first, second = Note("handled before the interrupt"), Note("after")
    previous = signal.getsignal(number)
    with interruptible(events.append) as listener:
        signal.raise_signal(number)  # does not raise here, where something may be half done
        with pytest.raises(KeyboardInterrupt):
            listener(first)
        listener(second)
        signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert events == [first, second]
    assert signal.getsignal(number) == previous
