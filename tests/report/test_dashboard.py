"""Notes and pictures are written into the storage, once, and never over what somebody wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import example_study
import optuna
import pytest
from example_study import HOSTILE
from optuna.artifacts import FileSystemArtifactStore
from optuna_dashboard import get_note, save_note, wsgi
from PIL import Image

from autotl import report
from autotl.errors import StoreError, StudyError
from autotl.report import dashboard, dashboard_notes, dashboard_pictures
from autotl.store import Store


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return example_study.whole(tmp_path_factory.mktemp("whole"), 20)


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Iterator[Store]:
    made = example_study.copied(whole, tmp_path)
    yield made
    made.close()


def asked(store: Store, path: str, folder: Path) -> Any:
    """What the dashboard's own server answers, given the folder of the pictures."""
    app = wsgi(store.storage, artifact_store=FileSystemArtifactStore(folder / "artifacts"))
    status: list[str] = []
    path, _, query = path.partition("?")
    request: dict[str, Any] = {"PATH_INFO": path, "QUERY_STRING": query}
    setup_testing_defaults(request)
    answer = app(request, lambda code, _headers, *_: status.append(code))
    body = b"".join(answer)
    getattr(answer, "close", lambda: None)()  # a file is not closed by reading it
    assert status == ["200 OK"], body
    return body if path.startswith("/artifacts") else json.loads(body)


def trials(store: Store, folder: Path) -> dict[int, Any]:
    return {t["number"]: t for t in asked(store, "/api/studies/1?after=0", folder)["trials"]}


def test_every_trial_has_its_note_and_its_curve(store: Store, tmp_path: Path) -> None:
    dashboard.annotate(store, "birds", tmp_path / "birds")
    found = trials(store, tmp_path)
    rows = store.trials("birds")
    assert {"complete", "pruned", "failed"} == {row.status for row in rows}
    for row in rows:
        note = found[row.number]["note"]["body"]
        assert f"### Trial {row.number}: {row.status}" in note
        assert f"**{dashboard_notes.markdown(next(iter(row.config['freeze'])))}**" in note
        names = [a["filename"] for a in found[row.number]["artifacts"]]
        assert ("learning curve.png" in names) == bool(store.epochs("birds", row.number))
        if row.reason:
            assert dashboard_notes.markdown(row.reason) in note
    winner = report.summarise(store, "birds")["best"]["trial"]
    assert "**the winner**" in found[winner]["note"]["body"]
    assert "In the finals: 0" in found[winner]["note"]["body"]


def test_finalists_that_were_tested_show_their_confusion(store: Store, tmp_path: Path) -> None:
    number = store.trials("birds")[0].number
    for run in range(2):
        matrix = {"confusion": [[run + 1, 0], [0, 5]]}
        store.add_final("birds", f"{number}", run, trial=number, score=0.5, facts=matrix)
    dashboard.annotate(store, "birds", tmp_path / "birds")
    found = trials(store, tmp_path)
    tested = {t.trial for t in store.tests("birds")}
    files = {n: [a["filename"] for a in trial["artifacts"]] for n, trial in found.items()}
    with_matrix = {n for n, names in files.items() if "confusion matrix.png" in names}
    assert with_matrix == tested | {number}
    assert dashboard._confusions(store, "birds")[number]["counts"] == [[3, 0], [0, 10]]
    several = store.open_test("birds", number, {}, candidate="ensemble")
    store.close_test(several, candidate="ensemble", score=0.7, confusion=[[1, 0], [6, 0]])
    of = dashboard._confusions(store, "birds")[number]["of"]
    assert of == "finals"  # alone it was not tested


def test_a_note_shows_the_pictures_that_are_served(store: Store, tmp_path: Path) -> None:
    dashboard.annotate(store, "birds", tmp_path / "birds")
    trial = trials(store, tmp_path)[0]
    [picture] = trial["artifacts"]
    place = f"/artifacts/1/{trial['trial_id']}/{picture['artifact_id']}"
    assert f"]({place})" in trial["note"]["body"]
    assert asked(store, place, tmp_path).startswith(b"\x89PNG")


def test_the_study_has_the_answer_and_where_the_report_is(store: Store, tmp_path: Path) -> None:
    dashboard.annotate(store, "birds", tmp_path / "birds")
    study = asked(store, "/api/studies/1?after=0", tmp_path)
    summary = report.summarise(store, "birds")
    for sentence in report.answer(summary):
        assert dashboard_notes.markdown(sentence) in study["note"]["body"]
    assert f"`{tmp_path / 'birds' / 'report.html'}`" in study["note"]["body"]
    for candidate in summary["finals"]["candidates"]:
        assert f"| {candidate['name']} | {candidate['mean']:.4f} |" in study["note"]["body"]
    known = {a["key"]: a["value"] for a in study["user_attrs"]}
    assert known["winner"] == summary["finals"]["winner"]
    assert known["winner's accuracy on test"] == "0.9222"


def test_a_second_call_writes_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard.annotate(store, "birds", tmp_path / "birds")
    files = {f: f.stat().st_mtime_ns for f in (tmp_path / "artifacts").iterdir()}

    def refuse(*_: Any) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr(store.storage, "set_study_system_attr", refuse)
    monkeypatch.setattr(store.storage, "set_study_user_attr", refuse)
    monkeypatch.setattr(store, "update", refuse)
    dashboard.annotate(store, "birds", tmp_path / "birds")
    assert files == {f: f.stat().st_mtime_ns for f in (tmp_path / "artifacts").iterdir()}


def test_a_note_follows_what_is_known_but_not_over_what_somebody_wrote(
    store: Store, tmp_path: Path
) -> None:
    study = optuna.load_study(study_name="birds", storage=store.storage)
    dashboard.annotate(store, "birds", tmp_path / "birds")
    store.update("birds", finals=None)
    dashboard.annotate(store, "birds", tmp_path / "birds")
    assert "ensemble" not in get_note(study)
    save_note(study, "Do not use before Friday.")
    store.update("birds", metric="f1")
    for _ in range(2):
        dashboard.annotate(store, "birds", tmp_path / "birds")
        assert get_note(study) == "Do not use before Friday."


def test_with_little_time_the_best_come_first_and_the_rest_later(
    store: Store, tmp_path: Path
) -> None:
    dashboard.annotate(store, "birds", tmp_path / "birds", within=0.0)
    study = optuna.load_study(study_name="birds", storage=store.storage)
    assert "The best is" in get_note(study)
    assert not any(trial["note"]["body"] for trial in trials(store, tmp_path).values())
    dashboard.annotate(store, "birds", tmp_path / "birds")
    assert all(trial["note"]["body"] for trial in trials(store, tmp_path).values())


def test_without_the_extra_nothing_is_done_and_serving_says_what_to_install(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "installed", lambda: False)
    dashboard.annotate(store, "birds", tmp_path / "birds")
    assert not (tmp_path / "artifacts").exists()
    with pytest.raises(StudyError, match=r"pip install 'autotl\[dashboard\]'"):
        dashboard.serve(store, "birds", tmp_path / "birds", 0)


def test_a_study_that_optuna_does_not_know_is_left_alone(store: Store, tmp_path: Path) -> None:
    optuna.delete_study(study_name="birds", storage=store.storage)
    dashboard.annotate(store, "birds", tmp_path / "birds")
    with pytest.raises(StudyError, match="no study is called 'fish'"):
        dashboard.annotate(store, "fish", tmp_path / "fish")


def test_pictures_that_cannot_be_kept_are_one_line(store: Store, tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("")
    with pytest.raises(StoreError, match=r"cannot make the folder .*artifacts: File exists"):
        dashboard.annotate(store, "birds", tmp_path / "birds")


def test_the_pictures_of_a_deleted_study_go(store: Store, tmp_path: Path) -> None:
    dashboard.annotate(store, "birds", tmp_path / "birds")
    (tmp_path / "artifacts" / "of-another-study").touch()
    dashboard.forget(store, "birds", tmp_path / "birds")
    assert [f.name for f in (tmp_path / "artifacts").iterdir()] == ["of-another-study"]


def test_it_is_served_on_this_machine_alone(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: dict[str, Any] = {}
    monkeypatch.setattr("optuna_dashboard.run_server", lambda storage, **how: served.update(how))
    said: list[str] = []
    dashboard.serve(store, "birds", tmp_path / "birds", 1234, said.append)
    assert (served["host"], served["port"]) == ("127.0.0.1", 1234)
    assert said == ["http://127.0.0.1:1234/dashboard/studies/1, until Ctrl-C"]


def test_markdown_shows_names_as_they_are() -> None:
    written = dashboard_notes.markdown(f"{HOSTILE}\n| *a* _b_ `c` [d](e)")
    for mark in "<>|*_`[]()":
        assert written.count(mark) == written.count(f"\\{mark}")
    assert "\n" not in written


def test_pictures_are_drawn_of_any_numbers() -> None:
    flat = dashboard_pictures.curve([(1, 0.5), (2, 0.5)], "accuracy", 3)
    assert flat.size == dashboard_pictures.curve([(7, 0.1)], "accuracy", 3).size
    names = [HOSTILE, "名前 $x^$"]
    drawn = dashboard_pictures.matrix([[4, 1], [0, 0]], names, "test")
    accent = Image.new("RGB", (1, 1), dashboard_pictures.ACCENT).getpixel((0, 0))
    colours = {colour for _, colour in drawn.getcolors(maxcolors=100_000)}
    assert dashboard_pictures._shade(0.8) in colours
    assert accent not in colours, "no row is all right"
    many = dashboard_pictures.matrix([[1] * 50] * 50, [], "test")
    assert max(many.size) < 1000
