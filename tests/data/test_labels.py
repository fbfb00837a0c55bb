"""Labels: normal forms, names that are probably the same, and several labels in one."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pytest
from noise_images import noise_example, noise_examples

from autotl.data import check
from autotl.data.labels import (
    check_labels,
    find_composites,
    find_same,
    natural_key,
    normalise_label,
)
from autotl.errors import DataError
from autotl.space.plugin import Example


def relabel(labels: str | list[str], each: int = 4) -> list[Example]:
    return [
        noise_example(f"{c}/{i}", label, 100 * c + i)
        for c, label in enumerate(labels)
        for i in range(each)
    ]


@pytest.mark.parametrize("text", ["nan", "NaN", " ", "", "<NA>", "#N/A"])
def test_missing_labels_are_no_class(text: str) -> None:
    assert normalise_label(text) == ""
    dataset = check([*noise_examples(5), noise_example("x", text, 7)], "here")
    assert dataset.outputs == ("a", "b")
    assert dataset.issues[0].problem == "no label"


@pytest.mark.parametrize("text", ["NA", "None", "null", "nano"])
def test_names_that_may_be_classes_stay(text: str) -> None:
    assert normalise_label(text) == text


def test_forms_of_unicode_are_one_class() -> None:
    composed, decomposed = (unicodedata.normalize(f, "café") for f in ("NFC", "NFD"))
    dataset = check(relabel([composed, decomposed, "tea"]), "here")
    assert dataset.outputs == (composed, "tea")
    assert dataset.issues == ()


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("cat", "Cat"),
        ("cat", "cat "),
        ("hot dog", "hotdog"),
        ("1", "1.0"),
        ("01", "1"),
        ("+1", "1"),
    ],
)
def test_names_that_look_the_same_are_pointed_out(one: str, two: str) -> None:
    [issue] = [i for i in check(relabel([one, two, "z"]), "here").issues if "differ" in i.problem]
    assert repr(one) in issue.problem
    assert repr(two) in issue.problem
    assert find_same(one, ["x", one, two]) == two


@pytest.mark.parametrize(("one", "two"), [("1", "-1"), ("10", "1"), ("1.5", "15"), ("a", "b")])
def test_different_names_are_not(one: str, two: str) -> None:
    assert check_labels([one, two]) == []
    assert find_same(one, [two]) is None


def test_errors_of_missing_classes_name_the_similar_class() -> None:
    few = [*relabel(["cat", "dog"]), noise_example("x", "Cat", 7)]
    with pytest.raises(DataError, match=r"images of Cat .*'Cat' is probably 'cat': rename it"):
        check(few, "here")
    test = [noise_example(f"t{i}", "Dog", 70 + i, split="test") for i in range(3)]
    with pytest.raises(DataError, match=r"no training image of Dog.*'Dog' is probably 'dog'"):
        check([*relabel(["cat", "dog"]), *test], "here")


@pytest.mark.parametrize("text", ["a;b", "a|b", "b, a", "['a', 'b']"])
def test_several_labels_in_one_are_pointed_out_where_they_are_classes(text: str) -> None:
    issues = check(relabel(["a", "b", text]), "here").issues
    [issue] = [issue for issue in issues if "consists of" in issue.problem]
    assert re.search("labels '[ab]' and '[ab]'", issue.problem)
    assert "--task multilabel" in issue.action


def test_labels_that_only_occur_together_are_recognised() -> None:
    assert find_composites(["a;b", "b;c", "c;a"], ";") == {
        "a;b": ["a", "b"], "b;c": ["b", "c"], "c;a": ["c", "a"]
    }  # fmt: skip
    assert find_composites(["a;b", "b", "c"], ";") == {}


def test_a_name_of_several_words_is_pointed_out_if_they_are_classes() -> None:
    [issue] = check_labels(["ice", "cream", "ice cream", "hot dog"])
    assert (issue.name, issue.problem) == (
        "ice cream",
        "the label consists of the labels 'ice' and 'cream'",
    )
    assert check_labels(["a", "black; shiny", "dog"]) == []


def test_labels_of_thousands_of_digits_are_sorted_by_value() -> None:
    large = "9" * 5000
    names = [large, "10", "2", "1" + "0" * 5000, "x2", "x10"]
    assert sorted(names, key=natural_key) == ["2", "10", large, "1" + "0" * 5000, "x2", "x10"]
    assert check(relabel([large, "2"]), "here").outputs == ("2", large)
    assert check_labels([large, "9" * 4999]) == []


def test_arrays_of_floats_have_no_class_nan() -> None:
    assert normalise_label(str(np.nan)) == ""
