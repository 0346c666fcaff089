"""Which of the coming trials make calls: trials share responses, so that late ones often need none."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from agentopt.core.axes import STOP
from agentopt.core.budget import Budget
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.records import Remaining, Trial
from agentopt.search.base import SearchSpace
from agentopt.search.posterior import Choice

SHUFFLES = 20
"""Random orders of the coming trials over which the mean is taken."""

MOST_TRIALS = 100
"""Coming trials that are drawn; of more, as large a share makes calls."""

MOST_LISTED = 1000
"""Size of the largest space whose untried candidates are drawn without replacement."""


class CallOutlook:
    """Estimates how many of a run's coming trials make calls.

    A candidate certainly needs new responses if one of its subtasks has more samples than were drawn with the same
    model and settings. Any other one needs them only where a subtask reads a different output than before: as often as
    such trials did so far.

    Args:
        budget: Its spend shows which trials make calls.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._repeated: list[bool] = []
        """Of each trial whose samples were all drawn before: whether it made calls all the same."""

    @contextmanager
    def watching(self, candidate: Candidate, trials: Sequence[Trial]) -> Iterator[None]:
        """Watch the calls of the candidate's trial, inside the block.

        Args:
            candidate: The candidate that is evaluated.
            trials: The trials before.
        """
        is_new, before = _Drawn(trials).adds(candidate), self._budget.spent.calls
        yield
        if not is_new:
            self._repeated.append(self._budget.spent.calls > before)

    def remaining(self, space: SearchSpace, trials: Sequence[Trial], choice: Choice | None) -> Remaining | None:
        """The rest of the run after these trials; None without a cap on trials.

        Args:
            space: The search space.
            trials: The trials so far.
            choice: What the run would return now; None if no trial is complete.
        """
        if (cap := self._budget.caps.trials) is None:
            return None
        left = max(0, min(cap, space.size) - len(trials))
        # The baseline, and with a share of the trials to come, more probably another one.
        found = len({choice.best.number, choice.recommended.number, 0} if choice else {0})
        finalists = found + max(0, 2 - found) * left / max(left + len(trials), 1)
        drawn = min(left, MOST_TRIALS)
        before = _Drawn(trials)
        new = sum(before.new_in(order) for order in _orders(space, trials, drawn)) / SHUFFLES
        is_shared = any(subtask.reads for subtask in space.subtasks)
        surprising = (sum(self._repeated) + 0.5 * is_shared) / max(len(self._repeated) + is_shared, 1)
        calling = new + (drawn - new) * surprising
        return Remaining(left, calling * left / max(drawn, 1), finalists)


class _Drawn:
    """The most samples of each subtask, model and settings."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._most: dict[tuple[object, ...], int] = {}
        for trial in trials:
            if trial.state == "complete":
                self.add(trial.candidate)

    def adds(self, candidate: Candidate) -> bool:
        return any(choice.num_samples > self._most.get(_shared(name, choice), 0) for name, choice in candidate.items())

    def add(self, candidate: Candidate) -> None:
        for name, choice in candidate.items():
            place = _shared(name, choice)
            self._most[place] = max(self._most.get(place, 0), choice.num_samples)

    def new_in(self, order: Sequence[Candidate]) -> int:
        """Number of candidates that need new responses if they are evaluated in this order after those before."""
        drawn, new = _Drawn(()), 0
        drawn._most.update(self._most)
        for candidate in order:
            new += drawn.adds(candidate)
            drawn.add(candidate)
        return new


def _shared(subtask: str, choice: SubtaskChoice) -> tuple[object, ...]:
    """What two choices of a subtask have in common if they share samples."""
    settings = tuple(pair for pair in choice.settings if pair[0] != STOP)
    return subtask, choice.model, choice.system_prompt, settings, choice.demos


def _orders(space: SearchSpace, trials: Sequence[Trial], count: int) -> Iterator[Sequence[Candidate]]:
    """Yield `SHUFFLES` random orders of untried candidates, each of at most `count`."""
    rng, tried = random.Random(len(trials)), {trial.candidate for trial in trials}
    if space.size <= MOST_LISTED:
        untried = [candidate for candidate in space.candidates() if candidate not in tried]
        for _ in range(SHUFFLES):
            yield rng.sample(untried, min(count, len(untried)))
        return
    for _ in range(SHUFFLES):
        places = ([(s, rng.randrange(s.size)) for s in space.subtasks] for _ in range(count))
        yield [Candidate.of({s.name: s.choice_at(place) for s, place in drawn}) for drawn in places]
