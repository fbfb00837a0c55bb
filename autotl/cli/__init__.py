"""The command line: commands parse options and print results.

Libraries that take long to load are imported inside the commands.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from autotl.cli import data, evaluate, export, plugins, predict, process, search, studies
from autotl.errors import AutoTLError


class _ErrorReportingGroup(click.Group):
    """A command group that reports an ``AutoTLError`` in one line on stderr, with exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AutoTLError as error:
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(130)
        except BrokenPipeError:  # the reader of our output, such as ``head``, has closed it
            sys.stderr.close()
            sys.exit(0)
        except OSError as error:  # a full disk, missing permissions, a name that is too long
            place = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{place}{error.strerror or error}") from None


@click.group(cls=_ErrorReportingGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="autotl")
def main() -> None:
    """Find the best way to fine-tune a pretrained model on your images.

    Start with: autotl search PHOTOS/ --budget 10m
    """
    process.configure()


for _command in (
    search.search,
    predict.predict,
    evaluate.evaluate,
    export.export,
    search.train,
    data.data,
    plugins.plugins,
    studies.studies,
    studies.report,
    studies.dashboard_command,
):
    main.add_command(_command)

__all__ = ["main"]
