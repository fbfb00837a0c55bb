"""The ``studies``, ``report`` and ``dashboard`` commands, as a user types them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

from command_line import run

from autotl.store import Store


def test_studies_are_listed_shown_and_deleted(searched: Path, tmp_path: Path) -> None:
    out = ["--out", searched / "runs"]
    assert "photos  " in run("studies", "list", *out).stdout
    lines = run("studies", "show", "photos", *out).stdout.splitlines()
    assert [line.split()[1] for line in lines if line.split()[:1] == ["0"]] == ["complete"]
    assert sum("linear_probe" in line for line in lines) >= 1
    misspelled = run("studies", "show", "fotos", *out)
    assert misspelled.exit_code == 1
    assert "did you mean 'photos'?" in misspelled.stderr
    assert run("report", "photos", *out).exit_code == 0
    assert run("studies", "delete", "nothing", "--yes", *out).exit_code == 1
    elsewhere = run("studies", "list", "--out", tmp_path)
    assert elsewhere.exit_code == 1
    assert not list(tmp_path.iterdir()), "reading creates no database"


def test_delete_asks_first_and_leaves_the_files(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/autotl.db")
    store.begin_study("photos")
    store.close()
    (tmp_path / "photos").mkdir()
    run("studies", "delete", "photos", "--out", tmp_path, stdin="n\n")
    assert "photos" in run("studies", "list", "--out", tmp_path).stdout
    result = run("studies", "delete", "photos", "--yes", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "photos" not in run("studies", "list", "--out", tmp_path).stdout
    assert (tmp_path / "photos").is_dir()
    with closing(sqlite3.connect(tmp_path / "autotl.db")) as database:
        [mode] = database.execute("PRAGMA journal_mode").fetchone()
    assert mode == "delete", "the database is one file again"


def test_a_study_that_runs_is_not_deleted(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/autotl.db")
    store.begin_study("photos")
    lock_file = store.lock_file("photos", tmp_path / "photos")
    with store.lock("photos", tmp_path / "photos"):
        refused = run("studies", "delete", "photos", "--yes", "--out", tmp_path)
        assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
        assert "run by another process; stop it before you delete the study" in refused.stderr
        assert store.studies() == ["photos"]
    assert lock_file.exists()
    assert run("studies", "delete", "photos", "--yes", "--out", tmp_path).exit_code == 0
    assert not lock_file.exists()


def test_a_report_replaces_no_file_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "photos/cat").mkdir(parents=True)
    store = Store(f"sqlite:///{tmp_path}/runs.db")
    store.begin_study("photos", data={"source": str(tmp_path / "photos")})
    store.begin_study("other")
    store.close()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/report.html").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for study, message in (("photos", "inside the data"), ("other", "AutoTL did not write")):
        words = ["report", study, "--storage", f"sqlite:///{tmp_path}/runs.db", "--out", tmp_path]
        result = run(*words)
        assert result.exit_code == 1
        assert message in result.stderr
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "other/report.html").read_text() == "mine"


def test_optuna_dashboard_reads_the_study(searched: Path) -> None:
    from optuna_dashboard import wsgi

    app = wsgi(Store(f"sqlite:///{searched}/runs/autotl.db").storage)

    def get(path: str) -> Any:
        environ: dict[str, Any] = {}
        setup_testing_defaults(environ)
        environ |= {"PATH_INFO": path, "QUERY_STRING": "after=0"}
        statuses: list[str] = []
        body = b"".join(app(environ, lambda status, *_: statuses.append(status)))
        assert statuses == ["200 OK"]
        return json.loads(body)

    ids = {s["study_name"]: s["study_id"] for s in get("/api/studies")["study_summaries"]}
    detail = get(f"/api/studies/{ids['photos']}")
    assert [t["state"] for t in detail["trials"]] == ["Complete"] * 3
    # A head that is solved in closed form has one epoch.
    assert [len(t["intermediate_values"]) for t in detail["trials"]] == [2, 2, 1]
    attributes = {a["key"] for a in detail["trials"][0]["user_attrs"]}
    assert attributes >= {"status", "epochs", "parameters", "trained_parameters"}
