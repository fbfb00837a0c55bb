"""A search whose workers run in a Ray cluster, and some of them are killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from command_line import run
from images import write_images
from test_workers import PATIENCE, Study, completed_by, runs_in

from autotl.cli import ray_workers
from autotl.cli.ray_workers import Shares, share
from autotl.errors import StudyError

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")

RAY = "from ray.scripts.scripts import main; main()"
"""The program of the command ``ray``, in this environment."""

CPU, GPU = {"CPU": 8.0, "memory": 1e9}, {"CPU": 16.0, "GPU": 4.0}


@contextmanager
def machine(*words: str) -> Iterator[None]:
    """Run what Ray runs on a machine of two cores inside."""
    options = ("--num-cpus=2", "--num-gpus=0", "--object-store-memory=80000000", "--block")
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", RAY, "start", *words, *options, "--disable-usage-stats"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    try:
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "runtime started" in line:
                break
        assert process.poll() is None, "".join(lines)
        yield
    finally:
        process.terminate()
        try:
            process.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of one machine; Ray's sockets need a short path."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    head = ("--head", f"--port={port}", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}")
    try:
        with machine(*head, "--include-dashboard=false"):
            yield f"127.0.0.1:{port}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def photos(tmp_path: Path) -> Iterator[Study]:
    """A study whose processes are killed at the end of the test."""
    study = Study(tmp_path)
    yield study
    for process in study.processes:
        process.kill()
        process.communicate()


def start(study: Study, cluster: str, trials: int = 6) -> subprocess.Popen[str]:
    return study.search(f"--ray={cluster}", "--workers=2", trials=trials)


def check_output(output: str) -> None:
    """Check that the result is shown, and nothing of what Ray has to say."""
    assert output.count("Final selection") == 1
    assert "***" not in output
    assert "Traceback" not in output
    assert "ray." not in output.replace("ray.io", "")


@needs_ray
@pytest.mark.slow
def test_two_workers_in_a_cluster(photos: Study, cluster: str) -> None:
    search = start(photos, cluster, trials=8)
    photos.wait_until(completed_by(2))
    output = photos.end(search)
    photos.check(8)
    check_output(output)
    assert "2 workers in a Ray cluster of 1 machine" in output
    assert {row.worker for row in photos.rows()} == {1, 2}
    for row in photos.rows():
        assert f"trial {row.number}  {row.status}" in output


@needs_ray
@pytest.mark.slow
def test_a_signal_ends_all_and_the_search_goes_on_later(photos: Study, cluster: str) -> None:
    search = start(photos, cluster)
    photos.wait_until(completed_by(2))
    search.send_signal(signal.SIGTERM)  # another test sends SIGINT
    output = photos.end_with(130, search)
    assert "interrupted; repeat the command to continue" in output
    with photos.open() as store:
        assert store.state("photos") == "interrupted"
    assert "running" not in {row.status for row in photos.rows()}
    photos.end(start(photos, cluster))
    photos.check(6)


@needs_ray
@pytest.mark.slow
def test_ray_starts_a_worker_again_that_is_killed(photos: Study, cluster: str) -> None:
    search = start(photos, cluster, trials=200)  # Ray needs seconds to start a process
    photos.wait_until(runs_in(2))
    photos.kill(2)
    photos.wait_until(completed_by(3))
    search.send_signal(signal.SIGINT)
    photos.end_with(130, search)
    [lost] = [row for row in photos.rows() if row.worker == 2 and row.status == "interrupted"]
    assert lost.config in [row.config for row in photos.rows() if row.number > lost.number]


@needs_ray
@pytest.mark.slow
def test_ray_starts_the_search_again_that_is_killed(photos: Study, cluster: str) -> None:
    search = start(photos, cluster)
    photos.wait_until(completed_by(2))
    photos.kill(1)
    output = photos.end(search)
    photos.check(6)
    check_output(output)
    assert "the process of the search died; another one takes its place" in output


@needs_ray
@pytest.mark.slow
def test_an_error_in_the_cluster_is_one_line(photos: Study, cluster: str) -> None:
    search = photos.search(f"--ray={cluster}", "--in-chans=7")
    output = photos.end_with(1, search)
    assert output.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in output


@needs_ray
@pytest.mark.slow
def test_several_machines_need_a_server_for_the_database(photos: Study, cluster: str) -> None:
    with machine(f"--address={cluster}"):
        search = start(photos, cluster)
        output = photos.end_with(1, search)
    assert "need a server for their database: give --storage postgresql" in output


@needs_ray
def test_without_a_cluster_it_is_said_how_to_start_one(tmp_path: Path) -> None:
    write_images(tmp_path / "photos")
    words = ["search", str(tmp_path / "photos"), f"--out={tmp_path}/runs", "--ray=127.0.0.1:1"]
    done = subprocess.run(
        [sys.executable, "-m", "autotl", *words], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert done.stderr == (
        "Error: there is no Ray cluster at '127.0.0.1:1' (Connection refused); "
        "start one with: ray start --head\n"
    )


def test_without_ray_it_is_said_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "photos")
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run("search", tmp_path / "photos", "--out", tmp_path / "runs", "--ray", "auto")
    assert result.exit_code == 1
    assert "pip install 'autotl[ray]'" in result.stderr


@pytest.mark.parametrize(
    ("nodes", "workers", "per_gpu", "expected"),
    [
        ([CPU], "auto", 1, Shares(2, 4, 0.0)),
        ([CPU], "3", 1, Shares(3, 2, 0.0)),
        ([{"CPU": 2.0}] * 4, "auto", 1, Shares(4, 2, 0.0)),  # no machine has four cores
        ([{"CPU": 2.0}], "5", 1, Shares(5, 1, 0.0)),  # three wait for a place
        ([GPU], "auto", 1, Shares(4, 4, 1.0)),
        ([GPU, GPU], "auto", 2, Shares(16, 2, 0.5)),
        ([GPU, CPU], "auto", 1, Shares(4, 4, 1.0)),
        ([GPU], "5", 1, Shares(5, 3, 0.5)),  # 4/5 of a GPU would leave no place for the last one
        ([GPU], "2", 1, Shares(2, 4, 1.0)),
    ],
)
def test_the_resources_of_a_cluster_are_shared(
    nodes: list[dict[str, float]], workers: str, per_gpu: int, expected: Shares
) -> None:
    assert share(nodes, workers, per_gpu) == expected


def test_a_search_on_the_cpu_needs_no_gpu() -> None:
    assert share([GPU], "auto", 1, "cpu") == Shares(4, 4, 0.0)


@pytest.mark.parametrize(
    ("nodes", "workers", "says"),
    [([CPU], "0", "workers from 1"), ([CPU], "all", "workers from 1"), ([{}], "1", "CPU cores")],
)
def test_resources_that_cannot_be_shared(
    nodes: list[dict[str, float]], workers: str, says: str
) -> None:
    with pytest.raises(StudyError, match=says):
        ray_workers.share(nodes, workers)
