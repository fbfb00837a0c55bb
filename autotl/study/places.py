"""Valid names of studies, and places of run folders that replace nothing of the user's."""

from __future__ import annotations

import json
from pathlib import Path
from unicodedata import category

from autotl import files
from autotl.errors import StudyError

ERROR_FILE = "error.txt"
"""The file in the run folder with the traceback of an error that is not AutoTL's."""

CRASH_FILE = "crash.txt"
"""The file in the run folder with the place in the code of each crash, see ``--isolate``."""

RUN_FILES = (
    "model",
    "report.html",
    "summary.json",
    "recipe.toml",
    "splits.csv",
    "issues.csv",
    "out_of_fold.csv",
    ERROR_FILE,
    CRASH_FILE,
)
"""What a search writes into the run folder."""

RESERVED_NAMES = frozenset(
    ["cache", "artifacts", "con", "prn", "aux", "nul"]
    + [f"{device}{number}" for device in ("com", "lpt") for number in range(1, 10)]
)
"""Names that are not valid names of studies: folders beside the run folders, devices of Windows."""

MAX_NAME_BYTES = 200
"""The maximum length of the name of a study in UTF-8: a file name has 255 bytes at most."""


def name_problem(name: str) -> str:
    """Return why a name is not a valid name of a study; empty if it is valid.

    The name is that of the run folder, beside the database and the cache, on any system.
    """
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        return "expected the name of a folder, without / or \\ and no dot at its start"
    # Surrogates cannot be stored; others change how the name looks, or end a line.
    joiners = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
    if any(category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in joiners for c in name):
        return "it contains characters that are not visible"
    if name != name.strip() or name.endswith("."):
        return "it begins or ends with a blank, or ends with a dot"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"it is longer than {MAX_NAME_BYTES} bytes"
    lower = name.lower()
    if lower.split(".")[0] in RESERVED_NAMES or lower.startswith("autotl.db"):
        return "it is reserved"
    return ""


def check_places(folder: Path, source: str) -> None:
    """Check that the run folder replaces neither images nor other files of the user.

    Args:
        folder: The run folder.
        source: The data.

    Raises:
        StudyError: One of the run folder and the data is inside the other, or the run folder has
            files that AutoTL did not write.
    """
    data = Path(source) if Path(source).exists() else Path(source.split(":")[-1])
    for place, what in ((folder, "the run folder"), (folder.parent / "cache", "the cache")):
        if data.is_dir() and files.is_within(place, data):
            raise StudyError(
                f"{what} {place} would be inside the data {data}; give another folder with --out"
            )
        if data.exists() and files.is_within(data, place):
            raise StudyError(
                f"the data {data} are inside {what} {place}, whose files are replaced; give a "
                "folder elsewhere with --out, or another name with --study"
            )
    foreign = next((name for name in RUN_FILES if (folder / name).exists()), None)
    if foreign and not _is_run_folder(folder):
        raise StudyError(
            f"{folder} has {foreign!r}, which AutoTL did not write and would replace; give another "
            "name with --study, or another folder with --out"
        )


def _is_run_folder(folder: Path) -> bool:
    """Whether AutoTL made a folder: it has our mark, or a summary of a version without marks."""
    if (folder / files.MARK).is_file():
        return True
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and {"study", "trials", "metric"} <= summary.keys()
