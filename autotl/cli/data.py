"""The ``data`` commands: inspection of a data set before a search."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autotl.cli.common import DATA_OPTION, PLUGIN, SOURCE, printable
from autotl.space.kinds import MAX_CHANNELS, RGB
from autotl.space.registry import require_source
from autotl.space.task import AUTO

if TYPE_CHECKING:
    from autotl.data import Dataset
    from autotl.space.plugin import Issue
    from autotl.space.registry import Registry

SHOWN = 5
"""Number of problems of one kind that are listed."""

VARIABLE = re.compile(r"'(?:[^'\\]|\\.)*'|\"[^\"]*\"|[\d.]+")
"""What differs between problems of one kind: what is quoted, and numbers."""


@click.group()
def data() -> None:
    """Inspect a data set."""


@data.command("check")
@click.argument("source", metavar="DATA", type=SOURCE)
@click.option(
    "--target",
    type=SOURCE,
    metavar="DATA",
    help="Examples of another domain, as for search (default: none).",
)
@click.option(
    "--task",
    default=AUTO,
    metavar="NAME",
    help="What is predicted: classification, multilabel, regression, ordinal, or the task of a "
    "plugin (default: auto, what the labels tell).",
)
@DATA_OPTION
@click.option(
    "--in-chans",
    type=click.IntRange(1, MAX_CHANNELS),
    default=RGB,
    metavar="N",
    help="Number of channels of images, as for search (default: 3).",
)
@click.option(
    "--all",
    "all_issues",
    is_flag=True,
    help=f"List every problem (default: the first {SHOWN} of each kind).",
)
@PLUGIN
def check_data(
    source: str,
    target: str | None,
    task: str,
    data_options: Mapping[str, str] | None,
    in_chans: int,
    all_issues: bool,
    plugin: tuple[Path, ...],
) -> None:
    """Open every example of DATA once, and report the problems found and what is predicted."""
    require_source(source)
    if target is not None:
        require_source(target)
    from autotl.data import describe_scales
    from autotl.space import registry

    plugins = registry.load(plugin)
    dataset, reason = _load(source, target, task, data_options, in_chans, plugins)
    for line in _describe_issues(dataset.issues, len(dataset.issues) if all_issues else SHOWN):
        click.echo(printable(line))
    sizes = {split: len(dataset.indices(split)) for split in ("train", "validation", "test")}
    click.echo(
        f"{len(dataset.examples)} {dataset.kind.nouns} of {len(dataset.outputs)} "
        f"{dataset.task.nouns if len(dataset.outputs) != 1 else dataset.task.noun} can be used: "
        + ", ".join(f"{size} {split}" for split, size in sizes.items())
    )
    if count := len(dataset.unlabelled):
        click.echo(f"{count} unlabelled {dataset.kind.nouns if count > 1 else dataset.kind.noun}")
    if target is not None:
        scored = "validation and test are" if sizes["test"] else "validation, without labels, is"
        click.echo(printable(f"{scored} of the target {target}; its labels train nothing"))
    because = reason or "no other task recognises the labels"
    why = f"because {because}" if task == AUTO else "as --task says"
    click.echo(printable(f"the task is {dataset.task.name}, {why}"))
    for line in describe_scales(dataset):
        click.echo(line)
    for line in _describe_labels(dataset):
        click.echo(f"  {printable(line)}")


def _load(
    source: str,
    target: str | None,
    task: str,
    options: Mapping[str, str] | None,
    channels: int,
    plugins: Registry,
) -> tuple[Dataset, str]:
    """Read and check the data, with those of the target; also return why the task was chosen."""
    from autotl.data import check, join_domains, read_source, read_target, separate_domains
    from autotl.tasks import choose_task

    read = read_source(source, plugins, options)
    chosen, reason = choose_task(task, [example.label for example in read.examples], plugins)
    splits: dict[str, Any] = {}
    read = read._replace(task=chosen)
    if target is not None:
        other = read_target(target, read, plugins, options)
        read, splits = join_domains(read, other, (source, target), 0), {"validation": 0, "test": 0}
    dataset = check(
        read.examples,
        source,
        issues=read.issues,
        kind=read.kind,
        task=chosen,
        channels=channels,
        unlabelled=read.unlabelled,
        **splits,
    )
    return separate_domains(dataset, read), reason


def _describe_issues(issues: Sequence[Issue], limit: int) -> Iterator[str]:
    """Yield the first ``limit`` problems of each kind, and how many more there are of it.

    Problems of one kind have the same words, apart from what is quoted and numbers.
    """
    kinds: defaultdict[tuple[str, str], list[Issue]] = defaultdict(list)
    for issue in issues:
        kinds[VARIABLE.sub("", issue.problem), issue.action].append(issue)
    for alike in kinds.values():
        for issue in alike[:limit]:
            yield f"{issue.name}: {issue.problem} ({issue.action})"
        if len(alike) > limit:
            yield f"... and {len(alike) - limit} more like it ({alike[0].action}); --all lists them"


def _describe_labels(dataset: Dataset) -> Iterator[str]:
    """Yield how often each class or label occurs, or the range of each number."""
    task = dataset.task
    names = [task.names(example.label) for example in dataset.examples if example.label]
    counts = Counter(name for several in names for name in several)
    for i, output in enumerate(dataset.outputs):
        if counts:
            yield f"{output}: {counts[output]}"
        else:
            values = dataset.targets[:, i].astype(float)
            low, mean, high = values.min(), values.mean(), values.max()
            yield f"{output}: {low:.6g} to {high:.6g}, mean {mean:.6g}"
    if any(len(several) != 1 for several in names) and counts:
        mean, nouns = counts.total() / len(names), dataset.kind.nouns
        none = sum(not several for several in names)
        yield f"{task.nouns} of an example: {mean:.3g} on average; {none} {nouns} have none"
