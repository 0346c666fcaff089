"""The loop of every search that asks a model, as one LangGraph graph:

    initialise -> execute -> guide -> propose -> execute -> ... -> end
                     |         |         |          ^
                     +---------+---------+--> fall_back

Where the agent is absent, unreachable, out of budget, or gives nothing usable, `fall_back` asks the fallback strategy
with the same trials and says why; the next round tries the agent again. Every node is a function of the state and the
recorded trials, trials and answers are on disk before they are used, and the state is checkpointed before each node:
a killed run continues at the node where it was, and doing a node again costs nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import aiosqlite
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langsmith import tracing_context
from pydantic import TypeAdapter

from agentopt.core.candidate import Candidate
from agentopt.core.errors import BudgetExceeded, ModelError, WeightsError
from agentopt.core.events import FallbackUsed, Note
from agentopt.models.base import ChatModel, Message, Request
from agentopt.search.agent_prompts import (
    guideline_prompt,
    guideline_schema,
    proposal_prompt,
    proposal_schema,
    retry_message,
    system_message,
)
from agentopt.search.agent_reply import Reply, read_guidelines, read_reply
from agentopt.search.base import INITIAL, Proposal, Runner, SearchSpace, Strategy
from agentopt.search.baselines import RandomStrategy
from agentopt.search.insights import initial_candidates
from agentopt.search.settings import AgentSettings
from agentopt.search.variants import AGENT, Variant


class State(TypedDict):
    """What the graph carries from node to node, plain data. The trials themselves are the runner's."""

    round: int
    """Batches executed, the first trials included where the variant has them."""
    proposals: list[dict[str, Any]]
    """What `execute` runs next."""
    last: list[int]
    """Trial numbers of the last batch."""
    guidelines: str
    """What the agent told itself, in one line; empty where it gave nothing usable."""
    problem: str
    """Why the fallback has to propose; empty when it need not."""


class AgentSearch:
    """The AgentTTS search: a model proposes, from what was tried so far and what it made of it.

    `variant` removes parts of it: without insights the loop begins at `propose`. With `model=None` there is no agent,
    and `fallback` proposes everything after the first trials. `brief` describes the task to the agent.
    `checkpoints` is the SQLite file (None: not resumable), `thread` the run inside it.
    """

    def __init__(
        self,
        model: ChatModel | None,
        settings: AgentSettings,
        fallback: Strategy,
        brief: str,
        checkpoints: Path | None,
        *,
        variant: Variant = AGENT,
        thread: str = "search",
        batch_size: int = 5,
        seed: int = 0,
    ) -> None:
        self._model, self._settings, self._fallback, self._brief = model, variant.settings(settings), fallback, brief
        self._variant = variant
        self._checkpoints, self._thread = checkpoints, thread
        self._batch_size, self._seed = batch_size, seed

    async def run(self, space: SearchSpace, runner: Runner) -> None:
        """Until no trials are left, nothing is left to try, or `max_rounds` is reached.

        Raises what `runner.run` raises, `BudgetExceeded` for a cap of the whole run among it; run again to continue.
        """
        told = system_message(space, self._settings, self._brief, self._variant.experience)
        agent = _Agent(self._model, self._settings, self._variant, told, self._seed)
        nodes = _Nodes(space, runner, agent, self._fallback, self._batch_size)
        # A round takes at most four nodes and records at least one trial, unless it is done again after a crash.
        config: RunnableConfig = {
            "configurable": {"thread_id": self._thread},
            "recursion_limit": 5 * (runner.trials_left + 4),
        }
        # The trace that LangChain may be set up to send from this process is not ours to send.
        with tracing_context(enabled=False):
            if self._checkpoints is None:
                await _graph(nodes, None).ainvoke(_START, config)
                return
            async with _saver(self._checkpoints) as saver:
                graph = _graph(nodes, saver)
                before = await graph.aget_state(config)
                again = {**_START, **before.values, "proposals": []}
                await graph.ainvoke(None if before.next else again, config, durability="sync")


_START: State = {"round": 0, "proposals": [], "last": [], "guidelines": "", "problem": ""}


@asynccontextmanager
async def _saver(path: Path) -> AsyncIterator[AsyncSqliteSaver]:
    # The saver turns on WAL; waiting long for a lock lets two processes share the file.
    async with aiosqlite.connect(path, timeout=60) as connection:
        yield AsyncSqliteSaver(connection)


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


class _NoHelpError(Exception):
    """The agent cannot be asked now; the message says why."""


@dataclass(frozen=True)
class _Agent:
    """The agent's model and how to ask it."""

    model: ChatModel | None
    settings: AgentSettings
    variant: Variant
    system_message: Message
    seed: int

    @property
    def absent(self) -> bool:
        return self.model is None or self.settings.model is None

    async def ask(self, question: str, max_tokens: int, *, schema: str, repeat: int = 0) -> str:
        """The answer to one question. Raises `_NoHelpError` where only the agent fails, not the run."""
        if self.model is None or self.settings.model is None:
            raise _NoHelpError("there is no agent")
        request = Request(
            model=self.settings.model,
            messages=(self.system_message, Message("user", question)),
            max_tokens=max_tokens,
            temperature=self.settings.temperature,
            json_schema=schema,
            seed=self.seed,
            first_repeat=repeat,
            purpose="agent",
        )
        try:
            response = await self.model.generate(request)
        except (ModelError, WeightsError) as error:
            raise _NoHelpError(f"the agent cannot be reached: {error}") from error
        except BudgetExceeded as error:
            if error.name == "seconds":
                raise
            # Its own cap, or one of the run: a trial that the fallback proposes may still be affordable.
            raise _NoHelpError(f"no budget for the agent: {str(error).splitlines()[0]}") from error
        return response.choices[0].text


@dataclass(frozen=True)
class _Nodes:
    """The graph's nodes and the one branch that needs more than the state."""

    space: SearchSpace
    runner: Runner
    agent: _Agent
    fallback: Strategy
    batch_size: int

    async def initialise(self, state: State) -> dict[str, Any]:
        """The first trials: every model of every subtask once (insight 1), or a random batch without the insight."""
        tried = self._tried()
        if not self.agent.variant.insights:
            first = []
        elif self.agent.settings.insight_1:
            first = [Proposal(c, INITIAL, "insight 1") for c in initial_candidates(self.space) if c not in tried]
        else:
            strategy = RandomStrategy(self.agent.seed, proposer=INITIAL)
            first = await strategy.propose(self.space, self.runner.trials, self.batch_size)
        return {"proposals": _proposals.dump_python(first), "problem": ""}

    async def execute(self, state: State) -> dict[str, Any]:
        """Run what was proposed, one after the other."""
        numbers = []
        for proposal in _proposals.validate_python(state["proposals"]):
            if self.runner.trials_left <= 0:
                break
            numbers.append((await self.runner.run(proposal)).number)
        if not numbers:
            return {"proposals": []}
        return {"proposals": [], "last": numbers, "round": state["round"] + 1}

    def after_execute(self, state: State) -> str:
        """Where the loop ends, or goes on with the agent, or without it."""
        limit = self.agent.settings.max_rounds
        # An archive may hold every one of the first trials: then they took no round.
        first = int(any(trial.proposer == INITIAL for trial in self.runner.trials))
        if self.runner.trials_left <= 0 or (limit is not None and state["round"] >= limit + first):
            return END
        return "fall_back" if self.agent.absent else "guide"

    async def guide(self, state: State) -> dict[str, Any]:
        """The agent's guidelines from the scores (insights 2 and 3); it goes on without where they are unusable."""
        if not self.agent.variant.insights:
            return {"guidelines": "", "problem": ""}
        settings, first = self.agent.settings, state["round"] <= 1
        question = guideline_prompt(self.space, self.runner.trials, state["last"], settings, first=first)
        schema = guideline_schema(self.space, settings, first=first)
        try:
            guidelines = read_guidelines(
                await self.agent.ask(question, settings.guideline_tokens, schema=schema), self.space
            )
        except _NoHelpError as error:
            return {"problem": str(error)}
        self.runner.emit(Note(f"guidelines: {guidelines or 'none, the answer was unusable'}"))
        return {"guidelines": guidelines, "problem": ""}

    async def propose(self, state: State) -> dict[str, Any]:
        """The agent proposes a batch; what it cannot fill is the fallback's to fill."""
        wanted, variant = self._wanted(), self.agent.variant
        seen = self.runner.trials if variant.history else None
        question = proposal_prompt(self.space, seen, state["last"], state["guidelines"], wanted)
        # Where the question is the same in every round, each round is another draw of the answer.
        drawn = 0 if variant.history else state["round"] * self.agent.settings.attempts
        try:
            reply = await self._usable_reply(question, wanted, drawn)
        except _NoHelpError as error:
            return {"problem": str(error), "proposals": []}
        missing = wanted - len(reply.proposals)
        problem = f"the agent gave {len(reply.proposals)} of {wanted}: {reply.problem or 'too few'}" if missing else ""
        return {"problem": problem, "proposals": _proposals.dump_python(list(reply.proposals))}

    async def _usable_reply(self, question: str, wanted: int, drawn: int) -> Reply:
        """The first reply with anything to run in it, or the last one of all attempts."""
        settings, variant, tried = self.agent.settings, self.agent.variant, self._tried()
        schema = proposal_schema(self.space, tried if variant.history else (), wanted)
        reply, asked = Reply(), question
        for attempt in range(settings.attempts):
            text = await self.agent.ask(asked, settings.max_tokens, schema=schema, repeat=drawn + attempt)
            reply = read_reply(text, self.space, tried, wanted, proposer=variant.name)
            if reply.proposals:
                break
            if variant.history:  # the problem tells what was tried: without history it is another draw
                asked = f"{question}\n{retry_message(reply.problem)}"
        return reply

    async def fall_back(self, state: State) -> dict[str, Any]:
        """The fallback strategy fills what the agent left empty, and the log says why."""
        given = _proposals.validate_python(state["proposals"])
        taken = {p.candidate for p in given}
        wanted = self._wanted()
        offered = await self.fallback.propose(self.space, self.runner.trials, wanted)
        reason = state["problem"] or "there is no agent"
        new = [replace(p, fallback=reason) for p in offered if p.candidate not in taken]
        added = new[: wanted - len(given)]
        self.runner.emit(FallbackUsed(reason, len(added)))
        return {"proposals": _proposals.dump_python([*given, *added]), "problem": ""}

    def _tried(self) -> set[Candidate]:
        return {trial.candidate for trial in self.runner.trials}

    def _wanted(self) -> int:
        return min(self.batch_size, self.runner.trials_left)


_proposals = TypeAdapter(list[Proposal])
"""A checkpoint holds proposals as plain data."""
