"""What a call is charged at: its worst case before it is sent, and what it took after.

Nothing that never left the machine is charged. A call is charged what its own usage reports; if the outcome is unknown,
or the usage is missing under a cap, at its worst case.
"""

from __future__ import annotations

import math

from agentopt.core.budget import Usage
from agentopt.core.errors import AgentoptError, BudgetExceeded, JournalError, ModelError
from agentopt.models.base import Request, Response
from agentopt.models.catalog import ModelSpec


def worst_case(request: Request, spec: ModelSpec) -> Usage:
    """Bound what one call may take.

    A token of a byte-level vocabulary covers at least one byte, so the prompt's bytes bound its tokens; chat templates
    add a few tokens per message and at most a short default system prompt.

    Args:
        request: The request.
        spec: The catalogue entry of its model.
    """
    texts = [request.json_schema or "", *request.tools, request.tool_choice or ""]
    for message in request.messages:
        texts += [message.content, *message.parts]
        texts += [call.name + call.arguments for call in message.tool_calls]
    prompt_bytes = sum(len(text.encode(errors="replace")) for text in texts) + 8 * len(request.messages)
    prompt, completion = prompt_bytes + 48, request.n * request.max_tokens
    return Usage(1, prompt, completion, spec.prices.worst_usd(prompt, completion))


def discounted(spec: ModelSpec, share: float) -> ModelSpec:
    """Return the entry with the prices of batched calls, for `worst_case` and `charge`.

    Args:
        spec: The catalogue entry.
        share: Price of a batched call, as a share of the direct call's.
    """
    names = [name for name in type(spec).model_fields if name.startswith("usd_per_")]
    prices = {name: getattr(spec, name) for name in names}
    return spec.model_copy(update={name: usd * share for name, usd in prices.items() if usd is not None})


def charge(response: Response, worst: Usage, spec: ModelSpec, *, is_capped: bool) -> Usage:
    """Return what an answered call is charged at.

    Args:
        response: The response.
        worst: The worst case of the call.
        spec: The catalogue entry of its model.
        is_capped: Whether the run has a cap on tokens or USD.
    """
    prompt, completion = response.prompt_tokens, response.completion_tokens
    if is_capped and not response.is_usage_reported:
        prompt, completion = max(prompt, worst.prompt_tokens), max(completion, worst.completion_tokens)
        return Usage(1, prompt, completion, max(worst.usd, spec.prices.usd(prompt, completion)))
    usd = spec.prices.usd(
        prompt, completion, cached_tokens=response.cached_tokens, reasoning_tokens=response.reasoning_tokens
    )
    return Usage(1, prompt, completion, usd)


def charge_failure(error: AgentoptError, worst: Usage, spec: ModelSpec) -> Usage:
    """Return what a call that ended in `error` is charged at.

    Args:
        error: The failure.
        worst: The worst case of the call.
        spec: The catalogue entry of its model.
    """
    if isinstance(error, BudgetExceeded | JournalError):
        return worst  # its time was up, or its response could not be stored
    if not isinstance(error, ModelError) or not error.sent:
        return Usage()
    if error.tokens is not None:
        prompt, completion = error.tokens
        return Usage(1, prompt, completion, spec.prices.usd(prompt, completion))
    return worst if error.billed else Usage(calls=1)


class Overruns:
    """Raises the worst case of a model whose calls took more than was reserved.

    This happens with prompts that are larger than their bytes, such as images, and with endpoints that do not count
    thoughts against `max_tokens`.
    """

    def __init__(self) -> None:
        self._factors: dict[str, tuple[float, float]] = {}

    def observe(self, model: str, actual: Usage, worst: Usage) -> str:
        """Compare a call with what is reserved for its like.

        Args:
            model: Catalogue name.
            actual: The call's usage.
            worst: Its worst case, not raised: of concurrent calls that take too much, each was reserved before the
                others were observed.

        Returns:
            The kinds of tokens of which it took more, so that later reservations are raised; empty if there are none.
        """
        reserved, factors = self.raised(model, worst), self._factors.get(model, (1.0, 1.0))
        prompt, completion = actual.prompt_tokens, actual.completion_tokens
        kinds = (("prompt", prompt, reserved.prompt_tokens), ("completion", completion, reserved.completion_tokens))
        self._factors[model] = (
            max(factors[0], prompt / max(1, worst.prompt_tokens)),
            max(factors[1], completion / max(1, worst.completion_tokens)),
        )
        return " and ".join(
            f"{took} {kind} tokens, more than the {kept} reserved" for kind, took, kept in kinds if took > kept
        )

    def raised(self, model: str, worst: Usage) -> Usage:
        """Return the worst case of a call, raised by what earlier calls took."""
        if model not in self._factors:
            return worst
        prompt, completion = self._factors[model]
        usd = worst.usd * max(prompt, completion)
        return Usage(
            worst.calls, math.ceil(worst.prompt_tokens * prompt), math.ceil(worst.completion_tokens * completion), usd
        )
