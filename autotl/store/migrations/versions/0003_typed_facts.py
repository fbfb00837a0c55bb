"""Facts of a study become typed rows; data issues, images and latencies get tables of their own.

Also renames: trials have a status, repeats replace the runs of the finals, and a contender is
identified by its kind and members instead of a name.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

NAME = sa.String(512)
STUDY = sa.table("autotl_study", sa.column("name"), sa.column("facts", sa.JSON))
FACT = sa.table(
    "autotl_study_fact", sa.column("study"), sa.column("name"), sa.column("value", sa.JSON)
)
ISSUES = ("study", "position", "name", "problem", "action")
ISSUE = sa.table("autotl_data_issue", *map(sa.column, ISSUES))
LATENCY = sa.table("autotl_latency", *map(sa.column, ("study", "backbone", "milliseconds")))
IMAGES = ("study", "opening", "position", "name", "truth", "guess", "probability")
IMAGE = sa.table("autotl_image", *map(sa.column, (*IMAGES, "thumbnail", "saliency")))
TRIAL = sa.table(
    "autotl_trial", sa.column("study"), sa.column("number"), sa.column("facts", sa.JSON)
)
FINAL = sa.table(
    "autotl_final",
    *map(sa.column, ("study", "candidate", "run", "trial", "score", "seconds")),
    sa.column("facts", sa.JSON),
)
REPEAT = sa.table(
    "autotl_repeat",
    *map(sa.column, ("study", "kind", "trial", "repeat", "score", "seconds")),
    sa.column("facts", sa.JSON),
)
TEST = sa.table(
    "autotl_test",
    *map(sa.column, ("id", "study", "trial")),
    *(sa.column(name, sa.JSON) for name in ("facts", "contender", "result")),
)
SAME = (
    "seed", "metric", "direction", "prefer", "identity", "space", "sampler", "pruner", "device",
    "versions", "command", "budget_seconds", "state", "seconds", "stages", "calibration", "weights",
)  # fmt: skip
COMPUTE = {"half": "autocast", "keep": "cache_activations", "compiled": "compile"}
RENAMED = {"first_budget": "first_budget_seconds", "left_out": "excluded", "past": "warm_start"}
STAGES = {"finals": "selection"}

NEW_TEST_COLUMNS = ("contender", "result")


def upgrade() -> None:
    _create_tables()
    connection = op.get_bind()
    for name, facts in connection.execute(sa.select(STUDY.c.name, STUDY.c.facts)).all():
        _move_study(connection, name, facts)
    _move_trials(connection)
    _move_repeats(connection)
    _move_tests(connection)
    op.drop_column("autotl_study", "facts")
    op.drop_table("autotl_final")
    op.drop_column("autotl_test", "trial")
    op.drop_column("autotl_test", "facts")


def _create_tables() -> None:
    def key() -> sa.Column[str]:
        return sa.Column("study", NAME, primary_key=True)

    def number(name: str) -> sa.Column[int]:
        return sa.Column(name, sa.Integer, primary_key=True, autoincrement=False)

    def text(name: str) -> sa.Column[str]:
        return sa.Column(name, sa.Text, nullable=False)

    op.create_table(
        "autotl_study_fact",
        key(),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.JSON),
    )
    op.create_table(
        "autotl_data_issue", key(), number("position"), *map(text, ("name", "problem", "action"))
    )
    op.create_table(
        "autotl_latency",
        key(),
        sa.Column("backbone", sa.String(256), primary_key=True),
        sa.Column("milliseconds", sa.Double, nullable=False),
    )
    op.create_table(
        "autotl_image",
        key(),
        number("opening"),
        number("position"),
        *map(text, ("name", "truth", "guess")),
        sa.Column("probability", sa.Double, nullable=False),
        *map(text, ("thumbnail", "saliency")),
    )
    op.create_table(
        "autotl_repeat",
        key(),
        sa.Column("kind", sa.String(16), primary_key=True),
        number("trial"),
        number("repeat"),
        sa.Column("score", sa.Double),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
    )
    _rename_columns(("end", "status"), ("learned_parameters", "trained_parameters"))
    for name in NEW_TEST_COLUMNS:
        op.add_column("autotl_test", _json(name))


def _rename_columns(status: tuple[str, str], count: tuple[str, str]) -> None:
    """Rename two columns of trials; MySQL wants to be told their types again."""
    for (old, new), type_, nullable in (
        (status, sa.String(32), False),
        (count, sa.BigInteger(), True),
    ):
        op.alter_column(
            "autotl_trial",
            old,
            new_column_name=new,
            existing_type=type_,
            existing_nullable=nullable,
        )


def _json(name: str) -> sa.Column[Any]:
    """A new column, for which MySQL takes no default but an expression."""
    is_mysql = op.get_bind().dialect.name in ("mysql", "mariadb")
    default = sa.text("('{}')") if is_mysql else "{}"
    return sa.Column(name, sa.JSON, nullable=False, server_default=default)


def _move_study(connection: sa.Connection, study: str, old: dict[str, Any]) -> None:
    data = old.get("data") or {}
    new = {key: old[key] for key in SAME if old.get(key) is not None}
    new |= {name: old[key] for key, name in RENAMED.items() if old.get(key) is not None}
    if stages := new.get("stages"):
        new["stages"] = {STAGES.get(key, key): seconds for key, seconds in stages.items()}
    new["data"] = {
        **data,
        "independent_validation": old.get("validation_n") or 0,
        "imbalance": old.get("imbalance") or 1.0,
    }
    # Measured costs are not moved, because the names in their keys have changed.
    contenders = _contenders(old.get("finals"))
    new["selection"] = _selection(old.get("finals"), contenders)
    if saved := old.get("model"):
        winner = saved["winner"]
        contender = _reference(winner["candidate"], winner["members"], saved["trial"])
        new["model"] = {"contender": contender, "refitted": bool(saved.get("refitted"))}
    rows = [{"study": study, "name": key, "value": value} for key, value in new.items()]
    connection.execute(FACT.insert(), rows)
    issues = [
        {"study": study, "position": i, **{key: _valid(issue[key]) for key in ISSUES[2:]}}
        for i, issue in enumerate(old.get("issues") or [])
    ]
    latencies = [
        {"study": study, "backbone": name, "milliseconds": took}
        for name, took in (old.get("latency") or {}).items()
    ]
    images = _images(study, 0, old.get("doubtful"))
    for table, values in ((ISSUE, issues), (LATENCY, latencies), (IMAGE, images)):
        if values:
            connection.execute(table.insert(), values)


def _images(study: str, opening: int, images: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    return [
        {
            "study": study,
            "opening": opening,
            "position": position,
            **{key: _valid(image[key]) for key in ("name", "truth", "guess")},
            "probability": image["probability"],
            "thumbnail": image.get("thumbnail") or "",
            "saliency": image.get("saliency") or "",
        }
        for position, image in enumerate(images or [])
    ]


def _valid(text: str) -> str:
    """Escape what is not valid Unicode, which a text column cannot store."""
    return text.encode(errors="backslashreplace").decode()


def _number(name: str) -> int:
    return int(name.removeprefix("trial "))


def _reference(
    name: str, members: dict[str, float] | None, lead: int | None = None
) -> dict[str, Any]:
    """Return the kind and the members of a contender, given its old name and members.

    If the members were not stored, the only member is ``lead``, the trial with the largest weight.
    """
    single = name.startswith("trial ")
    weights = {name: 1.0} if single else members or {f"trial {lead}": 1.0}
    entries = [{"trial": _number(key), "weight": value} for key, value in weights.items()]
    return {"kind": "trial" if single else name, "members": entries}


def _contenders(finals: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Return the contenders of an old final selection, by their names."""
    keys = ("role", "config", "parameters", "ms_per_item", "seconds", "scores")
    return {
        old["name"]: {
            **_reference(old["name"], old.get("members")),
            **{key: old[key] for key in keys if old.get(key) is not None},
            "standing": {
                "score": {key: old[key] for key in ("mean", "low", "high")},
                "difference": old["difference"],
                "tied": old["tied_with_best"],
            },
        }
        for old in (finals or {}).get("candidates", [])
    }


def _selection(
    finals: dict[str, Any] | None, contenders: dict[str, dict[str, Any]]
) -> dict[str, Any] | None:
    if not finals:
        return None
    return {
        "repeats": finals["runs"],
        "contenders": list(contenders.values()),
        "winner": contenders[finals["winner"]],
        "cheapest": contenders[finals["cheapest_tied"]],
        "optimism": finals["optimism"],
        "optimism_of": _number(finals["optimism_of"]),
        "nested_score": finals.get("unselected"),
        "prefer": finals.get("prefer", "accuracy"),
    }


def _move_trials(connection: sa.Connection) -> None:
    renamed = {
        "probe": "is_probe",
        "default": "is_default",
        "seconds_again": "seconds_repeat",
        "barred": "excluded",
    }
    for study, number, old in connection.execute(sa.select(TRIAL)).all():
        facts = {renamed.get(key, key): value for key, value in (old or {}).items()}
        if recipe := facts.get("recipe"):
            facts["recipe"] = recipe.split(" \u00b7 ")
        if setting := facts.pop("setting", None):
            facts["compute"] = {COMPUTE.get(key, key): value for key, value in setting.items()}
        here = TRIAL.c.study == study, TRIAL.c.number == number
        connection.execute(TRIAL.update().where(*here).values(facts=facts))


def _move_repeats(connection: sa.Connection) -> None:
    rows = []
    for study, candidate, run, trial, score, seconds, old in connection.execute(sa.select(FINAL)):
        members = [int(key) for key in (old or {}).get("members", [])]
        lead = trial if trial is not None else next(iter(members), 0)
        facts = {"ms_per_item": old.get("ms_per_item"), "input": old.get("sees")}
        facts |= {"confusion_matrix": old.get("confusion"), "members": members}
        kind = "trial" if trial is not None else candidate
        row = (study, kind, lead, run, score, seconds, facts)
        rows.append(dict(zip(REPEAT.c.keys(), row, strict=True)))
    if rows:
        connection.execute(REPEAT.insert(), rows)


def _move_tests(connection: sa.Connection) -> None:
    for row in connection.execute(sa.select(TEST)).all():
        old = row.facts or {}
        name = old.get("candidate") or f"trial {row.trial}"
        result = {key: value for key, value in old.items() if key != "mistakes"}
        result["trained_parameters"] = result.pop("learned_parameters", None)
        result["confusion_matrix"] = result.pop("confusion", None) or []
        contender = _reference(name, old.get("members"), row.trial)
        values = {"contender": contender, "result": result}
        connection.execute(TEST.update().where(TEST.c.id == row.id).values(**values))
        if images := _images(row.study, row.id, old.get("mistakes")):
            connection.execute(IMAGE.insert(), images)


def downgrade() -> None:
    """Restore the older tables; the facts of studies, repeats and tests are lost."""
    op.add_column("autotl_study", _json("facts"))
    op.create_table(
        "autotl_final",
        sa.Column("study", NAME, primary_key=True),
        sa.Column("candidate", sa.String(64), primary_key=True),
        sa.Column("run", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("trial", sa.Integer),
        sa.Column("score", sa.Double),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
    )
    op.add_column("autotl_test", sa.Column("trial", sa.Integer, nullable=False, server_default="0"))
    op.add_column("autotl_test", _json("facts"))
    for name in NEW_TEST_COLUMNS:
        op.drop_column("autotl_test", name)
    _rename_columns(("status", "end"), ("trained_parameters", "learned_parameters"))
    for table in ("study_fact", "data_issue", "latency", "image", "repeat"):
        op.drop_table(f"autotl_{table}")
