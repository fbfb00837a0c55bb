"""Damaged arguments and files end in one to a few lines, never in a traceback or a wrong result.

The number of examples of each test is ``AUTOTL_PROPERTY_EXAMPLES`` (30 by default), or that of a
profile given with ``--hypothesis-profile``. With the default the examples are always the same.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import hostile
import pytest
from fitted_tasks import FITTED
from hypothesis import HealthCheck, assume, given, settings

EXAMPLES = int(os.environ.get("AUTOTL_PROPERTY_EXAMPLES", "30"))
BOUNDED = settings(
    max_examples=EXAMPLES,
    derandomize="AUTOTL_PROPERTY_EXAMPLES" not in os.environ,
    database=None,
    deadline=None,  # the machine may be busy
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile.make_folder(tmp_path_factory.mktemp("hostile"))


def test_every_command_has_a_valid_line(folder: Path) -> None:
    assert hostile.LINES.keys() == hostile.commands().keys()
    for line in hostile.LINES.values():
        result = hostile.run_arguments(line.split(), folder)
        assert not hostile.find_fault(result), line
        assert result.exit_code == 0 or "the work was reached" in result.stderr, result.stderr


@BOUNDED
@given(words=hostile.argument_lists())
def test_arguments(folder: Path, words: list[str]) -> None:
    assert not hostile.find_fault(hostile.run_arguments(words, folder))


@BOUNDED
@given(text=hostile.study_files())
def test_study_files(folder: Path, text: bytes) -> None:
    assert not hostile.find_fault(hostile.run_study(text, folder))


@BOUNDED
@given(text=hostile.tables())
def test_tables(folder: Path, text: bytes) -> None:
    assert not hostile.find_fault(hostile.run_table(text, folder))


@BOUNDED
@given(damage=hostile.weights())
def test_model_weights(folder: Path, damage: tuple[int, bytes]) -> None:
    assert not hostile.find_fault(hostile.run_weights(damage, folder))


@pytest.fixture(scope="module")
def config(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "model/config.json").read_text(encoding="utf-8"))
    return content


def draw_config(data: hostile.st.DataObject, content: dict[str, Any]) -> dict[str, Any]:
    """Draw a damaged ``config.json`` none of whose texts looks like a number that is not finite."""
    changed: dict[str, Any] = data.draw(hostile.mutations(content))
    assume(not {"nan", "inf"} & set(re.split(r"\W+", str(changed.get("classes")))))
    return changed


@BOUNDED
@given(data=hostile.st.data())
def test_model_configs(folder: Path, config: dict[str, Any], data: hostile.st.DataObject) -> None:
    result = hostile.run_config(draw_config(data, config), folder)
    assert not hostile.find_fault(result)
    if result.exit_code == 0:
        probabilities = [float(word) for word in result.stdout.split()[2::2]]
        assert sum(probabilities) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", FITTED)
@BOUNDED
@given(data=hostile.st.data())
def test_the_task_of_model_configs(folder: Path, name: str, data: hostile.st.DataObject) -> None:
    valid = json.loads((folder / name / "config.json").read_text(encoding="utf-8"))
    own = {key: valid[key] for key in ("task", "classes", "calibration")}
    result = hostile.run_config({**valid, **draw_config(data, own)}, folder, name)
    assert not hostile.find_fault(result)
    assert not {"inf", "-inf"} & set(result.stdout.split())
