"""Damaged arguments, study files, tables and model folders: how many end as they should.

    python studies/benchmarks/damaged_inputs.py --arguments 1000 --configs 200

The inputs are those of ``tests/test_properties.py``, drawn at random. Each is given to a
command in this process; training, exports and servers are replaced by an error where they begin. An
input survives if the command succeeds with a finite result, or ends with exit code 1 or 2 and a
message of a few lines without a password. It is lost if there is a traceback, another exit code, a
result that is not a number, or if an image of the data has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import hostile
from click.testing import Result


def digest(folder: Path) -> str:
    """Return a digest of all images in ``folder``, by path and content."""
    content = [(str(p), p.read_bytes()) for p in sorted(folder.rglob("*.png"))]
    return hashlib.sha256(repr(content).encode()).hexdigest()


def run(
    kind: str,
    strategy: Any,
    command: Callable[[Any, Path], Result],
    folder: Path,
    n: int,
    first: int,
) -> list[str]:
    """Give ``n`` inputs to a command; print a row of the table and return the faults."""
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    before = digest(folder / "photos")

    @seed(first)
    @settings(
        max_examples=n,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(value=strategy)
    def inject(value: Any) -> None:
        result = command(value, folder)
        fault = hostile.find_fault(result)
        if not fault and digest(folder / "photos") != before:
            fault = "an image has changed"
        outcomes["lost" if fault else "done" if result.exit_code == 0 else "refused"] += 1
        if fault:
            faults.append(f"{fault}: {value!r:.500}")

    inject()
    injected = sum(outcomes.values())
    survived = injected - outcomes["lost"]
    print(
        f"| {kind} | {injected} | {survived} | {outcomes['refused']} | {outcomes['done']} | "
        f"{outcomes['lost']} |",
        flush=True,
    )
    return faults


def main() -> None:
    """Run all kinds and print the table and the faults."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, count in (("arguments", 1000), ("studies", 200), ("tables", 200), ("configs", 200)):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    faults = []
    print("| damaged | injected | survived | refused in a few lines | with a result | lost |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = hostile.make_folder(Path(temporary))
        config = json.loads((folder / "model" / "config.json").read_text(encoding="utf-8"))
        for kind, strategy, command, count in (
            ("arguments", hostile.argument_lists(), hostile.run_arguments, options.arguments),
            ("study files", hostile.study_files(), hostile.run_study, options.studies),
            ("tables (CSV)", hostile.tables(), hostile.run_table, options.tables),
            ("config.json", hostile.mutations(config), hostile.run_config, options.configs),
            ("weights", hostile.weights(), hostile.run_weights, options.configs),
        ):
            faults += run(kind, strategy, command, folder, count, options.seed)
    print("\n".join(faults))


if __name__ == "__main__":
    main()
