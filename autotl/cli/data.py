"""The ``data`` commands: inspection of a data set before a search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from autotl.cli.common import DATA_OPTION, PLUGIN, SOURCE, printable
from autotl.space.kinds import MAX_CHANNELS, RGB
from autotl.space.registry import require_source


@click.group()
def data() -> None:
    """Inspect a data set."""


@data.command("check")
@click.argument("source", metavar="DATA", type=SOURCE)
@DATA_OPTION
@click.option(
    "--in-chans",
    type=click.IntRange(1, MAX_CHANNELS),
    default=RGB,
    metavar="N",
    help="Number of channels of images, as for search (default: 3).",
)
@PLUGIN
def check_data(
    source: str,
    data_options: Mapping[str, str] | None,
    in_chans: int,
    plugin: tuple[Path, ...],
) -> None:
    """Open every example of DATA once and report the problems found."""
    require_source(source)
    from autotl.data import check, describe_scales, read_source
    from autotl.space import registry

    read = read_source(source, registry.load(plugin), data_options)
    dataset = check(read.examples, source, issues=read.issues, kind=read.kind, channels=in_chans)
    for issue in dataset.issues:
        click.echo(printable(f"{issue.name}: {issue.problem} ({issue.action})"))
    sizes = {split: len(dataset.indices(split)) for split in ("train", "validation", "test")}
    click.echo(
        f"{len(dataset.examples)} {dataset.kind.nouns} of {len(dataset.outputs)} classes can be "
        "used: " + ", ".join(f"{size} {split}" for split, size in sizes.items())
    )
    for line in describe_scales(dataset):
        click.echo(line)
    for i, name in enumerate(dataset.outputs):
        click.echo(f"  {printable(name)}: {int((dataset.targets == i).sum())}")
