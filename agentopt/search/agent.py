"""The search in which a language model proposes candidates, as a LangGraph graph:

    initialise -> execute -> guide -> propose -> execute -> ... -> end
                     |         |         |          ^
                     +---------+---------+--> fall_back

If there is no agent, or it is unreachable, out of budget, or replies with nothing usable, `fall_back` calls the
fallback strategy with the same trials and records the reason; the next round calls the agent again. Every node is a
function of the state and the recorded trials. Trials and replies are stored before they are used, and the state is
checkpointed before each node, so an interrupted run continues at its node, and repeating a node costs nothing.
"""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langsmith import tracing_context
from pydantic import TypeAdapter

from agentopt.core.candidate import Candidate
from agentopt.core.database import Condition
from agentopt.core.events import FallbackUsed, GuidelinesWritten
from agentopt.core.files import own_file
from agentopt.core.message_text import counted
from agentopt.core.records import by_score
from agentopt.models.base import ChatModel
from agentopt.models.thinking_tokens import ThinkingTokens
from agentopt.search.agent_calls import Agent, AgentUnavailableError
from agentopt.search.agent_prior import PRIOR_PROMPT, prior_schema, read_prior, with_beliefs
from agentopt.search.agent_prompts import (
    guideline_prompt,
    guideline_schema,
    proposal_prompt,
    proposal_schema,
    retry_message,
)
from agentopt.search.agent_reply import Reply, read_guidelines, read_reply
from agentopt.search.base import Proposal, Runner, SearchSpace, Strategy, in_order
from agentopt.search.baselines import RandomStrategy
from agentopt.search.belief import Belief
from agentopt.search.checkpoints import open_saver
from agentopt.search.credit import BEFORE, expected, is_agents_turn, promising, turn_size
from agentopt.search.full_prompt import PROMISING, FullReply, Outlook, full_prompt, full_schema, read_full
from agentopt.search.insights import initial_candidates
from agentopt.search.measured_costs import with_measured_costs
from agentopt.search.paper_prompt import paper_guideline_prompt, paper_proposal_prompt
from agentopt.search.proposer_names import INITIAL, SURROGATE
from agentopt.search.run_view import RunView
from agentopt.search.settings import AgentSettings, StartName
from agentopt.search.start import first_candidates
from agentopt.search.variants import AGENT, Variant


class State(TypedDict):
    """The state of the graph, as plain data. The runner keeps the trials."""

    round: int
    """Number of batches executed, including the first trials."""
    proposals: list[dict[str, Any]]
    """The proposals that `execute` runs next."""
    last: list[int]
    """Trial numbers of the last batch."""
    guidelines: str
    """The agent's guidelines in one line; empty if its reply was unusable."""
    written: list[str]
    """All guidelines in free text, oldest first, of a search with the paper's prompts."""
    problem: str
    """Why the fallback must propose; empty if it need not."""
    failed: int
    """Turns of the agent that brought no candidate."""
    declined: int
    """Number of trials at which the agent expected nothing better; 0 if it never did."""
    again: list[int]
    """Numbers of trials that `execute` completes first."""
    beliefs: dict[str, Any]
    """What the agent expected before any trial, by subtask."""


class AgentSearch:
    """The AgentTTS search: a language model proposes candidates, given the trials so far and its own guidelines.

    Args:
        model: The client of the agent's calls; with None `fallback` proposes everything after the first trials.
        settings: The agent's settings.
        fallback: Proposes in place of the agent.
        description: Description of the task that the agent is shown.
        checkpoints: Database of the graph's state, as of `open_saver`; None if the search need not be resumable.
        variant: The information that the agent is shown. Without insights, the loop skips `guide`.
        thread: Key of the search within `checkpoints`.
        condition: What must hold in each transaction that writes there.
        start: The first trials, unless the agent's style is that of the paper.
        batch_size: Candidates per call of the agent.
        seed: Seed of the agent's samples.
    """

    def __init__(
        self,
        model: ChatModel | None,
        settings: AgentSettings,
        fallback: Strategy,
        description: str,
        checkpoints: Path | str | None,
        *,
        variant: Variant = AGENT,
        thread: str = "search",
        condition: Condition | None = None,
        start: StartName = "largest",
        batch_size: int = 5,
        seed: int = 0,
    ) -> None:
        self._model = ThinkingTokens(model) if model else None
        self._settings, self._variant, self._fallback = variant.settings(settings), variant, fallback
        self._checkpoints, self._thread, self._condition = checkpoints, thread, condition
        self._description, self._start, self._batch_size, self._seed = description, start, batch_size, seed

    async def run(self, space: SearchSpace, runner: Runner) -> None:
        """Run until no trials are left, nothing is left to try, or `max_rounds` is reached; see `Search.run`."""
        agent = Agent(self._model, self._settings, self._variant, self._description, self._seed)
        nodes = _Nodes(space, runner, agent, self._fallback, self._start, self._batch_size)
        # A round has at most four nodes and records at least one trial, unless it is repeated after a crash.
        limit = 5 * (runner.trials_left + 4)
        config: RunnableConfig = {"configurable": {"thread_id": self._thread}, "recursion_limit": limit}
        with tracing_context(enabled=False):  # LangChain may be configured to send traces; ours are not sent
            if self._checkpoints is None:
                await _graph(nodes, None).ainvoke(_START, config)
                return
            async with open_saver(self._checkpoints, self._condition) as saver:
                graph = _graph(nodes, saver)
                with _readable(self._checkpoints):
                    before = await graph.aget_state(config)
                again = {**_START, **before.values, "proposals": []}
                await graph.ainvoke(None if before.next else again, config, durability="sync")


_START: State = {
    "round": 0,
    "proposals": [],
    "last": [],
    "guidelines": "",
    "written": [],
    "problem": "",
    "failed": 0,
    "declined": 0,
    "again": [],
    "beliefs": {},
}


def _readable(checkpoints: Path | str) -> AbstractContextManager[None]:
    remedy = "restore it; a checkpoints.db can be removed, as the search then continues with its trials"
    return own_file(checkpoints, remedy, sqlite3.Error) if isinstance(checkpoints, Path) else nullcontext()


def _graph(nodes: _Nodes, saver: BaseCheckpointSaver[str] | None) -> Any:
    graph = StateGraph(State)
    for node in (nodes.initialise, nodes.execute, nodes.guide, nodes.propose, nodes.fall_back):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "initialise")
    graph.add_edge("initialise", "execute")
    graph.add_conditional_edges("execute", nodes.after_execute, ["guide", "fall_back", END])
    graph.add_conditional_edges("guide", lambda s: "fall_back" if s["problem"] else "propose", ["fall_back", "propose"])
    graph.add_conditional_edges(
        "propose", lambda s: "fall_back" if s["problem"] else "execute", ["fall_back", "execute"]
    )
    graph.add_conditional_edges("fall_back", lambda s: "execute" if s["proposals"] else END, ["execute", END])
    return graph.compile(checkpointer=saver)


@dataclass(frozen=True)
class _Nodes:
    """The graph's nodes, and the branch that needs more than the state."""

    nominal: SearchSpace
    runner: Runner
    agent: Agent
    fallback: Strategy
    start: StartName
    batch_size: int

    def space(self, state: State) -> SearchSpace:
        """The space, with the costs that the trials so far measured, and what the agent expected before them."""
        expected = with_beliefs(self.nominal, _beliefs.validate_python(state.get("beliefs", {})))
        return with_measured_costs(expected, self.runner.trials)

    async def initialise(self, state: State) -> dict[str, Any]:
        """Propose the first trials: by the settings; in the paper's style every model of every subtask (insight 1).

        With insight 1 off they are a random batch. If the trials are shared, the agent is called for what it expects.
        """
        tried, space = self._tried(), self.space(state)
        if not self.agent.variant.insights:
            first = []
        elif self.agent.shares and self.agent.settings.insight_1:
            begun = first_candidates(space, self.start, self.agent.seed)
            first = [Proposal(c, INITIAL, f"start: {self.start}") for c in begun if c not in tried]
        elif self.agent.settings.insight_1:
            first = [Proposal(c, INITIAL, "insight 1") for c in initial_candidates(space) if c not in tried]
        else:
            strategy = RandomStrategy(self.agent.seed, proposer=INITIAL)
            first = await strategy.propose(space, self.runner.trials, self.batch_size)
        beliefs = state.get("beliefs") or await self._expected(space)
        return {"proposals": _proposals.dump_python(first), "problem": "", "beliefs": beliefs}

    async def _expected(self, space: SearchSpace) -> dict[str, Any]:
        """What the agent expects of each subtask; nothing if it cannot be called, or if the search has begun."""
        begun = any(trial.proposer not in BEFORE for trial in self.runner.trials)
        if self.agent.absent or not self.agent.shares or not self.agent.settings.prior or begun:
            return {}
        request = self.agent.request(space, PRIOR_PROMPT, self.agent.settings.max_tokens, schema=prior_schema(space))
        try:
            reply = await self.agent.reply(request)
        except AgentUnavailableError:
            return {}
        return dict(_beliefs.dump_python(read_prior(reply.text, space)))

    async def execute(self, state: State) -> dict[str, Any]:
        """Complete the trial that the agent named, and run the proposals, one after the other."""
        await self._measure_again(state.get("again", []))
        numbers = []
        for proposal in await in_order(self.runner, _proposals.validate_python(state["proposals"])):
            if self.runner.trials_left <= 0:
                break
            numbers.append((await self.runner.run(proposal)).number)
        if not numbers:
            return {"proposals": [], "again": []}
        return {"proposals": [], "again": [], "last": numbers, "round": state["round"] + 1}

    def after_execute(self, state: State) -> str:
        """Choose the next node: the end, the agent, or the fallback."""
        limit = self.agent.settings.max_rounds
        # The warm start may contain all of the first trials: then they took no round.
        first = int(any(trial.proposer == INITIAL for trial in self.runner.trials))
        if self.runner.trials_left <= 0 or (limit is not None and state["round"] >= limit + first):
            return END
        return "guide" if self._is_agents_turn(state) else "fall_back"

    def _is_agents_turn(self, state: State) -> bool:
        trials, agent = self.runner.trials, self.agent
        failed, declined = state.get("failed", 0), state.get("declined", 0)
        return not agent.absent and (not agent.shares or is_agents_turn(trials, agent.variant.name, failed, declined))

    async def guide(self, state: State) -> dict[str, Any]:
        """Let the agent derive guidelines from the scores; unusable ones are left out."""
        if self.agent.is_full:
            return {"problem": ""}
        if not self.agent.variant.insights:
            return {"guidelines": "", "problem": ""}
        settings, first = self.agent.settings, state["round"] <= 1
        space = self.space(state)
        trials, last, schema = self.runner.trials, state["last"], None
        if self.agent.is_papers:
            prompt = paper_guideline_prompt(space, trials, last, settings, first=first)
        else:
            prompt = guideline_prompt(space, trials, last, settings, first=first)
            schema = guideline_schema(space, settings, first=first)
        try:
            reply = await self.agent.reply(self.agent.request(space, prompt, settings.guideline_tokens, schema=schema))
        except AgentUnavailableError as error:
            return {"problem": str(error)}
        written = state.get("written", [])
        if schema is None:
            guidelines = reply.text.strip()
            written = [*written, guidelines] if guidelines else written
        else:
            guidelines = read_guidelines(reply.text, space)
        self.runner.emit(GuidelinesWritten(guidelines, len(trials)))
        return {"guidelines": guidelines, "written": written, "problem": ""}

    async def propose(self, state: State) -> dict[str, Any]:
        """Let the agent propose a batch; if it is too small, the fallback completes it."""
        wanted, variant, space = self._wanted(), self.agent.variant, self.space(state)
        shown = self.runner.trials if variant.history else None
        if self.agent.is_full:
            prompt = full_prompt(space, self.runner.trials, await self._outlook(space, state["guidelines"]), wanted)
        elif self.agent.is_papers:
            prompt = paper_proposal_prompt(space, shown, state.get("written", []), wanted)
        else:
            prompt = proposal_prompt(space, shown, state["last"], state["guidelines"], wanted)
        # If the prompt is the same in every round, each round needs further samples of the reply.
        first_repeat = 0 if variant.history else state["round"] * self.agent.settings.attempts
        try:
            reply, beside = await self._usable_reply(space, prompt, wanted, first_repeat)
        except AgentUnavailableError as error:
            return {"problem": str(error), "proposals": []}
        if self.agent.is_full:
            self.runner.emit(GuidelinesWritten(beside.reason, len(self.runner.trials)))
        again, proposals, doubt = list(beside.again), list(reply.proposals), ""
        if beside.stops and not proposals:
            problem = f"the agent expects nothing better: {beside.reason}"
            declined = len(self.runner.trials)
            done = {"problem": problem, "proposals": [], "guidelines": beside.reason, "declined": declined}
            return {**done, "again": again}
        if self.agent.shares:
            proposals, doubt = promising(space, self.runner.trials, proposals, self.agent.seed)
        proposed = f"the agent proposed {len(proposals)} of {counted(wanted, 'candidate')}"
        problem = f"{proposed}: {doubt or reply.problem or 'too few'}" if len(proposals) < wanted else ""
        guidelines = beside.reason if self.agent.is_full else state["guidelines"]
        given = _proposals.dump_python(proposals)
        return {"problem": problem, "proposals": given, "guidelines": guidelines, "again": again}

    async def _outlook(self, space: SearchSpace, before: str) -> Outlook:
        """What the agent is shown beside the trials."""
        runner, trials = self.runner, self.runner.trials
        most = expected(space, trials, PROMISING, self.agent.seed)
        outlook = Outlook(runner.trials_left, expected=most, before=before)
        best = by_score(trial for trial in trials if trial.state == "complete")[:1]
        if not isinstance(runner, RunView) or not best:
            return outlook
        failed = await runner.failed_examples(best[0], self.agent.settings.failed_examples)
        return replace(outlook, usd_left=runner.usd_left, failed=failed)

    async def _measure_again(self, numbers: list[int]) -> None:
        """Complete the first of these trials that was stopped early.

        Not in `propose`: if it is repeated after a crash, its prompt must be the same, or the agent is paid again.
        """
        stopped = {trial.number: trial for trial in self.runner.trials if trial.state == "pruned"}
        named = next((stopped[number] for number in numbers if number in stopped), None)
        if named and isinstance(self.runner, RunView):
            await self.runner.complete(named, "completed, because the agent requested it", in_search=True)

    async def _usable_reply(
        self, space: SearchSpace, prompt: str, wanted: int, first_repeat: int
    ) -> tuple[Reply, FullReply]:
        """The first reply with a usable candidate, or the last one of all attempts."""
        settings, variant, tried = self.agent.settings, self.agent.variant, self._tried()
        if self.agent.is_full:
            schema = full_schema(space, wanted)
        else:
            schema = proposal_schema(space, tried if variant.history else (), wanted)
        reply, beside, attempt_prompt = Reply(), FullReply(), prompt
        for attempt in range(settings.attempts):
            repeat = first_repeat + attempt
            request = self.agent.request(space, attempt_prompt, settings.max_tokens, schema=schema, repeat=repeat)
            choice = await self.agent.reply(request)
            reply = read_reply(choice.text, space, tried, wanted, proposer=variant.name)
            beside = read_full(choice.text) if self.agent.is_full else beside
            if reply.proposals or beside.stops or beside.again:
                break
            await self.agent.reject(request)
            if choice.is_cut_off:
                reply = replace(reply, cut_off=f"at agent.max_tokens ({settings.max_tokens})")
            elif choice.is_filtered:
                reply = replace(reply, cut_off="by the provider's content filter")
            if variant.history:  # the problem reveals the tried candidates; without history the prompt stays the same
                attempt_prompt = f"{prompt}\n{retry_message(reply.problem)}"
        return reply, beside

    async def fall_back(self, state: State) -> dict[str, Any]:
        """Complete the batch with proposals of the fallback strategy, which carry the reason.

        If the trials are shared, a part of a batch stays one, and the turn of the surrogate needs no reason.
        """
        if self.agent.shares:
            return await self._surrogates_turn(state)
        given = _proposals.validate_python(state["proposals"])
        taken = {p.candidate for p in given}
        wanted = self._wanted()
        offered = await self.fallback.propose(self.space(state), self.runner.trials, wanted)
        reason = state["problem"] or self.agent.why_absent
        new = [replace(p, fallback=reason) for p in offered if p.candidate not in taken]
        added = new[: wanted - len(given)]
        if reason:
            self.runner.emit(FallbackUsed(reason, len(added)))
        return {"proposals": _proposals.dump_python([*given, *added]), "problem": ""}

    async def _surrogates_turn(self, state: State) -> dict[str, Any]:
        if state["proposals"]:
            return {"problem": ""}
        reason = state["problem"] or self.agent.why_absent
        offered = await self.fallback.propose(self.space(state), self.runner.trials, 1)
        added = [replace(p, fallback=reason, proposer=p.proposer if reason else SURROGATE) for p in offered]
        if reason:
            self.runner.emit(FallbackUsed(reason, len(added)))
        failed = state.get("failed", 0) + bool(state["problem"])
        return {"proposals": _proposals.dump_python(added), "problem": "", "failed": failed}

    def _tried(self) -> set[Candidate]:
        return {trial.candidate for trial in self.runner.trials}

    def _wanted(self) -> int:
        size = self.batch_size
        if self.agent.shares:
            size = turn_size(self.runner.trials, self.agent.variant.name, size)
        return min(size, self.runner.trials_left)


_proposals = TypeAdapter(list[Proposal])
"""Proposals as the plain data of a checkpoint."""

_beliefs = TypeAdapter(dict[str, Belief])
"""Beliefs as the plain data of a checkpoint."""
