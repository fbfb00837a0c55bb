"""The database: Optuna's storage, and AutoTL's tables for what Optuna does not store.

Optuna stores parameters and values. AutoTL's tables store the settings of a study, the status of
each trial with its reason, every epoch, the repeats of the final selection, and each use of the
test split. Their names begin with ``autotl_``. Only ``autotl.store.migrations`` creates and changes
them.

Several processes may write at once. A float that is not finite, such as the loss of a trial that
diverged, is stored as None. Times are in UTC.

``connection`` is the open database, ``database`` the store in it, and ``worker`` this process as
one of those that run a study. ``facts`` and ``contender`` are the records that it stores, ``rows``
are the values that it returns, ``mapping`` converts both from and to the tables, and ``opening``
finds and opens a database. ``quick`` reads the little that is checked before any library is loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotl.store.contender import (
        Contender,
        Interval,
        Kind,
        Latency,
        Member,
        Role,
        Spread,
        Standing,
        single,
        with_costs,
    )
    from autotl.store.database import Store
    from autotl.store.facts import (
        Baseline,
        Calibration,
        ComparedWeights,
        DataFacts,
        ExcludedPlugin,
        MajorityClass,
        MirroringFacts,
        OutOfSampleScores,
        PretrainedWeights,
        RepeatFacts,
        RepeatPlan,
        RunFacts,
        SavedModel,
        ScreeningFacts,
        Selection,
        StudentFacts,
        StudentScores,
        StudyFacts,
        TestResult,
        TrialFacts,
    )
    from autotl.store.opening import default_url, existing_url, without_passwords
    from autotl.store.rows import (
        STATUSES,
        DataIssueRow,
        EpochRow,
        ImageRow,
        RepeatRow,
        TestRow,
        TrialRow,
    )
    from autotl.store.worker import (
        FINISH,
        QUEUE,
        SCREENING,
        Worker,
        WorkerRow,
        join,
        last_seen,
        living,
    )
else:

    def __getattr__(name: str) -> Any:
        """Import the module of a name when it is used first: ``quick`` needs none of them."""
        for module in ("contender", "facts", "rows", "opening", "database", "worker"):
            if name in __all__:
                loaded = import_module(f"{__name__}.{module}")
                if hasattr(loaded, name):
                    return getattr(loaded, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "FINISH",
    "QUEUE",
    "SCREENING",
    "STATUSES",
    "Baseline",
    "Calibration",
    "ComparedWeights",
    "Contender",
    "DataFacts",
    "DataIssueRow",
    "EpochRow",
    "ExcludedPlugin",
    "ImageRow",
    "Interval",
    "Kind",
    "Latency",
    "MajorityClass",
    "Member",
    "MirroringFacts",
    "OutOfSampleScores",
    "PretrainedWeights",
    "RepeatFacts",
    "RepeatPlan",
    "RepeatRow",
    "Role",
    "RunFacts",
    "SavedModel",
    "ScreeningFacts",
    "Selection",
    "Spread",
    "Standing",
    "Store",
    "StudentFacts",
    "StudentScores",
    "StudyFacts",
    "TestResult",
    "TestRow",
    "TrialFacts",
    "TrialRow",
    "Worker",
    "WorkerRow",
    "default_url",
    "existing_url",
    "join",
    "last_seen",
    "living",
    "single",
    "with_costs",
    "without_passwords",
]
