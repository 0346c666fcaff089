"""Maintenance of a journal: its size and contents, and removing or exporting responses. The ledger is never changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from agentopt.core.database import create_tables, open_engine
from agentopt.core.errors import UserError
from agentopt.core.files import file_size
from agentopt.models.journal_tables import (
    TABLES,
    details,
    ledger,
    refused_parameters,
    rejections,
    requests,
    responses,
    run_keys,
)

BATCH = 500
"""Keys per statement: databases bound the number of parameters."""


@dataclass(frozen=True, slots=True)
class JournalSize:
    """How much a journal holds.

    Attributes:
        requests: Number of distinct requests.
        responses: Number of stored choices.
        runs: Number of runs, evaluations, checks and servers in the ledger.
        bytes: Size on disk; None if it is not a file.
        oldest: When the oldest response was stored, in seconds since 1970; None if there is none.
        newest: When the newest was stored.
    """

    requests: int
    responses: int
    runs: int
    bytes: int | None
    oldest: float | None
    newest: float | None


@dataclass(frozen=True, slots=True)
class ModelResponses:
    """The responses of one model.

    Attributes:
        identity: `ModelSpec.identity`.
        responses: Number of stored choices.
        oldest: When the oldest was stored, in seconds since 1970.
        newest: When the newest was stored.
    """

    identity: str
    responses: int
    oldest: float
    newest: float


class JournalAdmin:
    """Reads and changes a journal outside of runs. Use as a context manager.

    Args:
        place: A SQLAlchemy URL, or a path for SQLite.
    """

    def __init__(self, place: str | Path) -> None:
        self._file = place if isinstance(place, Path) else None
        self._engine = open_engine(place)
        create_tables(self._engine, TABLES)

    def __enter__(self) -> JournalAdmin:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()

    def size(self) -> JournalSize:
        """Count what the journal holds."""
        with self._engine.connect() as connection:

            def count(what: sa.Select[Any]) -> int:
                return int(connection.execute(what).scalar() or 0)

            span = connection.execute(sa.select(sa.func.min(responses.c.created), sa.func.max(responses.c.created)))
            oldest, newest = span.one()
            return JournalSize(
                count(sa.select(sa.func.count()).select_from(requests)),
                count(sa.select(sa.func.count()).select_from(responses)),
                count(sa.select(sa.func.count(sa.distinct(ledger.c.run)))),
                _bytes_of(self._file),
                oldest,
                newest,
            )

    def models(self) -> list[ModelResponses]:
        """Return the models with stored responses, those with most responses first."""
        counted = sa.func.count()
        query = (
            sa.select(requests.c.identity, counted, sa.func.min(responses.c.created), sa.func.max(responses.c.created))
            .select_from(responses.join(requests, requests.c.key == responses.c.key))
            .group_by(requests.c.identity)
            .order_by(counted.desc())
        )
        with self._engine.connect() as connection:
            return [ModelResponses(*row) for row in connection.execute(query)]

    def prune(self, before: float) -> int:
        """Remove the responses that were stored before a time, in seconds since 1970.

        Returns:
            The number of removed choices.
        """
        return self._remove(sa.select(responses.c.key, responses.c.repeat).where(responses.c.created < before))

    def forget(self, *, identity: str | None = None, run: str | None = None) -> int:
        """Remove the responses of one model, or those to the requests of one run; and the parameters that it refused.

        All responses to a request are removed, also further repeats that another run paid for.

        Args:
            identity: `ModelSpec.identity` of the model.
            run: Identifier of the run in the ledger. Runs of version 0.1.0 have no record of their responses.

        Returns:
            The number of removed choices.

        Raises:
            UserError: The ledger has no such run.
        """
        if run is not None and not self.has_run(run):
            remedy = "give the name of a run's folder, with the `journal` setting that the run had"
            raise UserError(f"the journal has no run {run!r}", remedy=remedy)
        query = sa.select(responses.c.key, responses.c.repeat)
        if identity is not None:
            query = query.join(requests, requests.c.key == responses.c.key).where(requests.c.identity == identity)
        if run is not None:
            query = query.join(run_keys, run_keys.c.key == responses.c.key).where(run_keys.c.run == run)
        c = refused_parameters.c
        of_both = [column == value for column, value in ((c.identity, identity), (c.run, run)) if value is not None]
        with self._engine.begin() as connection:
            connection.execute(sa.delete(refused_parameters).where(*of_both))
        return self._remove(query)

    def has_run(self, run: str) -> bool:
        """Whether the ledger has entries of a run."""
        with self._engine.connect() as connection:
            found = connection.execute(sa.select(ledger.c.run).where(ledger.c.run == run).limit(1))
            return found.first() is not None

    def export(self) -> Iterator[str]:
        """Yield each stored choice with its request as one line of JSON, oldest first."""
        joined = responses.join(requests, requests.c.key == responses.c.key).outerjoin(
            details, sa.and_(details.c.key == responses.c.key, details.c.repeat == responses.c.repeat)
        )
        columns = (
            *(requests.c.identity, requests.c.request, responses),
            *(details.c.thought, details.c.tool_calls, details.c.cached_tokens, details.c.reasoning_tokens),
        )
        query = sa.select(*columns).select_from(joined).order_by(responses.c.created, responses.c.key)
        with self._engine.connect() as connection:
            for row in connection.execute(query).mappings():
                line = dict(row)
                line["request"] = json.loads(line["request"])
                line["tool_calls"] = json.loads(line["tool_calls"] or "[]")
                yield json.dumps(line, ensure_ascii=False)

    def _remove(self, query: sa.Select[Any]) -> int:
        with self._engine.begin() as connection:
            places = [(row[0], row[1]) for row in connection.execute(query)]
            for start in range(0, len(places), BATCH):
                batch = places[start : start + BATCH]
                for table in (responses, details, rejections):
                    connection.execute(sa.delete(table).where(sa.tuple_(table.c.key, table.c.repeat).in_(batch)))
            kept = sa.select(responses.c.key)
            for table in (requests, run_keys):
                connection.execute(sa.delete(table).where(table.c.key.not_in(kept)))
        if self._engine.dialect.name == "sqlite" and places:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(sa.text("VACUUM"))
        return len(places)


def _bytes_of(file: Path | None) -> int | None:
    if file is None:
        return None
    return sum(map(file_size, file.parent.glob(f"{file.name}*")))
