"""A whole search on texts, and what becomes of its model."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from autotl_text.kind import text
from click.testing import CliRunner, Result
from tiny_encoder import write_encoder

import autotl
from autotl.cli import main


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, an encoder and a finished study of these."""
    folder = tmp_path_factory.mktemp("study")
    with (folder / "notes.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Comment", "class"])
        writer.writerows((e.item, e.label) for e in text.toy((60, 60), seed=3))
    words = sorted({word for e in text.toy((60, 60), seed=3) for word in e.item.split()})
    encoder = write_encoder(folder / "encoder", words=words, hidden_size=64)
    settings = {"data": str(folder / "notes.csv"), "backbone": [f"hf:{encoder}"], "trials": 1}
    settings |= {"out": str(folder / "runs"), "epochs": 30, "freeze": ["full"]}
    (folder / "study.toml").write_text(
        "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
        + "[space.freeze.full]\nlr = 0.003\n",  # high, because the weights are random
        encoding="utf-8",
    )
    run("search", folder / "study.toml", "--study", "notes", "--quiet")
    return folder


def test_the_model_predicts_texts_without_the_encoder(study: Path) -> None:
    summary = json.loads((study / "runs" / "notes" / "summary.json").read_text(encoding="utf-8"))
    assert summary["test"]["score"] > 0.7
    (study / "encoder").rename(study / "moved")
    model = study / "runs" / "notes" / "model"
    predictor = autotl.load(model)
    probabilities = predictor.predict(["the cat near a horse", "bread with cheese and honey"])
    assert [max(p, key=p.get) for p in probabilities] == ["animals", "food"]
    output = run("predict", model, "the cat near a horse", study / "notes.csv").output
    assert output.splitlines()[0].startswith("the cat near a horse")
    assert len(output.splitlines()) == 121
    assert "animals" in run("evaluate", model, study / "notes.csv").output
    (study / "moved").rename(study / "encoder")


def test_columns_of_other_names_are_options_of_the_data(tmp_path: Path) -> None:
    rows = [f"{e.item},{e.label}" for e in text.toy((12, 12))]
    (tmp_path / "other.csv").write_text("\n".join(["x,y", *rows]), encoding="utf-8")
    options = ("--data-option", "text_column=x", "--data-option", "label_column=y")
    output = run("data", "check", tmp_path / "other.csv", *options).output
    assert "24 texts of 2 classes can be used" in output


def test_the_report_shows_texts(study: Path) -> None:
    report = (study / "runs" / "notes" / "report.html").read_text(encoding="utf-8")
    assert "24 texts" in report
    assert " images" not in report.split("<script", 1)[0]
