"""The one seam to a language model: `ChatModel.generate(request) -> Response`, async."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

Role = Literal["system", "user", "assistant"]
Purpose = Literal["samples", "fusion", "judge", "agent", "prompts", "check"]
"""What a call is for; spend is reported by it."""


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Request:
    """One question to one model: `n` answers, those with repeat index `first_repeat .. first_repeat + n - 1`.

    `model` is a catalogue name. `json_schema` is the canonical JSON text of a schema the answer must follow.
    The repeat indices, `n` and `purpose` are not part of what is asked: they do not change the `key`.
    """

    model: str
    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.9
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    json_schema: str | None = None
    seed: int = 0
    first_repeat: int = 0
    n: int = 1
    purpose: Purpose = "samples"

    def key(self, identity: str) -> str:
        """Names what is asked of the model whose `ModelSpec.identity` is given, whatever its catalogue name."""
        asked = [
            identity,
            [[m.role, m.content] for m in self.messages],
            [self.max_tokens, self.temperature, self.top_p, self.stop, self.json_schema, self.seed],
        ]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

    @property
    def sampling_seed(self) -> int:
        """The seed for endpoints that honour one; that of the next repeat is one more.

        Every conversation has its own: with one seed for all, similar prompts would share their luck, and examples
        would not be the independent draws that every interval takes them for.
        """
        said = json.dumps([self.seed, [[m.role, m.content] for m in self.messages]])
        return int.from_bytes(hashlib.sha256(said.encode()).digest()[:4]) // 4 + self.first_repeat

    def for_repeats(self, first_repeat: int, n: int) -> Request:
        return replace(self, first_repeat=first_repeat, n=n)


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer. `completion_tokens` counts this answer alone."""

    text: str
    completion_tokens: int
    finish_reason: str = "stop"


@dataclass(frozen=True, slots=True)
class Response:
    """`choices` in the order of their repeat index; `prompt_tokens` of the prompt, paid once per call."""

    choices: tuple[Choice, ...]
    prompt_tokens: int
    seconds: float = 0.0

    @property
    def completion_tokens(self) -> int:
        return sum(choice.completion_tokens for choice in self.choices)


@runtime_checkable
class ChatModel(Protocol):
    """Anything that answers a `Request`. One instance may serve many catalogue names.

    Raises `TransientModelError` where another attempt may help, `PermanentModelError` where it cannot. May
    answer fewer than `n` choices (never none); the caller asks again for the rest.
    """

    async def generate(self, request: Request) -> Response: ...

    async def aclose(self) -> None:
        """Release connections and processes. Safe to call twice."""


@runtime_checkable
class Preparable(Protocol):
    """A `ChatModel` that may need minutes before it can be asked, such as to fetch a file."""

    async def prepare(self, model: str) -> None:
        """Make the catalogue's `model` ready. To be cancelled at any moment; `generate` does it where nobody has."""
