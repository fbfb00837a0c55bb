"""Runs the command line in this process, as a user types it."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from autotl.cli import main

FAST_OPTIONS = (
    *("--epochs", "2", "--batch-size", "8"),
    *("--device", "cpu", "--precision", "float32"),
)
"""Options of a quick search."""


def run(*words: str | Path, stdin: str | None = None) -> Result:
    """Run ``autotl`` with these words; the result has its exit code, stdout and stderr."""
    return CliRunner().invoke(main, [str(word) for word in words], input=stdin)
