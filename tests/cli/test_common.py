"""What several commands share."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from command_line import run
from images import write_images

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


@pytest.mark.parametrize(
    "words",
    [
        ["search", ""],
        ["search", " ", "--trials", "1"],
        ["search", "sklearn:digits", "--out", ""],
        ["data", "check", ""],
        ["predict", "", "x.png"],
        ["evaluate", "", "photos"],
        ["export", "", "--to", "onnx"],
        ["train", ""],
    ],
)
def test_an_empty_path_is_an_error_and_not_the_current_folder(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "photos")
    monkeypatch.chdir(tmp_path / "photos")
    result = run(*words)
    assert result.exit_code in (1, 2)
    assert "empty; is a variable of the shell not set?" in result.stderr
    assert sorted(p.name for p in Path().iterdir()) == ["blue", "green", "red"]
