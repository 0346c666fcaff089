"""The interface to a language model: `ChatModel.generate(request) -> Response`, async."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

Role = Literal["system", "user", "assistant", "tool"]
Purpose = Literal["samples", "fusion", "judge", "agent", "prompts", "demos", "check"]
"""What a call is for; spending is reported by purpose."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool that a model requested.

    Attributes:
        id: Identifies the call; the tool's result refers to it.
        name: Name of the function.
        arguments: The arguments as JSON text, exactly as the model wrote them.
    """

    id: str
    name: str
    arguments: str

    def body(self) -> dict[str, Any]:
        """The call in the OpenAI format."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: `system`, `user`, `assistant` or `tool`.
        content: The text. If the content has other parts too, the joined text of its text parts.
        parts: The content's parts in the OpenAI format, each as JSON text, if it has any that are not text.
        tool_calls: The tool calls of an `assistant` message.
        tool_call_id: The call that a `tool` message answers.
    """

    role: Role
    content: str
    parts: tuple[str, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    def body(self) -> dict[str, Any]:
        """The message in the OpenAI format."""
        content = [json.loads(part) for part in self.parts] if self.parts else self.content
        body: dict[str, Any] = {"role": self.role, "content": content or None if self.tool_calls else content}
        if self.tool_calls:
            body["tool_calls"] = [call.body() for call in self.tool_calls]
        if self.tool_call_id is not None:
            body["tool_call_id"] = self.tool_call_id
        return body


@dataclass(frozen=True, slots=True)
class Request:
    """A request for `n` choices, those with repeat index `first_repeat .. first_repeat + n - 1`.

    Attributes:
        model: Catalogue name.
        messages: The conversation.
        max_tokens: Most tokens of one choice, thoughts included.
        temperature: Sampling temperature; the catalogue entry's, else the provider's default, if None.
        top_p: Nucleus sampling; as `temperature`.
        stop: Texts that end the generation.
        json_schema: Canonical JSON text of a schema that the answer must follow.
        seed: Part of the cache key, so that another seed draws other responses. Sent, see `sampling_seed`, to an
            endpoint whose catalogue entry declares `supports: {seed: true}`, and if not 0 to any that may take it.
        tools: Tools that the model may call, each in the OpenAI format as JSON text.
        tool_choice: `tool_choice` of the OpenAI format as JSON text.
        reasoning_effort: Such as `low`; the catalogue entry's if None.
        parallel_tool_calls: Whether one answer may have several tool calls; the provider's default if None.
        left_out: Parameters that must not be sent, which the endpoint does not take; set by `request_fitting.fit`.
        first_repeat: Repeat index of the first choice. Not part of the cache key, like `n` and `purpose`.
        n: Number of choices.
        purpose: What the call is for.
    """

    model: str
    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    json_schema: str | None = None
    seed: int = 0
    first_repeat: int = 0
    n: int = 1
    purpose: Purpose = "samples"
    tools: tuple[str, ...] = ()
    tool_choice: str | None = None
    reasoning_effort: str | None = None
    left_out: frozenset[str] = frozenset()
    parallel_tool_calls: bool | None = None

    def key(self, identity: str, shape: str = "") -> str:
        """Compute the cache key: the same for equal requests to the same model, whatever its catalogue name.

        Args:
            identity: `ModelSpec.identity`.
            shape: What else is sent, as `request_fitting.shape` describes it. Empty for a plain request, whose
                responses are found in journals of version 0.1.0 too.
        """
        content: list[Any] = [
            identity,
            [[m.role, m.content] for m in self.messages],
            [self.max_tokens, self.temperature, self.top_p, self.stop, self.json_schema, self.seed],
        ]
        extra = [
            [asdict(m) for m in self.messages if m.parts or m.tool_calls or m.tool_call_id is not None],
            [self.tools, self.tool_choice, self.reasoning_effort],
            shape,
        ]
        if extra != [[], [(), None, None], ""]:
            content.append(extra)
        if self.parallel_tool_calls is not None:
            content.append({"parallel_tool_calls": self.parallel_tool_calls})
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def sampling_seed(self) -> int:
        """The seed to send; that of the next repeat is one more.

        Each conversation has a different seed. A common one would correlate the samples of similar prompts, and
        confidence intervals assume that examples are independent draws.
        """
        content = json.dumps([self.seed, [[m.role, m.content] for m in self.messages]])
        return int.from_bytes(hashlib.sha256(content.encode()).digest()[:4]) // 4 + self.first_repeat

    def for_repeats(self, first_repeat: int, n: int) -> Request:
        """Return the same request for other repeat indices."""
        return replace(self, first_repeat=first_repeat, n=n)


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer.

    Attributes:
        text: The answer without thoughts; empty if the model only thought, or only called tools.
        completion_tokens: Tokens of this choice, thoughts included.
        finish_reason: `stop`, `length`, `content_filter`, `tool_calls`, or the provider's own word.
        thought: What the model wrote before its answer: `reasoning_content`, or a `<think>` block.
        tool_calls: Tools that the model calls.
        reasoning_tokens: Those of `completion_tokens` that were spent on thoughts, if the provider reports them.
    """

    text: str
    completion_tokens: int
    finish_reason: str = "stop"
    thought: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning_tokens: int = 0

    @property
    def is_cut_off(self) -> bool:
        """Whether the choice ended at `max_tokens`."""
        return self.finish_reason == "length"

    @property
    def is_filtered(self) -> bool:
        """Whether the provider's content filter ended the choice, or the model refused to go on."""
        return self.finish_reason == "content_filter"

    @property
    def is_whole(self) -> bool:
        """Whether the choice ended neither at `max_tokens` nor by a filter."""
        return not (self.is_cut_off or self.is_filtered)

    @property
    def is_only_thought(self) -> bool:
        """Whether the model thought, shown or hidden, but gave neither text nor a tool call."""
        return bool(self.thought or self.reasoning_tokens) and not self.text.strip() and not self.tool_calls


@dataclass(frozen=True, slots=True)
class Response:
    """The response to a `Request`.

    Attributes:
        choices: In the order of their repeat index.
        prompt_tokens: Tokens of the prompt, paid once per call.
        seconds: Duration of the call, or of the slowest one if several drew the choices; 0 if it is not known.
        cached_tokens: Those of `prompt_tokens` that the provider read from its prompt cache; the mean over the requests
            if several drew the choices.
        is_usage_reported: Whether the provider reported the tokens; otherwise they are estimates.
        stored: When an earlier session stored it, in seconds since 1970; None if a choice of it is new.
        requests: Number of requests that draw the choices, each of which pays for the prompt.
    """

    choices: tuple[Choice, ...]
    prompt_tokens: int
    seconds: float = 0.0
    cached_tokens: float = 0
    is_usage_reported: bool = True
    stored: float | None = None
    requests: int = 1

    @property
    def completion_tokens(self) -> int:
        """Tokens of all choices, thoughts included."""
        return sum(choice.completion_tokens for choice in self.choices)

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of all choices that were spent on thoughts."""
        return sum(choice.reasoning_tokens for choice in self.choices)


@runtime_checkable
class ChatModel(Protocol):
    """Anything that responds to a `Request`. One instance may serve many catalogue names."""

    async def generate(self, request: Request) -> Response:
        """Make one call.

        Args:
            request: The request; `request.n` choices are wanted.

        Returns:
            At least one choice, and at most `request.n`; the caller requests the rest in further calls.

        Raises:
            TransientModelError: Another attempt may succeed.
            PermanentModelError: The same request would fail again.
        """
        ...

    async def aclose(self) -> None:
        """Release connections and processes. Safe to call twice."""


@runtime_checkable
class Preparable(Protocol):
    """A `ChatModel` that may need minutes before its first call, for example to fetch a file."""

    async def prepare(self, model: str) -> None:
        """Make the catalogue's `model` ready. May be cancelled at any time; `generate` prepares it if necessary."""


@runtime_checkable
class Rejectable(Protocol):
    """A `ChatModel` that keeps responses, and can be informed that one of them was unusable."""

    async def reject(self, request: Request) -> None:
        """Mark the kept responses to `request` as unusable: a later session requests them again, once."""


async def reject(model: ChatModel, request: Request) -> None:
    """Mark the responses to `request` as unusable, if `model` keeps responses.

    Call this when the reader of a response (a judge's verdict, an agent's reply, a written prompt) cannot use it.
    """
    if isinstance(model, Rejectable):
        await model.reject(request)
