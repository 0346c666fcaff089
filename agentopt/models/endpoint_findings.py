"""What the endpoints of a run's models were found to refuse, or not to do; each finding is stored and reported once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agentopt.models import request_fitting
from agentopt.models.base import Request
from agentopt.models.catalog import ModelSpec
from agentopt.models.journal import Journal


class EndpointFindings:
    """The findings about the endpoints of a run's models, of this run and of others.

    Args:
        journal: Stores the findings.
        run: Identifier of the run.
        before: Model -> what an earlier run found.
        notify: Called with a finding's entry and the sentence about it.
    """

    def __init__(
        self,
        journal: Journal,
        run: str,
        before: Mapping[str, frozenset[str]],
        notify: Callable[[ModelSpec, str], None],
    ) -> None:
        self._journal, self._run, self._before, self._notify = journal, run, before, notify
        self._found, self._lately = journal.refused(run), journal.refused_lately(run)
        self._unreported = dict(self._lately)
        self._largest: dict[tuple[str, str | None], int] = {}

    def refused(self, spec: ModelSpec) -> frozenset[str]:
        """Return what an endpoint was found to refuse, as `request_fitting.refusal` names it.

        Args:
            spec: The entry of its model.
        """
        place = (spec.name, spec.identity)
        found = (self._before.get(spec.name), self._found.get(place), self._lately.get(place))
        return frozenset[str]().union(*filter(None, found))

    def report_earlier(self, spec: ModelSpec) -> None:
        """Report what other runs found lately, if it was not reported yet.

        Args:
            spec: The entry of a model that is called.
        """
        for name in sorted(self._unreported.pop((spec.name, spec.identity), ())):
            self._notify(spec, f"{request_fitting.left_out_note(name)}, as was found before")

    async def add(self, spec: ModelSpec, name: str) -> None:
        """Store and report a finding, unless it is known.

        Args:
            spec: The entry of the model.
            name: As `request_fitting.refusal` or `request_fitting.choice_limit` returned it.
        """
        if name not in (known := self.refused(spec)):
            self._found[spec.name, spec.identity] = known | {name}
            self._notify(spec, request_fitting.left_out_note(name))
            await self._journal.record_refusal(self._run, spec, name)

    async def answered(self, spec: ModelSpec, request: Request, choices: int) -> None:
        """Learn from the number of choices that a request got.

        An endpoint that returned more before has no such limit: it left some out of this response only.

        Args:
            spec: The entry of the model.
            request: The request as it was sent.
            choices: Number of choices of its response.
        """
        place = (spec.name, request.reasoning_effort)
        largest = self._largest[place] = max(choices, self._largest.get(place, 0))
        if choices < request.n and choices == largest:
            alone = request_fitting.refusal("n", request.reasoning_effort)  # the endpoint ignores it
            await self.add(spec, alone if choices == 1 else request_fitting.choice_limit(choices))
