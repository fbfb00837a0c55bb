"""Workers of a study: who lives, what only one may do at a time, and what the dead leave."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from command_line import run

from autotl import study
from autotl.engine.beginning import require_first
from autotl.errors import StoreError, StudyError
from autotl.store import FINISH, QUEUE, Store, Worker, join, living, worker
from autotl.store.migrations.tables import WORKER

NAME = "photos"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(f"sqlite:///{tmp_path / 'autotl.db'}")) as opened:
        opened.begin_study(NAME, state="running")
        yield opened


@pytest.fixture
def add(store: Store, tmp_path: Path) -> Iterator[Callable[[], Worker]]:
    """Adds a worker that lives until the end of the test."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(join(store, NAME, "cpu", tmp_path))


def age(store: Store, number: int, seconds: float, host: str = "elsewhere") -> None:
    """Let a worker be on another machine, and its last heartbeat so many seconds ago."""
    with store.write() as connection:
        here = WORKER.c.study == NAME, WORKER.c.number == number
        values = {"seen": WORKER.c.seen - seconds, "host": host}
        connection.execute(WORKER.update().where(*here).values(**values))


def test_workers_are_numbered_and_see_each_other(store: Store, add: Callable[[], Worker]) -> None:
    one, two = add(), add()
    assert (one.number, two.number) == (1, 2)
    assert [row.number for row in one.others()] == [2]
    assert [row.number for row in living(store, NAME)] == [1, 2]


def test_a_worker_that_left_is_not_alive_and_its_number_is_not_used_twice(
    store: Store, add: Callable[[], Worker], tmp_path: Path
) -> None:
    with join(store, NAME, "cpu", tmp_path):
        pass
    assert living(store, NAME) == []
    assert add().number == 2
    assert not list(tmp_path.glob("*.lock.*")) or len(list(tmp_path.glob(".*.lock.*"))) == 1


def test_only_one_worker_has_a_lease(add: Callable[[], Worker]) -> None:
    one, two = add(), add()
    assert one.try_lease(QUEUE)
    assert not two.try_lease(QUEUE)
    assert one.try_lease(QUEUE), "it has it already"
    assert two.try_lease(FINISH), "another lease is free"
    one.release(QUEUE)
    assert two.try_lease(QUEUE)


def test_a_lease_is_released_after_an_error(add: Callable[[], Worker]) -> None:
    one, two = add(), add()
    with pytest.raises(ZeroDivisionError), one.lease(QUEUE):
        raise ZeroDivisionError
    assert two.try_lease(QUEUE)


def test_the_lease_of_a_worker_that_does_not_respond_is_taken_over(
    store: Store, add: Callable[[], Worker]
) -> None:
    one, two = add(), add()
    assert one.try_lease(QUEUE)
    age(store, one.number, worker.DEAD_SECONDS - 10)
    assert not two.try_lease(QUEUE), "it may only be slow"
    age(store, one.number, 20)
    assert two.try_lease(QUEUE)
    one.release(QUEUE)
    assert two.holder(QUEUE) == two.number, "it is not one's any more"


def test_a_heartbeat_keeps_a_worker_alive(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(worker, "HEARTBEAT_SECONDS", 0.05)
    seen = sa.select(WORKER.c.seen)
    with join(store, NAME, "cpu", tmp_path) as one:
        age(store, one.number, 1000)
        deadline = time.monotonic() + 20
        while not living(store, NAME) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert living(store, NAME)
        with store.read() as connection:
            assert abs(float(connection.scalar(seen) or 0) - store.now()) < 10


def test_trials_of_the_dead_are_interrupted_and_those_of_the_living_are_not(
    store: Store, add: Callable[[], Worker]
) -> None:
    one, two, three = add(), add(), add()
    for number, owner in enumerate((one.number, two.number, three.number, None)):
        store.begin_trial(NAME, number, {}, 3, worker=owner)
    age(store, two.number, 1000)
    assert one.bury() == [1, 3], "that without a worker is of an older version, which has ended"
    assert [row.status for row in store.trials(NAME)] == [
        *("running", "interrupted", "running", "interrupted")
    ]


def test_the_result_of_a_trial_that_was_taken_from_a_worker_is_not_stored(
    store: Store, add: Callable[[], Worker]
) -> None:
    one, two = add(), add()
    store.begin_trial(NAME, 0, {}, 3, worker=two.number)
    age(store, two.number, 1000)
    one.bury()
    assert not store.finish_trial(NAME, 0, "complete", score=0.9, worker=two.number)
    [row] = store.trials(NAME)
    assert (row.status, row.score) == ("interrupted", None)


def test_the_result_of_a_trial_is_stored_once(store: Store, add: Callable[[], Worker]) -> None:
    one = add()
    store.begin_trial(NAME, 0, {}, 3, worker=one.number)
    assert store.finish_trial(NAME, 0, "complete", score=0.9, worker=one.number)
    assert not store.finish_trial(NAME, 0, "complete", score=0.1, worker=one.number)
    assert store.trials(NAME)[0].score == 0.9
    with pytest.raises(StudyError, match="no trial 7"):
        store.finish_trial(NAME, 7, "complete", score=0.9, worker=one.number)


WORK = """
import sys, time
from contextlib import closing
from pathlib import Path
from autotl.store import QUEUE, Store, join

with closing(Store(sys.argv[1])) as store, join(store, "photos", "cpu", Path(sys.argv[2])) as one:
    one.try_lease(QUEUE)
    store.begin_trial("photos", 0, {}, 3, worker=one.number)
    print("ready", flush=True)
    time.sleep(600)
"""


def test_a_process_that_is_killed_is_noticed_at_once_on_its_machine(
    store: Store, add: Callable[[], Worker], tmp_path: Path
) -> None:
    one = add()
    words = [sys.executable, "-c", WORK, f"sqlite:///{tmp_path / 'autotl.db'}", str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        assert [row.number for row in one.others()] == [2]
        assert not one.try_lease(QUEUE)
        child.kill()
    assert one.others() == []
    assert one.try_lease(QUEUE)
    assert one.bury() == [0]


def test_measurements_of_two_workers_are_merged(store: Store) -> None:
    store.merge_study(NAME, measured_costs={"a": 1}, micro_batch_sizes={"x": 4})
    store.merge_study(NAME, measured_costs={"b": 2, "a": 3})
    facts = store.study(NAME)
    assert facts.measured_costs == {"a": 3, "b": 2}
    assert facts.micro_batch_sizes == {"x": 4}
    with pytest.raises(StudyError, match="no study"):
        store.merge_study("fotos", measured_costs={"a": 1})


def test_the_state_is_read_without_the_other_facts(store: Store) -> None:
    assert (store.state(NAME), store.state("fotos")) == ("running", "")


def test_of_two_searches_that_begin_together_one_is_refused(
    store: Store, add: Callable[[], Worker], tmp_path: Path
) -> None:
    settings = study.configure("sklearn:digits", {"study": NAME, "out": tmp_path})
    one, two = add(), add()
    require_first(settings, store, one)
    with pytest.raises(StudyError, match=r"run by worker 1 on .*autotl worker photos"):
        require_first(settings, store, two)


def test_a_study_that_workers_run_is_not_deleted(
    store: Store, add: Callable[[], Worker], tmp_path: Path
) -> None:
    add()
    result = run("studies", "delete", NAME, "--yes", "--out", tmp_path)
    assert result.exit_code == 1
    assert "is being run by worker 1" in result.stderr
    assert store.find_study(NAME)


def test_a_worker_whose_end_cannot_be_stored_is_noticed_by_its_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Store) -> None:
        raise StoreError("the server has stopped")

    with join(store, NAME, "cpu", tmp_path) as one:
        monkeypatch.setattr(Store, "write", fail)
    monkeypatch.undo()
    assert not one.has_left
    assert living(store, NAME) == []
