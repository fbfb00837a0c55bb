"""The model card: how to use a model, how good it is and how it was trained, in Markdown."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotl import files
from autotl.artifact import standalone
from autotl.errors import StoreError
from autotl.space.input_kind import IMAGE

if TYPE_CHECKING:
    import jinja2

MAX_ROWS = 200
"""The maximum number of classes or other outputs in a table of the model card."""

SAVED_BEFORE = "it was saved by an older version of autotl"
"""Why a model without a description of its code has none."""

CLASS_WORDS: dict[str, Any] = {
    "noun": "class",
    "nouns": "classes",
    "score_noun": "recall",
    "has_classes": True,
    "has_probabilities": True,
}
"""Attributes of the task, see ``space.task.Task``, that the model card needs."""

OUTPUT_COLUMNS = {
    "threshold": "threshold",
    "mean": "mean",
    "std": "std",
    "half_width": "interval",
    "n": "test {nouns}",
    "precision": "precision",
    "recall": "recall",
    "mae": "MAE",
    "rmse": "RMSE",
    "score": "{score_noun}",
}
"""What a table of labels or numbers shows of each: keys and titles."""

USE_WITH_AUTOTL = """\
import autotl

model = autotl.load("."{plugin})
print(model.predict([{item}]))
"""


def write(folder: Path, title: str, results: Mapping[str, Any]) -> None:
    """Write the model card, ``README.md``, into a model folder; an older one is replaced.

    Args:
        folder: A model folder that ``model_folder.save`` wrote.
        title: Title of the model card, such as the name of the study.
        results: Measured quality of the model; see ``render``.

    Raises:
        StoreError: The model card cannot be written.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    try:
        files.write_text(folder / "README.md", render(config, title, results))
    except OSError as error:
        raise StoreError(
            f"{folder / 'README.md'} cannot be written ({error.strerror or error}); free some space"
        ) from None


def render(config: Mapping[str, Any], title: str, results: Mapping[str, Any] | None = None) -> str:
    """Render a model card.

    Args:
        config: Content of ``config.json``.
        title: Title of the model card.
        results: Measured quality of the model; every entry is optional:
            ``metric``: name of the metric of all scores;
            ``decimals``: the number of decimals of scores;
            ``task``: the attributes ``CLASS_WORDS`` of the task; those of a classification without;
            ``images``: number of examples by split, ``{"train": 600, ...}``;
            ``validation``: ``{"score", "low", "high", "n", "folds"}``, by which the model was
            selected; ``folds`` is the number of folds of a cross-validation, or None;
            ``selection``: ``{"repeats", "mean", "low", "high"}`` of this model in the final
            selection;
            ``optimism``: by how much the validation score exceeds that of the final selection;
            ``calibration``: what ``Task.calibrate`` returned;
            ``student``: the fields of ``store.StudentScores``;
            ``test``: ``{"score", "low", "high", "n"}`` and ``per_class``, a list of ``{"class",
            "n", "score"}``, and maybe more, see ``Task.details``;
            ``refitted``: whether the model was trained on the validation split too;
            ``not_refitted_because``: why it was not.

    Returns:
        Markdown text.
    """
    results = {"task": {}, "decimals": 4, "max_rows": MAX_ROWS, **(results or {})}
    task, environment = CLASS_WORDS | results["task"], _make_environment(results["decimals"])
    parts = config.get("standalone_code", {"reason": SAVED_BEFORE})
    files, is_image = _plugin_files(config), config.get("kind", IMAGE) == IMAGE
    return environment.get_template("model_card.md.j2").render(
        config=config,
        is_image=is_image,
        noun=config.get("noun", "image"),
        nouns=config.get("nouns", "images"),
        title=title,
        results=results,
        task=task,
        is_classifier=task["has_classes"],
        outputs=_outputs(config, results, task),
        standalone_code=_standalone_code(config, parts),
        reason=parts.get("reason", ""),
        autotl_code=USE_WITH_AUTOTL.format(
            plugin=f", plugin={json.dumps(files)}" if files else "",
            item='"photo.jpg"' if is_image else "...",
        ),
        options="".join(f" --plugin {shlex.quote(f)}" for f in files),
        combination=config.get("combination", {}),
        recipes=_recipes(config),
    )


def _make_environment(decimals: int) -> jinja2.Environment:
    """Make the environment of the template, in which scores have so many decimals."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.ChainableUndefined,  # entries are missing if a model was saved by hand
        autoescape=False,  # the output is Markdown: all text from users goes through `code`
    )
    cells = {"score_cells": _score_cells, "mean_cells": _mean_cells}
    filters = {name: partial(f, decimals=decimals) for name, f in cells.items()}
    environment.filters.update(code=code_span, code_block=code_block, **filters)
    return environment


def _outputs(
    config: Mapping[str, Any], results: Mapping[str, Any], task: Mapping[str, Any]
) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """List what is known of each label or number.

    Returns:
        The titles of the columns that have values, and for each output its name and its cells.
    """
    constants = config.get("task", {}).get("constants", {})
    calibration = results.get("calibration") or config.get("calibration") or {}
    lists = {
        "threshold": calibration.get("thresholds"),
        "half_width": calibration.get("half_widths"),
        **{key: constants.get(key) for key in ("mean", "std")},
    }
    rows = {
        name: {key: values[i] for key, values in lists.items() if values}
        for i, name in enumerate(config["classes"])
    }
    for entry in (results.get("test") or {}).get("per_class", ()):
        rows[entry["class"]].update(entry)
    keys = [key for key in OUTPUT_COLUMNS if any(key in row for row in rows.values())]
    words = {"nouns": config.get("nouns", "images"), "score_noun": task["score_noun"]}
    titles = [OUTPUT_COLUMNS[key].format(**words) for key in keys]
    cells = {name: [_cell(key, row.get(key)) for key in keys] for name, row in rows.items()}
    return titles, list(cells.items())


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return ""
    if key in ("threshold", "precision", "recall", "score"):
        return f"{value:.3f}"
    return f"± {value:.4g}" if key == "half_width" else f"{value:.4g}"


def _standalone_code(config: Mapping[str, Any], parts: Mapping[str, str]) -> str:
    """The code that loads the model without autotl; empty if there is none.

    It has no example for a model of images with more than 8 bits, which autotl scales, or of
    another kind of input, which its package converts to images.
    """
    if "head" not in parts:
        return ""
    is_plain = config.get("kind", IMAGE) == IMAGE and not config.get("scales")
    has_thresholds = bool(config.get("calibration", {}).get("thresholds"))
    example = standalone.render_example(parts, has_thresholds)
    return standalone.render(parts) + (example if is_plain else "")


def _plugin_files(config: Mapping[str, Any]) -> list[str]:
    """List the plugin files that the model needs besides autotl and installed packages."""
    descriptions = (config, *config.get("members", ()))
    origins = [origin for d in descriptions for origin in d.get("plugins", {}).values()]
    matches = (re.fullmatch("file (.+) sha256:.*", origin) for origin in origins)
    return sorted({match[1] for match in matches if match})


def _recipes(config: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """List the name and the recipe of each trained model: of one, or of those it combines."""
    if combination := config.get("combination"):
        return [
            (f"{m['name']}, weight {_format(m['weight'])}", _recipe_rows(m["training"]))
            for m in combination["members"]
        ]
    return [("", _recipe_rows(config.get("training", {})))]


def _recipe_rows(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List names and values: the plugins with their hyperparameters, then the other settings."""
    rows = []
    for key, value in training.items():
        if isinstance(value, Mapping):
            for name, params in value.items():
                arguments = ", ".join(f"{k}={_format(v)}" for k, v in params.items())
                rows.append((key, f"{name}({arguments})"))
        elif value is not None:
            rows.append((key.replace("_", " "), _format(value)))
    return rows


def _score_cells(result: Mapping[str, Any], decimals: int) -> str:
    """Format a score and its interval as two cells of a table, empty where they are unknown."""
    score, low, high = (result.get(key) for key in ("score", "low", "high"))
    if score is None:
        return "| "
    unknown = low is None or high is None
    interval = "" if unknown else f"{low:.{decimals}f} to {high:.{decimals}f}"
    return f"{score:.{decimals}f} | {interval}"


def _mean_cells(interval: Mapping[str, Any], decimals: int) -> str:
    """Format a mean and its interval as two cells of a table."""
    return _score_cells({**interval, "score": interval["mean"]}, decimals)


def _format(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def code_span(text: Any) -> str:
    r"""Quote any text as a Markdown code span, which is literal, in one line and in tables.

    >>> print(code_span("<b>*a*|"))
    `<b>*a*\|`
    >>> print(code_span("`"))
    `` ` ``
    """
    line = re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in str(text))).strip()
    fence = _fence(line, 1)
    space = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{space}{line}{space}{fence}".replace("|", r"\|")


def code_block(text: str) -> str:
    """Quote Python code as a Markdown code block that its own text cannot end."""
    fence = _fence(text, 3)
    return f"{fence}python\n{text.strip()}\n{fence}"


def _fence(text: str, min_length: int) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(min_length, longest + 1)
