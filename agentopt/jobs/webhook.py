"""Sends events of jobs to webhooks, signed according to Standard Webhooks, with retries.

The signing secret comes from an environment variable and is in no file, log or body. Callers redact the data they pass.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
from standardwebhooks.webhooks import Webhook
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from agentopt.core.errors import ConfigError, TransientWebhookError, WebhookError
from agentopt.jobs.jobfile import EventName, WebhookTarget

ATTEMPTS = 5
TIMEOUT_SECONDS = 15.0


async def deliver(
    target: WebhookTarget,
    event: EventName,
    message: str,
    data: Mapping[str, Any],
    *,
    environ: Mapping[str, str] = os.environ,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """POST one event, at most five times, until the receiver answers 2xx.

    Args:
        target: The receiver.
        event: Name of the event.
        message: Id of the event, the same in every attempt, so that a receiver can drop duplicates.
        data: The content of the event.
        environ: The environment variables.
        sleep: Waits between attempts.
        now: The clock. Each attempt is signed with its own time.

    Raises:
        ConfigError: The secret is missing or not base64.
        WebhookError: The receiver refused the event, or the last attempt failed.
    """
    signer = signer_of(target, environ)
    body = json.dumps({"type": f"agentopt.job.{event}", "timestamp": now().isoformat(), "data": dict(data)})
    retrying = AsyncRetrying(
        stop=stop_after_attempt(ATTEMPTS),
        retry=retry_if_exception_type(TransientWebhookError),
        wait=wait_exponential_jitter(multiplier=1, max=60),
        sleep=sleep,
        reraise=True,
    )
    # No redirects: the signature is meant for the configured receiver.
    async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, follow_redirects=False) as client:
        async for attempt in retrying:
            with attempt:
                await _post(client, target.url, body, _headers(signer, message, now(), body))


def signer_of(target: WebhookTarget, environ: Mapping[str, str] = os.environ) -> Webhook:
    """The signer with the target's secret. Raises `ConfigError` if the secret is missing or not base64."""
    secret, where = environ.get(target.secret_env), f"environment variable {target.secret_env}"
    remedy = 'set it to "whsec_" and 24 to 64 random bytes in base64, the same as at the receiver'
    if not secret:
        raise ConfigError("the webhook's secret must be set, but is not", where=where, remedy=remedy)
    try:
        return Webhook(secret)
    except ValueError as error:
        raise ConfigError("the webhook's secret must be base64", where=where, remedy=remedy) from error


def _headers(signer: Webhook, message: str, time: datetime, body: str) -> dict[str, str]:
    return {
        "content-type": "application/json",
        "webhook-id": message,
        "webhook-timestamp": str(int(time.timestamp())),
        "webhook-signature": signer.sign(message, time, body),
    }


async def _post(client: httpx.AsyncClient, url: str, body: str, headers: Mapping[str, str]) -> None:
    try:
        response = await client.post(url, content=body.encode(), headers=dict(headers))
    except httpx.InvalidURL as error:
        raise WebhookError("the webhook has no valid address") from error
    except httpx.RequestError as error:
        raise TransientWebhookError(f"the webhook cannot be reached: {type(error).__name__}") from error
    if response.status_code in (408, 425, 429) or response.status_code >= 500:
        raise TransientWebhookError(f"the webhook answered HTTP {response.status_code}")
    if not response.is_success:
        raise WebhookError(f"the webhook refused the event: HTTP {response.status_code}")
