"""``report.html``: one file that works without a network, from the database alone."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotl.errors import StoreError
from autotl.report import axis, figures
from autotl.report.summary import backbone_costs, cost, summarise, test_of
from autotl.report.words import answer, chosen, named, recipe_line, winner_name
from autotl.scoring import metrics

if TYPE_CHECKING:
    from autotl.store import Store, TrialRow

ISSUES = 200
"""How many problems of the data the page lists; all are in ``issues.csv``."""

MATRIX = 30
"""Up to so many classes the confusion matrix is a table, above an interactive figure."""

THUMBNAILS = 24
"""How many mistakes, and how many doubtful labels, are shown."""

IMPORTANCE = 10
"""The fewest complete trials of which it is said what mattered."""

STAGES = ("check", "time", "pack", "probe", "search", "finals", "refit", "test")
"""The stages of a search in their order."""


def write(store: Store, study: str, folder: Path) -> dict[str, Any]:
    """Write ``summary.json`` and ``report.html`` into ``folder``; return the summary.

    Raises:
        StudyError: There is no such study.
        StoreError: The folder cannot be written to.
    """
    summary = summarise(store, study)
    page = _render(_page(store, study, summary, folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        # A file name that is no Unicode must not cost the whole page.
        (folder / "report.html").write_text(page, encoding="utf-8", errors="replace")
    except OSError as e:
        raise StoreError(
            f"cannot write the report into {folder}: {e.strerror}; choose another --out"
        ) from e
    return summary


def _render(page: dict[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,  # class names, file names and messages are the user's
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    here = Path(__file__).parent
    source = {name: (here / name).read_text(encoding="utf-8") for name in _PARTS}
    scripts = []
    if any(page["figures"].values()):  # a page without figures needs no library
        from plotly.offline import get_plotlyjs

        scripts = [get_plotlyjs(), source["page.js"]]
    return environment.from_string(source["page.html.j2"]).render(
        **page, style=source["page.css"], scripts=scripts, hashes=[_hash(s) for s in scripts]
    )


_PARTS = ("page.html.j2", "page.css", "page.js")


def _hash(script: str) -> str:
    """What the page's security policy knows a script by: no other runs, whoever wrote it in."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _page(store: Store, study: str, summary: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """All that the template shows; it computes nothing itself."""
    facts, rows, tests = store.require(study), store.trials(study), store.tests(study)
    metric, direction = summary["metric"], facts.get("direction", "maximize")
    by_number = {row.number: row for row in rows}
    winner = summary["best"]
    best = winner["trial"] if winner else None
    name = winner_name(summary) if winner else ""
    issues, test = facts.get("issues") or [], test_of(winner and {**winner, "name": name}, tests)
    confusion = _confusion(test, summary["data"]["classes"])
    epochs = {row.number: store.epochs(study, row.number) for row in rows}
    drawn = {
        "cost": figures.costs(rows, metric, direction, best),
        "progress": figures.progress(rows, metric, direction, best),
        "curves": figures.curves(rows, epochs, metric, direction, best),
        "confusion": confusion.pop("figure", None),
    }
    return {
        "summary": summary,
        "facts": facts,
        "higher": direction == "maximize",
        "state": facts.get("state", ""),
        "answer": answer(summary),
        "cheapest": _cheapest(summary, by_number),
        "winner": name,
        "recipe": chosen(winner["config"] or {}) if winner else {},
        "recipe_line": recipe_line,
        "named": named,
        "openings": tests,
        "test": test,
        "per_class": _per_class(test),
        "confusion": confusion,
        "calibration": facts.get("calibration") or {},
        "intervals": axis.intervals(summary),
        "rows": rows,
        "figures": drawn,
        "about": {row.number: figures.about(row, best) for row in rows},
        "backbones": backbone_costs(rows),
        "importances": _importances(store, study, rows),
        "effects": axis.effects(rows, direction, best),
        "mistakes": _pictures(test.get("mistakes")),
        "doubtful": _pictures(facts.get("doubtful")),
        "issues": issues[:ISSUES],
        "more_issues": max(0, len(issues) - ISSUES),
        "left_out": facts.get("left_out") or [],
        "stages": _stages(facts.get("stages") or {}),
        "weights": facts.get("weights") or {},
        "commands": _commands(study, facts, winner, folder, store.options(folder.parent)),
    }


def _cheapest(summary: Mapping[str, Any], rows: Mapping[int, TrialRow]) -> TrialRow | None:
    """Of several tied trials of one split the one that is the smallest and learns the least."""
    tied = [f["trial"] for f in summary["finalists"] if f["tied_with_best"]]
    if summary["finals"] or len(tied) < 2:
        return None  # the finals name theirs in the answer
    return min((rows[number] for number in tied), key=cost)


def _per_class(test: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The classes with Wilson's interval of their recall and their precision, the worst first."""
    matrix = test.get("confusion") or []
    found = []
    for i, entry in enumerate(test.get("per_class") or []):
        recall = entry["score"]  # None for a class without test pictures
        low, high = (None, None) if recall is None else metrics.wilson_interval(recall, entry["n"])
        said = sum(row[i] for row in matrix) if i < len(matrix) else 0
        precision = matrix[i][i] / said if said else None
        found.append({**entry, "low": low, "high": high, "precision": precision})
    return sorted(found, key=lambda c: math.inf if c["score"] is None else float(c["score"]))


def _confusion(test: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """The confusion matrix with each cell's share of its row, and its largest errors."""
    matrix: list[list[int]] = test.get("confusion") or []
    names = [c["class"] for c in test.get("per_class") or []] or list(classes)
    if not matrix or len(names) != len(matrix):
        return {}
    errors = sorted(
        (
            (n, names[i], names[j])
            for i, row in enumerate(matrix)
            for j, n in enumerate(row)
            if n and i != j
        ),
        key=lambda error: -error[0],
    )
    found = {"names": names, "errors": errors[:20], "rows": []}
    if len(names) > MATRIX:
        return {**found, "figure": figures.confusion(matrix, names)}
    shares = [[(n, n / (sum(row) or 1)) for n in row] for row in matrix]
    return {**found, "rows": list(zip(names, shares, strict=True))}


def _importances(store: Store, study: str, rows: Sequence[TrialRow]) -> list[tuple[str, float]]:
    """What decides whether a trial is among the best, by PED-ANOVA (Watanabe et al. 2023).

    The shares add up to 1, the largest first. Too few trials tell nothing.
    """
    import optuna

    if sum(row.status == "complete" for row in rows) < IMPORTANCE:
        return []
    with warnings.catch_warnings():
        # Some branches of the space have had few trials: the page says how far to trust this.
        warnings.simplefilter("ignore", UserWarning)
        try:
            known = optuna.load_study(study_name=study, storage=store.storage)
        except KeyError:  # deleted with another program
            return []
        shares = optuna.importance.get_param_importances(known)
    return sorted(((k, v) for k, v in shares.items() if v >= 0.005), key=lambda s: -s[1])


def _pictures(found: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    """The first of some pictures, and how many there are; an address is no picture."""
    shown = []
    for picture in (found or [])[:THUMBNAILS]:
        images = [picture.get(key) or "" for key in ("thumbnail", "saliency")]
        images = [image for image in images if image.startswith("data:image/")]
        shown.append({**picture, "images": images})
    return {"shown": shown, "count": len(found or [])}


def _stages(stages: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """Name, seconds and share of each stage, in the order of a search."""
    whole = sum(stages.values()) or 1.0
    order = {name: i for i, name in enumerate(STAGES)}
    names = sorted(stages, key=lambda name: order.get(name, len(order)))
    return [(name, stages[name], stages[name] / whole) for name in names]


def _commands(
    study: str,
    facts: Mapping[str, Any],
    winner: Mapping[str, Any] | None,
    folder: Path,
    where: str,
) -> dict[str, str]:
    """What each command to type would do; ``where`` are the options that find the study."""
    commands = {facts["command"]: "goes on with the search"} if facts.get("command") else {}
    if winner and winner["config"]:
        recipe = shlex.quote(str(folder / "recipe.toml"))
        what = "its heaviest member" if winner.get("members") else "the winner"
        commands[f"autotl train {recipe}"] = f"trains {what} again"
    name = shlex.quote(study) + where
    commands[f"autotl report {name}"] = "writes this page again"
    commands[f"autotl dashboard {name}"] = "shows every trial in Optuna Dashboard"
    return commands
