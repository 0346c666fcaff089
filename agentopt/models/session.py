"""What one run works with: its models behind the journal, and its budget carried over from earlier sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from agentopt.core.budget import Budget, Caps, Usage
from agentopt.core.errors import ConfigError
from agentopt.core.paths import cache_folder
from agentopt.models.base import ChatModel
from agentopt.models.catalog import ModelSpec
from agentopt.models.client import ModelClient
from agentopt.models.journal import Journal
from agentopt.models.router import ModelRouter


@dataclass(frozen=True)
class Session:
    """The model everyone in a run talks to, and who counts what it takes."""

    model: ModelClient
    budget: Budget
    journal: Journal
    specs: Mapping[str, ModelSpec]
    run: str

    @property
    def failures(self) -> dict[str, int]:
        """Failed attempts by kind, over all sessions of the run."""
        return self.journal.spend(self.run).failures

    @property
    def spent(self) -> dict[str, Usage]:
        return dict(self.budget.spent_by_purpose)


@asynccontextmanager
async def open_session(
    specs: Mapping[str, ModelSpec],
    run: str,
    *,
    caps: Caps = Caps(),
    purpose_caps: Mapping[str, Caps] | None = None,
    journal: str | None = None,
    provider: ChatModel | None = None,
) -> AsyncIterator[Session]:
    """Open the journal and the models for `run`; on the way out, wait for calls that were sent.

    `journal` is a path or a SQLAlchemy URL. `provider` makes the single attempts; the catalogue's own
    transports unless given.
    """
    provider = provider or ModelRouter(specs)
    async with AsyncExitStack() as ending:
        book = open_journal(journal)
        ending.push_async_callback(book.aclose)
        ending.push_async_callback(provider.aclose)
        before = book.spend(run)
        budget = Budget(caps, purpose_caps=purpose_caps, already_spent=before.by_purpose, seconds_before=before.seconds)
        model = ModelClient(provider, specs, book, budget, run)
        ending.push_async_callback(model.aclose)
        yield Session(model, budget, book, specs, run)


def open_journal(location: str | None) -> Journal:
    """The journal at a path or SQLAlchemy URL; the one in the cache folder unless given.

    Raises `ConfigError` when it cannot be opened.
    """
    place = _place(location)
    try:
        return Journal(place)
    except (OSError, ImportError, SQLAlchemyError) as error:
        raise ConfigError(
            f"the journal cannot be opened: {str(error).partition(chr(10))[0]}",
            # Not the URL itself: it may hold a password.
            where=f"journal {place}" if isinstance(place, Path) else "journal",
            remedy="name a file that can be written, or a SQLAlchemy URL whose driver is installed",
        ) from error


def open_existing_journal(location: str | None) -> Journal | None:
    """As `open_journal`, but None where no run has made the file yet."""
    place = _place(location)
    return None if isinstance(place, Path) and not place.exists() else open_journal(location)


def _place(location: str | None) -> Path | str:
    if location is None:
        return cache_folder() / "journal.db"
    return location if "://" in location else Path(location)
