"""Notes for Optuna Dashboard, which shows them beside its own figures of a study.

They are written into the storage, so ``optuna-dashboard sqlite:///runs/autotl.db`` shows the same
as ``autotl dashboard``.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from socketserver import ThreadingMixIn
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import numpy as np
import optuna

from autotl.errors import StoreError, StudyError
from autotl.report.dashboard_notes import Confusion, study_attributes, study_note, trial_note
from autotl.report.summary import summarise
from autotl.search.ranking import rank

if TYPE_CHECKING:
    from autotl.store import Store

HOST = "127.0.0.1"
"""The address of the server: this machine only."""


def installed() -> bool:
    """Whether the extra ``dashboard`` is installed."""
    return find_spec("optuna_dashboard") is not None


def annotate(store: Store, study: str, folder: Path, within: float | None = None) -> None:
    """Write a note for the study and for each of its trials.

    A note that has not changed is not written again, so a second call is fast. A note that somebody
    has edited is never overwritten. Without the extra ``dashboard``, or in a database that is
    read-only or locked, nothing is written.

    Args:
        store: The database.
        study: Name of the study.
        folder: The run folder.
        within: Time limit in seconds, in which the best trials come first and the next call writes
            the rest; None for no limit.

    Raises:
        StudyError: There is no such study.
    """
    if not installed():
        return
    deadline = None if within is None else time.monotonic() + within
    facts, rows = store.study(study), store.trials(study)
    try:
        optuna_study = optuna.load_study(study_name=study, storage=store.storage)
    except KeyError:  # deleted by another program, and its notes with it
        return
    summary = summarise(store, study)
    ids = {trial.number: trial._trial_id for trial in optuna_study.get_trials(deepcopy=False)}
    confusions = _confusions(store, study)
    digests: dict[str, str] = dict(facts.dashboard_notes)
    with suppress(StoreError), store.convert_errors():
        notes = _Notes(optuna_study, digests)
        notes.save("study", None, study_note(summary, folder))
        for key, value in study_attributes(summary, folder).items():
            if optuna_study.user_attrs.get(key) != value:
                optuna_study.set_user_attr(key, value)
        best_first = rank(rows, facts.direction)
        complete = {row.number for row in best_first}
        others = [row for row in rows if row.status != "running" and row.number not in complete]
        for row in [*best_first, *others]:
            if deadline is not None and time.monotonic() > deadline:
                break
            if row.number in ids:
                text = trial_note(row, summary, folder, confusions.get(row.number))
                notes.save(str(row.number), ids[row.number], text)
        if digests != facts.dashboard_notes:
            store.update_study(study, dashboard_notes=digests)


def serve(
    store: Store, study: str, folder: Path, port: int, echo: Callable[[str], object] = print
) -> None:
    """Serve Optuna Dashboard on this machine only, until Ctrl-C.

    Args:
        store: The database.
        study: Name of the study.
        folder: The run folder.
        port: The port on 127.0.0.1.
        echo: Called with the address of the study.

    Raises:
        StudyError: There is no such study, or the extra ``dashboard`` is not installed.
        StoreError: The port is in use.
    """
    store.study(study)
    if not installed():
        raise StudyError(
            "Optuna Dashboard is not installed; install it with pip install 'autotl[dashboard]'"
        )
    import optuna_dashboard

    try:  # before the notes are written and the address is printed
        server = make_server(HOST, port, optuna_dashboard.wsgi(store.storage), _Server, _Quiet)
    except OSError as e:
        raise StoreError(f"cannot serve on port {port}: {e.strerror}; choose another --port") from e
    with server:
        annotate(store, study, folder)
        study_id = store.storage.get_study_id_from_name(study)
        echo(f"http://{HOST}:{port}/dashboard/studies/{study_id} (stop with Ctrl-C)")
        server.serve_forever()


class _Server(ThreadingMixIn, WSGIServer):
    """A server whose requests do not wait for each other."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    """A handler that logs no request."""

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


class _Notes:
    """The notes of a study; ``digests`` has one of each note that was written here, by its key."""

    def __init__(self, study: optuna.Study, digests: dict[str, str]) -> None:
        self.study, self.digests = study, digests

    def save(self, key: str, trial_id: int | None, text: str) -> None:
        """Save the note of a trial, or of the study, unless it is the same or was edited."""
        import optuna_dashboard

        digest, before = _digest(text), self.digests.get(key)
        if digest == before:
            return
        # The dashboard's functions require a running trial; they use no more than these attributes.
        owner: Any = self.study if trial_id is None else SimpleNamespace(
            storage=self.study._storage, study=self.study, _trial_id=trial_id
        )  # fmt: skip
        current = optuna_dashboard.get_note(owner)
        if current and _digest(current) != before:  # somebody has edited it
            self.digests[key] = before or ""
            return
        optuna_dashboard.save_note(owner, text)
        self.digests[key] = digest


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]


def _confusions(store: Store, study: str) -> dict[int, Confusion]:
    """The confusion matrix of each finalist: of its last test, or else the sum of its repeats."""
    classes = store.study(study).data.classes
    repeats: dict[int, list[Any]] = {}
    for row in store.repeats(study):
        if row.kind == "trial" and row.facts.confusion_matrix:
            repeats.setdefault(row.trial, []).append(np.array(row.facts.confusion_matrix))
    confusions = {
        number: (sum(matrices).tolist(), "the validation splits of the final selection")
        for number, matrices in repeats.items()
    }
    for test in store.tests(study):
        if test.result.confusion_matrix and test.contender.kind == "trial":
            confusions[test.contender.lead] = test.result.confusion_matrix, "the test split"
    return {
        number: Confusion(counts, classes, source)
        for number, (counts, source) in confusions.items()
        if len(counts) == len(classes)
    }
