"""What an exported module runs on: the calls to models and the reading of their answers, on the `openai` client.

Never run from here: `module` copies what an exported module needs of it. So it imports no more than such a module may,
and every definition says all that a reader of that module needs to know.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

from openai import OpenAI, OpenAIError

from agentopt.core.json_text import json_values
from agentopt.core.task import Parser, Unparsable, Value
from agentopt.workflow.fusion import vote
from agentopt.workflow.inputs import Columns, InputError
from agentopt.workflow.parsers import shown


@dataclass(frozen=True)
class Endpoint:
    """How a model is reached: keys, and addresses that are not fixed, come from environment variables."""

    model: str
    base_url: str | None = None
    base_url_env: str | None = None
    api_key_env: str | None = None
    max_choices: int = 1
    is_chat: bool = True
    timeout: float = 120.0
    max_retries: int = 5


@dataclass(frozen=True)
class Fusing:
    """A further call that reads all samples and gives the best single answer."""

    endpoint: Endpoint
    settings: Mapping[str, Any]
    prompt: Callable[[str, Sequence[str]], str]


@dataclass(frozen=True)
class Stage:
    """One stage: its prompt, what is asked of which model how often, and how the answers become one value."""

    name: str
    endpoint: Endpoint
    prompt: Callable[[Mapping[str, Any], Mapping[str, Value]], str]
    parse: Parser
    fuse: Callable[[list[Value], Mapping[str, Any]], Value]
    num_samples: int = 1
    system_prompt: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    fusing: Fusing | None = None


def main(run: Callable[[Mapping[str, Any]], Value | None], columns: Columns, arguments: Sequence[str]) -> int:
    """Print the output for the inputs in the only argument. Returns the exit code: 2 for a mistake of the caller."""
    try:
        if len(arguments) != 1:
            raise columns.wrong(f"{len(arguments)} arguments were given")
        print(json.dumps(run(columns.read(arguments[0])), ensure_ascii=False))  # noqa: T201 - its output
    except InputError as mistake:
        print(mistake, file=sys.stderr)  # noqa: T201 - for who runs it
        return 2
    except OpenAIError as failure:
        print(f"a model could not be asked: {failure}", file=sys.stderr)  # noqa: T201 - for who runs it
        return 1
    return 0


def run_stages(stages: Sequence[Stage], inputs: Mapping[str, Any], output: str) -> Value | None:
    """The value of the stage `output`; None when no answer of a stage was usable."""
    # Before anything is asked and paid for: a variable that is not set is told now.
    for stage in stages:
        for asked in (stage, stage.fusing):
            if asked:
                client(asked.endpoint)
    outputs: dict[str, Value] = {}
    for stage in stages:
        value = answer(stage, stage.prompt(inputs, outputs), inputs)
        if value is None:
            return None
        outputs[stage.name] = value
    return outputs[output]


def answer(stage: Stage, prompt: str, inputs: Mapping[str, Any]) -> Value | None:
    """Draw the stage's samples, read each, and make one value of them; None when none can be read."""
    system = [{"role": "system", "content": stage.system_prompt}] if stage.system_prompt else []
    question = {"role": "user", "content": prompt}
    texts = sample(stage.endpoint, [*system, question], stage.settings, stage.num_samples)
    values = usable(stage.parse, texts)
    if values and stage.fusing and len(texts) > 1:
        fusing = stage.fusing
        question = {"role": "user", "content": fusing.prompt(prompt, [text.strip() for text in texts])}
        fused = usable(stage.parse, sample(fusing.endpoint, [*system, question], fusing.settings, 1))
        return fused[0] if fused else vote(values)
    return stage.fuse(values, inputs) if values else None


def usable(parse: Parser, texts: Sequence[str]) -> list[Value]:
    """The values of those texts that can be read."""
    values = []
    for text in texts:
        try:
            values.append(parse(text))
        except Unparsable:
            continue
    return values


def sample(endpoint: Endpoint, messages: list[Any], settings: Mapping[str, Any], count: int) -> list[str]:
    """`count` answers to the same messages, asked for in as few calls as the endpoint allows, all at once."""
    most = endpoint.max_choices
    parts = [(first, min(most, count - first)) for first in range(0, count, most)]
    with ThreadPoolExecutor(len(parts)) as pool:
        answered = pool.map(lambda part: complete(endpoint, messages, settings, *part), parts)
        return [text for texts in answered for text in texts]


def complete(endpoint: Endpoint, messages: list[Any], settings: Mapping[str, Any], first: int, count: int) -> list[str]:
    """The answers number `first` and on. Each has a seed of its own, so that answers of one question differ."""
    texts: list[str] = []
    while len(texts) < count:
        number = {"n": count - len(texts)} if count - len(texts) > 1 else {}
        seed = sampling_seed(messages, settings["seed"]) + first + len(texts)
        asked: dict[str, Any] = {**settings, **number, "seed": seed}
        if endpoint.is_chat:
            chat = client(endpoint).chat.completions.create(model=endpoint.model, messages=messages, **asked)
            texts += [choice.message.content or choice.message.refusal or "" for choice in chat.choices]
        else:
            prompt = "\n\n".join(message["content"] for message in messages)
            completion = client(endpoint).completions.create(model=endpoint.model, prompt=prompt, **asked)
            texts += [choice.text for choice in completion.choices]
    return texts[:count]


def sampling_seed(messages: list[Any], seed: int) -> int:
    """The seed of the first answer: every conversation has its own, so that similar ones do not share their luck."""
    said = json.dumps([seed, [[message["role"], message["content"]] for message in messages]])
    return int.from_bytes(hashlib.sha256(said.encode()).digest()[:4]) // 4


@cache
def client(endpoint: Endpoint) -> OpenAI:
    """The client of an endpoint. Raises `InputError` that names the environment variable that is not set."""
    return OpenAI(
        base_url=variable(endpoint.base_url_env) if endpoint.base_url_env else endpoint.base_url,
        # The client refuses to start without a key, also where the endpoint asks for none.
        api_key=variable(endpoint.api_key_env) if endpoint.api_key_env else "no-key",
        timeout=endpoint.timeout,
        max_retries=endpoint.max_retries,
    )


def variable(name: str) -> str:
    """The value of an environment variable. Raises `InputError` where it is not set."""
    if value := os.environ.get(name):
        return value
    raise InputError(f"the environment variable {name} is not set")


def show(value: Any) -> str:
    """A value as it stands in a prompt: lists and objects as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple | dict) else str(value)


def get(value: Any, name: str) -> Any:
    """`value.name` of a template: an attribute, or else an item."""
    return getattr(value, name) if hasattr(value, name) else value[name]


def whole(value: Any) -> int:
    """What a template's filter `int` makes of a value: 0 where it is no number."""
    for read in (int, lambda text: int(float(text))):
        try:
            return read(value)
        except (TypeError, ValueError, OverflowError):
            continue
    return 0


def looped(items: Iterable[Any]) -> Iterator[tuple[SimpleNamespace, Any]]:
    """Each item with what a template may ask of `loop`."""
    known = list(items)
    for i, item in enumerate(known):
        last = len(known) - 1
        yield SimpleNamespace(index=i + 1, index0=i, first=i == 0, last=i == last, length=len(known)), item


def json_value(schema: Mapping[str, Any]) -> Parser:
    """Reads the first JSON value in an answer that follows `schema`."""

    def parse(response: str) -> Value:
        for value in json_values(response):
            if value is not None and follows(value, schema):
                return value
        raise Unparsable(f"expected JSON by the schema, got {shown(response)}")

    return parse


def follows(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a JSON value follows a JSON Schema that uses only the keywords below."""
    known = schema.get("properties", {}).keys()
    holds: dict[str, Callable[[Any], bool]] = {
        "type": lambda kinds: any(is_of(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)),
        "enum": lambda options: any(same(value, option) for option in options),
        "const": lambda constant: same(value, constant),
        "minimum": lambda least: not is_of(value, "number") or value >= least,
        "maximum": lambda most: not is_of(value, "number") or value <= most,
        "minLength": lambda least: not isinstance(value, str) or len(value) >= least,
        "maxLength": lambda most: not isinstance(value, str) or len(value) <= most,
        "pattern": lambda pattern: not isinstance(value, str) or re.search(pattern, value) is not None,
        "minItems": lambda least: not isinstance(value, list) or len(value) >= least,
        "maxItems": lambda most: not isinstance(value, list) or len(value) <= most,
        "items": lambda inner: not isinstance(value, list) or all(follows(item, inner) for item in value),
        "required": lambda keys: not isinstance(value, dict) or all(key in value for key in keys),
        "properties": lambda inner: (
            not isinstance(value, dict) or all(follows(value[key], inner[key]) for key in inner.keys() & value.keys())
        ),
        "additionalProperties": lambda allowed: (
            not isinstance(value, dict)
            or all(
                allowed is not False and follows(value[k], {} if allowed is True else allowed)
                for k in value.keys() - known
            )
        ),
        "title": lambda _: True,
        "description": lambda _: True,
    }
    return all(holds[keyword](argument) for keyword, argument in schema.items())


def is_of(value: Any, kind: str) -> bool:
    """Whether a JSON value is of a type of JSON Schema: 1.0 is an integer, true is no number."""
    types: dict[str, Any] = {"string": str, "object": dict, "array": list, "boolean": bool, "null": type(None)}
    if kind in types:
        return isinstance(value, types[kind])
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return not isinstance(value, bool) and (whole if kind == "integer" else isinstance(value, int | float))


def same(value: Any, other: Any) -> bool:
    """Equality of JSON: 1 and 1.0 are equal, 1 and true are not."""
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(same, value, other))
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(same(value[key], other[key]) for key in value)
    return bool(value == other)
