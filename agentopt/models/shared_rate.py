"""Requests and tokens per minute that processes share through a database, by model and API key."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from agentopt.core.database import create_tables, insert, open_engine, transact
from agentopt.core.errors import JournalError
from agentopt.models.api_keys import key_of
from agentopt.models.catalog import ModelSpec
from agentopt.models.lease import Now, database_now
from agentopt.models.rate_limit import WINDOW_SECONDS, Pace, RateLimiter

TABLES = sa.MetaData()
rate_limits = sa.Table(
    "rate_limits",
    TABLES,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("next_entry", sa.Double, nullable=False),
    sa.Column("paused_until", sa.Double, nullable=False),
)
"""When the next evenly spaced call may be sent, and until when none may; the row is the lock of a key's calls."""
rate_tokens = sa.Table(
    "rate_tokens",
    TABLES,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("second", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("tokens", sa.Double, nullable=False),
)
"""Tokens of the calls of each second of the last minute, for keys with a limit on tokens."""


def rate_key(identity: str, api_key: str | None) -> str:
    """Return what calls share a rate limit by: one model with one API key, of which only a hash is stored.

    Args:
        identity: `ModelSpec.identity`.
        api_key: The API key.
    """
    return hashlib.sha256(f"{identity}\0{api_key or ''}".encode()).hexdigest()


class Limiters:
    """The limiters of one process, one for each model.

    Args:
        rates: The limits that processes share; the limiters have their own if there are none.
        sleep: Waits for a number of seconds.
    """

    def __init__(self, rates: SharedRates | None, sleep: Callable[[float], Awaitable[object]]) -> None:
        self._rates, self._sleep = rates, sleep
        self._by_model: dict[str, RateLimiter] = {}

    def __call__(self, spec: ModelSpec) -> RateLimiter:
        """Return the limiter of a model's calls."""
        if spec.name not in self._by_model:
            pace, rates = Pace(spec.requests_per_minute, spec.tokens_per_minute), self._rates
            shared = rates.of(rate_key(spec.identity, key_of(spec)), pace) if rates and pace.is_limited else None
            self._by_model[spec.name] = RateLimiter(
                spec.concurrency, pace.requests_per_minute, pace.tokens_per_minute, sleep=self._sleep, shared=shared
            )
        return self._by_model[spec.name]


class SharedRates:
    """The rate limits in one database. Use from one event loop; close it at the end.

    Args:
        place: A SQLAlchemy URL, or a path for SQLite.
        now: Clock of the database.
    """

    def __init__(self, place: str | Path, *, now: Now | None = None) -> None:
        self._engine = open_engine(place)
        create_tables(self._engine, TABLES)
        self._now = now or database_now(self._engine)
        transact(self._engine, self._forget)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rates")

    def of(self, key: str, pace: Pace) -> SharedRate:
        """Return the limit of one key.

        Args:
            key: As `rate_key` returned it.
            pace: The limits.
        """
        return SharedRate(self, key, pace)

    async def enter(self, key: str, pace: Pace, tokens: float, corrections: Mapping[int, float]) -> tuple[float, int]:
        """Let a call in, or return how long it has to wait.

        Args:
            key: As `rate_key` returned it.
            pace: The limits.
            tokens: The most that the call may take.
            corrections: Second -> what calls of that second took beyond what was counted.

        Returns:
            Seconds until another attempt, 0 if the call was let in; and the second under which its tokens are counted.

        Raises:
            JournalError: The database cannot be used.
        """
        loop = asyncio.get_running_loop()
        try:
            work = partial(self._enter, key=key, pace=pace, tokens=tokens, corrections=corrections)
            return await loop.run_in_executor(self._thread, transact, self._engine, work)
        except SQLAlchemyError as error:
            raise JournalError(f"the rate limits cannot be read: {error}\n  remedy: check their database") from error

    def pause(self, key: str, seconds: float) -> None:
        """Let no call of any process in for `seconds` from now.

        Args:
            key: As `rate_key` returned it.
            seconds: The wait that a provider requested.
        """
        self._thread.submit(self._pause, key, seconds)

    def close(self) -> None:
        """Close the database."""
        self._thread.shutdown()
        self._engine.dispose()

    def _lock(self, connection: sa.Connection, key: str) -> tuple[float, float, float]:
        """The key's next entry, the end of its pause, and the time, under the key's lock."""
        c = rate_limits.c
        new = {"key": key, "next_entry": 0.0, "paused_until": 0.0}
        connection.execute(insert(self._engine, rate_limits).on_conflict_do_nothing(), new)
        connection.execute(rate_limits.update().where(c.key == key).values(next_entry=c.next_entry))
        row = connection.execute(sa.select(c.next_entry, c.paused_until, self._now()).where(c.key == key)).one()
        return float(row[0]), float(row[1]), float(row[2])

    def _enter(
        self, connection: sa.Connection, key: str, pace: Pace, tokens: float, corrections: Mapping[int, float]
    ) -> tuple[float, int]:
        next_entry, paused_until, now = self._lock(connection, key)
        second = math.floor(now)
        allowed = max(pace.entry_allowed_at(next_entry), paused_until)
        if pace.tokens_per_minute:
            self._count(connection, key, corrections)
            allowed = max(allowed, self._tokens_allowed_at(connection, key, pace.tokens_per_minute, tokens, now))
        if allowed > now:
            return allowed - now, second
        change = rate_limits.update().where(rate_limits.c.key == key)
        connection.execute(change.values(next_entry=max(next_entry, now) + pace.spacing))
        if pace.tokens_per_minute:
            self._count(connection, key, {second: tokens})
        return 0.0, second

    def _tokens_allowed_at(self, connection: sa.Connection, key: str, most: float, tokens: float, now: float) -> float:
        """When enough of the calls of the last minute are older; each counts as if it was the last of its second."""
        c = rate_tokens.c
        connection.execute(rate_tokens.delete().where(c.key == key, _is_over(now)))
        rows = connection.execute(sa.select(c.second, c.tokens).where(c.key == key).order_by(c.second)).fetchall()
        used, allowed = sum(row.tokens for row in rows), now
        for row in rows:
            if used + tokens <= most:
                break
            used -= row.tokens
            allowed = row.second + 1 + WINDOW_SECONDS
        return allowed

    def _forget(self, connection: sa.Connection) -> None:
        """Delete what no call counts any more, of keys that may never be used again."""
        connection.execute(rate_tokens.delete().where(_is_over(self._now())))

    def _count(self, connection: sa.Connection, key: str, by_second: Mapping[int, float]) -> None:
        for second, tokens in sorted(by_second.items()):
            upsert = insert(self._engine, rate_tokens).values(key=key, second=second, tokens=tokens)
            total = {"tokens": rate_tokens.c.tokens + tokens}
            connection.execute(upsert.on_conflict_do_update(index_elements=["key", "second"], set_=total))

    def _pause(self, key: str, seconds: float) -> None:
        def pause(connection: sa.Connection) -> None:
            _, paused_until, now = self._lock(connection, key)
            change = rate_limits.update().where(rate_limits.c.key == key)
            connection.execute(change.values(paused_until=max(paused_until, now + seconds)))

        with suppress(SQLAlchemyError):  # the calls of this process pause in any case
            transact(self._engine, pause)


def _is_over(now: float | sa.ColumnElement[float]) -> sa.ColumnElement[bool]:
    """Whether the tokens of a second are older than a minute."""
    return rate_tokens.c.second + 1 + WINDOW_SECONDS <= now


class SharedRate:
    """The limit of one model with one API key, as a `RateLimiter` uses it.

    Args:
        rates: The limits of all keys.
        key: As `rate_key` returned it.
        pace: The limits.
    """

    def __init__(self, rates: SharedRates, key: str, pace: Pace) -> None:
        self._rates, self._key, self._pace = rates, key, pace
        self._corrections: dict[int, float] = {}

    async def enter(self, tokens: float) -> tuple[float, int]:
        """Let a call in, or return how long it has to wait; see `SharedRates.enter`.

        Args:
            tokens: The most that the call may take.
        """
        corrections, self._corrections = self._corrections, {}
        return await self._rates.enter(self._key, self._pace, tokens, corrections)

    def took(self, place: int, more: float) -> None:
        """Count what a call took beyond what it was let in with, with the next call.

        Args:
            place: The second under which its tokens are counted.
            more: Further tokens; below 0 if it took less.
        """
        if more and self._pace.tokens_per_minute:
            self._corrections[place] = self._corrections.get(place, 0.0) + more

    def pause(self, seconds: float) -> None:
        """Let no call of any process in for `seconds` from now.

        Args:
            seconds: The wait that a provider requested.
        """
        self._rates.pause(self._key, seconds)
