"""Server-sent events of a completion that is generated meanwhile. Shared by the gateway of programs and the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import copy_context
from typing import Any

from agentopt.core.errors import ApiError
from agentopt.models.live_text import LIVE, LiveText
from agentopt.models.openai_completion import Completion, CompletionStream
from agentopt.models.openai_format import NO_RETRY


async def live_events(
    stream: CompletionStream,
    answer: Callable[[], Coroutine[Any, Any, Completion]],
    *,
    is_live: bool,
    on_failure: Callable[[ApiError], None] = lambda _: None,
) -> AsyncGenerator[bytes]:
    """Yield the events of a completion; its text as it is generated, if one model call generates it.

    Args:
        stream: Writes the events.
        answer: Makes the completion.
        is_live: Whether the call has one choice that one subtask answers.
        on_failure: Called with a failure that is sent as an event.

    Raises:
        ApiError: By the first iteration, if the call failed before a text was sent. A later failure is an event.
    """
    texts: asyncio.Queue[str | None] = asyncio.Queue()
    context, sent = copy_context(), ""
    context.run(LIVE.set, LiveText(texts.put_nowait) if is_live else None)
    task = asyncio.create_task(answer(), context=context)
    task.add_done_callback(lambda _: texts.put_nowait(None))
    try:
        while (text := await texts.get()) is not None:
            sent += text
            for event in stream.text(text):
                yield event
        completion = task.result()
        if not completion.choices[0].text.startswith(sent):
            raise _changed()
        for event in stream.end(completion):
            yield event
    except ApiError as error:
        if not sent:
            raise
        on_failure(error)
        yield stream.error(error)
    finally:
        task.cancel()


def _changed() -> ApiError:
    message = "the model's answer is another text than the part that was sent; repeat the call without stream"
    return ApiError(502, message, type="api_error", code="upstream_failed", headers=NO_RETRY)
