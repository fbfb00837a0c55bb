"""The exceptions, in two trees. Every message says what is wrong, where, and what to do.

::

    AutoTLError         the user can resolve it: one line on stderr, an exit code
    ├── DataError       the images or their labels
    ├── PluginError     a plugin breaks a rule of its interface, or none has that name
    │   └── OtherFamily a name that has not the form of a family's names
    ├── WeightsError    pretrained weights cannot be found or read
    ├── StudyError      a study file or an option
    │   └── StudyInUse  another process runs the study
    ├── StoreError      the database or the run folder
    ├── ArtifactError   a model folder
    └── SearchError     a search ended by an error of another library
        └── GpuError    the GPU failed, and only another process can use it
    TrialStopped        a trial ends before its last epoch, without an error of the program
    ├── Incompatible    raised by a plugin that cannot work with the other choices
    ├── Diverged        the loss is not finite
    ├── OutOfMemory     not even a single image fits on the device
    ├── OutOfTime       the budget ends before the trial does
    └── Duplicate       an earlier trial was the same
"""

from __future__ import annotations

import difflib
import errno
import os
import traceback
from collections.abc import Iterable
from pathlib import Path


class AutoTLError(Exception):
    """An error that the user can resolve; the message says how.

    Attributes:
        exit_code: The exit code of a command that ends with it.
    """

    exit_code = 1


class DataError(AutoTLError):
    """The images or their labels cannot be used."""


class PluginError(AutoTLError):
    """A plugin breaks a rule of its interface, or no plugin has that name."""


class OtherFamily(PluginError):
    """A name has not the form of a family's names; what another family says of it matters more."""


class WeightsError(AutoTLError):
    """The pretrained weights of a backbone cannot be found or read; the message says where."""


class StudyError(AutoTLError):
    """A study file or an option is not valid, or conflicts with an existing study."""


class StudyInUse(StudyError):
    """Another process runs the study; the message says how to join it."""


class StoreError(AutoTLError):
    """The database or the run folder cannot be read or written."""


class ArtifactError(AutoTLError):
    """A model folder is incomplete or incompatible with this installation."""


class SearchError(AutoTLError):
    """A search ended by an error that is not AutoTL's; what was known by then was saved."""


class GpuError(SearchError):
    """The GPU failed, and only another process can use it; what was known by then was saved.

    Args:
        what: What happened.
        advice: What to do then; it is the end of the message.

    Attributes:
        what: What happened.
    """

    exit_code = 3

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(f"{what}; {advice}" if advice else what)
        self.what = what


MACHINE_FAULTS = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EIO", "EROFS", "ESTALE", "ENODEV", "EMFILE", "ENFILE")
    if hasattr(errno, name)
)
"""Errors of the system that are no fault of what was being done, such as a full disk."""


DEVICE_FAULTS = (
    "CUDA error:",
    "CUDA driver error:",
    "HIP error:",
    "device lost",
)
"""Parts of the messages of errors after which no call to the GPU succeeds in this process."""

PASSING_FAULTS = (
    "out of memory",
    "invalid argument",
    "invalid configuration argument",
    "invalid device function",
    "not supported",
    "too many resources requested",
    "_STATUS_NOT_",  # of cuBLAS and cuDNN
    "_STATUS_INVALID_",
    "_STATUS_ALLOC_FAILED",
    "_STATUS_ARCH_MISMATCH",
    "_STATUS_EXECUTION_FAILED",
    "_STATUS_INTERNAL_ERROR",
)
"""Parts of the messages of errors of a GPU that end only the call: it can be used further.

Where it cannot after one of the last two, the next call raises one of ``DEVICE_FAULTS``."""


def free_frames(error: BaseException | None) -> None:
    """Free what the functions that an error ended have in their variables, such as a model.

    The error keeps its traceback. Functions that still run are left as they are.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def find_device_fault(error: BaseException | None) -> BaseException | None:
    """Return the error of a GPU that led to ``error``; None if the GPU can be used further.

    After an illegal memory access, say, or a failed assertion on the GPU, each later call raises an
    error, so that only another process can use it.
    """
    seen: set[int] = set()
    chain = [error]
    while chain:
        each = chain.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        faults, passing = (
            any(part in str(each) for part in parts) for parts in (DEVICE_FAULTS, PASSING_FAULTS)
        )
        if isinstance(each, RuntimeError) and faults and not passing:
            return each
        chain += [each.__context__, each.__cause__]  # the cause is looked at first
    return None


def describe_device_fault(fault: BaseException, trial: int | None = None) -> str:
    """Return the message of the error that ends a search because of ``fault``, for the user.

    Args:
        fault: What ``find_device_fault`` returned.
        trial: The number of the trial that was running, if any.
    """
    reason = str(fault).partition("\n")[0].rstrip()
    where = "" if trial is None else f" in trial {trial}"
    cause = "set CUDA_LAUNCH_BLOCKING=1 to find the cause if it fails again"
    if "assert" in reason and trial is not None:
        cause = f"trial {trial} itself may be the cause, by an index out of range; {cause}"
    return (
        f"the GPU failed{where} ({reason}), and this process cannot use it any more; what is known "
        f"is stored; {cause}"
    )


def is_machine_fault(error: BaseException | None) -> bool:
    """Whether any other trial would fail too: files, the database or the GPU cannot be used."""
    if find_device_fault(error):
        return True
    if isinstance(error, OSError):
        return error.errno in MACHINE_FAULTS
    return isinstance(error, DataError | StoreError)


class TrialStopped(Exception):
    """Ends one trial, but not the search; ``status`` is stored with the trial."""

    status = "failed"


class Incompatible(TrialStopped):
    """Raised by a plugin that cannot work with the other choices; the message is the reason."""

    status = "incompatible"


class Diverged(TrialStopped):
    """The training loss is not a finite number."""

    status = "diverged"


class OutOfMemory(TrialStopped):
    """Not even a micro-batch of one image fits on the device."""

    status = "out_of_memory"


class OutOfTime(TrialStopped):
    """The deadline passed during an epoch, or the trial cannot finish before it.

    Args:
        message: What there was no time for.
        budget: The budget in seconds with which a trial that fine-tunes the backbone would have had
            enough time; None if it is unknown, or the backbone is frozen.
    """

    status = "out_of_time"

    def __init__(self, message: str, budget: float | None = None) -> None:
        super().__init__(message)
        self.budget = budget


class Duplicate(TrialStopped):
    """An earlier trial had the same configuration, as far as that has an effect."""

    status = "duplicate"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a hint for an error message: the most similar name, or the names if none is similar.

    Args:
        name: The name that was not found.
        names: The valid names. Of more than 12, only six are listed.

    >>> did_you_mean("liner", ["linear", "mlp"])
    "did you mean 'linear'?"
    >>> did_you_mean("x", ["linear", "mlp"])
    'there are linear, mlp'
    """
    valid = sorted(names)
    if near := difflib.get_close_matches(name, valid, n=1):
        return f"did you mean {near[0]!r}?"
    if len(valid) > 12:
        return f"there are {len(valid)}, such as {', '.join(valid[:6])}"
    return f"there are {', '.join(valid)}" if valid else "there are none"


def find_path_fault(path: str | Path) -> str:
    r"""Return why no file can have this path; empty if one can, whether it exists or not.

    >>> find_path_fault("photos/new"), find_path_fault("photos\0")
    ('', 'it has a null character')
    """
    try:
        os.lstat(Path(path).expanduser())
    except RuntimeError:
        return f"there is no user {Path(path).parts[0].removeprefix('~')!r}"
    except ValueError:
        return "it has a null character" if "\0" in str(path) else "it is not valid Unicode"
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL):
            return (error.strerror or str(error)).lower()
    return ""


def shorten(value: object, length: int = 60) -> str:
    """Return the representation of a value for a message, cut off after ``length`` characters.

    >>> shorten("a" * 100, 10)
    "'aaaaaa..."
    """
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = "a number of too many digits"
    return text if len(text) <= length else f"{text[: length - 3]}..."
