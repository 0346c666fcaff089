"""Opens a run's resources: model client, journal, and the budget remaining from earlier sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from agentopt.core.budget import Budget, Caps, Usage
from agentopt.core.errors import CallbackError, ConfigError
from agentopt.core.events import Observer, Spent
from agentopt.core.paths import cache_folder
from agentopt.models.base import ChatModel, Request, Response
from agentopt.models.batch_lane import BatchLane, OpenTransport, open_transport
from agentopt.models.catalog import ModelSpec
from agentopt.models.client import ModelClient
from agentopt.models.custom_provider import CustomProvider
from agentopt.models.journal import Journal
from agentopt.models.journal_admin import JournalAdmin
from agentopt.models.journal_records import CacheUse
from agentopt.models.request_fitting import limited
from agentopt.models.router import ModelRouter
from agentopt.models.shared_budget import open_shared_budget
from agentopt.models.shared_rate import SharedRates


@dataclass(frozen=True)
class Session:
    """The open resources of one run.

    Attributes:
        model: The client for all model calls of the run.
        budget: Caps and spending.
        journal: Cached responses, and the ledger.
        specs: Catalogue name -> entry, for every model of the run.
        run: Identifier of the run in the ledger.
    """

    model: ModelClient
    budget: Budget
    journal: Journal
    specs: Mapping[str, ModelSpec]
    run: str

    @property
    def batched(self) -> ChatModel:
        """The client for calls that may wait for a batch."""
        return _Batched(self.model)

    @property
    def failures(self) -> dict[str, int]:
        """Failed attempts by kind, over all sessions of the run."""
        return self.journal.spend(self.run).failures

    @property
    def cache_use(self) -> CacheUse:
        """The responses of this session that came from the journal."""
        return self.model.cache_use

    @property
    def refused_parameters(self) -> dict[str, tuple[str, ...]]:
        """Model -> what its endpoint was found to refuse, for the models with a finding."""
        return {name: tuple(sorted(refused)) for name in self.specs if (refused := self.model.refused(name))}

    @property
    def limited_specs(self) -> dict[str, ModelSpec]:
        """The entries for estimates: with no more choices per request than the endpoints were found to return."""
        return {name: limited(spec, self.model.refused(name)) for name, spec in self.specs.items()}

    @property
    def spent(self) -> dict[str, Usage]:
        """Usage by purpose, over all sessions of the run."""
        return dict(self.budget.spent_by_purpose)

    @property
    def unpriced(self) -> tuple[str, ...]:
        """The models that this session called and that have no price."""
        return tuple(sorted(self.model.unpriced))


@dataclass(frozen=True, slots=True)
class _Batched:
    """The client, with batches for the models that have them."""

    client: ModelClient

    async def generate(self, request: Request) -> Response:
        return await self.client.generate(request, is_batched=True)

    async def reject(self, request: Request) -> None:
        await self.client.reject(request)

    async def aclose(self) -> None:
        """Do nothing: the session closes the client."""


@asynccontextmanager
async def open_session(
    specs: Mapping[str, ModelSpec],
    run: str,
    *,
    caps: Caps = Caps(),
    purpose_caps: Mapping[str, Caps] | None = None,
    journal: str | None = None,
    provider: ChatModel | None = None,
    observer: Observer = lambda _: None,
    fresh: bool = False,
    batches: OpenTransport | None = None,
    refused: Mapping[str, frozenset[str]] | None = None,
    is_shared: bool = False,
) -> AsyncIterator[Session]:
    """Open the journal and the models for `run`; on exit, wait for the calls that were sent.

    Args:
        specs: Catalogue name -> entry, for every model of the run.
        run: Identifier of the run in the ledger.
        caps: Caps over everything the run does.
        purpose_caps: Purpose -> caps over the calls of that purpose.
        journal: A path or a SQLAlchemy URL; `journal.db` in the cache folder unless given.
        provider: Makes single attempts; transports as the catalogue specifies unless given.
        observer: Receives a `ModelNotice` for each finding about a model.
        fresh: Ignore the responses of earlier sessions; new ones replace them.
        batches: Makes the transport of batches; `open_transport` if the catalogue's transports are used. Without one,
            `Session.batched` makes direct calls.
        refused: Model -> the parameters that an earlier run found its endpoint to refuse. They are not sent.
        is_shared: Whether other processes work on the run. If it has caps, or the journal is not a file, its limits are
            shared in any case.

    Raises:
        ConfigError: The journal cannot be opened, or a cap in USD cannot be enforced because a price is unknown.
        CatalogError: The environment variable of some model's API key is not set.
    """
    check_priced(specs.values(), caps, *(purpose_caps or {}).values())
    provider = ModelRouter(specs) if provider is None else provider
    if isinstance(provider, ModelRouter):
        batches = batches or open_transport
    else:
        provider = CustomProvider(provider)
    async with AsyncExitStack() as ending:
        place, book = journal_place(journal), open_journal(journal, fresh=fresh)
        ending.push_async_callback(book.aclose)
        ending.push_async_callback(provider.aclose)
        budget = await ending.enter_async_context(_open_budget(place, run, book, caps, purpose_caps or {}, is_shared))
        lane = BatchLane(specs, book, budget, run, transport=batches, observer=observer) if batches else None
        rates = SharedRates(place) if is_shared or isinstance(place, str) else None
        if rates:
            ending.push_async_callback(asyncio.to_thread, rates.close)
        model = ModelClient(
            provider, specs, book, budget, run, observer=observer, lane=lane, refused=refused, rates=rates
        )
        ending.push_async_callback(model.aclose)
        if lane:
            await lane.resume()
        yield Session(model, budget, book, specs, run)


@asynccontextmanager
async def spend_reported(opening: AbstractAsyncContextManager[Session], observe: Observer) -> AsyncIterator[Session]:
    """Open a session, and report its spend when its last call has ended, also after an exception.

    Args:
        opening: `open_session`.
        observe: Receives the `Spent` event.
    """
    session: Session | None = None
    try:
        async with opening as session:
            yield session
    except BaseException:
        if session:
            with suppress(CallbackError):  # the exception to report is the one that ended the work
                observe(Spent(session.spent, session.unpriced))
        raise
    observe(Spent(session.spent, session.unpriced))


@asynccontextmanager
async def _open_budget(
    place: Path | str, run: str, book: Journal, caps: Caps, purpose_caps: Mapping[str, Caps], is_shared: bool
) -> AsyncIterator[Budget]:
    """Open the budget of a run. If it has caps, all processes that work on the run share it."""
    before = book.spend(run)
    limits = (cap for of in (caps, *purpose_caps.values()) for cap in (of.calls, of.tokens, of.usd))
    if not is_shared and all(cap is None for cap in limits):
        yield Budget(caps, purpose_caps=purpose_caps, already_spent=before.by_purpose, seconds_before=before.seconds)
        return
    opening = open_shared_budget(
        place, run, book.session, caps, purpose_caps=purpose_caps, seconds_before=before.seconds
    )
    async with opening as budget:
        yield budget


def open_journal(location: str | None, *, fresh: bool = False) -> Journal:
    """Open the journal, creating it if necessary.

    Args:
        location: A path or a SQLAlchemy URL; `journal.db` in the cache folder unless given.
        fresh: Ignore the responses of earlier sessions; new ones replace them.

    Raises:
        ConfigError: It cannot be opened.
    """
    place = journal_place(location)
    try:
        return Journal(place, fresh=fresh)
    except (OSError, ImportError, UnicodeDecodeError, SQLAlchemyError) as error:
        raise ConfigError(
            f"the journal cannot be opened: {str(error).partition(chr(10))[0]}",
            # Not the URL itself: it may hold a password.
            where=f"journal {place}" if isinstance(place, Path) else "journal",
            remedy="name a file that can be written, or a SQLAlchemy URL whose driver is installed; a run folder "
            "keeps no password: pass -c journal=URL again, or use the password file of the database's client",
        ) from error


def check_priced(specs: Iterable[ModelSpec], *caps: Caps) -> None:
    """Check that the price of every model is known if a cap is in USD, so that it can be enforced.

    Args:
        specs: The models.
        caps: The caps on them.

    Raises:
        ConfigError: Names the models whose price is unknown.
    """
    unpriced = sorted(spec.name for spec in specs if not spec.is_priced and spec.unpriced != "ok")
    if unpriced and any(one.usd is not None for one in caps):
        raise ConfigError(
            f"a cap in USD needs the prices of all models, but there is none for {', '.join(unpriced)}",
            remedy="add usd_per_1m_prompt and usd_per_1m_completion to the catalogue entry, or `price: free`, or "
            "`unpriced: ok` to leave the model's calls out of the cap",
        )


def open_journal_admin(location: str | None) -> JournalAdmin:
    """Open a journal for maintenance.

    Args:
        location: A path or a SQLAlchemy URL; `journal.db` in the cache folder unless given.

    Raises:
        ConfigError: It does not exist, or cannot be opened.
    """
    place = journal_place(location)
    if isinstance(place, Path) and not place.exists():
        raise ConfigError(
            "does not exist", where=f"journal {place}", remedy="run something first, or name another file"
        )
    open_journal(location).close()  # reports what is wrong with it
    return JournalAdmin(place)


def open_existing_journal(location: str | None) -> Journal | None:
    """Open the journal as `open_journal` does, or return None if its file does not exist yet."""
    place = journal_place(location)
    return None if isinstance(place, Path) and not place.exists() else open_journal(location)


def journal_place(location: str | None) -> Path | str:
    """Return where the journal is: a path, or a URL.

    Args:
        location: A path or a SQLAlchemy URL; `journal.db` in the cache folder unless given.
    """
    if location is None:
        return cache_folder() / "journal.db"
    return location if "://" in location else Path(location)
