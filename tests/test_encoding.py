"""Text files are read and written as UTF-8, whatever the locale of the machine."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(p for folder in ("autotl", "plugins") for p in (ROOT / folder).rglob("*.py"))


def calls_without_encoding(text: str) -> Iterator[int]:
    """Yield the lines that open a text file without naming its encoding."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        keywords = {keyword.arg for keyword in node.keywords}
        positional = {"read_text": 1, "write_text": 2}.get(name)
        if positional and "encoding" not in keywords and len(node.args) < positional:
            yield node.lineno
        if name in ("open", "fdopen") and "encoding" not in keywords and opens_text(node):
            yield node.lineno


def opens_text(call: ast.Call) -> bool:
    """Whether a call of ``open`` or ``Path.open`` opens a text file."""
    owner = getattr(getattr(call.func, "value", None), "id", "")
    if owner in ("os", "Image", "safetensors"):
        return False
    modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return not any("b" in mode for mode in modes)


def test_a_missing_encoding_is_seen() -> None:
    wrong = (
        "p.read_text()\np.write_text(t)\np.open()\nopen(p)\nopen(p, 'w')\nwith p.open('r'): ...\n"
    )
    assert list(calls_without_encoding(wrong)) == [1, 2, 3, 4, 5, 6]
    right = "p.read_text('utf-8')\np.read_text(encoding='utf-8')\n"
    right += "p.open('rb')\nopen(p, 'w', encoding='utf-8')\n"
    assert not list(calls_without_encoding(f"{right}Image.open(p)\nos.open(p, 0)\n"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_files_have_an_encoding(path: Path) -> None:
    assert not list(calls_without_encoding(path.read_text(encoding="utf-8")))
