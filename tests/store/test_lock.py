"""The lock of a study, with real processes and threads."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from autotl.errors import StoreError, StudyError
from autotl.store.lock import lock
from autotl.store.quick import lock_file

HOLDER = """
import sys
from pathlib import Path
from autotl.store.lock import lock
with lock(Path(sys.argv[1]), "s"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return lock_file(tmp_path / "runs" / "autotl.db", "s", tmp_path / "runs" / "s")


def test_a_second_lock_is_refused_and_does_not_disturb_the_first(path: Path) -> None:
    with lock(path, "s"):
        for _ in range(2):
            message = "is being run by another process; wait .*--study, or join it with: autotl wor"
            with pytest.raises(StudyError, match=message), lock(path, "s"):
                pass
        with (
            pytest.raises(StudyError, match="another process; stop it"),
            lock(path, "s", "stop it"),
        ):
            pass
        with lock(path.with_name("other"), "other"):
            pass
    with lock(path, "s"):
        pass


def test_another_thread_of_the_process_is_refused_too(path: Path) -> None:
    refused: list[StudyError] = []

    def run() -> None:
        try:
            with lock(path, "s"):
                pass
        except StudyError as error:
            refused.append(error)

    with lock(path, "s"):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert len(refused) == 1


def test_the_lock_of_another_process_ends_with_it(path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StudyError, match="another process"), lock(path, "s"):
            pass
        assert holder.poll() is None
        holder.kill()  # it cannot release anything
    with lock(path, "s"):
        pass


def test_the_lock_is_released_when_the_search_fails(path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), lock(path, "s"):
        raise KeyboardInterrupt
    with lock(path, "s"):
        pass


def test_a_lock_file_may_be_deleted_while_it_is_resident(path: Path) -> None:
    with lock(path, "s"):
        path.unlink()
    with lock(path, "s"), pytest.raises(StudyError), lock(path, "s"):
        pass


def test_a_lock_that_cannot_be_written_is_explained(path: Path) -> None:
    path.parent.parent.mkdir(exist_ok=True)
    path.parent.touch()
    with pytest.raises(StoreError, match=r"cannot write .*choose another --out"), lock(path, "s"):
        pass
