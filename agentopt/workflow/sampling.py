"""Test-time scaling of one subtask: draws `num_samples` responses, parses each, and fuses them into one value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain, takewhile
from typing import Any

from agentopt.core.axes import Cascade, fields_for, threshold_of
from agentopt.core.candidate import SubtaskChoice
from agentopt.core.cost import PAPER_UNIT, Unit, units
from agentopt.core.demos import demos_in_prompt
from agentopt.core.errors import PermanentModelError
from agentopt.core.records import Answer, SubtaskUse
from agentopt.core.task import Subtask, Unparsable, Value
from agentopt.core.user_functions import name_of, reporting
from agentopt.models.base import ChatModel, Choice, Message, Request, Response
from agentopt.models.catalog import ModelSpec
from agentopt.models.thoughts import split_thought
from agentopt.workflow.base import FIRST_DRAW, Draw, Prompt
from agentopt.workflow.escalation import reason_to_escalate
from agentopt.workflow.fusion import fuse_values, fusion_message, fusion_temperature, vote, vote_key
from agentopt.workflow.parsers import FrontParser, python
from agentopt.workflow.payments import payment
from agentopt.workflow.tool_calls import CalledTools, read_tool_calls, vote_on_calls
from agentopt.workflow.vote_stopping import Stop, Vote, samples_to_draw


@dataclass(frozen=True)
class SubtaskSampler:
    """Answers subtask calls: draws the samples, parses each and fuses them.

    Attributes:
        model: The client that draws responses.
        specs: Model name to spec, for prices.
        unit: The pass that costs one unit.
    """

    model: ChatModel
    specs: Mapping[str, ModelSpec]
    unit: Unit = PAPER_UNIT

    async def answer(
        self,
        subtask: Subtask,
        choice: SubtaskChoice,
        prompt: Prompt,
        inputs: Mapping[str, Any],
        draw: Draw = FIRST_DRAW,
    ) -> Answer:
        """Answer one call; the value is None, with a note, if no response was parsable.

        Args:
            subtask: The settings, the parser and the fusion.
            choice: The model, the number of samples and the system prompt.
            prompt: The user message, or the conversation.
            inputs: The example's inputs, which the judge of `best_of` reads.
            draw: Which samples are drawn; each repeat draws `choice.num_samples` new ones.

        Raises:
            ModelError: If a call failed permanently.
            BudgetExceeded: If a cap was reached.
        """
        below = threshold_of(subtask, choice)
        subtask, choice = configured(subtask, choice), replace(choice, settings=())
        answer, votes = await self._answered(subtask, choice, prompt, inputs, draw)
        if below is None or subtask.cascade is None:
            return answer
        passes = answer.value is None or _passes(subtask.cascade, inputs, answer.value)
        if not reason_to_escalate(votes, below, passes=passes):
            return answer
        big = replace(choice, model=subtask.cascade.big, num_samples=1)
        second, _ = await self._answered(subtask, big, prompt, inputs, draw)
        return replace(second, use=_escalated(answer.use, second.use))

    async def _answered(
        self, subtask: Subtask, choice: SubtaskChoice, prompt: Prompt, inputs: Mapping[str, Any], draw: Draw
    ) -> tuple[Answer, list[Vote]]:
        """One model's answer, and the votes of its samples."""
        if subtask.effort and not self.specs[choice.model].has_effort:
            subtask = replace(subtask, effort=None, settings=())
        request = request_for(subtask, choice, prompt, draw)
        parts, read = await self._drawn(subtask, request)
        answer = await self._fused(subtask, choice, request, parts, read, inputs)
        return answer, _votes(read)

    async def _fused(
        self,
        subtask: Subtask,
        choice: SubtaskChoice,
        request: Request,
        parts: list[Response],
        read: list[_Sample | str],
        inputs: Mapping[str, Any],
    ) -> Answer:
        response = _joined(parts)
        if all(choice.finish_reason == "content_filter" and not choice.text.strip() for choice in response.choices):
            rule = f"{request.model}: the provider's content filter removed the whole response"
            raise PermanentModelError(rule, kind="content filter", scope="example")
        samples = [sample for sample in read if isinstance(sample, _Sample)]
        use = self._use_of_all(subtask, choice.model, parts)
        if not samples:
            return Answer(None, use, f"{subtask.name}: {read[0]}")
        calls = [sample.value for sample in samples if isinstance(sample.value, CalledTools)]
        # First the samples vote on whether a tool is called; the earliest decides a tie.
        if 2 * len(calls) > len(samples) or (2 * len(calls) == len(samples) and samples[0].value in calls):
            return Answer(vote_on_calls(calls), use, finish_reason="tool_calls")
        samples = [sample for sample in samples if not isinstance(sample.value, CalledTools)]
        texts = [c.text for c in response.choices if c.text.strip() and not c.tool_calls]
        if subtask.fusion.method == "fuse" and len(texts) > 1:
            return await self._fuse_by_model(subtask, choice, request, texts, samples, use)
        value = fuse_values(subtask.fusion, [sample.value for sample in samples], inputs)
        return _answer(value, use, samples)

    async def _drawn(self, subtask: Subtask, request: Request) -> tuple[list[Response], list[_Sample | str]]:
        """The responses to one request, or to several if the vote may stop early, and what was read in them."""
        stop = stop_of(subtask)
        if stop is None:
            response = await self.model.generate(request)
            return [response], _read_all(subtask, response)
        parts: list[Response] = []
        read: list[_Sample | str] = []
        while size := samples_to_draw(_votes(read), request.n, stop):
            first = request.first_repeat + len(read)
            parts.append(await self.model.generate(request.for_repeats(first, size)))
            read += _read_all(subtask, parts[-1])
        return parts, read

    async def _fuse_by_model(
        self,
        subtask: Subtask,
        choice: SubtaskChoice,
        request: Request,
        answers: list[str],
        samples: list[_Sample],
        use: SubtaskUse,
    ) -> Answer:
        """Make one more call that reads all samples; if its answer does not parse, the samples vote instead."""
        name = subtask.fusion.model or choice.model
        messages = _fusion_messages(subtask, request.messages, answers)
        # Samples of two repeats may be equal; each repeat still draws its own fusion.
        repeat = request.first_repeat // request.n
        fusion_request = replace(
            request,
            model=name,
            messages=messages,
            n=1,
            first_repeat=repeat,
            temperature=fusion_temperature(subtask.fusion),
            reasoning_effort=request.reasoning_effort if self.specs[name].has_effort else None,
            purpose="fusion",
            # Messages with tool calls require their tools, but the samples have decided that none is called.
            tool_choice='"none"' if request.tools else None,
        )
        fused = await self.model.generate(fusion_request)
        use = self._with_fusion(subtask, use, name, fused)
        parsed = [sample for sample in _read_all(subtask, fused) if isinstance(sample, _Sample)]
        usable = [sample for sample in parsed if not isinstance(sample.value, CalledTools)]
        value = usable[0].value if usable else vote([sample.value for sample in samples])
        return _answer(value, use, usable or samples)

    def _use_of_all(self, subtask: Subtask, name: str, parts: list[Response]) -> SubtaskUse:
        """The use of all requests: each is paid for, but the prompt counts once in tokens and units."""
        first, *others = (self._use(subtask, name, part) for part in parts)
        total = reduce(_one_after_the_other, others, first)
        units = self._units(self.specs[name], first.prompt_tokens, total.completion_tokens)
        return replace(total, prompt_tokens=first.prompt_tokens, cached_tokens=first.cached_tokens, units=units)

    def _use(self, subtask: Subtask, name: str, response: Response) -> SubtaskUse:
        spec, prompt, completion = self.specs[name], response.prompt_tokens, response.completion_tokens
        return SubtaskUse(
            prompt_tokens=prompt,
            completion_tokens=completion,
            units=self._units(spec, prompt, completion),
            usd=payment(spec, response).usd,
            responses=len(response.choices),
            cut_off=_cut_off(subtask, response, "length"),
            filtered=_cut_off(subtask, response, "content_filter"),
            only_thought=sum(choice.is_only_thought for choice in response.choices),
            cached_tokens=round(response.cached_tokens),
            reasoning_tokens=response.reasoning_tokens,
            seconds=response.seconds,
            requests=response.requests,
        )

    def _with_fusion(self, subtask: Subtask, use: SubtaskUse, name: str, fused: Response) -> SubtaskUse:
        spec, prompt, completion = self.specs[name], fused.prompt_tokens, fused.completion_tokens
        return replace(
            use,
            fusion_tokens=prompt + completion,
            fusion_units=self._units(spec, prompt, completion),
            fusion_usd=payment(spec, fused).usd,
            responses=use.responses + len(fused.choices),
            cut_off=use.cut_off + _cut_off(subtask, fused, "length"),
            filtered=use.filtered + _cut_off(subtask, fused, "content_filter"),
            only_thought=use.only_thought + sum(choice.is_only_thought for choice in fused.choices),
            seconds=use.seconds + fused.seconds if use.seconds and fused.seconds else 0.0,
        )

    def _units(self, spec: ModelSpec, prompt_tokens: int, completion_tokens: int) -> float:
        # The formula is affine: a pass that is smaller than the unit's prompt would have a negative cost.
        return max(0.0, units(spec.parameters or 0.0, prompt_tokens, completion_tokens, unit=self.unit))


def _one_after_the_other(first: SubtaskUse, second: SubtaskUse) -> SubtaskUse:
    """The use of two calls; the latency is known if both are."""
    seconds = first.seconds + second.seconds if first.seconds and second.seconds else 0.0
    return replace(first + second, seconds=seconds)


def _escalated(small: SubtaskUse, big: SubtaskUse) -> SubtaskUse:
    """The use of a call that the big model answered, too."""
    return replace(
        _one_after_the_other(small, big),
        escalated=1,
        big_prompt_tokens=big.prompt_tokens,
        big_completion_tokens=big.completion_tokens,
        big_cached_tokens=big.cached_tokens,
        big_reasoning_tokens=big.reasoning_tokens,
    )


def configured(subtask: Subtask, choice: SubtaskChoice) -> Subtask:
    """The subtask with the settings of a choice in place of its own.

    Args:
        subtask: The subtask.
        choice: The choice.
    """
    changes = {"settings": (), **fields_for(subtask, choice.settings)} if choice.settings else {}
    if subtask.temperature_of_one is not None:
        changes["temperature_of_one"] = None
        if choice.num_samples == 1:
            changes["temperature"] = subtask.temperature_of_one
    return replace(subtask, **changes) if changes else subtask


def request_for(subtask: Subtask, choice: SubtaskChoice, prompt: Prompt, draw: Draw = FIRST_DRAW) -> Request:
    """The request that draws all samples of one subtask call.

    Args:
        subtask: The subtask.
        choice: The model, the number of samples, the system prompt and settings.
        prompt: The user message, or the conversation.
        draw: Which samples are drawn.
    """
    subtask = configured(subtask, choice)
    return Request(
        model=choice.model,
        messages=_messages(subtask, choice, prompt),
        max_tokens=subtask.max_tokens,
        temperature=subtask.temperature,
        top_p=subtask.top_p,
        stop=stop_sequences(subtask),
        json_schema=subtask.json_schema,
        seed=draw.seed,
        first_repeat=draw.repeat * choice.num_samples,
        n=choice.num_samples,
        tools=subtask.tools,
        tool_choice=subtask.tool_choice,
        parallel_tool_calls=subtask.parallel_tool_calls,
        reasoning_effort=subtask.effort,
    )


def stop_sequences(subtask: Subtask) -> tuple[str, ...]:
    """The stop sequences to send.

    A blank one ends a response before an answer that follows a line break, a fence or a thought. It is not sent if the
    parser reads the front of a response, and so finds the same value without it.

    Args:
        subtask: The subtask.
    """
    reads_front = isinstance(subtask.parse, FrontParser)
    return tuple(stop for stop in subtask.stop if stop.strip()) if reads_front else subtask.stop


def _messages(subtask: Subtask, choice: SubtaskChoice, prompt: Prompt) -> tuple[Message, ...]:
    """The prompt with the candidate's system prompt, if that is empty with the prompt's own, and its demonstrations."""
    messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    own = tuple(takewhile(lambda message: message.role == "system", messages))
    messages = messages[len(own) :]
    in_prompt = subtask.demos is not None and subtask.demos.shown_as == "prompt"
    system_prompt = demos_in_prompt(choice.system_prompt, choice.demos if in_prompt else ())
    if system_prompt:
        kept = [message.content for message in own] if subtask.keep_system_prompt else []
        own = (Message("system", "\n\n".join([system_prompt, *kept])),)
    if not in_prompt:
        pairs = ((Message("user", demo.prompt), Message("assistant", demo.response)) for demo in choice.demos)
        messages = (*chain.from_iterable(pairs), *messages)
    return (*own, *messages)


def _fusion_messages(subtask: Subtask, messages: tuple[Message, ...], answers: list[str]) -> tuple[Message, ...]:
    """The conversation whose last user message requests the best of `answers`; images and tool results are kept."""
    last = messages[-1]
    question = next((m.content for m in reversed(messages) if m.role == "user"), last.content)
    message = fusion_message(subtask.fusion, question, answers)
    if last.role != "user":
        return (*messages, message)
    if last.parts:
        others = [part for part in last.parts if json.loads(part).get("type") != "text"]
        message = replace(message, parts=(json.dumps({"type": "text", "text": message.content}), *others))
    return (*messages[:-1], message)


@dataclass(frozen=True, slots=True)
class _Sample:
    """A usable choice."""

    value: Any
    finish_reason: str
    text: str


def stop_of(subtask: Subtask) -> Stop | None:
    """The rule by which a vote on the subtask's samples stops; None to draw all samples.

    Samples with tools are all drawn: whether a tool is called is decided before the vote.
    """
    if subtask.fusion.method != "vote" or subtask.tools:
        return None
    stop: Stop | None = subtask.fusion.options.get("stop")
    return stop


def _votes(read: list[_Sample | str]) -> list[Vote]:
    return [_vote(sample.value) if isinstance(sample, _Sample) else None for sample in read]


def _vote(value: Any) -> str:
    return value.key if isinstance(value, CalledTools) else vote_key(value)


def _passes(cascade: Cascade, inputs: Mapping[str, Any], value: Value) -> bool:
    if cascade.check is None:
        return True
    with reporting(f"the check `{name_of(cascade.check)}` of a cascade failed"):
        return bool(cascade.check(inputs, value))


def _joined(parts: list[Response]) -> Response:
    """The responses to requests for the same prompt as one."""
    return replace(parts[0], choices=tuple(choice for part in parts for choice in part.choices))


def _read_all(subtask: Subtask, response: Response) -> list[_Sample | str]:
    """Each choice's sample, or why it is not usable."""
    return [_read(subtask, choice) for choice in response.choices]


def _read(subtask: Subtask, choice: Choice) -> _Sample | str:
    try:
        value = read_tool_calls(choice) if choice.tool_calls else _parsed(subtask, choice)
    except Unparsable as error:
        by = {"length": f"at max_tokens {subtask.max_tokens}", "content_filter": "by the provider's content filter"}
        return f"{error} (cut off {by[choice.finish_reason]})" if choice.finish_reason in by else str(error)
    return _Sample(value, choice.finish_reason, choice.text)


def _parsed(subtask: Subtask, choice: Choice) -> Value:
    """The choice's value. Thoughts are never parsed: a number in a thought is no answer."""
    thought, answer = split_thought(choice.text)  # a model of the user's own may leave them in the text
    if choice.is_only_thought or (thought and not answer):
        raise Unparsable("expected an answer, got only thoughts")
    return python(subtask.parse)(answer)


def _cut_off(subtask: Subtask, response: Response, reason: str) -> int:
    """Number of choices that a cut may have changed: not those of which only the value is used, read before the cut."""
    parse, reads_whole = subtask.parse, subtask.fusion.method == "fuse"
    return sum(
        choice.finish_reason == reason
        and not (isinstance(parse, FrontParser) and not reads_whole and parse.is_settled(choice.text))
        for choice in response.choices
    )


def _answer(value: Value, use: SubtaskUse, samples: list[_Sample]) -> Answer:
    """The answer with the first sample that has this value; the first sample if it was made of several."""
    key = vote_key(value)
    sample = next((sample for sample in samples if vote_key(sample.value) == key), samples[0])
    return Answer(value, use, finish_reason=sample.finish_reason, text=sample.text)
