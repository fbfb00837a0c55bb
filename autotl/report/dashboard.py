"""What Optuna Dashboard shows of a study beside the numbers: notes and pictures.

They are written into the storage, so ``optuna-dashboard sqlite:///runs/autotl.db --artifact-dir
runs/artifacts`` shows the same as ``autotl dashboard``.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna

from autotl import report
from autotl.errors import StoreError, StudyError
from autotl.report import dashboard_notes, dashboard_pictures

if TYPE_CHECKING:
    from PIL.Image import Image

    from autotl.store import Store, TrialRow


def installed() -> bool:
    """Whether the extra ``dashboard`` is."""
    return find_spec("optuna_dashboard") is not None


def annotate(store: Store, study: str, folder: Path, within: float | None = None) -> None:
    """Write a note for the study, and a note and pictures for each of its trials.

    What is there already is left as it is, so a second call is quick; a note that somebody has
    edited is never written over. Does nothing without the extra ``dashboard``.

    Args:
        store: The database.
        study: Its name.
        folder: The run folder; the pictures are in ``artifacts`` beside it.
        within: So many seconds at most, the best trials first; None until all is done.

    Raises:
        StudyError: There is no such study.
        StoreError: The pictures cannot be written.
    """
    if not installed():
        return
    facts, rows = store.require(study), store.trials(study)
    until = None if within is None else time.monotonic() + within
    try:
        known = optuna.load_study(study_name=study, storage=store.storage)
    except KeyError:  # deleted with another program; the notes would have no place
        return
    summary = report.summarise(store, study)
    ids = {trial.number: trial._trial_id for trial in known.get_trials(deepcopy=False)}
    confusions = _confusions(store, study)
    written: dict[str, str] = dict(facts.get("annotated") or {})
    pages = _Pages(store, known, folder.parent / "artifacts", written)
    pages.note("study", None, dashboard_notes.of_study(summary, folder))
    for key, value in dashboard_notes.attributes(summary, folder).items():
        if known.user_attrs.get(key) != value:
            known.set_user_attr(key, value)
    best_first = report.ranked(rows, facts.get("direction", "maximize"))
    done = {row.number for row in best_first}
    others = [row for row in rows if row.status != "running" and row.number not in done]
    for row in [*best_first, *others]:
        if until is not None and time.monotonic() > until:
            break  # the next call goes on from here
        if row.number in ids:
            pages.trial(row, ids[row.number], summary, confusions.get(row.number, {}))
    if written != facts.get("annotated"):
        store.update(study, annotated=written)


def serve(
    store: Store, study: str, folder: Path, port: int, tell: Callable[[str], object] = print
) -> None:
    """Serve Optuna Dashboard on this machine alone, until Ctrl-C; ``tell`` is given its address.

    Raises:
        StudyError: There is no such study, or the extra ``dashboard`` is missing.
        StoreError: The port is taken, or a picture cannot be written.
    """
    store.require(study)
    if not installed():
        raise StudyError("the dashboard is missing: pip install 'autotl[dashboard]'")
    import optuna_dashboard

    annotate(store, study, folder)
    artifacts = optuna.artifacts.FileSystemArtifactStore(_made(folder.parent / "artifacts"))
    page = store.storage.get_study_id_from_name(study)
    tell(f"http://127.0.0.1:{port}/dashboard/studies/{page}, until Ctrl-C")
    try:
        optuna_dashboard.run_server(
            store.storage, host="127.0.0.1", port=port, artifact_store=artifacts
        )
    except OSError as e:
        raise StoreError(f"cannot serve on port {port}: {e.strerror}; choose another --port") from e


def forget(store: Store, study: str, folder: Path) -> None:
    """Remove the pictures of a study that is about to be deleted."""
    for key in store.require(study).get("annotated") or {}:
        (folder.parent / "artifacts" / _artifact(study, key)).unlink(missing_ok=True)


class _Pages:
    """The pages of a study in the dashboard; ``written`` has a digest of what each was given."""

    def __init__(
        self, store: Store, study: optuna.Study, artifacts: Path, written: dict[str, str]
    ) -> None:
        self.store, self.study, self.artifacts, self.written = store, study, artifacts, written

    def trial(
        self, row: TrialRow, trial_id: int, summary: Mapping[str, Any], confusion: Mapping[str, Any]
    ) -> None:
        """The note of a trial, its learning curve and, of a finalist, its confusion matrix."""
        epochs = self.store.epochs(self.study.study_name, row.number)
        points = [(e.epoch, e.score) for e in epochs if e.score is not None]
        shown = []
        if points:
            draw = partial(dashboard_pictures.curve, points, summary["metric"], row.number)
            shown.append(self._picture(f"{row.number}/learning curve", trial_id, points, draw))
        if confusion:
            draw = partial(dashboard_pictures.matrix, **confusion)
            shown.append(self._picture(f"{row.number}/confusion matrix", trial_id, confusion, draw))
        self.note(
            f"{row.number}",
            trial_id,
            f"{dashboard_notes.of_trial(row, summary)}\n\n{' '.join(shown)}",
        )

    def note(self, key: str, trial_id: int | None, text: str) -> None:
        """Write a note, unless it is as it was or somebody has edited it."""
        import optuna_dashboard

        old = self.written.get(key)
        if not self._changed(key, text):
            return
        # The dashboard's functions ask for a trial that runs; these are all they look at.
        place: Any = self.study if trial_id is None else SimpleNamespace(
            storage=self.store.storage, study=self.study, _trial_id=trial_id
        )  # fmt: skip
        there = optuna_dashboard.get_note(place)
        if not there or _digest(there) == old:
            optuna_dashboard.save_note(place, text)
        else:
            self.written[key] = old or ""  # theirs stays

    def _changed(self, key: str, content: str) -> bool:
        digest = _digest(content)
        if self.written.get(key) == digest:
            return False
        self.written[key] = digest
        return True

    def _picture(self, key: str, trial_id: int, content: Any, draw: Callable[[], Image]) -> str:
        """Keep a picture as an artifact of a trial; returns what shows it in a note.

        Optuna takes artifacts of running trials alone, in the trial. The dashboard also looks for
        them among the attributes of the study, where those of trials that are over can be added.
        """
        page = self.study._study_id
        name = _artifact(self.study.study_name, key)
        shown = f"![{key.partition('/')[2]}](/artifacts/{page}/{trial_id}/{name})"
        if not self._changed(key, json.dumps(content)):
            return shown
        try:
            draw().save(_made(self.artifacts) / name, "PNG")
        except OSError as e:
            raise StoreError(f"cannot write into {self.artifacts}: {e.strerror}") from e
        meta = {
            "artifact_id": name,
            "filename": f"{key.partition('/')[2]}.png",
            "mimetype": "image/png",
            "encoding": None,
        }
        self.store.storage.set_study_system_attr(
            page, f"dashboard:artifacts:{trial_id}:{name}", json.dumps(meta)
        )
        return shown


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StoreError(f"cannot make the folder {folder}: {e.strerror}") from e
    return folder


def _artifact(study: str, key: str) -> str:
    """The file of a picture, always the same, so that a new one takes the old one's place."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"autotl:{study}/{key}"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]


def _confusions(store: Store, study: str) -> dict[int, dict[str, Any]]:
    """By trial, the confusion matrix of a finalist: of its last test, or the sum of its runs."""
    names = (store.require(study).get("data") or {}).get("classes") or []
    runs: dict[int, list[Any]] = {}
    for final in store.finals(study):
        if final.candidate == f"{final.trial}" and final.facts.get("confusion"):
            runs.setdefault(int(final.candidate), []).append(np.array(final.facts["confusion"]))
    found = {
        number: {"counts": sum(matrices).tolist(), "of": "finals"}
        for number, matrices in runs.items()
    }
    for test in store.tests(study):
        if test.facts.get("confusion") and test.candidate == f"trial {test.trial}":
            found[test.trial] = {"counts": test.facts["confusion"], "of": "test"}
    return {
        number: {**known, "names": names}
        for number, known in found.items()
        if len(known["counts"]) <= dashboard_pictures.LARGEST
    }
