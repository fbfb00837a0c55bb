"""What the winner was compared with, in words."""

from __future__ import annotations

from typing import Any

import pytest
from example_study import add_trial, config
from report_examples import (
    add_selection,
    add_study,
    data_facts,
    describe,
    ensemble_contender,
    trial_contender,
)

from autotl import report
from autotl.store import (
    EpochRow,
    SavedModel,
    ScreeningFacts,
    Store,
    single,
)


def test_without_finals_ties_with_the_best_are_named(store: Store) -> None:
    add_study(store, 0.9, 0.85, 0.5, data=data_facts(independent_validation=100))
    add_trial(store, 3, 0.88, chosen=config(lr=0.001))
    tie = "On this validation split the winner is statistically indistinguishable from trial 1."
    assert tie in describe(store)
    store.update_study("birds", prefer="cheap")
    [sentence] = [s for s in describe(store) if "indistinguishable" in s]
    assert sentence.endswith("; it was preferred because it is the smallest of them.")


def test_the_winner_of_an_earlier_search_is_not_said_to_be_tied(store: Store) -> None:
    add_study(store, 0.9, 0.85, 0.5, data=data_facts(independent_validation=100))
    # A later search was interrupted: the model is still that of trial 2.
    store.update_study("birds", model=SavedModel(contender=single(2)))
    sentences = describe(store)
    assert sentences[0].startswith("The winner is trial 2 ")
    assert "indistinguishable" not in " ".join(sentences)


def test_the_winner_of_a_final_selection_stands_beside_the_baselines(store: Store) -> None:
    add_study(store, 0.99, 0.95, 0.9)
    contenders = (
        trial_contender(1, 0.9, True),
        trial_contender(0, 0.88, False, "default_recipe"),
        trial_contender(2, 0.8, False, "linear_probe"),
    )
    summary = add_selection(store, contenders, winner=contenders[0])
    sentences = report.describe_result(summary)
    assert sentences[0].startswith("The winner is trial 1 (tf_efficientnet_lite0 · full")
    assert sentences[0].endswith(
        "accuracy 0.9000 (95 % interval 0.8800 to 0.9200), the mean of 2 repeats, "
        "each with its own seed and validation split."
    )
    assert sentences[2:] == [
        "Baselines in the same repeats: default recipe 0.8800, linear probe 0.8000."
    ]


@pytest.mark.parametrize(
    ("winner", "prefer", "ending"),
    [
        (
            1,
            "accuracy",
            "from the ensemble and trial 2; the cheapest of them is trial 2.",
        ),
        (2, "accuracy", "from the ensemble and trial 1; it is the cheapest of them."),
        (
            2,
            "cheap",
            "from the ensemble and trial 1; it was preferred because it is the cheapest of them.",
        ),
    ],
)
def test_ties_are_named_with_the_cheapest_of_them(
    store: Store, winner: int, prefer: str, ending: str
) -> None:
    add_study(store, 0.99, 0.95, 0.9)
    contenders = (
        ensemble_contender({0: 0.5, 1: 0.5}, 0.91, True),
        trial_contender(1, 0.9, True),
        trial_contender(2, 0.89, True, "default_recipe"),
    )
    summary = add_selection(
        store, contenders, winner=contenders[winner], cheapest=contenders[2], prefer=prefer
    )
    sentences = report.describe_result(summary)
    assert sentences[0].startswith(f"The winner is trial {winner} ")
    beginning = "Over 2 repeats the winner is statistically indistinguishable "
    assert sentences[2] == beginning + ending
    itself = "The winner is the default recipe itself."
    assert sentences[3] == "Differences under 0.0280 cannot be seen in 2 repeats."
    assert sentences[4] == (
        itself if winner == 2 else "Baselines in the same repeats: default recipe 0.8900."
    )


def test_an_ensemble_that_could_not_be_built_is_mentioned(store: Store) -> None:
    add_study(store, 0.9, 0.8)
    contenders = (
        ensemble_contender({0: 0.5, 1: 0.5}, 0.95, False),
        trial_contender(0, 0.9, True),
    )
    sentences = report.describe_result(add_selection(store, contenders, winner=contenders[1]))
    assert sentences[2] == (
        "The ensemble of several trials is better, 0.9500 (95 % interval 0.9300 to 0.9700), "
        "but there was no time to build it."
    )
    assert "indistinguishable" not in " ".join(sentences)
    assert "cannot be seen" not in " ".join(sentences)


def test_backbones_that_were_left_out_are_named(store: Store) -> None:
    add_study(store, 0.9, 0.8)
    assert "left out" not in " ".join(describe(store))
    names = ["two", "three", "five", "four"]
    screening = ScreeningFacts(backbones=names, promising=names, failed={"four": "boom"})
    store.update_study("birds", screening=screening)  # without time to compare them
    assert report.summarise(store, "birds")["screening"] is None
    scores = {name: [0.5] for name in names[:3]}
    update = {"samples": [8000, 16000], "promising": names[:2], "scores": scores}
    screening = screening.model_copy(update=update)
    store.update_study("birds", screening=screening)
    assert (
        "3 backbones were compared on a sample of 8,000 to 16,000 images first: two and three were "
        "the most promising, and five and four (boom) were left out."
    ) in describe(store)
    assert report.summarise(store, "birds")["screening"]["left_out"] == ["five", "four"]


def test_a_trial_that_was_cut_with_the_best_score_is_named(store: Store) -> None:
    add_study(store, 0.727)
    add_trial(store, 1, None, "diverged", reason="the loss is nan", epochs=11, chosen=config(lr=1))
    assert "ended early" not in " ".join(describe(store))
    rows = [EpochRow(n, 0.5, score, 1.0) for n, score in ((7, 0.5), (8, 0.788))]
    store.finish_trial(
        "birds", 1, "diverged", reason="the loss is nan", score=None, seconds=1.0,
        trained_parameters=None, epochs=rows,
    )  # fmt: skip
    [sentence] = [s for s in describe(store) if "ended early" in s]
    assert sentence.startswith("Trial 1 (tf_efficientnet_lite0 · full · linear")
    assert sentence.endswith(
        "scored 0.7880 after epoch 8 of 11, better than all that completed, but ended early "
        "(diverged: the loss is nan), so it is not ranked."
    )
    add_trial(store, 2, 0.7, chosen=config(lr=1))  # it was trained again
    assert "ended early" not in " ".join(describe(store))


def gain(trials: list[int], mean: float, epochs: int = 6) -> dict[str, Any]:
    gap = {"mean": mean, "low": mean - 0.02, "high": mean + 0.03}
    return {"trials": trials, "scores": [0.9, 0.8], "epochs": [epochs, epochs], **gap}


def test_what_weights_gain_is_said_with_its_interval(store: Store) -> None:
    add_study(store, 0.9, 0.8)
    entry = {"backbone": "own", "over": "raw", "weights": "random"}
    summary = report.summarise(store, "birds")

    def last(**gains: Any) -> str:
        sentences = report.describe_result({**summary, "gains": [{**entry, **gains}]})
        [sentence] = [s for s in sentences if "gains" in s]
        return sentence

    same = gain([0, 1], 0.1)
    assert last(same_recipe=same, best=same) == (
        "Over random weights (raw), own gains in accuracy on the validation split: +0.1000 (95 % "
        "interval +0.0800 to +0.1300) with the same recipe and 6 epochs each."
    )
    assert last(same_recipe=gain([0, 1], -0.01, 1), best=gain([2, 1], 0.05)) == (
        "Over random weights (raw), own gains in accuracy on the validation split: -0.0100 (95 % "
        "interval -0.0300 to +0.0200) with the same recipe and 1 epoch each; +0.0500 (95 % "
        "interval +0.0300 to +0.0800) between the best trials with either, trials 2 and 1."
    )
    same["epochs"] = [7, 4]
    assert last(same_recipe=same, best=same).endswith("with the same recipe and 7 and 4 epochs.")
    assert last(same_recipe=None, best=None) == (
        "What own gains over random weights (raw) is unknown: one has no complete trial."
    )
