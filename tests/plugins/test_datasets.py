"""The four built-in data sources: what each reads, ignores and rejects."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from autotl_plugins import datasets
from PIL import Image

from autotl import image_files
from autotl.data import read_source
from autotl.errors import DataError, StudyError
from autotl.space import registry
from autotl.space.plugin import Example, Issue

SUFFIXES = set(image_files.SUFFIXES)


def create_files(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in SUFFIXES - {".heic"}:
            Image.new("RGB", (4, 4)).save(path.with_suffix(".png"))
            path.with_suffix(".png").rename(path)
        else:
            path.write_bytes(b"")
    return root


def examples_of(items: list[Example | Issue]) -> list[Example]:
    return [item for item in items if isinstance(item, Example)]


def problems_of(items: list[Example | Issue]) -> dict[str, str]:
    return {item.name: item.problem for item in items if isinstance(item, Issue)}


def read_folder(source: Path | str) -> list[Example]:
    return examples_of(datasets.folder(str(source)))


def read_table(root: Path, text: str, name: str = "table.csv") -> list[Example]:
    (root / name).write_text(text, encoding="utf-8")
    return examples_of(datasets.csv(str(root / name)))


def summarise(examples: list[Example]) -> list[tuple[str, str, str]]:
    return [(e.name, e.label, e.split) for e in examples]


def test_a_folder_of_classes(tmp_path: Path) -> None:
    create_files(tmp_path, "cat/a.jpg", "cat/deep/er/b.PNG", "dog/c.jpeg")
    assert summarise(read_folder(f"{tmp_path}/")) == [
        ("cat/a.jpg", "cat", ""),
        ("cat/deep/er/b.PNG", "cat", ""),
        ("dog/c.jpeg", "dog", ""),
    ]
    assert read_folder(f"{tmp_path}/")[0].item == tmp_path / "cat/a.jpg"


def test_a_folder_of_splits_in_any_spelling(tmp_path: Path) -> None:
    create_files(tmp_path, "Training/cat/a.jpg", "VAL/cat/b.jpg", "test/cat/deep/c.jpg")
    assert {e.split for e in read_folder(tmp_path)} == {"train", "validation", "test"}
    assert {e.label for e in read_folder(tmp_path)} == {"cat"}


def test_hidden_and_system_files_are_ignored(tmp_path: Path) -> None:
    create_files(tmp_path, "cat/a.jpg", "dog/b.jpg")
    create_files(
        tmp_path, ".DS_Store", "cat/.DS_Store", "cat/._a.jpg", "cat/Thumbs.db", "notes.txt"
    )
    create_files(tmp_path, "__MACOSX/cat/x.jpg", ".cache/cat/y.jpg")
    assert [e.name for e in read_folder(tmp_path)] == ["cat/a.jpg", "dog/b.jpg"]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    create_files(tmp_path, "train/ice.jpg", "bus/red.jpg")
    assert {(e.label, e.split) for e in read_folder(tmp_path)} == {
        ("train", ""),
        ("bus", ""),
    }


def test_images_outside_a_class_folder_have_no_label(tmp_path: Path) -> None:
    create_files(tmp_path, "train/cat/a.jpg", "train/loose.jpg", "figure.png", "docs/readme.txt")
    loose = [e.name for e in read_folder(tmp_path) if not e.label]
    assert loose == ["figure.png", "train/loose.jpg"]


def test_class_folders_next_to_split_folders_are_rejected(tmp_path: Path) -> None:
    create_files(tmp_path, "train/cat/a.jpg", "dog/b.jpg")
    with pytest.raises(DataError, match="'dog' is not a split; move it"):
        read_folder(tmp_path)


def test_a_folder_without_images_is_reported_with_the_file_types(tmp_path: Path) -> None:
    create_files(tmp_path, "cat/a.dcm", "cat/b.dcm")
    with pytest.raises(DataError, match=r"no images in class folders.*\.jpg.*2 files \(DICOM\)"):
        read_folder(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read_folder(tmp_path / "nowhere")


def test_folders_without_images_and_other_files_are_named(tmp_path: Path) -> None:
    create_files(tmp_path, "train/cat/a.jpg", "train/dog/b.jpg", "train/cat/c.dcm", "train/x.txt")
    (tmp_path / "train" / "bird").mkdir()
    (tmp_path / "val" / "dog").mkdir(parents=True)
    problems = problems_of(datasets.folder(str(tmp_path)))
    assert problems["bird"] == "the folder has no image"
    assert problems["val"] == "the folder has no image"
    assert problems["*.dcm"] == "1 file (DICOM): train/cat/c.dcm"
    assert "train/x.txt" in problems["*.txt"]


@pytest.mark.parametrize("suffix", [".dcm", ".NEF", ""])
def test_a_class_of_files_that_are_not_read_is_an_error(tmp_path: Path, suffix: str) -> None:
    create_files(tmp_path, "cat/a.jpg", "dog/b.jpg", *(f"bird/{i}{suffix}" for i in range(4)))
    with pytest.raises(DataError, match=r"class 'bird' has no image .* 4 other files"):
        read_folder(tmp_path)


def test_classes_two_levels_deep_are_pointed_out(tmp_path: Path) -> None:
    create_files(tmp_path, "f/farm/a.jpg", "f/field/b.jpg", "g/deep/c.jpg")
    items = datasets.folder(str(tmp_path))
    assert {e.label for e in examples_of(items)} == {"f", "g"}
    [issue] = [item for item in items if isinstance(item, Issue)]
    assert (issue.name, issue.problem) == (
        "f",
        "the images of this class are in 2 folders: farm, field",
    )
    assert "--data-option classes=deepest" in issue.action


def test_the_deepest_folders_may_be_the_classes(tmp_path: Path) -> None:
    create_files(tmp_path, "f/farm/a.jpg", "f/field/b.jpg", "f/c.jpg", "g/d.jpg", "e.jpg")
    for empty in ("h/i", "g/j"):
        (tmp_path / empty).mkdir(parents=True)
    items = datasets.folder(str(tmp_path), classes="deepest")
    labels = {example.name: example.label for example in examples_of(items)}
    assert labels == {
        "f/farm/a.jpg": "f/farm", "f/field/b.jpg": "f/field", "f/c.jpg": "f", "g/d.jpg": "g",
        "e.jpg": "",
    }  # fmt: skip
    assert set(problems_of(items)) == {"h/i", "g/j"}


def test_the_deepest_folders_in_folders_of_splits_may_be_the_classes(tmp_path: Path) -> None:
    create_files(tmp_path, "train/f/farm/a.jpg", "train/f/field/b.jpg", "val/f/farm/c.jpg")
    with pytest.raises(DataError, match=r"one class folder 'f', .* give --data-option classes="):
        datasets.folder(str(tmp_path))
    items = datasets.folder(str(tmp_path), classes="deepest")
    assert {(e.label, e.split) for e in examples_of(items)} == {
        ("f/farm", "train"), ("f/field", "train"), ("f/farm", "validation"),
    }  # fmt: skip
    create_files(tmp_path, "train/g/x/d.dcm")
    with pytest.raises(DataError, match="class 'g/x' has no image"):
        datasets.folder(str(tmp_path), classes="deepest")


def test_a_single_folder_around_the_classes_is_pointed_out(tmp_path: Path) -> None:
    create_files(tmp_path, "photos/cat/a.jpg", "photos/dog/b.jpg")
    with pytest.raises(DataError, match=r"one class folder 'photos', .*give .*photos$"):
        read_folder(tmp_path)


@pytest.mark.parametrize("comma", [",", ";", "\t"])
def test_a_table(tmp_path: Path, comma: str) -> None:
    text = "\ufeffFile, class ,split,group\na/1.jpg,cat,Valid,p1\n\nb\\2.jpg,dog,,\n"
    first, second = read_table(tmp_path, text.replace(",", comma))
    assert first == Example("a/1.jpg", tmp_path / "a/1.jpg", "cat", "validation", "p1")
    assert second == Example("b/2.jpg", tmp_path / "b/2.jpg", "dog")


@pytest.mark.parametrize(
    "header", ["file_name,target", "filepath,Class Name", "image_path,category"]
)
def test_columns_may_have_other_names(tmp_path: Path, header: str) -> None:
    [example] = read_table(tmp_path, f"{header}\na/1.jpg,cat\n")
    assert (example.name, example.label) == ("a/1.jpg", "cat")


def test_other_columns_are_ignored_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,path,class,label,age,splt\n1,a.jpg,7,cat,30,test\n")
    example, issue = datasets.csv(str(tmp_path / "t.csv"))
    assert isinstance(example, Example)
    assert (example.label, example.split) == ("cat", "")
    assert isinstance(issue, Issue)
    assert issue.problem == "columns of the table that are not read: id, class, age, splt"
    assert issue.action.endswith("; splt: did you mean 'split'?")


def read_labels(root: Path, text: str, **options: str) -> tuple[list[Any], list[str]]:
    """The labels of a table, and what its issues say."""
    (root / "table.csv").write_text(text, encoding="utf-8")
    items = datasets.csv(str(root / "table.csv"), **options)
    return [e.label for e in examples_of(items)], list(problems_of(items).values())


def test_several_labels_in_one_cell(tmp_path: Path) -> None:
    text = "path,tags,label\na.jpg,x,cat| dog\nb.jpg,y,\nc.jpg,z,dog|\n"
    labels, problems = read_labels(tmp_path, text, separator="|")
    assert labels == [("cat", "dog"), "", ("dog",)]
    assert problems == ["columns of the table that are not read: tags"]
    labels, problems = read_labels(tmp_path, text, separator="|", labels="tags")
    assert labels == [("x",), ("y",), ("z",)]
    assert problems == ["columns of the table that are not read: label"]


def test_columns_of_0_and_1_are_labels(tmp_path: Path) -> None:
    text = "path,cat, dog ,image\na.jpg,1,0,1\nb.jpg,0.0,FALSE,no\nc.jpg,true,1.0,Yes\n"
    labels, problems = read_labels(tmp_path, text)
    assert labels == [("cat", "image"), (), ("cat", "dog", "image")]
    assert problems == ["there is no label column, but 3 columns of 0 and 1: cat, dog, image"]
    labels, problems = read_labels(tmp_path, text, labels="dog,cat")
    assert labels == [("cat",), (), ("dog", "cat")]
    assert problems == ["columns of the table that are not read: image"]


def test_a_table_with_a_single_1_in_every_row_has_classes(tmp_path: Path) -> None:
    text = "path,cat,dog\na.jpg,1,0\nb.jpg,0,1\n"
    assert read_labels(tmp_path, text)[0] == ["cat", "dog"]
    assert read_labels(tmp_path, text, labels="cat,dog")[0] == ["cat", "dog"]
    assert read_labels(tmp_path, f"{text}c.jpg,0,0\n")[0] == [("cat",), ("dog",), ()]


def test_columns_of_numbers(tmp_path: Path) -> None:
    text = "file,class,category,angle,x y\na.jpg,c,d, 1.5,-2\nb.jpg,c,d,1e3,NA\nc.jpg,c,d,,3\n"
    labels, problems = read_labels(tmp_path, text, target="angle")
    assert labels == [{"angle": 1.5}, {"angle": 1000.0}, ""]
    assert problems == ["columns of the table that are not read: class, category, x y"]
    labels, _ = read_labels(tmp_path, text, targets="angle, x y")
    assert labels == [{"angle": 1.5, "x y": -2.0}, "", ""]
    assert read_labels(tmp_path, text, targets="angle")[0] == [{"angle": 1.5}, {"angle": 1e3}, ""]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("path,angle\n", {"target": "angel"}, "no column 'angel'; did you mean 'angle'"),
        ("path,a,b\n", {"targets": "a,c"}, "no column 'c'; there are a, b, path"),
        ("path,a,b\n", {"labels": "a,B"}, "no column 'B'"),
        ("path,a\nx,1\ny,up\n", {"target": "a"}, "line 3: 'up' in the column 'a' is not a number"),
        ("path,a\nx,inf\n", {"targets": "a"}, "line 2: 'inf' in the column 'a' is not a number"),
        ("path,a\nx,1\ny,\n", {"labels": "a"}, "line 3: '' in the column 'a' is neither 0 nor 1"),
        ("path,a\n", {"target": "a", "labels": "a"}, "labels=a and target=a exclude each other"),
        ("path,a\n", {"target": "a", "separator": ";"}, "separator=; and target=a exclude"),
        ("path,cat\na.jpg,1\n", {}, "no column label; .*labels=A,B.*targets=A,B"),
        ("path,cat,dog\na.jpg,1,2\n", {}, "no column label"),
        ("name,cat,dog\na.jpg,1,0\n", {}, "no column path or label; .*did you mean 'filename'"),
        ("cat,dog\n1,0\n", {"labels": "cat"}, "no column path;"),
    ],
)
def test_false_columns_of_labels_are_reported(
    tmp_path: Path, text: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_labels(tmp_path, text, **options)


def test_options_of_a_table_are_those_of_data_option(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,a,b\nx.jpg,1,2\n", encoding="utf-8")
    read = read_source(str(tmp_path / "t.csv"), registry.load(), {"targets": "a,b"})
    assert [e.label for e in read.examples] == [{"a": 1.0, "b": 2.0}]
    with pytest.raises(StudyError, match="did you mean 'targets'"):
        read_source(str(tmp_path / "t.csv"), registry.load(), {"tragets": "a,b"})


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    for name in ("pipe.csv", "pipe.npz"):
        os.mkfifo(tmp_path / name)
    for read, name in ((datasets.csv, "pipe.csv"), (datasets.npz, "pipe.npz")):
        with pytest.raises(DataError, match="not a file"):
            read(str(tmp_path / name))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,lable\n", "no column label; .*; did you mean 'label'"),
        ("filename,image,label\n", "columns 'filename' and 'image' may both be the path"),
        ("path,label,label\n", "columns 'label' and 'label' may both be the label"),
        ("path\na.jpg\n", "no column label; the first line must read path,label"),
        ("", "no column path or label"),
        ("path,label,split\na,b,train\na,b,tset\n", "line 3: unknown split 'tset'; did you mean"),
        ("path,label\n,cat\n", "line 2: no path"),
        ("path,label\na,b.jpg,cat\n", "line 2: more cells than columns"),
    ],
)
def test_a_faulty_table_is_reported_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(tmp_path, text)


def test_a_table_that_is_not_text_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"path,label\n\xff.jpg,cat\n")
    with pytest.raises(DataError, match="UTF-8"):
        datasets.csv(str(tmp_path / "t.csv"))
    with pytest.raises(DataError, match="No such file"):
        datasets.csv(str(tmp_path / "nowhere.csv"))


def read_arrays(tmp_path: Path, **arrays: Any) -> list[Example]:
    np.savez(tmp_path / "set.npz", **arrays)
    return datasets.npz(str(tmp_path / "set.npz"))


def test_arrays_are_read_with_the_keys_of_medmnist(tmp_path: Path) -> None:
    grey, colour = np.zeros((2, 8, 8), np.uint8), np.ones((1, 8, 8, 3), np.uint8)
    examples = read_arrays(
        tmp_path,
        train_images=grey,
        train_labels=np.array([[7], [10]]),
        val_images=colour,
        val_labels=np.array([7]),
    )
    assert summarise(examples) == [
        ("train/0", "7", "train"),
        ("train/1", "10", "train"),
        ("val/0", "7", "validation"),
    ]
    assert examples[2].item.shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("images", "labels", "split"),
    [
        ("x_train", "y_train", "train"),
        ("X_test", "y_test", "test"),
        ("valid_images", "valid_labels", "validation"),
        ("images", "labels", ""),
        ("x", "y", ""),
    ],
)
def test_arrays_may_have_other_names_and_one_channel(
    tmp_path: Path, images: str, labels: str, split: str
) -> None:
    arrays = {images: np.zeros((2, 8, 8, 1), np.uint8), labels: np.array([[1], [0]])}
    examples = read_arrays(tmp_path, **arrays)
    assert [(e.label, e.split, e.item.shape) for e in examples] == [
        ("1", split, (8, 8)),
        ("0", split, (8, 8)),
    ]


IMAGES = np.zeros((4, 8, 8), np.uint8)


def test_labels_of_arrays_are_texts_or_numbers(tmp_path: Path) -> None:
    images = IMAGES
    floats = read_arrays(tmp_path, x=images, y=np.array([1.0, np.nan, 2.5, -1]))
    assert [e.label for e in floats] == [1.0, "", 2.5, -1.0]
    texts = read_arrays(tmp_path, x=images, y=np.array([b"cat", b"dog", b"1", b""]))
    assert [e.label for e in texts] == ["cat", "dog", "1", ""]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"train_labels": np.full((2, 5), 2)},
            r"int64 \[2, 5\]; expected one label .* or \[N, C\]",
        ),
        ({"train_labels": np.full((2, 5), "a")}, "expected one label for each image"),
        ({"train_labels": np.zeros((2, 5, 1))}, "expected one label for each image"),
        (
            {"train_labels": np.zeros((2, 2)), "classes": np.array(["a"])},
            "train_labels has 2 columns, but classes has 1 names",
        ),
        ({"train_labels": np.zeros(3)}, "one label for each of 2"),
        ({"train_images": np.zeros((2, 8, 8))}, "float64"),
        ({"train_images": np.zeros((2, 8, 8, 8, 8), np.uint8)}, "expected uint8"),
        ({"val_images": np.zeros((2, 8, 8), np.uint8)}, "val_labels"),
        ({"train_labels": np.array(3)}, r"train_labels must have one label .* but is \[\]"),
        ({"train_images": np.array(3, np.uint8)}, "train_images is uint8 "),
    ],
)
def test_faulty_arrays_are_reported(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    good = {"train_images": np.zeros((2, 8, 8), np.uint8), "train_labels": np.zeros(2)}
    with pytest.raises(DataError, match=message):
        read_arrays(tmp_path, **{**good, **given})


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, bool])
def test_an_array_of_0_and_1_has_several_labels(tmp_path: Path, dtype: Any) -> None:
    labels = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], dtype)
    numbered = read_arrays(tmp_path, x=IMAGES, y=labels)
    assert [e.label for e in numbered] == [("0", "2"), (), ("1",), ("0", "1", "2")]
    classes = np.array(["cat", "dog", "bird"])
    named = read_arrays(tmp_path, x=IMAGES, y=labels, classes=classes)
    assert [e.label for e in named] == [("cat", "bird"), (), ("dog",), ("cat", "dog", "bird")]


def test_exactly_one_1_in_every_row_is_a_class(tmp_path: Path) -> None:
    arrays = {"train_images": IMAGES, "train_labels": np.eye(4)}
    assert [e.label for e in read_arrays(tmp_path, **arrays)] == ["0", "1", "2", "3"]
    arrays |= {"test_images": IMAGES, "test_labels": np.ones((4, 4))}
    examples = read_arrays(tmp_path, **arrays)
    assert [e.label for e in examples[:4]] == [("0",), ("1",), ("2",), ("3",)]


def test_an_array_of_floats_has_several_numbers(tmp_path: Path) -> None:
    labels = np.array([[0.5, 2], [1, 0], [np.nan, 1], [3, 4]])
    examples = read_arrays(tmp_path, x=IMAGES, y=labels, names=np.array(["x", "y"]))
    assert [e.label for e in examples] == [
        {"x": 0.5, "y": 2.0},
        {"x": 1.0, "y": 0.0},
        "",
        {"x": 3.0, "y": 4.0},
    ]


def test_files_that_are_not_npz_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no train_images, x_train or images; there are z"):
        read_arrays(tmp_path, z=np.zeros(1))
    pickled = np.array([{}], dtype=object)
    with pytest.raises(DataError, match="not a readable"):
        read_arrays(tmp_path, train_images=pickled, train_labels=np.zeros(1))
    for content in (b"", b"PK\x03\x04", b"text"):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(DataError, match="not a readable"):
            datasets.npz(str(tmp_path / "bad.npz"))


def test_the_digits_of_scikit_learn() -> None:
    examples = datasets.sklearn("sklearn:digits")
    assert len(examples) == 1797
    assert {e.label for e in examples} == set("0123456789")
    assert examples[0].item.dtype == np.uint8
    assert max(e.item.max() for e in examples) == 255
    with pytest.raises(DataError, match="did you mean 'digits'"):
        datasets.sklearn("sklearn:digit")


def test_each_plugin_declares_the_sources_that_it_reads() -> None:
    matches = {p.name: p.matches for p in vars(datasets).values() if hasattr(p, "matches")}
    assert matches == {
        "folder": ("*/",),
        "csv": ("*.csv", "*.tsv"),
        "npz": ("*.npz",),
        "sklearn": ("sklearn:*",),
    }


def test_images_in_a_folder_unlabelled_have_no_label(tmp_path: Path) -> None:
    plain = create_files(tmp_path / "plain", "cat/a.jpg", "dog/b.jpg", "Unlabeled/deep/er/c.jpg")
    assert summarise(read_folder(plain)) == [
        ("cat/a.jpg", "cat", ""),
        ("dog/b.jpg", "dog", ""),
        ("Unlabeled/deep/er/c.jpg", "", "unlabelled"),
    ]
    split = create_files(tmp_path / "split", "train/a/1.jpg", "test/a/1.jpg", "unlabelled/1.jpg")
    assert summarise(read_folder(split))[2:] == [("unlabelled/1.jpg", "", "unlabelled")]
    empty = create_files(tmp_path / "empty", "a/1.jpg", "b/1.jpg", "unlabelled/notes.txt")
    problems = problems_of(datasets.folder(str(empty)))
    assert problems["unlabelled"] == "the folder has no image"


def test_rows_without_a_label_or_of_the_split_unlabelled(tmp_path: Path) -> None:
    create_files(tmp_path, *(f"{c}.jpg" for c in "abcd"))
    table = "path,label,split\na.jpg,cat,\nb.jpg,,\nc.jpg,dog,unlabelled\nd.jpg,,test\n"
    (tmp_path / "t.csv").write_text(table)
    source = read_source(str(tmp_path / "t.csv"), registry.load())
    assert [e.name for e in source.examples] == ["a.jpg", "d.jpg"]
    assert summarise(list(source.unlabelled)) == [("b.jpg", "", ""), ("c.jpg", "", "unlabelled")]
    binary = "path,cat,dog,split\na.jpg,1,0,\nb.jpg,0,1,\nc.jpg,0,0,unlabelled\n"
    assert [e.label for e in read_table(tmp_path, binary)] == ["cat", "dog", ""]


def test_an_archive_may_have_unlabelled_images(tmp_path: Path) -> None:
    images = np.zeros((2, 4, 4), np.uint8)
    arrays = {"train_images": images, "train_labels": [0, 1], "unlabelled_images": images}
    np.savez(tmp_path / "a.npz", **arrays)
    examples = datasets.npz(str(tmp_path / "a.npz"))
    assert summarise(examples)[2:] == [(f"unlabelled/{i}", "", "unlabelled") for i in range(2)]
