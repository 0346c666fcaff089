"""The Optuna study of a run: in an SQLite file of its own, or one of many in a storage."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from filelock import FileLock, Timeout

from agentopt.core.database import Condition, lock_schema, names_in, open_engine, outage_of, sqlite_url, transact
from agentopt.core.errors import ConfigError, JournalError
from agentopt.core.files import private_folder, write_atomically
from agentopt.core.outages import WAIT_SECONDS
from agentopt.runs.folder import StudyPlace

if TYPE_CHECKING:
    import optuna
    from optuna.storages._rdb.models import StudyModel, TrialModel
    from sqlalchemy.orm import Session

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


def read_attributes(place: StudyPlace) -> list[dict[str, str]]:
    """Read the user attributes of the trials of a study, each as JSON, in the order of the trials' numbers.

    They are read by SQL: Optuna builds parameters, values and distributions too, which takes five times as long.

    Args:
        place: The study, which exists.
    """
    found: dict[int, dict[str, str]] = {}
    with _opened(place.database) as engine, engine.connect() as connection:
        for number, key, value in connection.execute(_ATTRIBUTES, {"name": place.name or ALONE}):
            found.setdefault(number, {})[key] = value
    return list(found.values())


def add_trial(
    engine: sa.Engine,
    place: StudyPlace,
    trial: optuna.trial.FrozenTrial,
    attributes: Mapping[str, str],
    condition: Condition | None = None,
) -> None:
    """Add a trial to a study; it is on disk when this returns.

    It is one transaction of a few statements, through Optuna's tables: `Study.add_trial` reads the study again for each
    parameter and each attribute, and has no transaction that a check could be part of.

    Args:
        engine: Its database.
        place: The study, which exists.
        trial: The trial, without user attributes.
        attributes: Its user attributes, each as JSON.
        condition: Checked in the transaction; if it does not hold, nothing is stored.
    """
    from sqlalchemy.orm import Session

    def work(connection: sa.Connection) -> None:
        if condition:
            condition.check(connection)
        with Session(connection) as session:
            session.add(_model_of(trial, attributes, _locked(session, place.name or ALONE), session))
            session.flush()

    transact(engine, work)


def _locked(session: Session, name: str) -> StudyModel:
    """The study. Optuna's own tools, which number a trial under the same lock, wait."""
    from optuna.storages._rdb.models import StudyModel

    return session.query(StudyModel).filter(StudyModel.study_name == name).with_for_update().one()


def _model_of(
    trial: optuna.trial.FrozenTrial, attributes: Mapping[str, str], study: StudyModel, session: Session
) -> TrialModel:
    """The rows of a trial."""
    from optuna.distributions import distribution_to_json
    from optuna.storages._rdb import models

    def intermediate(step: int, value: float) -> models.TrialIntermediateValueModel:
        stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
        return models.TrialIntermediateValueModel(step=step, intermediate_value=stored, intermediate_value_type=kind)

    def objective(value: float) -> models.TrialValueModel:
        stored, kind = models.TrialValueModel.value_to_stored_repr(value)
        return models.TrialValueModel(objective=0, value=stored, value_type=kind)

    def param(name: str, value: object) -> models.TrialParamModel:
        of = trial.distributions[name]
        own = {"param_value": of.to_internal_repr(value), "distribution_json": distribution_to_json(of)}
        return models.TrialParamModel(param_name=name, **own)

    return models.TrialModel(
        study_id=study.study_id,
        number=models.TrialModel.count(session, study),
        state=trial.state,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        values=[objective(value) for value in trial.values or ()],
        params=[param(name, value) for name, value in trial.params.items()],
        user_attributes=[models.TrialUserAttributeModel(key=k, value_json=v) for k, v in attributes.items()],
        system_attributes=[
            models.TrialSystemAttributeModel(key=k, value_json=json.dumps(v)) for k, v in trial.system_attrs.items()
        ],
        intermediate_values=[intermediate(step, value) for step, value in trial.intermediate_values.items()],
    )


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


def remove_study(place: StudyPlace, condition: Condition | None = None) -> None:
    """Remove a study with its trials.

    Args:
        place: The study.
        condition: As for `add_trial`.
    """
    from sqlalchemy.orm import Session

    if not place.name and isinstance(place.database, Path):
        place.database.unlink(missing_ok=True)
        return
    if not has_study(place):
        return

    def work(connection: sa.Connection) -> None:
        if condition:
            condition.check(connection)
        with Session(connection) as session:
            session.delete(_locked(session, place.name))
            session.flush()

    with _opened(place.database) as engine:
        transact(engine, work)


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
    """The storage at `path`. A new one is written as a whole, so that a kill leaves no partial schema."""
    if not path.exists():
        private_folder(path.parent)
        write_atomically(path, _empty_study())
    return _storage(_url_of(path), _WAITING)


@cache
def _empty_study() -> bytes:
    """The file of a study without trials. Optuna loads its migrations for each that it builds, which takes a while."""
    import optuna

    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder, "trials.db")
        storage = optuna.storages.RDBStorage(_url_of(file), skip_compatibility_check=True)
        optuna.create_study(study_name=ALONE, storage=storage, direction="maximize")
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        _own_versions.add(storage.get_current_version())
        storage.engine.dispose()
        return file.read_bytes()


def _storage(url: str, options: dict[str, Any]) -> optuna.storages.RDBStorage:
    """The storage in a database that has Optuna's tables."""
    import optuna

    open_storage = partial(optuna.storages.RDBStorage, url, engine_kwargs=options, skip_table_creation=True)
    storage = open_storage(skip_compatibility_check=True)
    if storage.get_current_version() not in _own_versions:
        storage.engine.dispose()
        storage = open_storage()
        _own_versions.add(storage.get_current_version())
    return storage


_own_versions = set[str]()
"""Versions of tables that are those of the installed Optuna. It loads its migrations for each check."""


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
                built = optuna.storages.RDBStorage(url, engine_kwargs=options, skip_compatibility_check=True)
                _own_versions.add(built.get_current_version())
                built.engine.dispose()
    return _storage(url, options)


@contextmanager
def _one_at_a_time(engine: sa.Engine) -> Iterator[None]:
    """Let one process at a time create tables through another connection.

    Raises:
        JournalError: Another process does so for `WAIT_SECONDS`: it may be suspended.
    """
    if engine.dialect.name == "sqlite":
        lock = FileLock(f"{engine.url.database}.lock", timeout=0)
        try:
            held = outage_of(engine).repeat(lock.acquire)
        except Timeout as error:
            rule = f"the tables of the storage are locked by another process for more than {WAIT_SECONDS} s"
            remedy = "end that process, or continue it if it is suspended"
            raise JournalError(f"{rule}: {lock.lock_file}\n  remedy: {remedy}") from error
        with held:
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
