"""The settings of a study: study files (TOML), their defaults, and recipes.

``config`` reads and checks all settings, whose types are in ``values``. ``places`` checks names and
folders. ``recipe`` reads and writes recipes. ``source_training`` has the settings of a source
training.
"""

from autotl.study.config import DEFAULT_BUDGET, StudyConfig, configure
from autotl.study.places import CRASH_FILE, ERROR_FILE, check_places, name_problem
from autotl.study.recipe import configure_recipe, write_recipe
from autotl.study.source_training import METHODS as SOURCE_TRAINING_METHODS
from autotl.study.source_training import SourceTrainingConfig, configure_source_training
from autotl.study.values import DEVICE_EXPECTED, DEVICES, parse_duration

__all__ = [
    "CRASH_FILE",
    "DEFAULT_BUDGET",
    "DEVICES",
    "DEVICE_EXPECTED",
    "ERROR_FILE",
    "SOURCE_TRAINING_METHODS",
    "SourceTrainingConfig",
    "StudyConfig",
    "check_places",
    "configure",
    "configure_recipe",
    "configure_source_training",
    "name_problem",
    "parse_duration",
    "write_recipe",
]
