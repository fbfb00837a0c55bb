"""The report of a study: ``summary.json`` for programs, ``report.html`` for people.

Everything comes from the database, so ``autotl report`` can write both at any time. A fact that a
study does not have, because it is old or was interrupted, is shown as empty.

``summary`` computes what programs read; ``sentences`` and ``comparisons`` describe it in words, and
``formatting`` writes names and numbers. ``costs`` and ``effects`` compute what predictions cost and
what mattered, ``page`` writes the HTML, ``figures`` its interactive figures and ``axis`` those that
need no library. ``dashboard`` writes notes for Optuna Dashboard.
"""

from autotl.report.formatting import describe_config, format_score, plugin_choices, winner_name
from autotl.report.page import write
from autotl.report.sentences import describe_mirroring, describe_ranking, describe_result
from autotl.report.summary import pareto, summarise, top

__all__ = [
    "describe_config",
    "describe_mirroring",
    "describe_ranking",
    "describe_result",
    "format_score",
    "pareto",
    "plugin_choices",
    "summarise",
    "top",
    "winner_name",
    "write",
]
