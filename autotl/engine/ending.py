"""The end of a run: the report, and after an error what is known by then."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from autotl import files, report
from autotl.errors import (
    AutoTLError,
    GpuError,
    SearchError,
    StoreError,
    describe_device_fault,
    find_device_fault,
)
from autotl.events import Listener, Note, ignore
from autotl.report import dashboard
from autotl.search.budget import Budget
from autotl.store import (
    Store,
    Worker,
    without_passwords,
)
from autotl.study import ERROR_FILE, StudyConfig

DASHBOARD_SECONDS = 5.0
"""The maximum time to write notes for Optuna Dashboard; ``autotl dashboard`` writes the rest."""

UNUSED_FRACTION = 0.03
"""The fraction of the budget that may be unused without a word."""


@contextmanager
def name_device_faults() -> Iterator[None]:
    """Say what to do after an error of the GPU, after which no call to it succeeds.

    Raises:
        GpuError: There was such an error inside.
    """
    try:
        yield
    except AutoTLError:
        raise
    except Exception as error:
        if fault := find_device_fault(error):
            raise GpuError(describe_device_fault(fault), "repeat the command") from error
        raise


@contextmanager
def hand_over(
    store: Store,
    settings: StudyConfig,
    budget: Budget,
    listener: Listener,
    command: str,
    worker: Worker,
) -> Iterator[None]:
    """After an error inside, store its reason and write the report of what is known.

    While other workers live, the study goes on without this one.

    Raises:
        AutoTLError: The error inside.
        SearchError: The error inside, if it was of another library.
        GpuError: The error inside, if no call to the GPU succeeds after it.
    """
    try:
        with store.convert_errors():
            yield
    except Exception as error:
        if _is_deleted(store, settings.name):
            raise
        reason, is_ours = _describe(error), isinstance(error, AutoTLError)
        fault = find_device_fault(error)
        details = "".join(traceback.format_exception(error)) if fault or not is_ours else ""
        steps: list[Callable[[], object]] = []
        if not _others_live(worker):
            steps = [
                lambda: _store_state(store, settings, budget, "failed", command, reason),
                lambda: report.write(store, settings.name, settings.folder),
            ]
        file = settings.folder / ERROR_FILE
        if details:
            steps.append(lambda: files.write_text(file, details, errors="replace"))
        for step in steps:
            try:
                step()
            except Exception as second:  # the first error is what the user must know
                listener(Note(f"not everything was saved: {_describe(second)}", warning=True))
        if not details:
            raise
        where, advice = f"details are in {file}", "repeat the command to continue"
        if fault:
            text = str(error) if is_ours else describe_device_fault(fault)
            raise GpuError(f"{text}; {where}", advice) from error
        text = f"the search ended with an error ({reason}); its trials are stored"
        raise SearchError(f"{text}; {where}; {advice}") from error


def _others_live(worker: Worker) -> bool:
    with suppress(StoreError):  # a database that cannot be read is reported later
        return bool(worker.others())
    return False


def _is_deleted(store: Store, study: str) -> bool:
    with suppress(StoreError):  # a database that cannot be read is reported later
        return store.find_study(study) is None
    return False


def _describe(error: Exception) -> str:
    """The first line of an error's message, with its type unless it is AutoTL's."""
    lines = str(error).splitlines()[:1]
    return ": ".join([*([] if isinstance(error, AutoTLError) else [type(error).__name__]), *lines])


def conclude(
    store: Store,
    settings: StudyConfig,
    budget: Budget,
    interrupted: bool,
    command: str,
    listener: Listener = ignore,
) -> dict[str, Any]:
    """Store the final state of the study, write the report, and return the summary.

    The listener is told of the unused part of the budget, if it is more than ``UNUSED_FRACTION``.
    """
    _store_state(store, settings, budget, "interrupted" if interrupted else "done", command)
    summary = report.write(store, settings.name, settings.folder)
    dashboard.annotate(store, settings.name, settings.folder, within=DASHBOARD_SECONDS)
    unused = budget.left
    if not interrupted and budget.seconds and unused > UNUSED_FRACTION * budget.seconds:
        advice = "to go on, repeat the command with a larger --budget or more --trials"
        listener(Note(f"{unused:.0f} s of the budget are unused; {advice}"))
    return summary


def _store_state(
    store: Store,
    settings: StudyConfig,
    budget: Budget,
    state: str,
    command: str,
    reason: str = "",
) -> None:
    facts = store.study(settings.name)
    counted = 0.0 if facts.state == "running" else facts.run_seconds or 0.0  # of this run
    before = facts.seconds - counted
    store.update_study(
        settings.name,
        state=state,
        reason=reason,
        seconds=before + budget.spent,
        run_seconds=budget.spent,
        stages=budget.stages,
        command=without_passwords(command),
    )
