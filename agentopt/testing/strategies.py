"""The conformance suites that every `Strategy` and every `Search` passes, and an in-memory `Runner` for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agentopt.core.candidate import Candidate
from agentopt.core.events import Event
from agentopt.core.records import Evaluation, ExampleResult, Trial, TrialState
from agentopt.search.base import Proposal, Search, SearchSpace, Strategy

ScoreFunction = Callable[[Candidate], float]


def trial_of(
    space: SearchSpace, number: int, proposal: Proposal, score: float | None, state: TrialState = "complete"
) -> Trial:
    """A trial of one example with this score; None is an incomplete trial whose example failed."""
    result = ExampleResult("example", score, error=None if score is not None else "the call failed")
    state = state if score is not None else "incomplete"
    evaluation = Evaluation("validation", 1, (result,), state)
    candidate = proposal.candidate
    return Trial(number, candidate, evaluation, proposal.proposer, space.units(candidate), proposal.note)


class ScriptedRunner:
    """A `Runner` whose world is a score function. Keeps what was said in `said`, as (event, message).

    The baseline is trial 0 from the start; `max_trials` counts it. Before the run with the number `fail_at`
    (counting every call of `run`, from 1) it raises `error`, once: what a crash looks like to a search.
    """

    def __init__(
        self,
        space: SearchSpace,
        score: ScoreFunction,
        max_trials: int,
        *,
        fail_at: int | None = None,
        error: BaseException | None = None,
    ) -> None:
        self.events: list[Event] = []
        self.runs = 0
        self._space, self._score, self.max_trials = space, score, max_trials
        self._fail_at, self._error = fail_at, error or RuntimeError("the machine went down")
        self._trials = [trial_of(space, 0, Proposal(space.baseline, "baseline"), score(space.baseline))]

    @property
    def trials(self) -> Sequence[Trial]:
        return tuple(self._trials)

    @property
    def trials_left(self) -> int:
        return max(0, self.max_trials - len(self._trials))

    async def run(self, proposal: Proposal) -> Trial:
        self.runs += 1
        if self.runs == self._fail_at:
            raise self._error
        for trial in self._trials:
            if trial.candidate == proposal.candidate:
                return trial
        trial = trial_of(self._space, len(self._trials), proposal, self._score(proposal.candidate))
        self._trials.append(trial)
        return trial

    def emit(self, event: Event) -> None:
        self.events.append(event)


async def check_strategy(
    make: Callable[[], Strategy], space: SearchSpace, score: ScoreFunction, *, rounds: int = 4, k: int = 3
) -> None:
    """Raise `AssertionError` unless the strategy keeps what `Strategy` promises, over a few rounds in `space`.

    Proposals are in the space, untried, distinct and at most k; the same history gives the same proposals, also from
    a fresh instance; an empty list comes only when every affordable candidate was tried. Histories hold pruned and
    incomplete trials too.
    """
    trials = [trial_of(space, 0, Proposal(space.baseline, "baseline"), score(space.baseline))]
    strategy = make()
    for _ in range(rounds):
        proposals = await strategy.propose(space, tuple(trials), k)
        assert proposals == await make().propose(space, tuple(trials), k), "the same history, other proposals"
        assert proposals == await strategy.propose(space, tuple(trials), k), "asking twice changed the answer"
        _check_proposals(space, trials, proposals, k)
        for proposal in proposals:
            trials.append(_varied(space, len(trials), proposal, score(proposal.candidate)))
        if not proposals:
            break


async def check_strategy_tries_everything(strategy: Strategy, space: SearchSpace, score: ScoreFunction) -> None:
    """Raise `AssertionError` unless the strategy tries every affordable candidate once, and then says it is done."""
    trials = [trial_of(space, 0, Proposal(space.baseline, "baseline"), score(space.baseline))]
    every = {*space.candidates(), space.baseline}
    for _ in range(len(every) + 1):
        proposals = await strategy.propose(space, tuple(trials), 4)
        for proposal in proposals:
            trials.append(trial_of(space, len(trials), proposal, score(proposal.candidate)))
        if not proposals:
            break
    assert {t.candidate for t in trials} == every, "it ended before everything was tried"
    assert len(trials) == len(every), "it repeated itself"


async def check_search(make: Callable[[], Search], space: SearchSpace, score: ScoreFunction, *, trials: int) -> None:
    """Raise `AssertionError` unless the search spends its trials as `Search` promises, on a world of `score`.

    Every trial, or the whole space where that is less; each affordable, none twice; the same from a fresh instance;
    and one that has nothing left to spend runs nothing.
    """
    runner, again = (ScriptedRunner(space, score, trials) for _ in range(2))
    await make().run(space, runner)
    await make().run(space, again)
    done = runner.trials
    assert len(done) == min(trials, len({*space.candidates(), space.baseline})), f"{len(done)} of {trials} trials spent"
    assert len({t.candidate for t in done}) == len(done), "a candidate was tried twice"
    assert all(space.contains(t.candidate) for t in done[1:]), "a trial is outside the space"
    assert again.trials == done, "a second run made other trials"
    runs = runner.runs
    if runner.trials_left == 0:
        await make().run(space, runner)
        assert runner.runs == runs, "it ran a trial that it had not left"


def _check_proposals(space: SearchSpace, trials: Sequence[Trial], proposals: Sequence[Proposal], k: int) -> None:
    candidates = [p.candidate for p in proposals]
    tried = {t.candidate for t in trials}
    assert len(candidates) <= k, f"at most {k} were asked for, but got {len(candidates)}"
    assert len(set(candidates)) == len(candidates), "two proposals are alike"
    assert not tried.intersection(candidates), "a proposal was tried before"
    assert all(space.contains(c) for c in candidates), "a proposal is outside the space"
    assert all(p.proposer for p in proposals), "a proposal does not say who made it"
    left = {*space.candidates()} - tried
    assert len(candidates) == min(k, len(left)), f"{len(left)} are left, but {len(candidates)} were proposed"


def _varied(space: SearchSpace, number: int, proposal: Proposal, score: float) -> Trial:
    if number % 4 == 3:
        return trial_of(space, number, proposal, None)
    return trial_of(space, number, proposal, score, "pruned" if number % 4 == 2 else "complete")
