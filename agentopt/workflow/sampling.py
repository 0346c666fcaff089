"""Test-time scaling of one subtask: draws `num_samples` responses, parses each, and fuses them into one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from agentopt.core.candidate import SubtaskChoice
from agentopt.core.cost import PAPER_UNIT, Unit, units
from agentopt.core.records import Answer, SubtaskUse
from agentopt.core.task import Subtask, Unparsable, Value
from agentopt.models.base import ChatModel, Choice, Message, Request, Response
from agentopt.models.catalog import ModelSpec
from agentopt.workflow.base import FIRST_DRAW, Draw, Prompt
from agentopt.workflow.fusion import fuse_values, fusion_message, vote


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
        request = request_for(subtask, choice, prompt, draw)
        response = await self.model.generate(request)
        values, errors = _parse_all(subtask, response)
        use = self._use(choice.model, response)
        if not values:
            return Answer(None, use, f"{subtask.name}: {errors[0]}")
        if subtask.fusion.method == "fuse" and len(response.choices) > 1:
            return await self._fuse_by_model(subtask, choice, request, response, values, use)
        return Answer(fuse_values(subtask.fusion, values, inputs), use)

    async def _fuse_by_model(
        self,
        subtask: Subtask,
        choice: SubtaskChoice,
        request: Request,
        response: Response,
        values: list[Value],
        use: SubtaskUse,
    ) -> Answer:
        """Make one more call that reads all samples; if its answer does not parse, the samples vote instead."""
        name = subtask.fusion.model or choice.model
        answers = [choice.text for choice in response.choices if choice.text.strip()]
        read = fusion_message(subtask.fusion, request.messages[-1].content, answers)
        messages = (*request.messages[:-1], read)
        # Samples of two repeats may be equal; each repeat still draws its own fusion.
        repeat = request.first_repeat // request.n
        fusion_request = replace(
            request, model=name, messages=messages, n=1, first_repeat=repeat, temperature=0.0, purpose="fusion"
        )
        fused = await self.model.generate(fusion_request)
        use = self._with_fusion(use, name, fused)
        parsed, _ = _parse_all(subtask, fused)
        voted = vote(values)
        return Answer(parsed[0] if parsed else voted, use)

    def _use(self, name: str, response: Response) -> SubtaskUse:
        spec, prompt, completion = self.specs[name], response.prompt_tokens, response.completion_tokens
        # An endpoint without `n`, or with a smaller limit, charges the prompt once per request.
        requests = -(-len(response.choices) // spec.max_choices)
        return SubtaskUse(
            prompt_tokens=prompt,
            completion_tokens=completion,
            units=self._units(spec, prompt, completion),
            usd=spec.prices.usd(prompt * requests, completion, requests=requests),
            responses=len(response.choices),
            cut_off=_cut_off(response),
        )

    def _with_fusion(self, use: SubtaskUse, name: str, fused: Response) -> SubtaskUse:
        spec, prompt, completion = self.specs[name], fused.prompt_tokens, fused.completion_tokens
        return replace(
            use,
            fusion_tokens=prompt + completion,
            fusion_units=self._units(spec, prompt, completion),
            fusion_usd=spec.prices.usd(prompt, completion),
            responses=use.responses + len(fused.choices),
            cut_off=use.cut_off + _cut_off(fused),
        )

    def _units(self, spec: ModelSpec, prompt_tokens: int, completion_tokens: int) -> float:
        # The formula is affine: a pass that is smaller than the unit's prompt would have a negative cost.
        return max(0.0, units(spec.parameters or 0.0, prompt_tokens, completion_tokens, unit=self.unit))


def request_for(subtask: Subtask, choice: SubtaskChoice, prompt: Prompt, draw: Draw = FIRST_DRAW) -> Request:
    """The request that draws all samples of one subtask call."""
    return Request(
        model=choice.model,
        messages=_messages(subtask, choice.system_prompt, prompt),
        max_tokens=subtask.max_tokens,
        temperature=subtask.temperature,
        top_p=subtask.top_p,
        stop=subtask.stop,
        json_schema=subtask.json_schema,
        seed=draw.seed,
        first_repeat=draw.repeat * choice.num_samples,
        n=choice.num_samples,
    )


def _messages(subtask: Subtask, system_prompt: str, prompt: Prompt) -> tuple[Message, ...]:
    """The prompt with the candidate's system prompt; if that is empty, a program's system message is kept."""
    messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if not system_prompt:
        return messages
    own = tuple(takewhile(lambda message: message.role == "system", messages))
    kept = [message.content for message in own] if subtask.keep_system_prompt else []
    return (Message("system", "\n\n".join([system_prompt, *kept])), *messages[len(own) :])


def _parse_all(subtask: Subtask, response: Response) -> tuple[list[Value], list[str]]:
    """The values of the parsable choices, and the errors of the others."""
    values: list[Value] = []
    errors: list[str] = []
    for choice in response.choices:
        try:
            values.append(_parsed(subtask, choice))
        except Unparsable as error:
            errors.append(f"{error} (cut off at max_tokens {subtask.max_tokens})" if choice.is_cut_off else str(error))
    return values, errors


def _parsed(subtask: Subtask, choice: Choice) -> Value:
    """The choice's value. Thoughts are never parsed: a number in a thought is no answer."""
    if choice.is_only_thought:
        raise Unparsable("expected an answer, got only thoughts")
    return subtask.parse(choice.text)


def _cut_off(response: Response) -> int:
    return sum(choice.is_cut_off for choice in response.choices)
