"""The Optuna study of a run: in an SQLite file of its own, or one of many in a storage."""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from filelock import FileLock

from agentopt.core.database import lock_schema, names_in, open_engine, sqlite_url
from agentopt.core.errors import ConfigError
from agentopt.core.files import create_private, private_folder
from agentopt.runs.folder import StudyPlace

if TYPE_CHECKING:
    import optuna

ALONE = "agentopt"
"""Name of the study in a file of its own."""
CREATED_LAST = "alembic_version"
"""The table with the version of Optuna's tables, which is written when all others are there."""


def open_study(place: StudyPlace) -> optuna.Study:
    """Open a study, which is created if it does not exist.

    Args:
        place: The study.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not place.name and isinstance(place.database, Path):
        return optuna.load_study(study_name=ALONE, storage=_file(place.database))
    return optuna.create_study(
        study_name=place.name, storage=_shared(place.database), direction="maximize", load_if_exists=True
    )


def has_study(place: StudyPlace) -> bool:
    """Whether a study exists.

    Args:
        place: The study.
    """
    if not place.name and isinstance(place.database, Path):
        return place.database.exists()
    with _opened(place.database) as engine, engine.connect() as connection:
        if CREATED_LAST not in names_in(connection):
            return False
        named = sa.text("SELECT 1 FROM studies WHERE study_name = :name")
        return connection.execute(named, {"name": place.name}).first() is not None


_ATTRIBUTES = sa.text(
    "SELECT t.number, a.key, a.value_json FROM studies s JOIN trials t ON t.study_id = s.study_id "
    "JOIN trial_user_attributes a ON a.trial_id = t.trial_id WHERE s.study_name = :name ORDER BY t.number"
)


def read_attributes(place: StudyPlace) -> list[dict[str, Any]]:
    """Read the user attributes of the trials of a study, in the order of their numbers.

    They are read by SQL: Optuna builds parameters, values and distributions too, which takes five times as long.

    Args:
        place: The study, which exists.
    """
    found: dict[int, dict[str, Any]] = {}
    with _opened(place.database) as engine, engine.connect() as connection:
        for number, key, value in connection.execute(_ATTRIBUTES, {"name": place.name or ALONE}):
            found.setdefault(number, {})[key] = json.loads(value)
    return list(found.values())


_BEST = sa.text(
    "SELECT s.study_name, MAX(v.value) AS best FROM studies s JOIN trials t ON t.study_id = s.study_id "
    "JOIN trial_values v ON v.trial_id = t.trial_id WHERE t.state = 'COMPLETE' GROUP BY s.study_name"
)


def best_scores(database: Path | str) -> dict[str, float]:
    """Return the highest score of a complete trial by study, of a database that may be missing or damaged.

    Args:
        database: A file with one study, whose name is `ALONE`, or a storage.
    """
    if isinstance(database, Path) and not database.is_file():
        return {}
    try:
        with _opened(database) as engine, engine.connect() as connection:
            return {row.study_name: row.best for row in connection.execute(_BEST)}
    except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError):  # it is reported when the run is opened
        return {}


def remove_study(place: StudyPlace) -> None:
    """Remove a study with its trials.

    Args:
        place: The study.
    """
    import optuna

    if not place.name and isinstance(place.database, Path):
        place.database.unlink(missing_ok=True)
    elif has_study(place):
        optuna.delete_study(study_name=place.name, storage=_shared(place.database))


def copy_study(source: StudyPlace, target: StudyPlace) -> int:
    """Add the trials of a study to another one, which has none of them or the first ones.

    Args:
        source: The study.
        target: The study that is written; it is created if it does not exist.

    Returns:
        The number of trials of the source.

    Raises:
        ConfigError: The target has other trials.
    """
    trials, study = open_study(source).get_trials(deepcopy=False), open_study(target)
    there = study.get_trials(deepcopy=False)
    if [*map(_content, there)] != [*map(_content, trials[: len(there)])]:
        rule = f"the target has other trials of the run {target.name}"
        raise ConfigError(rule, remedy="resume the run there, or copy into an empty database")
    study.add_trials(trials[len(there) :])
    return len(trials)


def _content(trial: optuna.trial.FrozenTrial) -> tuple[object, ...]:
    return trial.state, trial.params, trial.values, trial.user_attrs


def _file(path: Path) -> optuna.storages.RDBStorage:
    """The storage at `path`. A new one is built under another name first, so that a kill leaves no partial schema."""
    import optuna

    new = not path.exists()
    if new:
        private_folder(path.parent)
        # Not named by the process id: in a container, the next process often has the same one.
        draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        create_private(draft)
        storage = optuna.storages.RDBStorage(_url_of(draft))
        optuna.create_study(study_name=ALONE, storage=storage, direction="maximize")
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        storage.engine.dispose()
        os.replace(draft, path)
    return optuna.storages.RDBStorage(
        _url_of(path), engine_kwargs=_WAITING, skip_table_creation=True, skip_compatibility_check=new
    )


_WAITING: dict[str, Any] = {"connect_args": {"timeout": 60}}
"""How long SQLite waits while another process, or an Optuna tool, writes."""


def _url_of(path: Path) -> str:
    # Optuna formats the URL, to insert the version of its schema.
    return sqlite_url(path).replace("{", "{{").replace("}", "}}")


def _shared(place: Path | str) -> optuna.storages.RDBStorage:
    """The storage in a database with other tables. Its own are created by one process at a time."""
    import optuna

    with _opened(place) as engine:
        url = engine.url.render_as_string(hide_password=False)
        # Optuna closes no pool, so that connections would stay open as long as the study exists.
        options: dict[str, Any] = _WAITING if engine.dialect.name == "sqlite" else {"poolclass": sa.NullPool}
        with engine.connect() as connection:
            is_there = CREATED_LAST in names_in(connection)
        if not is_there:
            with _one_at_a_time(engine):
                optuna.storages.RDBStorage(url, engine_kwargs=options).engine.dispose()
    return optuna.storages.RDBStorage(url, engine_kwargs=options, skip_table_creation=True)


@contextmanager
def _one_at_a_time(engine: sa.Engine) -> Iterator[None]:
    """Let one process at a time create tables through another connection."""
    if engine.dialect.name == "sqlite":
        with FileLock(f"{engine.url.database}.lock"):
            yield
        return
    with engine.begin() as connection:
        lock_schema(connection)
        yield


@contextmanager
def _opened(place: Path | str) -> Iterator[sa.Engine]:
    engine = open_engine(place)
    try:
        yield engine
    finally:
        engine.dispose()
