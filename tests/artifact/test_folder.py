"""A model folder is checked before PyTorch is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autotl.artifact.folder import require_folder
from autotl.errors import ArtifactError


def test_a_folder_without_a_model_is_refused_with_the_one_that_was_meant(tmp_path: Path) -> None:
    (tmp_path / "photos" / "model").mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"not a model folder: config\.json cannot be read"):
        require_folder(tmp_path / "photos" / "model")
    (tmp_path / "photos" / "model" / "config.json").touch()
    require_folder(tmp_path / "photos" / "model")
    with pytest.raises(ArtifactError, match=r"did you mean .*photos/model\?"):
        require_folder(tmp_path / "photos")
    with pytest.raises(ArtifactError, match=r"there is no model folder .*photo; did you mean"):
        require_folder(tmp_path / "photo")


@pytest.mark.parametrize(
    "words", [["predict", "nope", "x.png"], ["evaluate", "nope", "."], ["data", "check", "nope"]]
)
def test_a_mistyped_path_costs_no_import_of_pytorch(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom autotl.cli import main\n"
        f"try: main({words!r})\n"
        "except SystemExit as e: print(e.code, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == "1 False False\n", done.stderr
    assert done.stderr.startswith("Error: there is no ")
