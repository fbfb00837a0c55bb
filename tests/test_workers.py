"""Several processes run the trials of one study, and some of them are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from images import write_images, write_plugin
from postgresql import Server

from autotl.store import Store, TrialRow, living

SLOW = '''
import time
from pathlib import Path
from torch import nn
from autotl import head


class Slow(nn.Linear):
    def forward(self, x):
        file = Path(__file__).with_suffix(".slow")
        if self.training:
            time.sleep(float(file.read_text()) if file.exists() else 0.0)
        return super().forward(x)


@head(order=1)
def slow(features, classes):
    """A linear layer that takes its time until the test hurries it."""
    return Slow(features, classes)
'''

pytestmark = pytest.mark.slow

PATIENCE = 240.0
"""The seconds after which a test gives up waiting, on a machine that is busy with others."""


class Study:
    """A study on a folder of images, and the processes that run it."""

    def __init__(self, folder: Path, url: str = "") -> None:
        self.folder, self.out = folder, folder / "runs"
        self.url = url or f"sqlite:///{self.out}/autotl.db"
        write_images(folder / "photos", 12)
        (folder / "slow_plugin.py").write_text(SLOW)
        self.slow = folder / "slow_plugin.slow"
        self.slow.write_text("0.1")  # seconds for each step
        self.plugins = [f"--plugin={write_plugin(folder)}", f"--plugin={folder}/slow_plugin.py"]
        self.processes: list[subprocess.Popen[str]] = []
        self.out.mkdir()

    def start(self, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "autotl", *words, f"--out={self.out}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "AUTOTL_STORAGE": self.url},
            process_group=0,
        )
        self.processes.append(process)
        return process

    def search(self, *words: str, trials: int = 6) -> subprocess.Popen[str]:
        names = ("--backbone=tiny", "--head=slow", "--augment=none", "--augment=flip_crop")
        settings = ("--epochs=3", "--batch-size=8", "--device=cpu", "--no-history")
        photos = str(self.folder / "photos")
        return self.start(
            "search", photos, *self.plugins, *names, *settings, f"--trials={trials}", *words
        )

    def work(self, *words: str) -> subprocess.Popen[str]:
        return self.start("worker", "photos", "--device=cpu", *words)

    def open(self) -> closing[Store]:
        return closing(Store(self.url))

    def rows(self) -> list[TrialRow]:
        with self.open() as store:
            return store.trials("photos")

    def wait_until(self, is_so: Callable[[list[TrialRow]], bool]) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if is_so(self.rows()):
                return
            ended = [p for p in self.processes if p.poll() not in (None, 0, -signal.SIGKILL)]
            assert not ended, ended[0].communicate()[0]
            time.sleep(0.1)
        pytest.fail(f"in vain, the trials are {[(r.status, r.worker) for r in self.rows()]}")

    def end(self, process: subprocess.Popen[str]) -> str:
        """Let trainings be fast from now on; return the output of a process that ends well."""
        return self.end_with(0, process)

    def end_with(self, code: int, process: subprocess.Popen[str]) -> str:
        """The same for a process that ends with the exit status ``code``."""
        self.slow.unlink(missing_ok=True)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, output
        return output

    def kill(self, worker: int) -> None:
        """Kill the process of a worker, which is the one that has locked its file."""
        with self.open() as store:
            [lock] = [row.lock for row in living(store, "photos") if row.number == worker]
        for process in Path("/proc").glob("[0-9]*"):
            try:
                is_open = any(str(file.readlink()) == lock for file in (process / "fd").iterdir())
            except OSError:
                continue
            if is_open:
                os.kill(int(process.name), signal.SIGKILL)

    def check(self, trials: int) -> None:
        """Check what must be true of every finished study, whatever was killed."""
        with self.open() as store:
            rows, facts = store.trials("photos"), store.study("photos")
            repeats, tests = store.repeats("photos"), store.tests("photos")
            assert living(store, "photos") == []
            study = optuna.load_study(study_name="photos", storage=store.storage)
            states = {trial.number: trial.state for trial in study.get_trials(deepcopy=False)}
        assert facts.state == "done"
        assert facts.model
        assert facts.model.refitted
        assert "running" not in {row.status for row in rows}
        results = [row for row in rows if row.status != "interrupted"]
        assert len(results) == trials
        recipes = Counter(tuple(row.facts.recipe) for row in results if row.facts.recipe)
        assert max(recipes.values()) == 1, "no recipe is tried twice"
        assert len([row for row in tests if row.done]) == len(tests) == 1
        single = [(r.trial, r.repeat) for r in repeats if r.kind == "trial"]
        assert len(set(single)) == len(single) >= 4
        assert all(state.is_finished() for state in states.values())
        for row in rows:
            is_complete = states[row.number] == optuna.trial.TrialState.COMPLETE
            assert is_complete == (row.status == "complete")
        summary = json.loads((self.out / "photos" / "summary.json").read_text())
        assert summary["best"]
        assert not list((self.out / "cache" / "models").rglob("*.safetensors"))


@pytest.fixture
def photos(tmp_path: Path) -> Iterator[Study]:
    """A study whose processes are killed at the end of the test."""
    yield from until_the_end(Study(tmp_path))


@pytest.fixture
def on_server(
    tmp_path: Path, postgresql_server: Server, request: pytest.FixtureRequest
) -> Iterator[Study]:
    """The same with its database on PostgreSQL."""
    yield from until_the_end(Study(tmp_path, postgresql_server.create(request.node.name[:60])))


def until_the_end(study: Study) -> Iterator[Study]:
    yield study
    for process in study.processes:
        process.kill()
        process.communicate()


def runs_in(worker: int) -> Callable[[list[TrialRow]], bool]:
    return lambda rows: any(row.worker == worker and row.status == "running" for row in rows)


def completed_by(worker: int) -> Callable[[list[TrialRow]], bool]:
    return lambda rows: any(row.worker == worker and row.status == "complete" for row in rows)


def test_two_workers_share_a_search(photos: Study) -> None:
    search = photos.search(trials=8)
    worker = photos.work()
    photos.wait_until(completed_by(2))
    photos.slow.write_text("0.02")  # there is time to share the repeats
    output, _ = search.communicate(timeout=PATIENCE)
    other = photos.end(worker)
    assert search.returncode == 0, output
    photos.check(8)
    rows = photos.rows()
    assert {row.worker for row in rows} == {1, 2}
    assert "the search has ended" in other
    for each in (output, other):
        assert "final selection, repeat" in each, "they share the repeats"
    for row in rows:  # the search reports the trials of all workers
        assert f"trial {row.number}  {row.status}" in output


def test_the_trial_of_a_worker_that_is_killed_is_given_to_another(photos: Study) -> None:
    search, worker = photos.search(), photos.work()
    photos.wait_until(runs_in(2))
    worker.kill()
    photos.end(search)
    photos.check(6)
    [lost] = [row for row in photos.rows() if row.worker == 2 and row.status == "interrupted"]
    later = [row for row in photos.rows() if row.number > lost.number]
    assert lost.config in [row.config for row in later]
    assert lost.reason == "its process ended"


def test_a_worker_finishes_a_search_that_is_killed(photos: Study) -> None:
    search, worker = photos.search(), photos.work()
    photos.wait_until(completed_by(2))
    search.kill()
    photos.end(worker)
    photos.check(6)
    assert (photos.out / "photos" / "report.html").is_file()


def test_workers_survive_a_restart_of_the_server(
    on_server: Study, postgresql_server: Server
) -> None:
    search, worker = on_server.search(trials=8), on_server.work()
    on_server.wait_until(completed_by(2))
    postgresql_server.restart()
    on_server.end(search)
    on_server.end(worker)
    on_server.check(8)
    assert {row.worker for row in on_server.rows()} == {1, 2}


def test_ctrl_c_ends_all_workers_and_the_search_goes_on_later(photos: Study) -> None:
    search, worker = photos.search(), photos.work()
    photos.wait_until(completed_by(2))
    search.send_signal(signal.SIGINT)
    photos.end_with(130, search)
    photos.end(worker)
    with photos.open() as store:
        assert store.state("photos") == "interrupted"
    assert "running" not in {row.status for row in photos.rows()}
    photos.end(photos.search())
    photos.check(6)


def test_a_local_worker_that_dies_is_replaced(photos: Study) -> None:
    search = photos.search("--workers=2", trials=8)
    photos.wait_until(runs_in(2))
    photos.kill(2)
    photos.wait_until(runs_in(3))
    output = photos.end(search)
    photos.check(8)
    assert "another one takes its place" in output
    assert {row.worker for row in photos.rows()} >= {1, 3}


def test_a_worker_without_a_search_says_so(photos: Study) -> None:
    worker = photos.work("--wait=1s")
    output = photos.end_with(1, worker)
    assert "no search of study 'photos' is running" in output


def test_a_worker_with_other_data_is_refused(photos: Study) -> None:
    search = photos.search()
    write_images(photos.folder / "others", 12, seed=1)
    others = str(photos.folder / "others")
    workers = [photos.work(f"--data={others}"), photos.work(f"--target={others}")]
    outputs = [photos.end_with(1, worker) for worker in workers]
    assert "other images or labels" in outputs[0]
    assert "has no target; leave out --target" in outputs[1]
    photos.end(search)


def join(study: Study, *words: str, trials: int = 6) -> subprocess.Popen[str]:
    return study.search("--join", *words, trials=trials)


def test_one_command_for_all_machines(photos: Study) -> None:
    both = [join(photos), join(photos)]
    photos.wait_until(completed_by(2))
    outputs = [photos.end(process) for process in both]
    photos.check(6)
    assert {row.worker for row in photos.rows()} == {1, 2}
    assert all("Final selection" in output for output in outputs)
    late = photos.end(join(photos))
    assert "study 'photos' is done" in late
    assert "Final selection" in late
    photos.check(6)
    photos.end(join(photos, trials=7))
    assert len(photos.rows()) == 7


def test_whoever_begins_a_search_may_be_killed_and_come_back(photos: Study) -> None:
    first = join(photos)
    photos.wait_until(runs_in(1))
    second = join(photos)
    photos.wait_until(completed_by(2))
    first.kill()
    third = join(photos)
    photos.end(second)
    photos.end(third)
    photos.check(6)


def test_ctrl_c_ends_one_of_the_machines_that_run_one_command(photos: Study) -> None:
    first = join(photos)
    photos.wait_until(runs_in(1))
    second = join(photos)
    photos.wait_until(runs_in(2))
    first.send_signal(signal.SIGTERM)
    photos.end_with(130, first)
    photos.end(second)
    photos.check(6)
