"""One database: Optuna's storage and, beside it, our tables for what Optuna does not keep.

Optuna keeps parameters and values. Ours keep what a study was asked to do, how each trial ended
and why, every epoch, and each time that the sealed test part was opened. The names of our tables
begin with ``autotl_``, and ``autotl.migrations`` alone makes and changes them.

Several processes may write at once. A float that is not finite, such as the loss of a trial that
diverged, is stored as None; times are UTC.

``database`` is the store, ``rows`` what it gives, ``opening`` how a database is found and opened.
"""

from autotl.store.database import Store
from autotl.store.opening import default_url, existing_url, without_passwords
from autotl.store.rows import STATUSES, EpochRow, FinalRow, TestRow, TrialRow

__all__ = [
    "STATUSES",
    "EpochRow",
    "FinalRow",
    "Store",
    "TestRow",
    "TrialRow",
    "default_url",
    "existing_url",
    "without_passwords",
]
