"""Backbones are compared on samples before they are probed on very many examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from images import FAST, read_trials, write_images
from noise_images import noise_examples

from autotl import engine, study
from autotl.data import Dataset, check
from autotl.errors import OutOfMemory, OutOfTime, StoreError
from autotl.events import Event, Note, Stage, TrialFinished
from autotl.search import portfolio, screening
from autotl.search.screening import FINALISTS, Screening, compare_by_halving, draw_samples
from autotl.store import SCREENING, ScreeningFacts, Store, join
from autotl.training.frozen_inputs import FrozenInputs

Make = Callable[..., study.StudyConfig]
Run = Callable[..., engine.Result]
Computed = dict[str, list[int]]

BACKBONES = """
from autotl import backbone
from tiny_plugin import tiny, torch


def sees(*channels: int):
    made = tiny()
    with torch.no_grad():
        made.stem[0].weight[:, [c for c in range(3) if c not in channels]] = 0
    return made


@backbone
def blind():
    return sees()


@backbone
def dark():
    return sees()


@backbone
def red():
    return sees(0)


@backbone
def blue():
    return sees(2)


@backbone
def both():
    return sees(0, 2)


@backbone
def broken():
    raise RuntimeError("boom")
"""
NAMES = ["blind", "broken", "red", "dark", "both", "blue"]


# ---------------------------------------------------------------- successive halving


class Backbones:
    """Scores of backbones that are the more exact the more examples they are measured on."""

    def __init__(self, quality: Mapping[str, float], errors: Mapping[str, Exception] = {}) -> None:
        self.quality, self.errors = quality, errors
        self.computed = dict.fromkeys(quality, 0)
        self.calls = 0

    def score(self, name: str, count: int) -> float:
        self.calls += 1
        if error := self.errors.get(name):
            raise error
        self.computed[name] = max(count, self.computed[name])  # others are cached
        error_of_sample = 10 / count * (-1) ** len(name)
        return self.quality[name] + error_of_sample


QUALITY = {"a": 0.1, "bb": 0.5, "c": 0.9, "dd": 0.7, "e": 0.3, "ff": 0.8, "g": 0.6, "hh": 0.2}


def test_the_order_is_that_on_all_examples_where_backbones_differ_clearly() -> None:
    backbones = Backbones(QUALITY)
    facts = compare_by_halving(list(QUALITY), backbones.score, 1000, 4000)
    assert facts.backbones == sorted(QUALITY, key=lambda name: -QUALITY[name])
    assert facts.promising == ["c", "ff"]
    assert facts.left_out == facts.backbones[2:]
    assert facts.samples == [1000, 2000]
    assert {name: len(scores) for name, scores in facts.scores.items()} == {
        name: 2 if name in ("c", "ff", "dd", "g") else 1 for name in QUALITY
    }


@pytest.mark.parametrize("count", [3, 4, 5, 9, 16, 64])
def test_as_many_examples_are_computed_as_successive_halving_promises(count: int) -> None:
    backbones = Backbones({f"b{i}": i / count for i in range(count)})
    facts = compare_by_halving(list(backbones.quality), backbones.score, 1000, 1_000_000)
    total = sum(backbones.computed.values())
    assert total <= 1000 * count * screening._count_passes(count) * 1.25  # halves are rounded up
    assert total < 1000 * count * (1 + np.log2(count) / 2)
    assert (
        max(backbones.computed.values())
        == facts.samples[-1]
        == 1000 * 2 ** (len(facts.samples) - 1)
    )
    assert facts.promising == [f"b{count - 1}", f"b{count - 2}"]


def test_samples_grow_up_to_the_largest() -> None:
    facts = compare_by_halving(list("abcdefghijklmnopq"), lambda *_: 0.5, 1000, 1500)
    assert facts.samples == [1000, 1500, 1500, 1500]
    assert facts.backbones[:2] == facts.promising == ["a", "b"]  # equal ones in their order


def test_a_backbone_that_fails_is_the_last_one_and_does_not_end_the_comparison() -> None:
    errors = {"c": OutOfMemory("the model does not fit"), "ff": ValueError("boom")}
    facts = compare_by_halving(list(QUALITY), Backbones(QUALITY, errors).score, 1000, 4000)
    assert facts.backbones == ["dd", "g", "bb", "e", "hh", "a", "c", "ff"]
    assert facts.promising == ["dd", "g"]
    assert facts.failed == {"c": "the model does not fit", "ff": "ValueError: boom"}
    everything = dict.fromkeys(QUALITY, ValueError("constant numbers"))
    facts = compare_by_halving(list(QUALITY), Backbones(QUALITY, everything).score, 1000, 4000)
    assert (facts.samples, facts.left_out) == ([], [])  # nothing is known about any
    full = Backbones(QUALITY, {"e": OSError(28, "No space left on device")})
    with pytest.raises(StoreError, match="No space"):
        compare_by_halving(list(QUALITY), full.score, 1000, 4000)


@pytest.mark.parametrize(
    ("calls", "promising", "samples"),
    [
        (0, list(QUALITY), []),
        (3, ["c", "bb"], [1000]),
        (8, ["c", "ff"], [1000, 2000]),
        (10, ["c", "ff"], [1000, 2000]),
    ],
)
def test_when_the_time_has_elapsed_what_was_compared_counts(
    calls: int, promising: list[str], samples: list[int]
) -> None:
    backbones = Backbones(QUALITY)

    def score(name: str, count: int) -> float:
        if backbones.calls == calls:
            raise OutOfTime("no time")
        return backbones.score(name, count)

    facts = compare_by_halving(list(QUALITY), score, 1000, 4000)
    assert (facts.promising, facts.samples) == (promising, samples)
    assert sorted(facts.backbones) == sorted(QUALITY)


def test_what_fails_just_before_the_time_has_elapsed_is_not_promising() -> None:
    def score(name: str, count: int) -> float:
        if count == 1000:
            return QUALITY[name]
        raise OutOfTime("no time") if name == "ff" else ValueError("boom")

    facts = compare_by_halving(list(QUALITY), score, 1000, 4000)
    assert facts.promising == ["ff", "dd"]
    assert facts.backbones[-1] == "c"
    assert sorted(facts.backbones) == sorted(QUALITY)


# ---------------------------------------------------------------- samples


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return check(noise_examples(60, "abcd"), "noise", validation=0.25, test=0.2)


def test_samples_are_nested_and_never_have_a_test_example(dataset: Dataset) -> None:
    samples = draw_samples(dataset, 80, seed=0)
    small, large = samples.choose(40), samples.choose(80)
    for few, more, split, size in zip(small, large, ("train", "validation"), (30, 10), strict=True):
        assert len(few) == size
        assert len(more) == 2 * size
        assert set(few) < set(more) <= set(dataset.indices(split))
    counts = np.bincount(dataset.targets[small[0]])
    assert counts.max() - counts.min() <= 2
    again = draw_samples(dataset, 80, seed=0).choose(40)
    assert all(map(np.array_equal, small, again))
    assert not np.array_equal(small[0], draw_samples(dataset, 80, seed=1).choose(40)[0])


def test_of_too_many_classes_a_sample_has_some(dataset: Dataset) -> None:
    samples = draw_samples(dataset, 16, seed=0)  # twelve train, six of each class
    fitted, scored = samples.choose(16)
    assert sorted(np.bincount(dataset.targets[fitted], minlength=4)) == [0, 0, 6, 6]
    assert set(dataset.targets[scored]) <= set(dataset.targets[fitted])
    assert samples.largest == len(samples.fitted) + len(samples.scored)


# ---------------------------------------------------------------- searches


@pytest.fixture(scope="module")
def folder(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and a plugin file."""
    made = tmp_path_factory.mktemp("many")
    write_images(made / "photos", count=60)
    (made / "seeing_plugin.py").write_text(BACKBONES)
    return made


@pytest.fixture
def many(images: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes the settings of a search whose images count as very many."""
    monkeypatch.syspath_prepend(images)  # where tiny_plugin.py is
    monkeypatch.setattr(portfolio, "FILE", "no file")  # those are tried in any case
    sizes = {"FIRST_SAMPLE": 40, "SMALLEST_SAMPLE": 20, "LARGEST_SAMPLE": 80, "FEWEST_PER_CLASS": 2}
    for name, size in {**sizes, "FEWEST_EXAMPLES": 90}.items():
        monkeypatch.setattr(screening, name, size)

    def make(**options: Any) -> study.StudyConfig:
        values = {
            **FAST,
            "epochs": 1,
            "plugin": [images / "tiny_plugin.py", folder / "seeing_plugin.py"],
            "backbone": ["tiny", *NAMES],
            "freeze": ["linear_probe"],
            "head": ["linear"],
            "augment": ["none"],
            "out": tmp_path / "runs",
            "trials": 8,
        }
        return study.configure(str(folder / "photos"), {**values, **options})

    return make


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Computed:
    """The examples whose features were computed, by the name of the backbone."""
    indices: Computed = {}
    compute = FrozenInputs._compute_single

    def record(self: FrozenInputs, batches: Any, missing: Any, view: int | None) -> Any:
        indices.setdefault(self.config["backbone"].name, []).extend(missing.tolist())
        return compute(self, batches, missing, view)

    monkeypatch.setattr(FrozenInputs, "_compute_single", record)
    return indices


def read_facts(settings: study.StudyConfig) -> ScreeningFacts | None:
    with closing(Store(f"sqlite:///{settings.out}/autotl.db")) as store:
        return store.study(settings.name).screening


def test_only_promising_backbones_are_computed_on_all_examples(
    many: Make, run_trials: Run, computed: Computed, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    run_trials(many(), events.append)
    facts = read_facts(many())
    assert facts is not None
    assert facts.promising[0] == "both"
    assert set(facts.backbones[:3]) == {"both", "red", "blue"}
    assert set(facts.backbones[3:5]) == {"blind", "dark"}
    assert facts.failed == {"broken": "RuntimeError: boom"}
    assert facts.samples == [40, 80]
    assert facts.scores["both"][-1] > 0.9 > facts.scores["red"][0] > facts.scores["blind"][0]

    rows = read_trials(many())
    probed = [row.facts.recipe[0] for row in rows if row.facts.is_probe]
    assert probed == ["tiny", *facts.promising]
    backbones = [next(iter(row.config["backbone"])) for row in rows]
    assert not set(backbones) & set(facts.left_out)  # the sampler chooses none of them
    for name in ("blind", "dark"):
        assert len(computed[name]) == 40
    for name in facts.promising:
        assert len(computed[name]) == len(computed["tiny"])  # and none twice
        assert len(set(computed[name])) == len(computed[name])

    steps = {event.name for event in events if isinstance(event, Stage)}
    assert {"comparing 6 backbones on 40 images", "comparing 3 backbones on 80 images"} <= steps
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any(
        text.startswith("5 backbones were compared on a sample of 40 images") for text in notes
    )

    monkeypatch.setattr(Screening, "run", None)  # a study that is continued does not repeat it
    run_trials(many(trials=10))
    assert read_facts(many()) == facts
    more = [next(iter(row.config["backbone"])) for row in read_trials(many())]
    assert len(more) >= 10
    assert not set(more) & set(facts.left_out)


def test_an_interrupted_comparison_continues_with_its_features(
    many: Make, run_trials: Run, computed: Computed
) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, Stage) and event.name.startswith("comparing") and event.completed == 3:
            raise KeyboardInterrupt

    assert run_trials(many(trials=3), interrupt).interrupted
    assert read_facts(many()) is None
    run_trials(many(trials=3))
    facts = read_facts(many())
    assert facts is not None
    assert facts.promising[0] == "both"
    once = set(computed["red"])
    assert len(computed["red"]) <= len(once) + 2  # two rows of an earlier process are verified


def test_with_fewer_examples_nothing_is_compared(
    many: Make, run_trials: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening, "FEWEST_EXAMPLES", 1000)
    run_trials(many())
    assert read_facts(many()) is None
    probed = [row.facts.recipe[0] for row in read_trials(many()) if row.facts.recipe]
    assert probed[:7] == ["tiny", *NAMES]


def test_with_a_budget_backbones_are_compared_if_probing_all_takes_too_long(
    many: Make, run_trials: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_trials(many(budget=600, trials=4))
    assert read_facts(many()) is None
    monkeypatch.setattr(screening, "PROBING_FRACTION", 0.0)
    other = many(budget=600, trials=3, study="other")
    run_trials(other)
    facts = read_facts(other)
    assert facts is not None
    assert facts.promising[0] == "both"
    monkeypatch.setattr(screening, "TIME_FRACTION", 0.0)
    short = many(budget=600, trials=3, study="short")
    run_trials(short)
    facts = read_facts(short)
    assert facts is not None
    assert (facts.samples, facts.promising) == ([], NAMES)  # without time, all are promising
    assert [row.facts.recipe[0] for row in read_trials(short)] == ["tiny", *NAMES[:2]]


def test_other_workers_wait_for_the_result_of_one(
    many: Make, run_trials: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = many(trials=3)
    settings.out.mkdir()
    monkeypatch.setattr(Screening, "run", None)  # this worker does not compare
    with ExitStack() as stack:
        store = stack.enter_context(closing(Store(f"sqlite:///{settings.out}/autotl.db")))

        def compare_elsewhere(event: Event) -> None:
            if isinstance(event, TrialFinished) and event.number == 0:
                other = stack.enter_context(join(store, "photos", "cpu", settings.folder))
                assert other.try_lease(SCREENING)
            if isinstance(event, TrialFinished) and event.number == 1:
                facts = ScreeningFacts(samples=[40], backbones=NAMES, promising=NAMES[-FINALISTS:])
                store.update_study("photos", screening=facts)

        run_trials(settings, compare_elsewhere)
    rows = read_trials(settings)
    assert [row.facts.recipe[:1] for row in rows] == [["tiny"], [], [NAMES[-FINALISTS]]]
    assert list(rows[1].config["backbone"]) == ["tiny"]  # whose features are cached
