"""Text in CSV files that a spreadsheet may open."""

from __future__ import annotations

import re


def escape_formula(text: str) -> str:
    """Put an apostrophe before text that a spreadsheet would run as a formula.

    Spreadsheets evaluate cells that begin with ``=``, ``+``, ``-`` or ``@``, as names of files and
    classes may; an apostrophe marks them as text (OWASP, "CSV Injection"). Plain numbers such as
    the class ``-1`` are not changed.

    >>> escape_formula("=1+2"), escape_formula("-1"), escape_formula("a=b")
    ("'=1+2", '-1', 'a=b')
    """
    is_formula = re.match(r"[=+\-@\t\r]", text) and not re.fullmatch(r"[+-]?\d+(\.\d+)?", text)
    return f"'{text}" if is_formula else text
