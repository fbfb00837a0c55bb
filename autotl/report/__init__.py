"""What a study found: ``summary.json`` for programs, ``report.html`` for people.

Everything comes from the database, so ``autotl report`` can write both again at any time. A fact
that the study does not have, because it is old or was cut short, is shown as empty.

``words`` says a configuration and the answer, ``summary`` is for programs, ``page`` writes the
file for people, ``figures`` are its interactive figures and ``axis`` those that need no library.
"""

from autotl.report.page import write
from autotl.report.summary import backbone_costs, distinct, leader, pareto, ranked, summarise, top
from autotl.report.words import answer, chosen, recipe_line, winner_name

__all__ = [
    "answer",
    "backbone_costs",
    "chosen",
    "distinct",
    "leader",
    "pareto",
    "ranked",
    "recipe_line",
    "summarise",
    "top",
    "winner_name",
    "write",
]
