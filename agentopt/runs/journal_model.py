"""A model that answers from the journal alone, by which recorded candidates are run again without a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentopt.core.errors import AgentoptError
from agentopt.models.base import Choice, Request, Response
from agentopt.models.catalog import ModelSpec
from agentopt.models.journal import Journal
from agentopt.models.journal_rows import response_of
from agentopt.models.request_fitting import fit, shape


class NotInJournalError(AgentoptError):
    """The journal lacks a response."""


@dataclass(frozen=True, slots=True)
class JournalModel:
    """A `ChatModel` that gives the journal's responses, and makes no call.

    Attributes:
        journal: The responses.
        specs: Catalogue name -> entry.
        refused: (model, identity) -> the parameters that a run found its endpoint to refuse.
        sent: Receives every request with the duration of its slowest response, and the choices.
    """

    journal: Journal
    specs: Mapping[str, ModelSpec]
    refused: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    sent: list[tuple[Request, float, tuple[Choice, ...]]] = field(default_factory=list)

    async def generate(self, request: Request) -> Response:
        """Return the stored choices.

        Raises:
            NotInJournalError: A choice is not stored.
        """
        spec = self.specs[request.model]
        fitted = fit(request, spec, self.refused.get((spec.name, spec.identity), frozenset()))
        found = self.journal.find(fitted.key(spec.identity, shape(fitted, spec)), request.first_repeat, request.n)
        if len(found) < request.n:
            raise NotInJournalError(f"{request.model}: not in the journal")
        choices = tuple(found[repeat].choice for repeat in sorted(found))
        self.sent.append((request, max(stored.seconds for stored in found.values()), choices))
        return response_of(found, self.journal.opened)

    async def aclose(self) -> None:
        """Nothing is open."""
