"""Notes are written into the storage once, and never over those that somebody edited."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from example_study import CLASSES
from optuna_dashboard import get_note, save_note, wsgi
from report_examples import label_facts, number_facts

from autotl import report
from autotl.errors import StoreError, StudyError
from autotl.report import dashboard
from autotl.report.dashboard_notes import escape_markdown
from autotl.store import Contender, DataFacts, Member, RepeatFacts, RepeatRow, Store, TestResult


def fetch_study(store: Store) -> Any:
    """Fetch the study from the dashboard's own server."""
    app = wsgi(store.storage)
    status: list[str] = []
    request: dict[str, Any] = {"PATH_INFO": "/api/studies/1", "QUERY_STRING": "after=0"}
    setup_testing_defaults(request)
    body = b"".join(app(request, lambda code, _headers, *_: status.append(code)))
    assert status == ["200 OK"], body
    return json.loads(body)


def fetch_notes(store: Store) -> dict[int, str]:
    """The note of each trial in the dashboard."""
    return {trial["number"]: trial["note"]["body"] for trial in fetch_study(store)["trials"]}


def test_every_trial_has_a_note(complete_store: Store, tmp_path: Path) -> None:
    dashboard.annotate(complete_store, "birds", tmp_path / "birds")
    notes, rows = fetch_notes(complete_store), complete_store.trials("birds")
    assert {"complete", "pruned", "failed"} == {row.status for row in rows}
    for row in rows:
        assert f"### Trial {row.number}: {row.status}" in notes[row.number]
        assert f"**{escape_markdown(next(iter(row.config['freeze'])))}**" in notes[row.number]
        if row.reason:
            assert escape_markdown(row.reason) in notes[row.number]
    winner = report.summarise(complete_store, "birds")["best"]["trial"]
    assert "**the winner**" in notes[winner]
    assert "Final selection: mean 0" in notes[winner]


def test_learning_curves_are_those_that_the_dashboard_draws_itself(
    complete_store: Store, tmp_path: Path
) -> None:
    dashboard.annotate(complete_store, "birds", tmp_path / "birds")
    trials = {trial["number"]: trial for trial in fetch_study(complete_store)["trials"]}
    for row in complete_store.trials("birds"):
        steps = [value["step"] for value in trials[row.number]["intermediate_values"]]
        assert steps == [epoch.epoch for epoch in complete_store.epochs("birds", row.number)]


def test_finalists_have_the_confusion_matrix_of_their_test_or_their_repeats(
    complete_store: Store, tmp_path: Path
) -> None:
    number = complete_store.trials("birds")[0].number
    for repeat in range(2):
        counts = [[(repeat + 1) * int(i == j) for j in range(6)] for i in range(6)]
        measured = RepeatFacts(confusion_matrix=counts)
        complete_store.add_repeat("birds", RepeatRow("trial", number, repeat, 0.5, 1.0, measured))
    members = Member(trial=number, weight=0.6), Member(trial=number + 1, weight=0.4)
    ensemble = Contender(kind="ensemble", role="ensemble", members=members)
    opening = complete_store.open_test("birds", ensemble, {})
    complete_store.close_test(opening, TestResult(score=0.7, confusion_matrix=counts))
    dashboard.annotate(complete_store, "birds", tmp_path / "birds")
    notes = fetch_notes(complete_store)
    tested = {test.contender.lead for test in complete_store.tests("birds")} - {number}
    with_matrix = {n for n, note in notes.items() if "Confusion matrix on" in note}
    assert with_matrix == tested | {number}
    assert all("Confusion matrix on the test split" in notes[n] for n in tested)
    assert "Confusion matrix on the validation splits" in notes[number], (
        "the test is the ensemble's"
    )
    assert f"| **{escape_markdown(CLASSES[1])}** |  | **3** |" in notes[number]


def test_the_study_has_its_result_and_the_path_of_the_report(
    complete_store: Store, tmp_path: Path
) -> None:
    dashboard.annotate(complete_store, "birds", tmp_path / "birds")
    study = fetch_study(complete_store)
    summary = report.summarise(complete_store, "birds")
    for sentence in report.describe_result(summary):
        assert escape_markdown(sentence) in study["note"]["body"]
    assert f"`{tmp_path / 'birds' / 'report.html'}`" in study["note"]["body"]
    assert summary["selection"]
    for contender in summary["contenders"]:
        assert f"| {contender['name']} | {contender['mean']:.4f} |" in study["note"]["body"]
    attributes = {a["key"]: a["value"] for a in study["user_attrs"]}
    assert attributes["winner"] == summary["best"]["name"]
    assert attributes["winner's accuracy on test"] == "0.9222"


def test_a_second_call_writes_nothing(
    complete_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard.annotate(complete_store, "birds", tmp_path / "birds")

    def refuse(*_: Any) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr(complete_store.storage, "set_study_system_attr", refuse)
    monkeypatch.setattr(complete_store.storage, "set_study_user_attr", refuse)
    monkeypatch.setattr(complete_store, "update_study", refuse)
    dashboard.annotate(complete_store, "birds", tmp_path / "birds")


def test_a_note_is_updated_unless_somebody_edited_it(complete_store: Store, tmp_path: Path) -> None:
    study = optuna.load_study(study_name="birds", storage=complete_store.storage)
    dashboard.annotate(complete_store, "birds", tmp_path / "birds")
    complete_store.update_study("birds", selection=None)
    dashboard.annotate(complete_store, "birds", tmp_path / "birds")
    assert "ensemble" not in get_note(study)
    save_note(study, "Do not use before Friday.")
    complete_store.update_study("birds", metric="f1")
    for _ in range(2):
        dashboard.annotate(complete_store, "birds", tmp_path / "birds")
        assert get_note(study) == "Do not use before Friday."


def test_after_the_time_limit_the_next_call_writes_the_rest(
    complete_store: Store, tmp_path: Path
) -> None:
    dashboard.annotate(complete_store, "birds", tmp_path / "birds", within=0.0)
    study = optuna.load_study(study_name="birds", storage=complete_store.storage)
    assert "The winner is" in get_note(study)
    assert not any(fetch_notes(complete_store).values())
    dashboard.annotate(complete_store, "birds", tmp_path / "birds")
    assert all(fetch_notes(complete_store).values())


def test_without_the_extra_nothing_is_written_and_serving_says_what_to_install(
    complete_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "installed", lambda: False)
    dashboard.annotate(complete_store, "birds", tmp_path / "birds")
    study = optuna.load_study(study_name="birds", storage=complete_store.storage)
    assert get_note(study) == ""
    with pytest.raises(StudyError, match=r"pip install 'autotl\[dashboard\]'"):
        dashboard.serve(complete_store, "birds", tmp_path / "birds", 0)


def test_nothing_is_written_into_a_read_only_database(
    complete_store: Store, tmp_path: Path
) -> None:
    complete_store.close()  # the database is one file then
    file = complete_store.storage.engine.url.database
    read_only = Store(f"sqlite:///file:{file}?mode=ro&uri=true")
    dashboard.annotate(read_only, "birds", tmp_path / "birds")
    assert not any(fetch_notes(read_only).values())
    read_only.close()


def test_a_study_that_optuna_does_not_have_is_skipped(
    complete_store: Store, tmp_path: Path
) -> None:
    optuna.delete_study(study_name="birds", storage=complete_store.storage)
    dashboard.annotate(complete_store, "birds", tmp_path / "birds")
    with pytest.raises(StudyError, match="there is no study 'fish'"):
        dashboard.annotate(complete_store, "fish", tmp_path / "fish")


def test_it_is_served_on_this_machine_only_once_the_port_is_free(
    complete_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    served: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        dashboard._Server, "serve_forever", lambda server: served.append(server.server_address)
    )
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StoreError, match=f"cannot serve on port {port}: .* in use"):
            dashboard.serve(complete_store, "birds", tmp_path / "birds", port, lines.append)
    assert (lines, served) == ([], [])
    dashboard.serve(complete_store, "birds", tmp_path / "birds", port, lines.append)
    assert served == [("127.0.0.1", port)]
    assert lines == [f"http://127.0.0.1:{port}/dashboard/studies/1 (stop with Ctrl-C)"]


@pytest.mark.parametrize("data", [label_facts(), number_facts()], ids=["labels", "numbers"])
def test_other_tasks_have_notes_without_a_confusion_matrix(
    complete_store: Store, tmp_path: Path, data: DataFacts
) -> None:
    complete_store.update_study("birds", data=data, metric="mae", metric_has_unit=True)
    for test in complete_store.tests("birds"):
        result = test.result.model_copy(update={"confusion_matrix": [], "per_class": []})
        complete_store.close_test(test.id, result)
    for row in complete_store.repeats("birds"):
        complete_store.add_repeat("birds", replace(row, facts=RepeatFacts()))
    dashboard.annotate(complete_store, "birds", tmp_path)
    notes = fetch_notes(complete_store)
    assert notes
    assert not any("Confusion" in note for note in notes.values())
