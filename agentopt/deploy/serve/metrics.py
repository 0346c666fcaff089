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
        spent = Gauge("agentopt_spent_usd", "USD in the ledger, failed attempts included", registry=registry)
        spent.set_function(spent_usd)

    def answered(self, answered: SubtaskAnswer) -> None:
        """Count one answered subtask call."""
        subtask, model, use = answered.subtask, answered.model, answered.answer.use
        self._answers.labels(subtask).observe(answered.seconds)
        kinds = {
            "prompt": use.prompt_tokens,
            "cached": use.cached_tokens,
            "completion": use.completion_tokens,
            "reasoning": use.reasoning_tokens,
            "fusion": use.fusion_tokens,
        }
        for kind, count in kinds.items():
            self._tokens.labels(subtask, model, kind).inc(count)
        self._usd.labels(subtask, model).inc(use.usd + use.fusion_usd)

    def text(self) -> bytes:
        """All metrics in the text format."""
        return generate_latest(self._registry)
