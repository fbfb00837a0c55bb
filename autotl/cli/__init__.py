"""The command line: commands parse and print, nothing else. Heavy imports stay inside them."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from autotl.cli import data, evaluate, export, plugins, predict, process, search, studies
from autotl.cli.common import interruptible as _interruptible
from autotl.errors import AutoTLError

CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True}


class _Lines(click.Group):
    """Turns our errors into one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AutoTLError as error:
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(130)
        except BrokenPipeError:  # the reader of our output has had enough
            sys.stderr.close()
            sys.exit(0)


@click.group(cls=_Lines, context_settings=CONTEXT)
@click.version_option(package_name="autotl")
def main() -> None:
    """Find the best transfer of a pretrained model to your pictures.

    Start with: autotl search PHOTOS/ --budget 10m
    """
    # Threads that spin while they wait for each other take the time of whoever else computes here,
    # and then wait the longer: beside one busy process, training was 4 times faster without.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    process.keep_freed_memory()


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
    studies.dashboard,
):
    main.add_command(_command)

__all__ = ["_interruptible", "main"]
