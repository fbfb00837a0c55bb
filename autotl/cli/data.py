"""``data``: a look at the pictures before they are searched on."""

from __future__ import annotations

from pathlib import Path

import click

from autotl.cli.common import PLUGIN, legible


@click.group()
def data() -> None:
    """Look at a data set."""


@data.command("check")
@click.argument("source", metavar="DATA")
@PLUGIN
def check_data(source: str, plugin: tuple[Path, ...]) -> None:
    """Open every picture of DATA once and say what is wrong with it."""
    from autotl import data as rooms
    from autotl.space import registry

    examples = registry.load(plugin).dataset(source).call({"source": source}, {})
    dataset = rooms.check(examples, source)
    for issue in dataset.issues:
        click.echo(legible(f"{issue.name}: {issue.problem} ({issue.action})"))
    parts = {part: len(dataset.indices(part)) for part in ("train", "validation", "test")}
    click.echo(
        f"{len(dataset.examples)} pictures of {len(dataset.classes)} classes can be used: "
        + ", ".join(f"{n} {part}" for part, n in parts.items())
    )
    for i, name in enumerate(dataset.classes):
        click.echo(f"  {legible(name)}: {int((dataset.labels == i).sum())}")
