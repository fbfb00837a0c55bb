"""The command line: commands parse options and print results.

Libraries that take long to load are imported inside the commands.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from autotl.cli import (
    data,
    evaluate,
    export,
    plugins,
    predict,
    pretrain,
    process,
    search,
    studies,
    worker,
)
from autotl.errors import AutoTLError


class _ErrorReportingGroup(click.Group):
    """A command group that reports an ``AutoTLError`` in one line on stderr, with its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AutoTLError as error:
            reported = click.ClickException(_make_readable(str(error)))
            vars(reported)["exit_code"] = error.exit_code  # one of the class for type checkers
            raise reported from None
        except click.ClickException as error:
            vars(error)["message"] = _make_readable(error.message)  # final for type checkers
            raise
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(130)
        except BrokenPipeError:  # the reader of our output, such as ``head``, has closed it
            sys.stderr.close()
            sys.exit(0)
        except OSError as error:  # a full disk, missing permissions, a name that is too long
            place = f"{error.filename}: " if error.filename else ""
            message = f"{place}{error.strerror or error}"
            raise click.ClickException(_make_readable(message)) from None


def _make_readable(message: str) -> str:
    """Return an error message without passwords, and without the middle of a very long one."""
    if ":/" in message:
        from autotl.store import without_passwords  # Optuna is loaded only when needed

        message = without_passwords(message)
    return message if len(message) <= 800 else f"{message[:500]} ... {message[-250:]}"


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
    pretrain.pretrain,
    worker.worker,
    data.data,
    plugins.plugins,
    studies.studies,
    studies.report,
    studies.dashboard_command,
):
    main.add_command(_command)

__all__ = ["main"]
