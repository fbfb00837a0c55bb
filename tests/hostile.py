"""Damaged inputs for property tests, a folder to use them in, and the judgement of what happens."""

from __future__ import annotations

import copy
import csv
import io
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import click
import tomli_w
from click.testing import Result
from command_line import run
from hypothesis import strategies as st
from images import write_images, write_plugin

from autotl.cli import main
from autotl.errors import AutoTLError
from autotl.study import StudyConfig
from autotl.tasks import Classification, numbered_classes

TEXTS = (
    *("", " ", "\0", "a\0b", "x" * 300, "x/" * 2500, "~nosuchuser/x", "日本", "\u202egnp"),
    *(
        "\n",
        "\udcff",
        "caf\u0065\u0301",
        "\x1b[31mred",
        "a\tb",
        "=1+1",
        "-1",
        "--",
        "-",
        "@small",
        "*",
    ),
    *("[", "]", "{}", "{0}", "%s", "%00", "'", '"', "a;b", "a|b", ":", "a:b", "sklearn:", "./."),
    *("0", "-0", "1", "1.5", "1e3", "1e999", "nan", "inf", "-inf", "9" * 30, "9" * 400, "9" * 5000),
    *("0x10", "١٢", "½", "10m", "1h" * 50, "1GB", "-1GB", "9" * 400 + "GB", "30M", "20ms", "true"),
    *("photos", "photos/red/0.png", "runs", "model", "tiny_plugin.py", "study.toml", "no.csv"),
    *("sqlite://", "sqlite:///", "sqlite:///%00x", "sqlite:///x.db?mode=ro&timeout=abc", "x://y"),
    *(
        "sqlite:///photos",
        "sqlite:///runs/autotl.db",
        "postgresql://u:p@ssSECRET@h/x",
        "mysql://h/x",
    ),
    *("postgresql+psycopg://u:SECRET@127.0.0.1:1/x?sslpassword=SECRET", "sqlite:///study.toml"),
)
"""Values that options, arguments and settings get."""

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 10**22, 2**63, 0.5, -0.5, 1e-300, 1e300),
    *(float("nan"), float("inf"), float("-inf"), [], {}, [[]], [None], {"": 0}, ["a", "a"], [0, 0]),
    *("", "x" * 300, "a\0b", "日本", "0.5", "nan", "9" * 400, "linear", "~nosuchuser/x"),
)
"""Values that entries of JSON and TOML files get."""

LINES = {
    "search": "search photos --trials 1 --epochs 1 --backbone tiny --plugin tiny_plugin.py "
    "--device cpu --no-history",
    "worker": "worker photos --device cpu",
    "train": "train recipe.toml photos --plugin tiny_plugin.py",
    "pretrain": "pretrain photos --backbone test_resnet --epochs 1 --device cpu --out weights",
    "predict": "predict model photos/red/0.png --plugin tiny_plugin.py",
    "evaluate": "evaluate model photos --plugin tiny_plugin.py",
    "export": "export model --to onnx --plugin tiny_plugin.py",
    "data check": "data check photos",
    "plugins list": "plugins list",
    "plugins show": "plugins show linear",
    "plugins check": "plugins check tiny_plugin.py",
    "plugins new": "plugins new head my_head --dir new",
    "studies list": "studies list",
    "studies show": "studies show photos",
    "studies delete": "studies delete other --yes",
    "report": "report photos",
    "dashboard": "dashboard photos",
}
"""A command line for each command that is valid in the folder of ``make_folder``."""

CHECKED = (click.Choice, click.IntRange, click.types.IntParamType, click.types.FloatParamType)
"""The types of options that click checks."""

MAX_LINES = 14
"""The lines that an error may have; a usage error has four, and one for each choice."""


class ReachedWork(AutoTLError):
    """Raised in the place of training, exporting and checking plugins."""


def commands(group: click.Group = main, path: str = "") -> dict[str, click.Command]:
    """Return all commands of the command line by their words."""
    result: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        words = f"{path} {name}".strip()
        inner = commands(command, words) if isinstance(command, click.Group) else {words: command}
        result |= inner
    return result


def make_folder(folder: Path) -> Path:
    """Write what ``LINES`` names: images, a plugin, a model, a recipe, a study and a study file.

    There is also a model of each task in ``FITTED``, in a folder with its name.
    """
    from fitted_tasks import FITTED
    from toy import CPU

    from autotl import models, study
    from autotl.artifact import model_folder
    from autotl.space import registry, space
    from autotl.store import Store, default_url

    write_images(folder / "photos", count=6)
    plugins = registry.load([write_plugin(folder)])
    values = {"backbone": {"tiny": {}}, "head": {"linear": {"dropout": 0.1}}}
    config = space.from_json(values, plugins, kinds=("backbone", "head"))
    network = models.build_model(config, numbered_classes(3), 32, CPU).eval()
    facts = {
        "data": {"source": "photos", "fingerprint": "0"},
        "temperature": 1.5,
        "weights": {"backbone": "tiny", "origin": "file", "licence": "unknown"},
        "training": {**values, "epochs": 1},
        "versions": {"torch": "2"},
    }
    model_folder.save(
        folder / "model", network, config, Classification(["blue", "green", "red"]), facts
    )
    for name, (task, calibration) in FITTED.items():
        own = models.build_model(config, task, 32, CPU).eval()
        model_folder.save(folder / name, own, config, task, {"calibration": calibration})
    others = {"freeze": {"linear_probe": {}}, "augment": {"none": {}}, "optimizer": {"adamw": {}}}
    study.write_recipe(folder / "recipe.toml", {**values, **others}, {"data": "photos"})
    (folder / "study.toml").write_text(tomli_w.dumps(STUDY), encoding="utf-8")
    store = Store(default_url(folder / "runs"))
    for name in ("photos", "other"):
        store.begin_study(name, metric="accuracy")
    store.close()
    return folder


STUDY: dict[str, Any] = {
    "data": "photos",
    "trials": 1,
    "epochs": 1,
    "image_size": [32],
    "backbone": ["tiny"],
    "plugin": ["tiny_plugin.py"],
    "device": "cpu",
    "history": False,
    "seed": 3,
    "test": 0.2,
    "space": {"head": {"linear": {"dropout": [0.1, 0.2]}}, "freeze": {"full": {"lr": 1e-4}}},
}
"""A study file."""


@contextmanager
def without_work(folder: Path) -> Iterator[None]:
    """Work in ``folder``, and raise ``ReachedWork`` where training, exports and servers begin."""

    def stop(*_: Any, **__: Any) -> None:
        raise ReachedWork("the work was reached")

    places = (
        *("autotl.engine.steps.search_and_finish", "autotl.artifact.export.export"),
        *("autotl.testing.examine", "autotl.report.dashboard.serve"),
        *("autotl.engine.joining._wait_for_search", "autotl.cli.local_workers.start"),
        *("autotl.cli.ray_workers._connect", "autotl.engine.pretraining.train"),
        "autotl.engine.source_weights.train",
    )
    with ExitStack() as stack:
        stack.enter_context(chdir(folder))
        stack.enter_context(mock.patch.dict("os.environ", {"HF_HUB_OFFLINE": "1"}))
        for place in places:
            stack.enter_context(mock.patch(place, stop))
        yield


def find_fault(result: Result) -> str:
    """Return what is wrong with the result of a command; empty if nothing is."""
    output = result.stdout + result.stderr
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"a traceback: {result.exception!r}"
    if "Traceback" in output:
        return "a traceback in the output"
    if result.exit_code not in (0, 1, 2):
        return f"exit code {result.exit_code}"
    if "SECRET" in output:
        return "a password is shown"
    if result.exit_code and not result.stderr.strip():
        return "an exit code without a message"
    is_help = result.stderr.startswith("Usage:") and "Error:" not in result.stderr
    lines = result.stderr.splitlines()
    if result.exit_code and not is_help and (len(lines) > MAX_LINES or max(map(len, lines)) > 1000):
        return f"a message of {len(lines)} lines and {len(result.stderr)} characters"
    if "nan" in result.stdout.split():
        return "a result that is not a number"
    return ""


@st.composite
def argument_lists(draw: st.DrawFn) -> list[str]:
    """Draw a valid command line in which one to three words are replaced or added."""
    name = draw(st.sampled_from(sorted(LINES)))
    command = commands()[name]
    words = LINES[name].split()
    texts = st.sampled_from(TEXTS) | st.text(max_size=20)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        options = [p for p in command.params if isinstance(p, click.Option)]
        # Numbers and choices are mostly refused by click itself, text is not.
        text_options = [p for p in options if not isinstance(p.type, CHECKED) and not p.is_flag]
        options += text_options * 4
        kind = draw(st.sampled_from(["option"] * 6 + ["argument", "argument", "word", "drop"]))
        if kind == "option" and options:
            option = draw(st.sampled_from(options))
            words.append(draw(st.sampled_from([*option.opts, *option.secondary_opts])))
            words += [] if option.is_flag else [draw(texts)]
        elif kind == "drop":
            del words[draw(st.integers(0, len(words) - 1))]
        elif kind == "argument":
            # Not the root or a parent folder, which a command would read completely.
            position = draw(st.integers(len(name.split()), max(len(name.split()), len(words) - 1)))
            words[position : position + 1] = [draw(texts.filter(_is_inside))]
        else:
            words.insert(draw(st.integers(0, len(words))), draw(texts.filter(_is_inside)))
        if not words:
            return words
    return words


def _is_inside(text: str) -> bool:
    return not text.startswith(("/", "..", "~")) or text.startswith("~nosuch")


def run_arguments(words: list[str], folder: Path) -> Result:
    """Run a command line in a copy of ``folder`` of which no other run sees the changes."""
    with without_work(folder):
        return run(*words, stdin="")


@st.composite
def mutations(
    draw: st.DrawFn, content: dict[str, Any], keys: Sequence[str] = ("new",)
) -> dict[str, Any]:
    """Draw a copy of a JSON or TOML document in which one to three entries are damaged.

    Args:
        draw: Hypothesis' function.
        content: The document.
        keys: Keys that may be added to it.
    """
    changed = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        parent, key = draw(st.sampled_from(list(_entries(changed))))
        action = draw(st.sampled_from(["replace", "replace", "replace", "drop", "add", "wrap"]))
        if action == "drop":
            del parent[key]
        elif action == "add" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["", "a\0b", "日本", *keys]))] = draw(_values())
        elif action == "wrap":
            parent[key] = [parent[key]]
        else:
            parent[key] = draw(_values())
        if not changed:
            break
    return changed


def _values() -> st.SearchStrategy[Any]:
    # Copied, because later mutations change lists in place.
    values = st.sampled_from(VALUES).map(copy.deepcopy) | st.sampled_from(TEXTS)
    return values | st.integers() | st.floats() | st.text(max_size=20)


def _entries(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container in a document with each of its keys or indices."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(pairs):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _entries(inner)


def run_config(content: dict[str, Any], folder: Path, model: str = "model") -> Result:
    """Predict an image with a model whose ``config.json`` has this content."""
    return _predict_damaged(folder, "config.json", json.dumps(content).encode(), model)


def weights() -> st.SearchStrategy[tuple[int, bytes]]:
    """Draw a damage of a file of weights: a position, and bytes that replace what follows it."""
    return st.tuples(st.integers(0, 30_000), st.just(b"") | st.binary(max_size=200))


def run_weights(damage: tuple[int, bytes], folder: Path) -> Result:
    """Predict an image with a model whose weights are truncated, or other bytes in their header."""
    content = (folder / "model" / "model.safetensors").read_bytes()
    position, replacement = damage
    header = 8 + int.from_bytes(content[:8], "little")
    if not replacement:  # truncated
        return _predict_damaged(folder, "model.safetensors", content[: position % len(content)])
    start = position % header
    damaged = content[:start] + replacement + content[start + len(replacement) :]
    return _predict_damaged(folder, "model.safetensors", damaged)


def _predict_damaged(folder: Path, name: str, content: bytes, model: str = "model") -> Result:
    damaged = folder / "damaged"
    shutil.rmtree(damaged, ignore_errors=True)
    shutil.copytree(folder / model, damaged)
    (damaged / name).write_bytes(content)
    with without_work(folder):
        return run("predict", "damaged", "photos/red/0.png", "--plugin", "tiny_plugin.py")


@st.composite
def study_files(draw: st.DrawFn) -> bytes:
    """Draw a study file with damaged settings, some of them with damaged text."""
    settings = sorted(StudyConfig.model_fields)
    changed = _without_none(draw(mutations(STUDY, settings)))
    text = tomli_w.dumps(changed).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 3)) == 0:
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 5)))
        text = text[:start] + draw(st.binary(max_size=5)) + text[end:]
    return text


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(v) for v in value if v is not None]
    return value


def run_study(text: bytes, folder: Path) -> Result:
    """Search with a study file of this text."""
    (folder / "damaged.toml").write_bytes(text)
    with without_work(folder):
        return run("search", "damaged.toml", "--out", "study_runs")


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """Draw a CSV file with unusual headers, cells and quotes."""
    headers = ["path,label", "path,label,split", "file,class,group,split", "path", "path;label"]
    header = draw(st.sampled_from(headers * 4) | st.text(max_size=20)).split(",")
    paths = [f"photos/{colour}/{i}.png" for colour in ("red", "blue") for i in range(6)]
    rows = [[path, path.split("/")[1], "train", ""][: len(header)] for path in paths]
    for _ in range(draw(st.integers(0, 3))):
        row = draw(st.sampled_from(rows))
        row[draw(st.integers(0, len(row) - 1))] = draw(
            st.sampled_from(TEXTS) | st.text(max_size=20)
        )
        if draw(st.integers(0, 5)) == 0:
            row.append("")
    file = io.StringIO()
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    csv.writer(file, quoting=quoting).writerows([header, *rows])
    damage = draw(st.binary(max_size=10)) if draw(st.integers(0, 4)) == 0 else b""
    return file.getvalue().encode("utf-8", "surrogatepass") + damage


def run_table(text: bytes, folder: Path) -> Result:
    """Check the data of a CSV file with this text."""
    (folder / "damaged.csv").write_bytes(text)
    with without_work(folder):
        return run("data", "check", "damaged.csv")
