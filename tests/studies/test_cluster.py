"""The examples for clusters, run by what stands in for SLURM and Kubernetes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from images import write_images, write_plugin

from autotl.store import Store

CLUSTER = Path(__file__).parents[2] / "studies" / "cluster"
SLURM, KUBERNETES = CLUSTER / "slurm.sh", CLUSTER / "kubernetes.yaml"
PATIENCE = 240.0

SBATCH = {  # long options of sbatch 23.11
    *("array", "cpus-per-task", "gpus-per-task", "job-name", "mem", "ntasks", "open-mode"),
    *("output", "requeue", "signal", "time"),
}

FAST = ("--backbone=tiny", "--epochs=2", "--batch-size=8", "--device=cpu", "--no-history")


def documents() -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    return list(yaml.safe_load_all(KUBERNETES.read_text()))


class Cluster:
    """Tasks of a cluster as processes of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.bin = folder, folder / "runs", folder / "bin"
        write_images(folder / "photos", 12)
        self.options = [f"--plugin={write_plugin(folder)}", *FAST]
        self.bin.mkdir()
        self.write("autotl", f'exec "{sys.executable}" -m autotl "$@"')
        self.write("srun", 'exec "$@"')
        self.write("scontrol", f'echo "$@" >> "{folder}/scontrol"')

    def write(self, name: str, line: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{line}\n")
        (self.bin / name).chmod(0o755)

    def start(self, words: Sequence[str], **variables: str) -> subprocess.Popen[str]:
        own = {"DATA": f"{self.folder}/photos", "OUT": str(self.out), "OMP_NUM_THREADS": "1"}
        path = f"{self.bin}:{os.environ['PATH']}"
        return subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **own, "PATH": path, "HOME": str(self.folder), **variables},
        )

    def task(self, number: int, *words: str) -> subprocess.Popen[str]:
        """Start a task of the array job."""
        numbers = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(number)}
        return self.start(["bash", str(SLURM), *self.options, *words], **numbers)

    def pod(self, index: int, *words: str) -> subprocess.Popen[str]:
        """Start the container of a pod of the job."""
        _, job = documents()
        [container] = job["spec"]["template"]["spec"]["containers"]
        [script] = container["args"]
        more = f"{script} {' '.join((*self.options, *words))}"
        return self.start([*container["command"], more], JOB_COMPLETION_INDEX=str(index))

    def check(self, trials: int) -> None:
        with closing(Store(f"sqlite:///{self.out}/autotl.db")) as store:
            assert store.state("photos") == "done"
            assert len([r for r in store.trials("photos") if r.status != "interrupted"]) == trials
        assert (self.out / "photos" / "report.html").is_file()


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def end(process: subprocess.Popen[str]) -> str:
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, output
    return output


def test_the_slurm_script_is_valid() -> None:
    assert shutil.which("bash")
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    options = re.findall(r"^#SBATCH --([a-z-]+)", SLURM.read_text(), re.M)
    assert options
    assert set(options) <= SBATCH
    assert len(options) == SLURM.read_text().count("\n#SBATCH")


@pytest.mark.slow
def test_two_tasks_of_slurm_run_one_search(cluster: Cluster) -> None:
    tasks = [cluster.task(number, "--trials=4") for number in (0, 1)]
    for output in [end(task) for task in tasks]:
        assert "Final selection" in output
    cluster.check(4)
    assert "study 'photos' is done" in end(cluster.task(2, "--trials=4"))
    assert not (cluster.folder / "scontrol").exists()


@pytest.mark.slow
def test_a_task_of_slurm_at_its_time_limit_is_queued_again(cluster: Cluster) -> None:
    task = cluster.task(3, "--trials=500")
    assert task.stdout
    for line in task.stdout:
        if line.startswith("trial 0"):
            break
    task.send_signal(signal.SIGTERM)  # as --signal=B:TERM does, to the script alone
    output = end(task)
    assert "interrupted; repeat the command to continue" in output
    assert (cluster.folder / "scontrol").read_text() == "requeue 7_3\n"
    with closing(Store(f"sqlite:///{cluster.out}/autotl.db")) as store:
        assert store.state("photos") == "interrupted"
        assert "running" not in {row.status for row in store.trials("photos")}


def test_the_kubernetes_job_has_what_a_search_needs() -> None:
    claim, job = documents()
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    [worker] = pod["containers"]
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"]
    assert spec["backoffLimitPerIndex"] > 0
    assert pod["restartPolicy"] == "Never"  # which podFailurePolicy asks for
    assert pod["terminationGracePeriodSeconds"] > 30
    assert re.search(r":\d[\w.]*$", worker["image"]), "a version, and not the latest one"
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in worker["volumeMounts"]} == set(volumes)
    name = volumes["runs"]["persistentVolumeClaim"]["claimName"]
    assert name == claim["metadata"]["name"]
    variables = {variable["name"]: variable for variable in worker["env"]}
    assert "secretKeyRef" in variables["AUTOTL_STORAGE"]["valueFrom"]
    [mount] = [mount for mount in worker["volumeMounts"] if mount["name"] == "runs"]
    assert variables["OUT"]["value"] == mount["mountPath"]


@pytest.mark.slow
def test_two_pods_of_kubernetes_run_one_search(cluster: Cluster) -> None:
    pods = [cluster.pod(index, "--trials=4") for index in (0, 1)]
    for index, output in enumerate([end(pod) for pod in pods]):
        assert output.startswith(f"worker {index}\n")
        assert "Final selection" in output
    cluster.check(4)
    assert "study 'photos' is done" in end(cluster.pod(0, "--trials=4"))
