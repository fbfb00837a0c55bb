"""The tree of errors. Every message says what was wrong, where, and what to do.

::

    AutoTLError         what the user can mend: one line on stderr, exit code 1
    ├── DataError       the pictures or their labels
    ├── PluginError     a plugin breaks a rule of its interface, or there is none of that name
    ├── WeightsError    pretrained weights cannot be had
    ├── StudyError      a study file, or an option that does not fit the study
    ├── StoreError      the database or the run folder
    └── ArtifactError   a model folder
    TrialStopped          why a trial ends before its last epoch: a signal, not a fault of the program
    ├── Incompatible    raised by a plugin that cannot work with the others chosen
    ├── Diverged        the loss is no longer a number
    ├── OutOfMemory     not even one picture at a time fits on the device
    └── OutOfTime       the budget ends before the trial does
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AutoTLError(Exception):
    """Something that the user can mend; the message says how."""


class DataError(AutoTLError):
    """The pictures or their labels cannot be used."""


class PluginError(AutoTLError):
    """A plugin breaks a rule of its interface, or no plugin has that name."""


class WeightsError(AutoTLError):
    """The pretrained weights of a backbone cannot be had; the message says where was looked."""


class StudyError(AutoTLError):
    """A study file or an option is wrong, or does not fit the study that it names."""


class StoreError(AutoTLError):
    """The database or the run folder cannot be read or written."""


class ArtifactError(AutoTLError):
    """A model folder is incomplete or does not fit this installation."""


class TrialStopped(Exception):
    """Ends one trial, never the search; ``status`` is what the trial is filed as."""

    status = "failed"


class Incompatible(TrialStopped):
    """Raised by a plugin that cannot work with the others chosen, with the reason."""

    status = "incompatible"


class Diverged(TrialStopped):
    """The training loss is not a finite number."""

    status = "diverged"


class OutOfMemory(TrialStopped):
    """Not even a micro-batch of one picture fits on the device."""

    status = "out_of_memory"


class OutOfTime(TrialStopped):
    """The deadline passed inside an epoch, or the trial could not finish before it."""

    status = "out_of_time"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of an error message: the nearest of ``names``, or all of them when none is near.

    >>> did_you_mean("liner", ["linear", "mlp"])
    "did you mean 'linear'?"
    >>> did_you_mean("x", ["linear", "mlp"])
    'there are linear, mlp'
    """
    known = sorted(names)
    if near := difflib.get_close_matches(name, known, n=1):
        return f"did you mean {near[0]!r}?"
    if len(known) > 12:
        return f"there are {len(known)}, such as {', '.join(known[:6])}"
    return f"there are {', '.join(known)}" if known else "there are none"
