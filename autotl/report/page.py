"""Write ``report.html``: one file that works offline, made from the database alone."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter

from autotl import files
from autotl.errors import StoreError
from autotl.report import axis, figures
from autotl.report.costs import prediction_costs, prediction_ms
from autotl.report.effects import hyperparameter_effects, kind_effects
from autotl.report.formatting import (
    describe_config,
    format_members,
    plugin_choices,
    winner_name,
    with_article,
)
from autotl.report.sentences import (
    describe_calibration,
    describe_mirroring,
    describe_result,
    describe_winner,
)
from autotl.report.summary import find_winner, measured, summarise
from autotl.scoring import intervals
from autotl.search.ranking import model_cost

if TYPE_CHECKING:
    from autotl.store import ImageRow, Store, StudyFacts, TestRow, TrialRow

_WEIGHTED_TEXT = TypeAdapter(list[tuple[str, float]])
"""The parts of a text, with the weight of each."""

MAX_ISSUES = 200
"""The maximum number of data problems on the page; ``issues.csv`` lists all."""

MAX_TABLE_CLASSES = 30
"""The maximum number of classes of a confusion matrix that is a table; for more it is a figure."""

MAX_CLASSES = 1000
"""The maximum number of classes in the table of their scores: those with the lowest ones."""

MAX_CONFUSIONS = 20
"""The maximum number of pairs of confused classes that are listed next to that figure."""

MAX_IMAGES = 24
"""The maximum number of misclassified images, and of images with doubtful labels, on the page."""

MAX_EFFECTS = 10
"""The maximum number of hyperparameters whose effect is on the page."""

DETAILS = {
    "threshold": "threshold",
    "precision": "precision",
    "recall": "recall",
    "mae": "MAE",
    "rmse": "RMSE",
}
"""What a table of labels or numbers shows besides the score: key in ``per_class``, and title."""

STAGES = {
    "source": "source training",
    "check": "data check",
    "pretraining": "continued pretraining",
    "time": "backbone timing",
    "pack": "packing",
    "search": "search",
    "selection": "final selection",
    "refit": "refit",
    "test": "test",
    "student": "student",
}
"""The stages of a search, in their order, with the names that readers see."""

_SOURCES = ("page.html.j2", "page.css", "page.js")


def write(store: Store, study: str, folder: Path) -> dict[str, Any]:
    """Write ``summary.json`` and ``report.html``.

    Args:
        store: The database.
        study: Name of the study.
        folder: The run folder, which is created if it is missing.

    Returns:
        The summary.

    Raises:
        StudyError: There is no such study.
        StoreError: The folder cannot be written to.
    """
    summary = summarise(store, study)
    # Standard JSON has neither NaN nor infinity.
    adapter = TypeAdapter(Any, config=ConfigDict(ser_json_inf_nan="null"))
    # File names that are not valid Unicode are escaped.
    text = json.dumps(adapter.dump_python(summary, mode="json"), indent=2)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.write_text(folder / "summary.json", text + "\n")
        # The summary is there even if the page cannot be made.
        page = _render(_page(store, study, summary, folder))
        # A file name that is not valid Unicode must not prevent the report.
        files.write_text(folder / "report.html", page, errors="replace")
    except OSError as e:
        raise StoreError(
            f"cannot write the report into {folder}: {e.strerror}; choose another --out"
        ) from e
    return summary


def _render(page: dict[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,  # class names, file names and messages come from users
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    folder = Path(__file__).parent
    sources = {name: (folder / name).read_text(encoding="utf-8") for name in _SOURCES}
    scripts = []
    if any(page["figures"].values()):  # a page without figures does not need the library
        from plotly.offline import get_plotlyjs

        scripts = [get_plotlyjs(), sources["page.js"]]
    return environment.from_string(sources["page.html.j2"]).render(
        **page, style=sources["page.css"], scripts=scripts, hashes=[_hash(s) for s in scripts]
    )


def _hash(script: str) -> str:
    """Hash a script for the page's security policy, under which no other script runs."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _page(store: Store, study: str, summary: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Collect everything that the template shows; the template computes nothing itself."""
    facts, rows, tests = store.study(study), store.trials(study), store.tests(study)
    metric, direction, decimals = summary["metric"], facts.direction, summary["decimals"]
    are_classes = summary["data"]["has_classes"]
    winner = summary["best"]
    best = winner["trial"] if winner else None
    name = winner_name(summary) if winner else ""
    test, mistakes = _test(store, study, facts, rows)
    per_class = _per_class(test, are_classes)
    confusion = _confusion(test, summary["data"]["classes"])
    epochs = {row.number: store.epochs(study, row.number) for row in rows}
    issues = store.data_issues(study)
    return {
        "summary": summary,
        "higher": direction == "maximize",
        "state": ": ".join(filter(None, (facts.state, facts.reason))),
        "result": describe_result(summary),
        "leading": len(describe_winner(summary)),
        "cheapest": _smallest_tied(summary, {row.number: row for row in rows}),
        "winner": name,
        "recipe": plugin_choices(winner["effective_config"]) if winner else {},
        "describe_config": describe_config,
        "describe_mirroring": describe_mirroring,
        "with_article": with_article,
        "format_members": format_members,
        "openings": tests if _repeatedly_used(tests) else [],
        "test": test,
        "per_class": per_class[:MAX_CLASSES],
        "more_classes": max(0, len(per_class) - MAX_CLASSES),
        "details": [(key, title) for key, title in DETAILS.items() if _has_detail(test, key)],
        "are_classes": are_classes,
        "confusion": confusion,
        "calibration": describe_calibration(summary, test.get("ece")),
        "intervals": axis.score_intervals(summary),
        "rows": rows,
        "figures": {
            "cost": figures.score_by_cost(
                rows, metric, direction, best, prediction_ms(rows, measured(facts)), decimals
            ),
            "progress": figures.best_so_far(rows, metric, direction, best, decimals),
            "curves": figures.learning_curves(rows, epochs, metric, direction, best, decimals),
            "scatter": figures.scatter(test.get("scatter") or [], summary["data"]["classes"]),
            "confusion": confusion.pop("figure", None),
        },
        "hover": {row.number: figures.hover_text(row, best, decimals) for row in rows},
        "costs": prediction_costs(summary["contenders"]),
        "kind_effects": kind_effects(rows, direction),
        "hyperparameter_effects": hyperparameter_effects(rows, direction)[:MAX_EFFECTS],
        "effects": axis.plugin_effects(rows, direction, best, decimals),
        "mistakes": _images(mistakes),
        "label_issues": _images(store.images(study)),
        "issues": issues[:MAX_ISSUES],
        "more_issues": max(0, len(issues) - MAX_ISSUES),
        "excluded": facts.excluded,
        "stages": _stages(facts.stages),
        "weights": facts.weights,
        "commands": _commands(study, facts.command, winner, folder, store.options(folder.parent)),
    }


def _repeatedly_used(tests: Sequence[TestRow]) -> bool:
    """Whether the test split was used for several winners or for several students."""
    students = sum(test.contender.kind == "student" for test in tests)
    return max(students, len(tests) - students) > 1


def _test(
    store: Store, study: str, facts: StudyFacts, rows: Sequence[TrialRow]
) -> tuple[dict[str, Any], list[ImageRow]]:
    """The last test of the winner and its misclassified images; empty without one."""
    winner = find_winner(facts, rows)
    tests = [t for t in store.tests(study) if t.done and winner and t.contender.id == winner.id]
    if not tests:
        return {}, []
    return tests[-1].result.model_dump(), store.images(study, tests[-1].id)


def _smallest_tied(summary: Mapping[str, Any], rows: Mapping[int, TrialRow]) -> TrialRow | None:
    """The smallest of several tied trials of a search without a final selection."""
    contenders = [c for c in summary["contenders"] if c["kind"] == "trial"]
    tied = [c["trial"] for c in contenders if c["tied_with_best"]]
    if summary["selection"] or len(tied) < 2:
        return None  # after a final selection the result names the cheapest
    return min((rows[number] for number in tied), key=model_cost)


def _has_detail(test: Mapping[str, Any], key: str) -> bool:
    return any(key in entry for entry in test.get("per_class") or [])


def _per_class(test: Mapping[str, Any], are_recalls: bool) -> list[dict[str, Any]]:
    """The scores of each output, the worst first.

    A recall has its Wilson interval, and the class its precision.
    """
    if not are_recalls:
        return sorted(test.get("per_class") or [], key=_score_of)
    matrix = test.get("confusion_matrix") or []
    classes = []
    for i, entry in enumerate(test.get("per_class") or []):
        recall = entry["score"]  # None for a class without test images
        low, high = (
            (None, None) if recall is None else intervals.wilson_interval(recall, entry["n"])
        )
        predicted = sum(row[i] for row in matrix) if i < len(matrix) else 0
        # Of many classes there is no matrix, and their precision is stored.
        precision = matrix[i][i] / predicted if predicted else entry.get("precision")
        classes.append({**entry, "low": low, "high": high, "precision": precision})
    return sorted(classes, key=_score_of)


def _score_of(entry: Mapping[str, Any]) -> float:
    return math.inf if entry["score"] is None else float(entry["score"])


def _confusion(test: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """The confusion matrix, with the fraction of its row for each cell, and its largest errors."""
    matrix: list[list[int]] = test.get("confusion_matrix") or []
    names = [c["class"] for c in test.get("per_class") or []] or list(classes)
    if pairs := test.get("confused_pairs"):
        errors = [(count, names[i], names[j]) for i, j, count in pairs]
        return {"names": names, "errors": errors[:MAX_CONFUSIONS], "rows": []}
    if not matrix or len(names) != len(matrix):
        return {}
    errors = [
        (count, names[i], names[j])
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if count and i != j
    ]
    errors.sort(key=lambda error: -error[0])
    confusion = {"names": names, "errors": errors[:MAX_CONFUSIONS], "rows": []}
    if len(names) > MAX_TABLE_CLASSES:
        return {**confusion, "figure": figures.confusion_heatmap(matrix, names)}
    cells = [[(count, count / (sum(row) or 1)) for count in row] for row in matrix]
    return {**confusion, "rows": list(zip(names, cells, strict=True))}


def _images(examples: Sequence[ImageRow]) -> dict[str, Any]:
    """The first of some examples, and how many there are; an address is never loaded."""
    visible = []
    for example in examples[:MAX_IMAGES]:
        candidates = [_preview(source) for source in (example.thumbnail, example.saliency)]
        previews = [preview for preview in candidates if preview]
        if previews and "parts" in previews[-1]:  # the explanation of a text has its words
            previews = previews[-1:]
        visible.append({**vars(example), "previews": previews})
    every = [preview for example in visible for preview in example["previews"]]
    weights = [weight for preview in every for _, weight in preview.get("parts", [])]
    return {
        "visible": visible,
        "count": len(examples),
        "wide": any(preview["kind"] != "image" for preview in every),
        "weighted": any(weights),
    }


def _preview(source: str) -> dict[str, Any] | None:
    """A data URI as the page shows it: an image, a sound, or the parts of a text with weights."""
    header, _, content = source.partition(",")
    media_type = header.removeprefix("data:").removesuffix(";base64")
    kind = media_type.partition("/")[0]
    if not header.startswith("data:"):
        return None
    if kind in ("image", "audio"):
        return {"kind": kind, "source": source}
    try:
        text = base64.b64decode(content).decode("utf-8", "replace")
        if media_type == "application/json":
            return {"kind": "text", "parts": _WEIGHTED_TEXT.validate_json(text)}
    except ValueError:  # damaged
        return None
    return {"kind": "text", "parts": [(text, 0.0)]} if kind == "text" else None


def _stages(stages: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """Name, seconds and fraction of the time of each stage, in the order of a search."""
    total = sum(stages.values()) or 1.0
    order = list(STAGES)
    keys = sorted(stages, key=lambda key: order.index(key) if key in order else len(order))
    return [(STAGES.get(key, key), stages[key], stages[key] / total) for key in keys]


def _commands(
    study: str,
    command: str,
    winner: Mapping[str, Any] | None,
    folder: Path,
    options: str,
) -> dict[str, str]:
    """Commands that reproduce the study, and what each does; ``options`` locate the study."""
    commands = {command: "continues the search"} if command else {}
    if winner and winner["config"]:
        recipe = shlex.quote(str(folder / "recipe.toml"))
        model = "its heaviest member" if winner.get("members") else "the winner"
        commands[f"autotl train {recipe}"] = f"retrains {model}"
    name = shlex.quote(study) + options
    commands[f"autotl report {name}"] = "writes this page again"
    commands[f"autotl dashboard {name}"] = "shows every trial in Optuna Dashboard"
    return commands
