"""The progress bar of the commands on a model folder."""

from __future__ import annotations

import io

import pytest

from autotl.cli.progress_bar import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "hidden", "visible"),
    [(Terminal, False, True), (Terminal, True, False), (io.StringIO, False, False)],
)
def test_a_bar_is_shown_only_on_a_terminal(
    stream: type[io.StringIO], hidden: bool, visible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = stream()
    monkeypatch.setattr("sys.stderr", output)
    with ProgressBar("predicting", 2, hidden=hidden) as bar:
        bar.update(2)
    assert ("100%" in output.getvalue()) == visible
