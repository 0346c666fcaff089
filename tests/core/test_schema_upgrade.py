"""Tables of an earlier version are changed by scripts, as a whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
import sqlalchemy as sa

from agentopt.core.database import SCHEMA, VERSIONS, create_tables, open_engine
from agentopt.core.errors import ConfigError
from agentopt.core.schema_upgrade import FOLDER, steps_from, upgrade, version_of

TABLES = sa.MetaData()
NOTES = sa.Table("notes", TABLES, sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.Text))
RENAME = """
    from alembic import op
    import sqlalchemy as sa
    op.add_column("notes", sa.Column("length", sa.Integer))
    op.execute("UPDATE notes SET length = length(text)")
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    """A database with one note, of each dialect, whose tables have no version."""
    is_file = request.param == "sqlite"
    engine = open_engine(tmp_path / "notes.db" if is_file else request.getfixturevalue("postgres_url"))
    TABLES.create_all(engine)
    with engine.begin() as connection:
        connection.execute(NOTES.insert(), {"id": 1, "text": "four"})
    yield engine
    engine.dispose()


def scripts(folder: Path, *bodies: str) -> Path:
    """The scripts of the package, and further ones after them."""
    copytree(FOLDER, folder, ignore=ignore_patterns("__pycache__"))
    for i, body in enumerate(bodies, int(SCHEMA) + 1):
        header = f'"""Change {i}."""\nrevision, down_revision = "{i:04}", "{i - 1:04}"\n'
        (folder / "versions" / f"v{i:04}.py").write_text(f"{header}def upgrade():{body}\n")
    return folder


def lengths(engine: sa.Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.execute(sa.text("SELECT length FROM notes")).scalars())


def test_the_newest_script_is_the_version_of_the_package() -> None:
    assert [step.version for step in steps_from(None)][-1] == SCHEMA
    assert steps_from(SCHEMA) == []


def test_tables_are_changed_by_the_scripts_that_they_lack(engine: sa.Engine, tmp_path: Path) -> None:
    folder = scripts(tmp_path / "scripts", RENAME)
    assert [step.text for step in upgrade(engine, folder)][1:] == ["Change 2."]
    assert lengths(engine) == [4]
    assert upgrade(engine, folder) == []
    with engine.connect() as connection:
        assert version_of(connection) == "0002"


def test_tables_with_a_version_get_only_what_came_after_it(engine: sa.Engine, tmp_path: Path) -> None:
    create_tables(engine, TABLES)
    assert [step.version for step in upgrade(engine, scripts(tmp_path / "scripts", RENAME))] == ["0002"]
    assert lengths(engine) == [4]


def test_a_script_that_fails_changes_nothing(engine: sa.Engine, tmp_path: Path) -> None:
    create_tables(engine, TABLES)
    with pytest.raises(ZeroDivisionError):
        upgrade(engine, scripts(tmp_path / "scripts", RENAME, "\n    1 / 0"))
    with engine.connect() as connection:
        assert version_of(connection) == SCHEMA
        assert [column["name"] for column in sa.inspect(connection).get_columns("notes")] == ["id", "text"]


@pytest.mark.parametrize(("version", "remedy"), [("9999", "update agentopt"), ("0000", "storage migrate")])
def test_an_unknown_version_is_refused_with_the_remedy(engine: sa.Engine, version: str, remedy: str) -> None:
    create_tables(engine, TABLES)
    with engine.begin() as connection:
        connection.execute(VERSIONS.update().values(version_num=version))
    with pytest.raises(ConfigError, match=f"version {version}.*(?s:.)*{remedy}"):
        upgrade(engine)
