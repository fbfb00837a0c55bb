"""Contenders: what identifies one, what it is called, and what of it is stored."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import ValidationError

from autotl.store import Contender, Interval, Member, Standing, single
from autotl.store.contender import Kind, parse


def combined(kind: Kind = "ensemble", **weights: float) -> Contender:
    members = tuple(Member(trial=int(name[1:]), weight=w) for name, w in weights.items())
    return Contender(kind=kind, members=members)


def test_a_contender_is_identified_by_its_kind_members_and_weights() -> None:
    first = combined(t7=0.75, t2=0.25)
    same = combined(t7=0.75, t2=0.25).model_copy(
        update={"scores": (0.5,), "role": "ensemble", "ms_per_item": 2.0}
    )
    assert first.id == same.id == combined(t2=0.25, t7=0.75).id  # in any order
    others = [
        combined(t7=0.5, t2=0.5),
        combined(t7=0.75, t3=0.25),
        combined(t7=0.5, t2=0.25, t3=0.25),
        combined("soup", t7=0.75, t2=0.25),
        single(7),
        single(2),
    ]
    assert len({contender.id for contender in (first, *others)}) == 1 + len(others)


def test_the_members_of_a_contender() -> None:
    contender = combined(t7=0.75, t2=0.25)
    assert (contender.lead, contender.trials, contender.weights) == (7, (7, 2), (0.75, 0.25))
    assert (single(3).lead, single(3).trials, single(3).weights) == (3, (3,), (1.0,))
    with pytest.raises(ValidationError, match="members"):
        Contender(members=())


def test_a_contender_has_a_name_for_people() -> None:
    contenders = single(7), combined(t7=0.5, t2=0.5), combined("soup", t7=0.5, t2=0.5)
    names = [contender.name for contender in contenders]
    assert names == ["trial 7", "ensemble", "soup"]


def test_the_mean_of_its_scores() -> None:
    assert single(0, scores=(0.5, 1.0)).mean == 0.75


@pytest.mark.parametrize("contender", [single(7), combined(t7=0.6, t2=0.3, t11=0.1)])
def test_a_reference_restores_the_identity(contender: Contender) -> None:
    complete = contender.model_copy(update={"scores": (0.5,), "config": {"head": {"linear": {}}}})
    text = json.dumps(complete.reference())
    assert parse(json.loads(text)) == contender
    assert parse(json.loads(text)).id == complete.id


def test_everything_but_the_predictions_is_stored() -> None:
    contender = Contender(
        kind="soup",
        role="soup",
        members=(Member(trial=7, weight=0.5), Member(trial=2, weight=0.5)),
        config={"head": {"mlp": {"depth": 2}}},
        parameters=5_000_000_000,
        ms_per_item=1.5,
        seconds=60.0,
        scores=(0.123456789012345, 1.0),
        standing=Standing(
            score=Interval(mean=0.9, low=0.8, high=1.0),
            difference=Interval(mean=-0.1, low=-0.2, high=0.0),
            tied=False,
        ),
        predictions=(np.ones((2, 3), np.float32),),
    )
    stored = json.loads(contender.model_dump_json())
    assert "predictions" not in stored
    restored = Contender.model_validate(stored)
    assert restored == contender.model_copy(update={"predictions": ()})
    assert restored.id == contender.id
    assert "predictions" not in repr(contender)
