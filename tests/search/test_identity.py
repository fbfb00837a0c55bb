"""What must be the same in all runs of a study."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autotl.errors import StudyError
from autotl.search import identity
from autotl.store import Store
from autotl.study import StudyConfig, configure


def settings(**options: Any) -> StudyConfig:
    return configure("photos", {"study": "s", **options})


def test_what_is_not_given_is_adopted_and_said() -> None:
    stored = {**identity.of_settings(settings(epochs=3, image_size=96)), "precision": "None"}
    bare = settings()
    adopted = identity.adopt(bare, stored)
    assert (adopted.epochs, adopted.image_size, adopted.precision) == (3, (96,), "float32")
    text = identity.describe_adopted(bare, adopted)
    assert text == "as in the earlier runs of this study: epochs=3, image_size=96"
    given = settings(epochs=5)
    assert identity.adopt(given, stored).epochs == 5
    assert identity.adopt(given, None) == given


def test_a_study_without_a_complete_trial_is_continued_only_with_its_settings() -> None:
    store = Store("sqlite://")
    assert identity.find_earlier(store, settings()) is None
    planned = {**identity.of_settings(settings(epochs=3)), "image_size": [64]}
    store.begin_study("s", identity=planned, input_size=64)
    store.begin_trial("s", 0, {}, 3)
    assert identity.find_earlier(store, settings(epochs=3)) is not None  # 64 px were chosen for it
    assert identity.find_earlier(store, settings(epochs=4)) is None
    assert identity.find_earlier(store, settings(epochs=3, image_size=96)) is None
    store.finish_trial("s", 0, "complete", score=0.5)
    assert identity.find_earlier(store, settings(epochs=4)) is not None


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ({"epochs": 3}, {"epochs": 4}, "has epochs=3, not 4; choose .*--study, leave epochs out"),
        ({"image_size": []}, {"image_size": [96, 64]}, "image_size=the backbone's, not 96 and 64"),
        ({}, {"data": "x"}, "was begun with other images or labels; choose another name"),
        ({"recipe": "a"}, {"recipe": None}, "was begun with another recipe, or none; choose"),
        ({"precision": "None"}, {"precision": "torch.bfloat16"}, "=float32, not bfloat16"),
        ({"precision": "tf32"}, {"precision": "torch.float16"}, "=tf32, not float16"),
    ],
)
def test_a_conflict_names_both_values(old: dict[str, Any], new: dict[str, Any], says: str) -> None:
    with pytest.raises(StudyError, match=says):
        identity.require_same("s", old, new, "autotl studies delete s")
    identity.require_same("s", new, new, "autotl studies delete s")


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16", "float16"])
def test_the_precision_that_is_stored_is_adopted(precision: str) -> None:
    stored = identity.of_settings(settings(precision=precision))
    assert stored["precision"] == identity.of_precision(precision)
    adopted = identity.adopt(settings(), {"precision": identity.of_precision(precision)})
    assert adopted.precision == precision


def test_the_stored_precisions_of_earlier_versions_are_the_same() -> None:
    assert identity.of_precision("float32") == str(None)
    assert identity.of_precision("bfloat16") == str(torch.bfloat16)
    assert "precision" not in identity.of_settings(settings())  # auto is known with the device


def test_the_channels_of_a_study_are_adopted_and_those_of_an_earlier_version_are_rgb() -> None:
    rgb, grey = StudyConfig(data="photos"), StudyConfig(data="photos", in_chans=1)
    earlier = {k: v for k, v in identity.of_settings(rgb).items() if k != "in_chans"}
    identity.require_same("photos", earlier, identity.of_settings(rgb), "delete")
    stored = identity.of_settings(grey)
    assert stored["in_chans"] == 1
    assert identity.adopt(rgb, stored).in_chans == 1
    given = StudyConfig(data="photos", in_chans=3)
    with pytest.raises(StudyError, match="has in_chans=1, not 3"):
        identity.require_same("photos", stored, identity.of_settings(given), "delete")
    with pytest.raises(StudyError, match="has in_chans=3, not 1"):
        identity.require_same("photos", earlier, stored, "delete")
