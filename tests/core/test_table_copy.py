"""Rows are copied between databases of both dialects, again and again, and never change what is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from agentopt.core.database import create_tables, open_engine
from agentopt.core.table_copy import BATCH, WRITTEN, compare, copy_rows

TABLES = sa.MetaData()
PLACES = sa.Table(
    "places",
    TABLES,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("repeat", sa.Integer, primary_key=True),
    sa.Column("named", sa.Text, key="label"),
    sa.Column("usd", sa.Double),
    sa.Column("is_new", sa.Boolean),
)
COUNTED = sa.Table(
    "counted",
    TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.UniqueConstraint("name"),
)


@pytest.fixture(params=["sqlite to postgresql", "postgresql to sqlite", "sqlite to sqlite"])
def engines(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[sa.Engine, sa.Engine]]:
    """A source and a target with the tables."""
    names = request.param.split(" to ")
    places = [
        tmp_path / f"{i}.db" if name == "sqlite" else request.getfixturevalue("postgres_url")
        for i, name in enumerate(names)
    ]
    source, target = map(open_engine, places)
    for engine in (source, target):
        create_tables(engine, TABLES)
    yield source, target
    source.dispose()
    target.dispose()


def fill(engine: sa.Engine, table: sa.Table, rows: list[dict[str, object]]) -> None:
    with engine.begin() as connection:
        connection.execute(table.insert(), rows)


def place(i: int, **values: object) -> dict[str, object]:
    return {"key": f"k{i % 7}", "repeat": i, "label": f"é{i}", "usd": i / 10, "is_new": i % 2 == 0, **values}


@pytest.mark.parametrize("rows", [0, 1, BATCH, BATCH + 1, WRITTEN + 1])
def test_all_rows_are_copied_and_compared(engines: tuple[sa.Engine, sa.Engine], rows: int) -> None:
    source, target = engines
    if rows:
        fill(source, PLACES, [place(i) for i in range(rows)])
    copy_rows(source, target, PLACES)
    found = compare(source, target, PLACES)
    assert (found.rows, found.found, found.is_complete) == (rows, rows, True)
    assert found.sums == found.found_sums
    with source.connect() as a, target.connect() as b:
        query = sa.select(PLACES).order_by(PLACES.c.repeat)
        assert a.execute(query).all() == b.execute(query).all()


def test_a_copy_that_was_stopped_is_continued(engines: tuple[sa.Engine, sa.Engine]) -> None:
    source, target = engines
    fill(source, PLACES, [place(i) for i in range(50)])
    fill(target, PLACES, [place(i) for i in range(20)])
    before = compare(source, target, PLACES)
    assert (before.rows, before.found, before.is_complete, before.different) == (50, 20, False, "")
    for _ in range(2):
        copy_rows(source, target, PLACES)
        assert compare(source, target, PLACES).is_complete


@pytest.mark.parametrize("other", [{"label": "other"}, {"usd": 0.1}, {"is_new": None}, {"usd": None}])
def test_other_values_are_found_and_kept(engines: tuple[sa.Engine, sa.Engine], other: dict[str, object]) -> None:
    source, target = engines
    fill(source, PLACES, [place(i) for i in range(5)])
    fill(target, PLACES, [place(3, **other)])
    copy_rows(source, target, PLACES)
    found = compare(source, target, PLACES)
    assert (found.different, found.is_complete) == ("key k3, repeat 3", False)
    with target.connect() as connection:
        kept = connection.execute(sa.select(PLACES).where(PLACES.c.repeat == 3)).one()
    assert tuple(kept) == tuple(place(3, **other).values())


def test_rows_that_the_database_numbers_keep_their_order_and_get_other_numbers(
    engines: tuple[sa.Engine, sa.Engine],
) -> None:
    source, target = engines
    fill(source, COUNTED, [{"id": 5, "name": "z"}, {"id": 9, "name": "a"}])
    fill(target, COUNTED, [{"name": "z"}])
    copy_rows(source, target, COUNTED)
    fill(target, COUNTED, [{"name": "later"}])  # its number is free
    assert compare(source, target, COUNTED).is_complete
    with target.connect() as connection:
        assert connection.execute(sa.select(COUNTED.c.name).order_by(COUNTED.c.id)).scalars().all() == [
            "z",
            "a",
            "later",
        ]


def test_null_characters_are_replaced_in_the_copy(engines: tuple[sa.Engine, sa.Engine]) -> None:
    source, target = engines
    if source.dialect.name != "sqlite":
        pytest.skip("PostgreSQL stores none")
    fill(source, PLACES, [place(1, label="a\0b")])
    copy_rows(source, target, PLACES)
    assert compare(source, target, PLACES).is_complete
