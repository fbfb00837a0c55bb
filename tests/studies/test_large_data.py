"""The benchmark of large data: its images, and its table."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "studies" / "benchmarks"))

from large_data import Cost, Size, draw_images, format_table

from autotl.data import check, read_source
from autotl.space import registry


def test_images_of_the_benchmark_are_all_used(tmp_path: Path) -> None:
    draw_images(tmp_path / "photos", Size(90, 3))
    read = read_source(str(tmp_path / "photos"), registry.load())
    dataset = check(read.examples, "photos")
    assert len(dataset.examples) == 90
    assert len(set(dataset.units.tolist())) == 90, "none is a near-copy of another one"
    assert dataset.outputs == ("class00000", "class00001", "class00002")


def test_the_extrapolation_continues_the_last_slope() -> None:
    costs = {
        Size(50_000, 500): {"check": Cost(10.0, 10.0, 1000.0)},
        Size(100_000, 1000): {"check": Cost(15.0, 20.0, 1100.0)},
    }
    lines = format_table(costs)
    assert lines[0] == "| images | classes | check, s | check, CPU s | check, MiB |"
    assert lines[-2] == "| per million more |  | 100 | 200 | 2,000 |"
    assert lines[-1] == "| 1,000,000 (extrapolated) | 10,000 | 105 | 200 | 2,900 |"
