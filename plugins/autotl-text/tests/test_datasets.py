"""Tables, folders and data sets of the hub as sources of labelled texts."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from autotl_text.datasets import hub_texts, text_folder, text_table

from autotl import Example, Issue
from autotl.data import read_source
from autotl.errors import DataError
from autotl.space import registry

CONTENT = [("good film", "pos"), ("bad, long\nfilm", "neg")]


def write(file: Path, content: str) -> str:
    file.write_text(content, encoding="utf-8")
    return str(file)


def write_table(folder: Path, suffix: str, text: str = "text", label: str = "label") -> str:
    file = folder / f"table{suffix}"
    rows = [{text: t, label: c} for t, c in CONTENT]
    if suffix in (".csv", ".tsv"):
        with file.open("w", encoding="utf-8", newline="") as opened:
            writer = csv.writer(opened, delimiter="\t" if suffix == ".tsv" else ",")
            writer.writerows([(text, label), *CONTENT])
    elif suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    elif suffix == ".json":
        write(file, json.dumps(rows))
    else:
        write(file, "\n".join(map(json.dumps, rows)))
    return str(file)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet"])
@pytest.mark.parametrize("names", [("text", "label"), ("Review Text", "sentiment")])
def test_every_format_is_read(tmp_path: Path, suffix: str, names: tuple[str, str]) -> None:
    source = write_table(tmp_path, suffix, *names)
    examples = text_table(source)
    assert [(e.item, e.label) for e in examples if isinstance(e, Example)] == CONTENT
    assert len({e.name for e in examples}) == 2
    assert registry.load().dataset(source).name == "text_table"


def test_a_name_is_the_file_and_the_line_where_the_text_begins(tmp_path: Path) -> None:
    source = write(tmp_path / "a.csv", 'text,label\n"two\nlines",x\nlast,y\n')
    assert [e.name for e in text_table(source)] == ["a.csv:2", "a.csv:4"]


def test_splits_groups_and_problems_are_returned(tmp_path: Path) -> None:
    header = "text,label,split,group,id,note\n"
    source = write(tmp_path / "a.csv", f"{header}good,1.0,Train,u1,1,\n,2,dev,,2,\nnone,,,,3,x\n")
    first, second, third, issue = text_table(source)
    assert first == Example("a.csv:2", "good", "1.0", "train", "u1")
    assert second == Example("a.csv:3", "", "2", "validation", "")
    assert third == Example("a.csv:4", "none", "")
    assert isinstance(issue, Issue)
    assert "columns of the table that are not read: id, note" in issue.problem


def test_cells_of_json_that_are_no_strings(tmp_path: Path) -> None:
    rows = [{"text": 5, "label": 1.0}, {"text": None, "label": True}, {"text": "t", "label": None}]
    source = write(tmp_path / "a.jsonl", "\n\n".join(map(json.dumps, rows)))
    assert [(e.name, e.item, e.label) for e in text_table(source)] == [
        ("a.jsonl:1", "5", "1"),
        ("a.jsonl:3", "", "True"),
        ("a.jsonl:5", "t", ""),
    ]


def test_columns_can_be_named(tmp_path: Path) -> None:
    source = write(tmp_path / "a.csv", "x,y,text\none,two,three\n")
    [example, _] = text_table(source, text_column="x", label_column="y")
    assert (example.item, example.label) == ("one", "two")
    with pytest.raises(DataError, match="no column 'z'"):
        text_table(source, text_column="z")
    with pytest.raises(DataError, match=r"no column label.*label_column=NAME"):
        text_table(source)


def labels_of(source: str, **options: str) -> list[Any]:
    return [e.label for e in text_table(source, **options) if isinstance(e, Example)]


def test_lists_of_labels_and_numbers_by_name_in_json(tmp_path: Path) -> None:
    labels = [["a", "b"], [], ["b"], None, {"x": 1.5, "y": 2}]
    rows = [json.dumps({"text": f"t{i}", "labels": each}) for i, each in enumerate(labels)]
    source = write(tmp_path / "a.jsonl", "\n".join(rows))
    assert labels_of(source) == [("a", "b"), (), ("b",), "", {"x": 1.5, "y": 2}]


def test_several_labels_in_one_cell(tmp_path: Path) -> None:
    source = write(tmp_path / "a.csv", "text,topic,tags\nt,a|b,x;y\nu,,z\n")
    assert labels_of(source, separator="|") == [("a", "b"), ""]
    assert labels_of(source, separator=";", label_column="tags") == [("x", "y"), ("z",)]
    assert labels_of(source, separator=";", labels="tags") == [("x", "y"), ("z",)]


def test_columns_of_0_and_1_are_labels(tmp_path: Path) -> None:
    source = write(tmp_path / "a.csv", "comment,rude,threat\na,1,1\nb,0,0\n")
    *examples, note = text_table(source)
    assert [e.label for e in examples if isinstance(e, Example)] == [("rude", "threat"), ()]
    assert isinstance(note, Issue)
    assert note.problem == "there is no label column, but 2 columns of 0 and 1: rude, threat"
    *examples, note = text_table(source, labels="rude")
    assert [e.label for e in examples if isinstance(e, Example)] == [("rude",), ()]
    assert note.problem == "columns of the table that are not read: threat"
    rows = [{"text": "a", "rude": True, "long": 1.0}, {"text": "b", "rude": False, "long": 0}]
    source = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert labels_of(source) == [("rude", "long"), ()]


def test_columns_of_numbers(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "x", "stars": 4, "votes": 0.5}, {"text": "b", "stars": 1}]
    source = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert labels_of(source, target="stars") == [{"stars": 4.0}, {"stars": 1.0}]
    assert labels_of(source, targets="stars,votes") == [{"stars": 4.0, "votes": 0.5}, ""]
    with pytest.raises(DataError, match="no column 'star'; did you mean 'stars'"):
        text_table(source, target="star")
    with pytest.raises(DataError, match="line 1: 'x' in the column 'label' is not a number"):
        text_table(source, target="label")


def test_columns_that_may_both_be_the_text_are_asked_for(tmp_path: Path) -> None:
    source = write(tmp_path / "a.csv", "title,body,label\na,b,c\n")
    with pytest.raises(DataError, match=r"'title' and 'body' may both be the text.*text_column"):
        text_table(source)
    source = write(tmp_path / "a.csv", "title,text,label\na,b,c\n")
    assert text_table(source)[0].item == "b"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label,split\na,b,trian\n", "line 2: unknown split 'trian'; did you mean"),
        ("a.csv", "text,label\na,b,c\n", "line 2: more cells than columns"),
        ("a.jsonl", '{"text": "a"}\n{"text"\n', "line 2: not valid JSON"),
        ("a.jsonl", "[1]\n", "record 1 is no JSON object"),
        ("a.json", "[" * 100_000, "not valid JSON"),
        ("a.csv", "", "no column text or label"),
        ("a.csv", "text,rude\na,1\n", "no column label.*labels=A,B.*targets=A,B"),
        ("a.parquet", "text", "not a readable Parquet file"),
    ],
)
def test_errors_say_where(tmp_path: Path, name: str, content: str, message: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=message):
        text_table(write(tmp_path / name, content))


def test_a_table_in_another_encoding_and_a_long_cell(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"text,label\ncaf\xe9,x\n")
    with pytest.raises(DataError, match="save it as UTF-8"):
        text_table(str(file))
    limit = csv.field_size_limit()
    assert len(text_table(write(file, f"text,label\n{'w' * 10**6},x\n"))[0].item) == 10**6
    assert csv.field_size_limit() == limit


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="pip install pyarrow"):
        text_table(write(tmp_path / "a.parquet", "x"))


@pytest.mark.parametrize(
    ("name", "content", "is_text"),
    [
        ("a.csv", "path,label\na.jpg,x\n", False),
        ("a.csv", "file_name,text,label\na.jpg,a caption,x\n", False),
        ("a.csv", "path,sentence,label\na.mp3,said,x\n", False),
        ("a.csv", "file,text,label\nchapter one,it was,x\n", True),
        ("a.csv", "x,y\n1,2\n", False),
        ("a.csv", "Comment;class\na;b\n", True),
        ("a.jsonl", '{"image": "a.png", "label": "x"}', False),
        ("a.jsonl", '{"words": "a b", "label": "x"}', True),
        ("a.jsonl", "damaged", True),
    ],
)
def test_only_tables_of_texts_are_accepted(
    tmp_path: Path, name: str, content: str, is_text: bool
) -> None:
    assert text_table.accepts is not None
    assert text_table.accepts(write(tmp_path / name, content)) == is_text


def write_folder(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"this is {name}", encoding="utf-8")


def test_a_folder_has_a_subfolder_for_each_class(tmp_path: Path) -> None:
    write_folder(tmp_path, "neg/b.txt", "neg/deep/a.txt", "pos/a.txt", "README.txt")
    (tmp_path / "pos" / "latin.txt").write_bytes(b"caf\xe9")
    *examples, issue = sorted(text_folder(str(tmp_path)), key=lambda e: isinstance(e, Issue))
    assert [(e.name, e.label, e.split) for e in examples] == [
        ("README.txt", "", ""),
        ("neg/b.txt", "neg", ""),
        ("neg/deep/a.txt", "neg", ""),
        ("pos/a.txt", "pos", ""),
    ]
    assert examples[1].item == "this is neg/b.txt"
    assert (issue.name, issue.action) == ("pos/latin.txt", "the text is left out")
    assert registry.load().dataset(str(tmp_path)).name == "text_folder"


def test_a_folder_has_such_a_folder_for_each_split(tmp_path: Path) -> None:
    write_folder(tmp_path, "train/pos/1.txt", "test/neg/1.txt", "README.txt")
    assert {(e.label, e.split) for e in text_folder(str(tmp_path))} == {
        ("pos", "train"),
        ("neg", "test"),
        ("", ""),
    }
    write_folder(tmp_path, "unsup/1.txt")
    with pytest.raises(DataError, match="'unsup' is not a split"):
        text_folder(str(tmp_path))


def test_a_folder_without_classes_or_with_images(tmp_path: Path) -> None:
    write_folder(tmp_path, "a.txt")
    with pytest.raises(DataError, match="no texts in class folders"):
        text_folder(str(tmp_path))
    write_folder(tmp_path, "pos/a.jpg", "neg/b.jpg")
    assert registry.load().dataset(str(tmp_path)).name == "folder"


class FakeSplit:
    """A split of the library datasets."""

    def __init__(self, columns: dict[str, list[Any]], names: list[str] | None) -> None:
        self.columns, self.column_names = columns, list(columns)
        self.features = {name: SimpleNamespace() for name in columns}
        if names:
            self.features["label"] = SimpleNamespace(names=names)

    def __getitem__(self, name: str) -> list[Any]:
        return self.columns[name]


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for the library, which downloads what it reads."""
    library: Any = ModuleType("datasets")
    library.DatasetDict = dict
    monkeypatch.setitem(sys.modules, "datasets", library)
    return library


def test_a_data_set_of_the_hub(datasets: Any) -> None:
    def load_dataset(name: str, configuration: str | None = None) -> dict[str, FakeSplit]:
        assert (name, configuration) == ("org/reviews", "en")
        texts = {"sentence": ["a", "b"]}
        return {
            "train": FakeSplit({**texts, "label": [1, 0]}, ["neg", "pos"]),
            "validation": FakeSplit({**texts, "label": [1, -1]}, ["neg", "pos"]),
            "test": FakeSplit({**texts, "label": [-1, -1]}, ["neg", "pos"]),
            "unsupervised": FakeSplit({**texts, "label": [-1, -1]}, ["neg", "pos"]),
            "extra": FakeSplit({**texts, "label": [0, 1]}, ["neg", "pos"]),
        }

    datasets.load_dataset = load_dataset
    items = hub_texts("hf:org/reviews:en")
    assert items[:2] == [
        Example("train/0", "a", "pos", "train"),
        Example("train/1", "b", "neg", "train"),
    ]
    assert items[3] == Example("validation/1", "b", "", "validation")
    assert [i.name for i in items if isinstance(i, Issue)] == ["test", "extra"]
    assert Example("unsupervised/0", "a", "", "unlabelled") in items


def test_several_labels_of_a_data_set_of_the_hub(datasets: Any) -> None:
    split = FakeSplit({"text": ["a", "b"], "label": [[1, 0], []]}, None)
    split.features["label"] = SimpleNamespace(feature=SimpleNamespace(names=["joy", "fear"]))
    datasets.load_dataset = lambda name: {"train": split}
    assert [item.label for item in hub_texts("hf:org/moods")] == [("fear", "joy"), ()]


def test_errors_of_the_hub_say_what_to_do(datasets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str) -> None:
        raise ValueError("Config name is missing")

    datasets.load_dataset = load_dataset
    with pytest.raises(DataError, match=r"Config name is missing.*hf:NAME:CONFIGURATION"):
        hub_texts("hf:glue")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="pip install datasets"):
        hub_texts("hf:glue")


def test_texts_without_a_label_are_unlabelled(tmp_path: Path) -> None:
    for name in ("good/a.txt", "bad/b.txt", "unlabelled/deep/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    source = read_source(str(tmp_path), registry.load())
    assert sorted(e.label for e in source.examples) == ["bad", "good"]
    assert [e.name for e in source.unlabelled] == ["unlabelled/deep/c.txt"]
    table = tmp_path / "t.csv"
    rows = "text,label,split\na,good,\nb,bad,\nc,,\nd,bad,unlabelled\ne,,test\n"
    table.write_text(rows, encoding="utf-8")
    source = read_source(str(table), registry.load())
    assert [e.item for e in source.examples] == ["a", "b", "e"]
    assert [e.item for e in source.unlabelled] == ["c", "d"]
