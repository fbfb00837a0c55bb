"""One search, from the data to the run folder.

``steps`` calls the rooms in their order. ``beginning`` locks the study and stores what it is,
``search_space`` and ``inputs`` say what is searched, and on which images, and ``ending`` writes the
report, also after an error. ``joining`` is a worker that joins the search of another process.
``pretraining`` trains the weights of a backbone on other data, ``self_supervised`` has what is
different without labels, and ``plugin_pretraining`` calls a method of the backbone's family; all
record ``source_facts``. ``source_weights`` and ``continued_pretraining`` do it before a search.
"""

from autotl.engine.inputs import load_dataset
from autotl.engine.joining import run_or_join, work
from autotl.engine.pretraining import SourceTraining, pretrain
from autotl.engine.steps import Result, run

__all__ = ["Result", "SourceTraining", "load_dataset", "pretrain", "run", "run_or_join", "work"]
