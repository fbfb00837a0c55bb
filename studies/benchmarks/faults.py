"""Faults in whole searches: kills, full disks and damaged images, in processes of the command line.

    python studies/benchmarks/faults.py --kills 20 --images 200

Every fault hits an ``autotl search`` of small images with a tiny backbone. After a kill or a full
disk, all files of the run folder must be complete or missing, and a model that is there must load;
then the same command must complete the study: all trials once, the same splits, a model, a report.
A damaged image must be used or listed in ``issues.csv``, and predicted or named by ``autotl
predict``, without a traceback. Prints a Markdown table. Full disks need Linux, and root to mount a
small file system; elsewhere they are left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import safetensors
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from images import write_images, write_plugin

TRIALS = 3
FREE_KIB = (64, 128, 256, 400, 512, 768, 1024, 1536, 2048, 4096, 6144)
"""The free space of full disks in KiB."""

BATCH = 50
"""The number of damaged images in one search."""

FORMATS = ("png", "jpg", "gif", "bmp", "webp", "tif")

ENDINGS = {".html": rb"</html>\s*\Z", ".csv": rb"\n\Z"}
"""How files end that are complete."""


def main() -> None:
    """Inject the faults and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--disks", type=int, default=len(FREE_KIB), help="sizes of full disks")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="autotl-faults-") as folder:
        bench = Bench(Path(folder), random.Random(given.seed))
        print("| fault | injected | survived | lost |\n|---|---|---|---|", flush=True)
        bench.kill(given.kills)
        bench.fill_disks(FREE_KIB[: given.disks])
        bench.damage_images(given.images)


class Bench:
    """Data, plugin and the faults.

    Args:
        folder: An empty folder.
        random: Chooses when and where a fault happens.
    """

    def __init__(self, folder: Path, random: random.Random) -> None:
        self.folder, self.random = folder, random
        self.photos = write_images(folder / "photos", 14)
        self.plugin = write_plugin(folder)

    def command(self, out: Path, study: str, data: Path | None = None) -> list[str]:
        """Return the command line of a search."""
        return [
            *(sys.executable, "-m", "autotl", "search", str(data or self.photos)),
            *("--out", str(out), "--study", study, "--plugin", str(self.plugin)),
            *("--backbone", "tiny", "--trials", str(TRIALS), "--epochs", "2", "--quiet"),
            *("--batch-size", "8", "--device", "cpu", "--precision", "float32", "--no-history"),
        ]

    def kill(self, count: int) -> None:
        """Kill searches at random times of their run."""
        out = self.folder / "runs"
        began = time.monotonic()
        subprocess.run(self.command(out, "first"), check=True, capture_output=True)
        seconds = time.monotonic() - began
        lost = []
        for number in range(count):
            study = f"kill-{number}"
            process = subprocess.Popen(
                self.command(out, study), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            with suppress(subprocess.TimeoutExpired):
                process.wait(self.random.uniform(0.1, 1.0) * seconds)
            process.kill()
            process.wait()
            lost += self.problems_after(out, study, f"kill {number}")
        report("kill at a random time", count, lost)

    def fill_disks(self, sizes: tuple[int, ...]) -> None:
        """Run searches on file systems that are too small, and again when there is room."""
        lost, count = [], 0
        for size in sizes:
            disk = self.folder / f"disk-{size}"
            with mounted(disk, size) as enlarge:
                if enlarge is None:
                    print("full disks were left out: a small file system cannot be mounted")
                    return
                ended = subprocess.run(
                    self.command(disk / "runs", "full"), capture_output=True, text=True
                )
                where = f"full disk, {size} KiB"
                stage = ended.stderr.strip().splitlines()[-1:] or ["it completed"]
                print(f"{where}: exit {ended.returncode}, {stage[0]}", file=sys.stderr)
                if "Traceback" in ended.stderr or ended.returncode not in (0, 1):
                    lost.append(f"{where}: {ended.stderr[-2000:]}")
                enlarge()
                lost += self.problems_after(disk / "runs", "full", where)
                count += 1
        report("full disk", count, lost)

    def damage_images(self, count: int) -> None:
        """Search data of which some images are damaged, and predict these."""
        lost: list[str] = []
        for start in range(0, count, BATCH):
            data = Path(shutil.copytree(self.photos, self.folder / f"damaged-{start}"))
            batch = [self.damage(data, n) for n in range(start, min(count, start + BATCH))]
            out, study = self.folder / "runs", f"damaged-{start}"
            searched = subprocess.run(
                self.command(out, study, data), capture_output=True, text=True
            )
            if searched.returncode:
                lost += [f"search: {searched.stderr[-2000:]}"] * len(batch)
                continue
            run_folder = out / study
            used = {row["name"] for row in read_table(run_folder / "splits.csv")}
            named = {row["name"] for row in read_table(run_folder / "issues.csv")}
            words = [sys.executable, "-m", "autotl", "predict", run_folder / "model", *batch]
            words += ["--format", "csv", "--plugin", self.plugin]
            predicted = subprocess.run(words, capture_output=True, text=True)
            for file in batch:
                name = file.relative_to(data).as_posix()
                if name not in used | named:
                    lost.append(f"{name} is neither used nor listed")
                if str(file) not in predicted.stdout + predicted.stderr:
                    lost.append(f"{name} is neither predicted nor named: {predicted.stderr[-500:]}")
            if "Traceback" in predicted.stderr:
                lost.append(f"predict: {predicted.stderr[-2000:]}")
        report("damaged image", count, lost)

    def damage(self, data: Path, number: int) -> Path:
        """Write an image and change some of its bytes."""
        ending = FORMATS[number % len(FORMATS)]
        file = data / "red" / f"damaged-{number}.{ending}"
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
        content = bytearray(file.read_bytes())
        how = self.random.choice(["flip", "header", "cut", "insert", "empty", "repeat"])
        if how == "cut":
            content = content[: self.random.randrange(len(content))]
        elif how == "empty":
            content = bytearray(self.random.randrange(len(content)))
        elif how == "repeat":
            content += content[self.random.randrange(len(content)) :]
        elif how == "insert":
            at = self.random.randrange(len(content))
            content[at:at] = self.random.randbytes(self.random.randint(1, 64))
        else:
            end = 64 if how == "header" else len(content)
            for _ in range(self.random.randint(1, 20)):
                content[self.random.randrange(min(end, len(content)))] = self.random.randrange(256)
        file.write_bytes(content)
        return file

    def problems_after(self, out: Path, study: str, fault: str) -> list[str]:
        """Return what is wrong after a fault, and after the command that completes the study."""
        folder = out / study
        problems = list(incomplete_files(folder))
        splits = (folder / "splits.csv").read_bytes() if (folder / "splits.csv").exists() else b""
        completed = subprocess.run(self.command(out, study), capture_output=True, text=True)
        if completed.returncode:
            problems.append(f"the next run failed: {completed.stderr[-2000:]}")
        else:
            problems += incomplete_files(folder)
            problems += unfinished_results(out, study)
            if splits and (folder / "splits.csv").read_bytes() != splits:
                problems.append("the splits changed")
        return [f"{fault}: {'; '.join(problems)}"] if problems else []


def incomplete_files(folder: Path) -> Iterator[str]:
    """Yield the files of a run folder that are neither complete nor missing."""
    for file in folder.glob("*.*"):
        try:
            if file.suffix == ".json":
                json.loads(file.read_text())
            elif file.suffix == ".toml":
                tomllib.loads(file.read_text())
            elif not re.search(ENDINGS.get(file.suffix, rb""), file.read_bytes()):
                yield f"{file.name} is truncated"
        except ValueError as error:
            yield f"{file.name}: {error}"
    if (folder / "model").exists():
        try:
            json.loads((folder / "model/config.json").read_text())
            with safetensors.safe_open(folder / "model/model.safetensors", "np") as tensors:
                list(tensors.keys())
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            yield f"the model does not load: {error}"


def unfinished_results(out: Path, study: str) -> Iterator[str]:
    """Yield what is missing after a study was completed."""
    folder = out / study
    summary = json.loads((folder / "summary.json").read_text())
    if summary["trials"].get("complete", 0) < 1 or not summary["best"]:
        yield "there is no result"
    done = sum(n for status, n in summary["trials"].items() if status != "interrupted")
    if done != TRIALS:
        yield f"{done} trials instead of {TRIALS}: {summary['trials']}"
    if not (folder / "model").exists():
        yield "there is no model"
    with closing(sqlite3.connect(out / "autotl.db")) as database:
        [(check,)] = database.execute("PRAGMA integrity_check").fetchall()
        numbers = [
            number
            for (number,) in database.execute(
                "SELECT number FROM autotl_trial WHERE study = ?", (study,)
            )
        ]
    if check != "ok":
        yield f"the database is damaged: {check}"
    if len(set(numbers)) != len(numbers):
        yield "a trial is stored twice"
    if left := list(out.rglob(".autotl-*.tmp")):
        yield f"temporary files are left: {left}"


@contextmanager
def mounted(folder: Path, kib: int) -> Iterator[Callable[[], None] | None]:
    """Mount a file system of ``kib``; yield a function that enlarges it, or None without one."""
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(options, capture_output=True).returncode:
        yield None
        return

    def enlarge() -> None:
        subprocess.run(["mount", "-o", "remount,size=200m", str(folder)], check=True)

    try:
        yield enlarge
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def read_table(file: Path) -> list[dict[str, str]]:
    """Read a CSV file."""
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as opened:
        return list(csv.DictReader(opened))


def report(fault: str, injected: int, lost: list[str]) -> None:
    """Print a row of the table, and on stderr what was lost."""
    print(f"| {fault} | {injected} | {injected - len(lost)} | {len(lost)} |", flush=True)
    for problem in lost:
        print(problem, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
