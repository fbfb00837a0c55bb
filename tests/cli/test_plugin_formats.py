"""Descriptions of plugins as text, JSON and Markdown."""

from __future__ import annotations

import json
import re
from pathlib import Path

from command_line import run
from images import write_plugin

from autotl import head
from autotl.cli import plugin_formats
from autotl.space import registry


@head(requires=["surely-not-installed>=2"])
def lacking(features: int, classes: int) -> None:
    """A head whose requirement is not installed."""


def test_text_has_the_whole_docstring_and_every_keyword() -> None:
    shown = run("plugins", "show", "last_blocks").stdout
    assert "fraction = 0.3  searched: 0.1 to 0.9" in shown
    assert "is a fraction of the number of blocks" in shown, "from the end of the docstring"
    mlp = run("plugins", "show", "mlp").stdout
    assert "searched: 64 to 1024 (log), only if depth is 2" in mlp
    assert "alpha = 16.0  not searched" in run("plugins", "show", "lora").stdout


def test_json_has_all_facts() -> None:
    listed = json.loads(run("plugins", "--json").stdout)
    assert listed["broken"] == []
    by_name = {(p["kind"], p["name"]): p for p in listed["plugins"]}
    lp_ft = by_name["freeze", "lp_ft"]
    assert lp_ft["source"] == "LP-FT: Kumar et al. 2022, arXiv:2202.10054"
    assert lp_ft["origin"].startswith("autotl ")
    assert lp_ft["hyperparameters"][0] == {
        "name": "probe_fraction", "type": "float", "default": 0.3,
        "low": 0.1, "high": 0.6, "log": False,
    }  # fmt: skip
    mlp = {h["name"]: h for h in by_name["head", "mlp"]["hyperparameters"]}
    assert mlp["second_width"]["when"] == {"depth": [2]}
    assert by_name["head", "gem"]["takes"] == "map"
    assert by_name["augment", "mixup"]["mixes"] is True
    assert by_name["augment", "none"]["source"] == ""
    assert by_name["dataset", "folder"]["matches"] == ["*/"]
    [shown] = json.loads(run("plugins", "show", "last_blocks", "--json").stdout)["plugins"]
    assert "is a fraction of the number of blocks" in shown["description"]


def test_a_missing_requirement_is_named_with_the_command_that_installs_it() -> None:
    facts = plugin_formats.to_json(lacking)
    assert facts["missing"] == ["surely-not-installed>=2"]
    assert facts["install"] == "pip install 'surely-not-installed>=2'"
    for lines in (plugin_formats.to_text(lacking), plugin_formats.to_table([lacking])):
        assert "(missing: pip install 'surely-not-installed>=2')" in "\n".join(lines)


def test_markdown_has_one_row_for_each_plugin_of_a_package(tmp_path: Path) -> None:
    words = ["plugins", "list", "--format", "markdown", "--plugin", write_plugin(tmp_path)]
    document = run(*words, "--package", "autotl").stdout
    assert "tiny" not in document
    assert "tiny" in run(*words).stdout
    assert "[arXiv:2202.10054](https://arxiv.org/abs/2202.10054)" in document
    rows = [line for line in document.splitlines() if line.startswith("| `")]
    assert len(rows) == len(list(registry.load()))
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 4 for row in rows)
