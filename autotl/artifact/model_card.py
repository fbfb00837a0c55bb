"""The model card: what a model was made from, how good it is, and how to use it, in Markdown."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotl.artifact import standalone
from autotl.errors import StoreError

FROM_PYTHON = """\
from pathlib import Path

from autotl.artifact import model_folder
from autotl.space import registry

model = model_folder.load(Path("."), registry.load([{files}]))
print(model.predict(["photo.jpg"]))
"""


def write(folder: Path, title: str, evidence: Mapping[str, Any]) -> None:
    """Write ``README.md`` into a model folder; an older one is replaced.

    Args:
        folder: As ``artifact.save`` wrote it.
        title: Of the card, such as the study's name.
        evidence: What is known of its quality; see ``render``.

    Raises:
        StoreError: The card cannot be written.
    """
    about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    unfinished = folder / "README.md.unfinished"
    try:
        unfinished.write_text(render(about, title, evidence), encoding="utf-8")
        unfinished.replace(folder / "README.md")
    except OSError as error:
        raise StoreError(f"{folder / 'README.md'} cannot be written: {error.strerror}") from None


def render(about: Mapping[str, Any], title: str, evidence: Mapping[str, Any] | None = None) -> str:
    """The text of a model card.

    Args:
        about: What ``config.json`` says.
        title: Of the card.
        evidence: All of it optional:
            ``metric``: the name of the scores;
            ``pictures``: how many there were, by part: ``{"train": 600, ...}``;
            ``validation``: ``{"score", "low", "high", "n"}``, by which the model was chosen;
            ``finals``: as the study's fact; ``winner`` names the candidate that this is;
            ``optimism``: by how much the search overrated it;
            ``calibration``: ``{"temperature", "ece_before", "ece_after", "n"}``;
            ``test``: ``{"score", "low", "high", "n"}`` and ``per_class``, a list of ``{"class",
            "n", "score"}``;
            ``refitted``: whether it has learned from validation too.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.ChainableUndefined,  # a model saved by hand lacks some of it
        autoescape=False,  # it is Markdown: all that others wrote goes through `code`
    )
    environment.filters.update(code=literal, block=block, scored=_scored)
    plain = about.get("plain", {"reason": "an older version of autotl saved it"})
    found = evidence or {}
    finals = found.get("finals") or {}
    files = _files(about)
    template = environment.get_template("model_card.md.j2")
    return template.render(
        about=about,
        title=title,
        found=found,
        final=next(
            (c for c in finals.get("candidates", ()) if c["name"] == finals.get("winner")), None
        ),
        code=standalone.code(plain) + standalone.USE if "head" in plain else "",
        from_python=FROM_PYTHON.format(files=", ".join(f"Path({json.dumps(f)})" for f in files)),
        options="".join(f" --plugin {shlex.quote(f)}" for f in files),
        reason=plain.get("reason", ""),
        made_of=about.get("made_of", {}),
        recipes=_recipes(about),
    )


def _files(about: Mapping[str, Any]) -> list[str]:
    """The plugin files that it needs beside autotl and installed packages."""
    origins = [o for a in (about, *about.get("members", ())) for o in a.get("plugins", {}).values()]
    found = (re.fullmatch("file (.+) sha256:.*", origin) for origin in origins)
    return sorted({match[1] for match in found if match})


def _recipes(about: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """What was trained, each with its recipe: the model, or what it is made of."""
    if made := about.get("made_of"):
        return [
            (f"{m['name']}, weight {_number(m['weight'])}", _recipe(m["training"]))
            for m in made["members"]
        ]
    return [("", _recipe(about.get("training", {})))]


def _recipe(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was chosen of each kind, then the settings: rows of name and value."""
    rows = []
    for key, value in training.items():
        if isinstance(value, Mapping):
            for name, params in value.items():
                chosen = ", ".join(f"{k}={_number(v)}" for k, v in params.items())
                rows.append((key, f"{name}({chosen})"))
        elif value is not None:
            rows.append((key.replace("_", " "), _number(value)))
    return rows


def _scored(row: Mapping[str, Any]) -> str:
    """A score and its interval, two cells of a table; empty where it is not known."""
    score, low, high = (row.get(key) for key in ("score", "low", "high"))
    if score is None:
        return "| "
    return f"{score:.4f} | " + ("" if low is None or high is None else f"{low:.4f} to {high:.4f}")


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def literal(text: Any) -> str:
    r"""Any text as a Markdown code span, which shows it as it is, in one line and in tables.

    >>> print(literal("<b>*a*|"))
    `<b>*a*\|`
    >>> print(literal("`"))
    `` ` ``
    """
    line = re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in str(text))).strip()
    fence = _fence(line, 1)
    space = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{space}{line}{space}{fence}".replace("|", r"\|")


def block(text: str) -> str:
    """Python code as a Markdown block that its own text cannot end."""
    fence = _fence(text, 3)
    return f"{fence}python\n{text.strip()}\n{fence}"


def _fence(text: str, least: int) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)
