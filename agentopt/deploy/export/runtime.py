"""The runtime of exported modules: renders prompts, calls models with the `openai` client and combines the answers.

It is not run from here: `module` copies the definitions that an exported module needs. So it imports only what such a
module may import, and each definition is documented for a reader of that module.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jinja2
from openai import DefaultHttpxClient, Omit, OpenAI, OpenAIError

from agentopt.core.task import Parser, Unparsable, Value
from agentopt.models.thoughts import split_thought
from agentopt.workflow.escalation import reason_to_escalate
from agentopt.workflow.fusion import vote, vote_key
from agentopt.workflow.inputs import InputColumns, InputError
from agentopt.workflow.templates import ENVIRONMENT, Record
from agentopt.workflow.vote_stopping import Stop, samples_to_draw


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible endpoint. Keys, and addresses that are not fixed, come from environment variables.

    `cut_at` has the texts at which answers are cut here, for an endpoint that takes no stop sequences.
    """

    model: str
    base_url: str | None = None
    base_url_env: str | None = None
    api_key_env: str | None = None
    api_key_header: str = "Authorization"
    max_choices: int = 1
    is_chat: bool = True
    has_system_role: bool = True
    is_stream: bool = False
    cut_at: tuple[str, ...] = ()
    timeout: float = 120.0
    max_retries: int = 5


@dataclass(frozen=True)
class FusionCall:
    """A further call whose prompt contains all samples and which returns the best single answer.

    `prompt` is a Jinja template of `question` and `answers`.
    """

    endpoint: Endpoint
    settings: Mapping[str, Any]
    prompt: str


@dataclass(frozen=True)
class Cascade:
    """A further call, to another model, whose answer is used if the samples are not reliable.

    They are not if none can be parsed, `check` rejects their value, or a smaller share than `below` agrees.
    """

    endpoint: Endpoint
    settings: Mapping[str, Any]
    below: float
    check: Callable[[Mapping[str, Any], Value], bool] | None


@dataclass(frozen=True)
class Subtask:
    """One subtask: its prompt, the model that is called and how often, and how the answers become one value.

    `prompt` is a Jinja template of `inputs.<column>`, `<subtask>.output` and `knobs.<name>`. `demos` are pairs of an
    earlier prompt and a right response to it, shown before the prompt.
    """

    name: str
    endpoint: Endpoint
    prompt: str
    parse: Parser
    fuse: Callable[[list[Value], Mapping[str, Any]], Value]
    stop: Stop | None = None
    num_samples: int = 1
    system_prompt: str = ""
    demos: tuple[tuple[str, str], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    knobs: Mapping[str, Any] = field(default_factory=dict)
    fusion_call: FusionCall | None = None
    cascade: Cascade | None = None


def main(run: Callable[[Mapping[str, Any]], Value | None], columns: InputColumns, arguments: Sequence[str]) -> int:
    """Print the output for the inputs in the only argument.

    Returns the exit code: 2 for a mistake of the caller, 1 if a call failed or no answer could be parsed.

    Args:
        run: Function of the inputs that returns the output.
        columns: Columns of the inputs.
        arguments: Arguments of the command line.
    """
    try:
        if len(arguments) != 1:
            raise columns.wrong(f"{len(arguments)} arguments were given")
        output = run(columns.read(arguments[0]))
    except InputError as mistake:
        print(mistake, file=sys.stderr)  # noqa: T201 - a command line's error message
        return 2
    except OpenAIError as failure:
        print(f"a model call failed: {failure}", file=sys.stderr)  # noqa: T201 - a command line's error message
        return 1
    if output is None:
        print("no answer of a subtask could be parsed", file=sys.stderr)  # noqa: T201 - a command line's error message
        return 1
    print(json.dumps(output, ensure_ascii=False))  # noqa: T201 - the output
    return 0


def run_subtasks(subtasks: Sequence[Subtask], inputs: Mapping[str, Any], output: str) -> Value | None:
    """The value of the subtask `output`; None if no answer of one of the subtasks could be parsed.

    Args:
        subtasks: In an order in which each comes after those it reads.
        inputs: The inputs by column.
        output: Name of the subtask whose value is returned.
    """
    # Before any call is paid for: a variable that is not set is reported now.
    for subtask in subtasks:
        for called in (subtask, subtask.fusion_call, subtask.cascade):
            if called:
                client(called.endpoint)
    outputs: dict[str, Value] = {}
    for subtask in subtasks:
        names = {name: Record({"output": value}) for name, value in outputs.items()}
        names |= {"knobs": Record(subtask.knobs)} if subtask.knobs else {}
        value = answer(subtask, render(subtask.prompt, inputs=Record(inputs), **names), inputs)
        if value is None:
            return None
        outputs[subtask.name] = value
    return outputs[output]


def render(prompt: str, **names: Any) -> str:
    """The text of a prompt template. Raises `jinja2.UndefinedError` for a name that is not defined."""
    return compiled(prompt).render(names)


@cache
def compiled(prompt: str) -> jinja2.Template:
    """The compiled template."""
    return ENVIRONMENT.from_string(prompt)


def answer(subtask: Subtask, prompt: str, inputs: Mapping[str, Any]) -> Value | None:
    """Draw the subtask's samples, parse them and make one value of them; None if none can be parsed.

    Args:
        subtask: The subtask.
        prompt: The rendered user message.
        inputs: The inputs by column, for the judge of `best_of`.
    """
    before = [{"role": "system", "content": subtask.system_prompt}] if subtask.system_prompt else []
    for shown, response in subtask.demos:
        before += [{"role": "user", "content": shown}, {"role": "assistant", "content": response}]
    question = {"role": "user", "content": prompt}
    texts = drawn(subtask, [*before, question])
    value = fused_value(subtask, before, prompt, texts, inputs)
    second = subtask.cascade
    if second is None or not escalates(second, votes_of(subtask.parse, texts), inputs, value):
        return value
    values = usable(subtask.parse, sample(second.endpoint, [*before, question], second.settings, 1))
    return subtask.fuse(values, inputs) if values else None


def fused_value(
    subtask: Subtask, before: list[Any], prompt: str, texts: list[str], inputs: Mapping[str, Any]
) -> Value | None:
    """One value of the subtask's samples; None if none can be parsed.

    Args:
        subtask: The subtask.
        before: The messages before the prompt: the system message, if there is one, and demonstrations.
        prompt: The rendered user message.
        texts: The samples.
        inputs: The inputs by column, for the judge of `best_of`.
    """
    values = usable(subtask.parse, texts)
    call = subtask.fusion_call
    if values and call and len(texts) > 1:
        answers = [text.strip() for text in texts if text.strip()]
        question = {"role": "user", "content": render(call.prompt, question=prompt, answers=answers)}
        fused = usable(subtask.parse, sample(call.endpoint, [*before, question], call.settings, 1))
        return fused[0] if fused else vote(values)
    return subtask.fuse(values, inputs) if values else None


def escalates(cascade: Cascade, votes: list[str | None], inputs: Mapping[str, Any], value: Value | None) -> bool:
    """Whether the samples are not reliable.

    Args:
        cascade: The threshold and the check.
        votes: The votes of the samples.
        inputs: The inputs by column.
        value: The samples' value.
    """
    passes = value is None or cascade.check is None or bool(cascade.check(inputs, value))
    return reason_to_escalate(votes, cascade.below, passes=passes) is not None


def votes_of(parse: Parser, texts: Sequence[str]) -> list[str | None]:
    """The vote of each text; None for one that cannot be parsed."""
    return [vote_key(values[0]) if (values := usable(parse, [text])) else None for text in texts]


def drawn(subtask: Subtask, messages: list[Any]) -> list[str]:
    """The answers to the same messages: all of the subtask's samples, or as many as the rule `stop` needs."""
    if subtask.stop is None:
        return sample(subtask.endpoint, messages, subtask.settings, subtask.num_samples)
    texts: list[str] = []
    while size := samples_to_draw(votes_of(subtask.parse, texts), subtask.num_samples, subtask.stop):
        texts += sample(subtask.endpoint, messages, subtask.settings, size, len(texts))
    return texts


def usable(parse: Parser, texts: Sequence[str]) -> list[Value]:
    """The values of those texts that can be parsed."""
    values = []
    for text in texts:
        try:
            values.append(parse(text))
        except Unparsable:
            continue
    return values


def sample(
    endpoint: Endpoint, messages: list[Any], settings: Mapping[str, Any], count: int, start: int = 0
) -> list[str]:
    """`count` answers to the same messages, in as few calls as the endpoint allows, sent concurrently.

    Args:
        endpoint: The endpoint to call.
        messages: The messages of the request.
        settings: Further parameters of the request.
        count: Number of answers.
        start: Number of the first answer.
    """
    if not endpoint.has_system_role and messages[0]["role"] == "system":
        system, first, *others = messages
        messages = [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *others]
    most = endpoint.max_choices
    parts = [(start + first, min(most, count - first)) for first in range(0, count, most)]
    with ThreadPoolExecutor(len(parts)) as pool:
        answered = pool.map(lambda part: complete(endpoint, messages, settings, *part), parts)
        return [text for texts in answered for text in texts]


def complete(endpoint: Endpoint, messages: list[Any], settings: Mapping[str, Any], first: int, count: int) -> list[str]:
    """The answers from number `first` on. Each has its own seed, so that answers to one question differ.

    A seed is sent only if the settings have one. What a model thought is no part of its answer.

    Args:
        endpoint: The endpoint to call.
        messages: The messages of the request.
        settings: Further parameters of the request.
        first: Number of the first answer.
        count: Number of answers.
    """
    texts: list[str] = []
    while len(texts) < count:
        number = {"n": count - len(texts)} if count - len(texts) > 1 else {}
        parameters: dict[str, Any] = {**settings, **number}
        if endpoint.api_key_header != "Authorization":
            parameters["extra_headers"] = {**settings.get("extra_headers", {}), "Authorization": Omit()}
        if "seed" in settings:
            parameters["seed"] = sampling_seed(messages, settings["seed"]) + first + len(texts)
        texts += [cut(split_thought(text)[1], endpoint.cut_at) for text in written(endpoint, messages, parameters)]
    return texts[:count]


def written(endpoint: Endpoint, messages: list[Any], parameters: Mapping[str, Any]) -> list[str]:
    """What the model wrote in one call: the text of each choice. Raises `OpenAIError` if there is none.

    Args:
        endpoint: The endpoint to call.
        messages: The messages of the request.
        parameters: Further parameters of the request.
    """
    if not endpoint.is_chat:
        prompt = "\n\n".join(message["content"] for message in messages)
        completion = client(endpoint).completions.create(model=endpoint.model, prompt=prompt, **parameters)
        return [choice.text for choice in choices(completion)]
    create: Any = client(endpoint).chat.completions.create
    if endpoint.is_stream:
        return streamed(create(model=endpoint.model, messages=messages, stream=True, **parameters))
    return [
        text_of(choice.message) for choice in choices(create(model=endpoint.model, messages=messages, **parameters))
    ]


def choices(answer: Any) -> list[Any]:
    """The choices of an answer. Raises `OpenAIError` with the provider's words if there is none."""
    if found := getattr(answer, "choices", None):
        return list(found)
    raise OpenAIError(f"no choice was returned: {getattr(answer, 'error', None) or str(answer)[:200]}")


def streamed(events: Iterable[Any]) -> list[str]:
    """The texts of a streamed answer's choices. Raises `OpenAIError` if there is none."""
    texts: dict[int, str] = {}
    for event in events:
        for choice in event.choices or ():
            texts[choice.index] = texts.get(choice.index, "") + text_of(choice.delta)
    if not texts:
        raise OpenAIError("no choice was returned")
    return [texts[index] for index in sorted(texts)]


def text_of(message: Any) -> str:
    """The text of a message, whose content may be a list of parts; parts with thoughts are no text."""
    content = message.content
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    return content or message.refusal or ""


def cut(text: str, at: Sequence[str]) -> str:
    """The text up to the first of the texts `at`."""
    return text[: min((place for end in at if end and (place := text.find(end)) >= 0), default=len(text))]


def sampling_seed(messages: list[Any], seed: int) -> int:
    """The seed of the first answer. It depends on the messages, so that different questions draw independently."""
    text = json.dumps([seed, [[message["role"], message["content"]] for message in messages]])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) // 4


@cache
def client(endpoint: Endpoint) -> OpenAI:
    """The client of an endpoint. Raises `InputError` if an environment variable is not set."""
    # The client requires a key even if the endpoint does not.
    key = variable(endpoint.api_key_env) if endpoint.api_key_env else "no-key"
    return OpenAI(
        base_url=variable(endpoint.base_url_env) if endpoint.base_url_env else endpoint.base_url,
        api_key=key,
        default_headers={endpoint.api_key_header: key} if endpoint.api_key_header != "Authorization" else None,
        timeout=endpoint.timeout,
        max_retries=endpoint.max_retries,
        # A redirect would send the key and the prompt to another host.
        http_client=DefaultHttpxClient(follow_redirects=False, timeout=endpoint.timeout),
    )


def variable(name: str) -> str:
    """The value of an environment variable. Raises `InputError` if it is not set."""
    if value := os.environ.get(name):
        return value
    raise InputError(f"the environment variable {name} is not set")
