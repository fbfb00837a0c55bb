"""Texts as a kind of input: what they are read from, shown as and explained by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from autotl_text.kind import PARTS, text
from autotl_text.tokens import SpecialTokens, Tokens

from autotl.errors import DataError
from autotl.space.item_defaults import SHOWN_CHARACTERS


@pytest.mark.parametrize("item", ["", " \n\t"])
def test_an_empty_text_is_a_problem(item: str) -> None:
    with pytest.raises(ValueError, match="the text is empty"):
        text.content(item)


def test_equal_texts_have_equal_content_and_other_things_none() -> None:
    assert text.content("naïve") == "naïve".encode()
    with pytest.raises(ValueError, match="not a text but ndarray"):
        text.content(np.zeros(3))


def test_the_beginning_of_a_long_text_is_shown() -> None:
    assert text.show("short", {}).content == b"short"
    preview = text.show("é" * 10_000, {})
    assert preview.media_type == "text/plain"
    assert preview.content.decode() == "é" * SHOWN_CHARACTERS + "…"


def test_an_argument_that_is_no_path_is_the_text_itself() -> None:
    assert list(text.read("A fine film.\n  Really.")) == [
        ("A fine film. Really.", "A fine film.\n  Really.")
    ]
    assert next(text.read("word " * 5000))[1] == "word " * 5000  # too long for a path
    assert len(list(text.read("/s means that it is a joke"))) == 1


@pytest.mark.parametrize("argument", ["new.csv", "./new", "~/new", "texts/new.TXT", "/new"])
def test_a_path_without_a_file_is_not_taken_for_a_text(argument: str) -> None:
    with pytest.raises(DataError, match="there is no file"):
        text.read(argument)


def test_near_names_are_proposed(tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("text\na\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"did you mean 'texts\.csv'\?"):
        text.read(str(tmp_path / "text.csv"))


def test_a_folder_has_one_text_in_each_file(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/two.txt", "one.TXT", "b/.hidden.txt", "notes.pdf"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    assert list(text.read(str(tmp_path))) == [("b/two.txt", "b/two.txt"), ("one.TXT", "one.TXT")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no text files"):
        text.read(str(tmp_path / "empty"))


def test_a_file_is_a_text_or_a_table(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("\ufeffA text\nof two lines", encoding="utf-8")
    file = str(tmp_path / "one.txt")
    assert list(text.read(file)) == [(file, "A text\nof two lines")]
    (tmp_path / "some.csv").write_text("id,Review\n1,good\n2,bad\n", encoding="utf-8")
    table = str(tmp_path / "some.csv")
    assert list(text.read(table)) == [(f"{table}:2", "good"), (f"{table}:3", "bad")]
    (tmp_path / "only.csv").write_text("anything\ngood\n", encoding="utf-8")
    assert [item for _, item in text.read(str(tmp_path / "only.csv"))] == ["good"]
    (tmp_path / "image.png").write_bytes(b"x")
    with pytest.raises(DataError, match="is not a file of texts"):
        text.read(str(tmp_path / "image.png"))
    (tmp_path / "one.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match="save it as UTF-8"):
        list(text.read(file))


def predict_by_word(texts: list[str]) -> np.ndarray:
    scores = np.array([0.9 if "good" in t else 0.3 if "bad" in t else 0.5 for t in texts])
    return np.stack([1 - scores, scores], 1).astype(np.float32)


def test_the_word_that_decides_has_the_largest_weight() -> None:
    explanation = text.explain("a  good film\n", 1, predict_by_word)
    assert [part for part, _ in explanation.parts] == ["a  ", "good ", "film\n"]
    assert [round(weight, 5) for _, weight in explanation.parts] == [0, 1, 0]
    against = text.explain("a good film", 0, predict_by_word)
    assert against.parts[1][1] == pytest.approx(-1)
    assert text.explain("nothing", 0, predict_by_word).parts == (("nothing", 1.0),)
    neutral = text.explain("no effect at all", 0, predict_by_word)
    assert {weight for _, weight in neutral.parts} == {0.0}


def test_a_long_text_is_explained_in_parts() -> None:
    calls = []

    def predict(texts: list[str]) -> np.ndarray:
        calls.append(len(texts))
        return predict_by_word(texts)

    item = " ".join(["so"] * 500 + ["good"] + ["so"] * 500)
    parts = text.explain(item, 1, predict).parts
    assert "".join(part for part, _ in parts) == item
    assert len(parts) <= PARTS
    assert sum(calls) == len(parts) + 1
    assert max(calls) < 30
    assert max(parts, key=lambda part: part[1])[0].count("good") == 1


def test_toy_texts_have_words_of_their_class() -> None:
    examples = text.toy((5, 4, 3), seed=1)
    assert examples == text.toy((5, 4, 3), seed=1)
    assert examples != text.toy((5, 4, 3), seed=2)
    assert [e.label for e in examples][:4] == ["animals", "food", "weather", "animals"]
    assert len({e.name for e in examples}) == 12
    with pytest.raises(ValueError, match="4 classes"):
        text.toy((1,) * 5)


def test_the_useful_size_is_that_of_nearly_all_texts() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    expects = Tokens(tokenizer.to_str(), SpecialTokens(0, 1, (0,)), 128, {})
    texts = ["w " * 9] * 98 + ["w " * 500] * 2
    assert text.useful_size(texts, expects) == 16
    assert text.useful_size(["w " * 500], expects) == 128
    assert text.useful_size(["w " * 16], expects) == 16
    assert text.useful_size([], expects) is None
