"""Metrics of a server in the Prometheus format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from agentopt.workflow.base import SubtaskAnswer

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Upper bounds of the latency buckets."""


class Metrics:
    """Metrics of one server.

    Args:
        spent_usd: Returns the USD that the session has spent, including failed attempts.
    """

    def __init__(self, spent_usd: Callable[[], float]) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("agentopt_requests", "Chat calls answered", ["model", "status"], registry=registry)
        self.request_seconds = Histogram(
            "agentopt_request_seconds", "Latency of chat calls", ["model"], buckets=SECONDS, registry=registry
        )
        self.in_flight = Gauge("agentopt_requests_in_flight", "Chat calls in flight", registry=registry)
        self._answers = Histogram(
            "agentopt_subtask_seconds", "Latency of a subtask's answer", ["subtask"], buckets=SECONDS, registry=registry
        )
        self._tokens = Counter("agentopt_tokens", "Tokens of answers", ["subtask", "model", "kind"], registry=registry)
        self._usd = Counter("agentopt_usd", "USD of answers, by the catalogue", ["subtask", "model"], registry=registry)
        self._model_requests = Counter(
            "agentopt_model_requests", "Requests that drew answers", ["subtask", "model"], registry=registry
        )
        spent = Gauge("agentopt_spent_usd", "USD in the ledger, failed attempts included", registry=registry)
        spent.set_function(spent_usd)

    def answered(self, answered: SubtaskAnswer) -> None:
        """Count one answered subtask call, and what it paid each of its models."""
        subtask = answered.subtask
        self._answers.labels(subtask).observe(answered.seconds)
        for paid in answered.payments:
            kinds = {
                "prompt": paid.prompt_tokens,
                "cached": paid.cached_tokens,
                "completion": paid.completion_tokens,
                "reasoning": paid.reasoning_tokens,
            }
            for kind, count in kinds.items():
                self._tokens.labels(subtask, paid.model, kind).inc(count)
            self._usd.labels(subtask, paid.model).inc(paid.usd)
            self._model_requests.labels(subtask, paid.model).inc(paid.requests)

    def text(self) -> bytes:
        """All metrics in the text format."""
        return generate_latest(self._registry)
