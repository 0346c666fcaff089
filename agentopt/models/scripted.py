"""A fake `ChatModel` for tests that answers from a function or a script."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agentopt.models.base import Choice, Request, Response

Reply = str | Choice
"""The text of a choice, or the choice."""

Answer = Reply | Exception | Callable[[Request, int], Reply]
"""A reply, an exception to raise, or a function of the request and the repeat index that returns a reply."""


class ScriptRanOut(AssertionError):  # noqa: N818 - an assertion of the test, so that no handler of our errors catches it
    """The model was called more often than its script has entries."""


def count_tokens(text: str) -> int:
    """Count the tokens of the fake, which are words."""
    return len(text.split())


class ScriptedModel:
    """Answers from `answer`, or from `script` in order, and keeps every request in `requests`.

    Args:
        answer: `answer(request, repeat)` returns one choice. Called once per repeat index.
        script: One entry per call: a reply for all choices, an exception to raise, or a function like `answer`.
        choices_per_call: Most choices returned by one call; all that were requested unless given.

    Raises:
        ScriptRanOut: By `generate`, after the last entry of `script`.
    """

    def __init__(
        self,
        answer: Callable[[Request, int], Reply] | None = None,
        *,
        script: Iterable[Answer] = (),
        choices_per_call: int | None = None,
    ) -> None:
        self.requests: list[Request] = []
        self._answer, self._script = answer, iter(script)
        self._choices_per_call = choices_per_call

    async def generate(self, request: Request) -> Response:
        self.requests.append(request)
        entry: Answer | None = self._answer or next(self._script, None)
        if entry is None:
            raise ScriptRanOut(f"called {len(self.requests)} times; the last request was {request}")
        if isinstance(entry, Exception):
            raise entry
        count = min(request.n, self._choices_per_call or request.n)
        repeats = range(request.first_repeat, request.first_repeat + count)
        replies = [entry if isinstance(entry, str | Choice) else entry(request, repeat) for repeat in repeats]
        choices = tuple(Choice(r, count_tokens(r)) if isinstance(r, str) else r for r in replies)
        prompt_tokens = sum(count_tokens(m.content) for m in request.messages)
        return Response(choices, prompt_tokens)

    async def aclose(self) -> None:
        """Do nothing: the fake holds no resources."""
