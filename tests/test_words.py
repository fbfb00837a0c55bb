"""The words of the glossary are used in documents, docstrings, comments, messages and names."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PROSE = {  # what is not said: what to say instead
    r"pictures?": "image",
    r"(?:come|comes|came|coming) to (?:its|an|their) end": "completed, finished",
    r"handovers?": "refit, or the model in the run folder",
    r"resplits?": "resample",
    r"divisions?": "split, or resample",
    r"(?:train|training|validation|test|sealed) parts?": "split",
    r"boards?": "leaderboard",
    r"(?<!model )cards?": "model card",
    r"(?<!standard )deviations?": "std, variance",
    r"shares? of|(?:a|the|its|their|same|larger|smaller|largest|smallest) share": "fraction",
    r"kept (?:views?|features?|activations?|maps?|rows)": "cached",
    r"(?:parameters?|layers?|blocks?|weights?|backbone|head|stem|what) (?:learns?|learned|learnt)":
        "is trained, trainable",
    r"gone": "elapsed, deleted, missing",
    r"calls? (?:it|them|that|those) (?:a )?ties?": "are statistically indistinguishable",
    r"finals": "final selection",
    r"(?:the|a|each|every|this) cuts?": "split point",
    r"(?:model|network|winner|head|member|contender|finalist)s?(?:'s?)? answers?": "prediction",
    r"train(?:s|ed)? again|do(?:es|ne)? again": "retrain, repeat",
    r"places? (?:of|in) (?:a|the) (?:data|images?|examples?|array)": "index",
    r"pour(?:s|ed|ing)?": "copy, load",
    r"never heard of": "does not depend on",
    r"what it was shown": "example",
    r"who won": "final selection",
}  # fmt: skip
NAMES = {  # names of functions, classes, arguments and variables
    *("again", "answer", "answers", "asked", "found", "gone", "held", "kept", "known", "poured"),
    *("said", "shown", "told"),
}
NAME_PARTS = {"picture", "pictures", "handover", "resplit", "deviation"}
"""Words that no name may contain between its underscores or capitals."""

ALLOWED = {  # exact phrases in which a word means something else
    "graphics card",
    "server gone",  # it does not answer
}


def python_files() -> list[Path]:
    files = [
        p for folder in ("autotl", "plugins", "studies") for p in ROOT.glob(f"{folder}/**/*.py")
    ]
    return sorted(p for p in files if p.parent.name != "versions")  # released steps stay


def documents() -> list[Path]:
    patterns = ("*.md", "docs/*.md", "plugins/**/*.md", "studies/**/*.md")
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def templates() -> list[Path]:
    return sorted([*ROOT.glob("autotl/**/*.j2"), *ROOT.glob("autotl/**/*.js")])


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def wrong_words(text: str) -> Iterator[str]:
    """What is wrong in a text, each with what to say instead."""
    text = re.sub(r"\s+", " ", text)
    for phrase in ALLOWED:
        text = text.replace(phrase, "")
    for pattern, instead in PROSE.items():
        for match in re.finditer(rf"(?<![\w/.-])(?:{pattern})(?![\w/(=-])", text, re.I):
            yield f"{text[max(0, match.start() - 30) : match.end() + 20]!r}: say {instead}"


def without_code(text: str) -> str:
    """The prose of a document: no fenced or indented blocks, code spans, or addresses."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    text = re.sub(r"^ {4}.*$", "", text, flags=re.M)
    return re.sub(r"`[^`]+`|\]\([^)]*\)", "", text)


def prose_in_python(text: str) -> Iterator[tuple[int, str]]:
    """Docstrings, messages and other literals of several words, and comments, with their lines."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, re.sub(r"``.*?``", "", node.value, flags=re.S)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], re.sub(r"``.*?``|`[^`]+`", "", token.string)


def names_in_python(text: str) -> Iterator[tuple[int, str]]:
    """The names that a module defines, with their lines."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ):
                yield node.lineno, name
            case ast.arg(arg=name):
                yield node.lineno, name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name


def is_wrong_name(name: str) -> bool:
    parts = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    return name.strip("_") in NAMES or not NAME_PARTS.isdisjoint(parts)


def without_markup(text: str) -> str:
    """The text of a template or script that a reader sees, without tags and expressions."""
    text = re.sub(r"\{[{%#].*?[}%#]\}|<[^>]*>", " ", text, flags=re.S)
    return re.sub(r"`[^`]*`", "", text)


def test_wrong_words_are_seen() -> None:
    assert list(wrong_words("Which picture\nis it?")) == ["'Which picture is it?': say image"]
    assert list(wrong_words("the model  card, a dashboard, a standard deviation")) == []
    assert len(list(wrong_words("a card on the board"))) == 2
    assert all(map(is_wrong_name, ("found", "_num_pictures", "PictureSet")))
    assert not any(map(is_wrong_name, ("found_files", "depicture", "dashboard")))
    assert "picture" not in without_code("`picture`\n```bash\npicture\n```\n[x](picture.png)")
    assert [*prose_in_python("x = f'a picture {y}'  # gone")] == [(1, "a picture "), (1, "# gone")]
    assert [n for _, n in names_in_python("def again(told): x.held = 1")] == [
        "again",
        "told",
        "held",
    ]


@pytest.mark.parametrize("path", documents(), ids=name_of)
def test_documents_use_the_words_of_the_glossary(path: Path) -> None:
    assert not list(wrong_words(without_code(path.read_text())))


@pytest.mark.parametrize("path", templates(), ids=name_of)
def test_templates_use_the_words_of_the_glossary(path: Path) -> None:
    assert not list(wrong_words(without_markup(path.read_text())))


@pytest.mark.parametrize("path", python_files(), ids=name_of)
def test_code_uses_the_words_of_the_glossary(path: Path) -> None:
    text = path.read_text()
    wrong = [f"line {n}: {w}" for n, prose in prose_in_python(text) for w in wrong_words(prose)]
    assert not wrong


@pytest.mark.parametrize("path", python_files(), ids=name_of)
def test_names_are_those_of_the_glossary(path: Path) -> None:
    wrong = [
        f"line {n}: {name}" for n, name in names_in_python(path.read_text()) if is_wrong_name(name)
    ]
    assert not wrong
