"""Configurations and results in words."""

from __future__ import annotations

import pytest
from example_study import add_test, add_trial, config
from report_examples import (
    add_selection,
    add_study,
    data_facts,
    ensemble_contender,
    trial_contender,
)

from autotl import report
from autotl.store import DataFacts, SavedModel, Store, single


def describe(store: Store) -> list[str]:
    return report.describe_result(report.summarise(store, "birds"))


def test_hyperparameters_are_rounded_but_whole_numbers_are_exact() -> None:
    chosen = {"head": {"mlp": {"width": 1024, "dropout": 0.123456, "norm": True}}}
    assert report.describe_config(chosen) == "mlp(width=1024, dropout=0.123, norm=True)"
    assert report.describe_config(chosen, values=False) == "mlp"
    assert report.describe_config({}) == ""


def test_a_study_without_a_complete_trial_has_no_winner(store: Store) -> None:
    add_study(store, None)
    assert describe(store) == ["No trial completed, so there is no winner."]


def test_a_score_without_an_interval_is_shown_alone(store: Store) -> None:
    add_study(store, 0.4, 0.6, metric="log_loss", direction="minimize")
    assert describe(store)[0] == (
        "The winner is trial 0 (tf_efficientnet_lite0 · full · linear · flip_crop · adamw): "
        "log_loss 0.4000, on the validation split, by which it was selected."
    )


def test_where_one_configuration_was_trained_nothing_is_said_of_a_selection(store: Store) -> None:
    add_study(store, 0.9)
    add_test(store, 0)
    model, test = describe(store)
    assert model == (
        "The model is tf_efficientnet_lite0 · full · linear · flip_crop · adamw: accuracy 0.9000 "
        "(95 % interval 0.8555 to 0.9319) on the validation split."
    )
    assert test.startswith("Its accuracy on the test split is 0.9222")


def test_the_test_score_names_its_images(store: Store) -> None:
    add_study(store, 0.9)
    add_test(store, 0)
    assert describe(store)[1] == (
        "Its accuracy on the test split is 0.9222 (95 % interval 0.8737 to 0.9531), "
        "measured on 180 images that the search did not use."
    )


def test_a_missing_test_score_is_explained(store: Store) -> None:
    add_study(store, 0.8, 0.9)
    assert describe(store)[1] == "There is no test score: the search ended before the test."
    add_test(store, 0)
    assert "was used before, for an earlier winner or" in describe(store)[1]


def test_a_missing_test_split_is_named(store: Store) -> None:
    add_study(store, 0.8, data=DataFacts(classes=["wren"], test=0))
    assert describe(store)[1].endswith("no images were set aside for a test split.")


def test_several_uses_of_the_test_split_are_warned_of(store: Store) -> None:
    add_study(store, 0.9)
    for _ in range(2):
        add_test(store, 0)
    assert describe(store)[-1].startswith("The test split was used 2 times. Only the first score")


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
    assert sentences[2:] == ["Baselines: default recipe 0.8800, linear probe 0.8000."]


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
    assert sentences[4] == (itself if winner == 2 else "Baselines: default recipe 0.8900.")


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


def test_an_ensemble_is_described_by_its_members(store: Store) -> None:
    add_study(store, 0.9, 0.8)
    ensemble = ensemble_contender({0: 0.75, 1: 0.25}, 0.95, True)
    contenders = ensemble, trial_contender(0, 0.9, False)
    sentences = report.describe_result(add_selection(store, contenders, winner=ensemble))
    assert sentences[0].startswith(
        "The winner is the ensemble of trial 0 (0.75) and trial 1 (0.25): accuracy 0.9500 ("
    )
