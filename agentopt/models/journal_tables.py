"""The tables of the journal.

`requests`, `responses` and `ledger` are those of version 0.1.0, which can still read them. What came later is in tables
of its own, so that no table of an existing journal changes.
"""

from __future__ import annotations

import sqlalchemy as sa

TABLES = sa.MetaData()
requests = sa.Table(
    "requests",
    TABLES,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("identity", sa.Text, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
)
responses = sa.Table(
    "responses",
    TABLES,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("repeat", sa.Integer, primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("finish_reason", sa.String(32), nullable=False),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
)
sa.Index("requests_of_model", requests.c.identity, requests.c.key)
ledger = sa.Table(
    "ledger",
    TABLES,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("run", sa.Text, nullable=False, index=True),
    sa.Column("session", sa.String(32), nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("purpose", sa.String(16), nullable=False),
    sa.Column("calls", sa.Integer, nullable=False),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("usd", sa.Float, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("opened", sa.Float, nullable=False),
    sa.Column("closed", sa.Float),
)
details = sa.Table(
    "response_details",
    TABLES,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("repeat", sa.Integer, primary_key=True),
    sa.Column("thought", sa.Text, nullable=False),
    sa.Column("tool_calls", sa.Text, nullable=False),
    sa.Column("cached_tokens", sa.Integer, nullable=False),
    sa.Column("reasoning_tokens", sa.Integer, nullable=False),
)
"""Thoughts, tool calls and token details of the responses that have any."""
rejections = sa.Table(
    "rejections",
    TABLES,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("repeat", sa.Integer, primary_key=True),
    sa.Column("session", sa.String(32), nullable=False),
    sa.Column("retried", sa.Boolean, nullable=False),
)
"""Responses that their reader could not use. Another session requests them again, once."""
run_keys = sa.Table(
    "run_keys",
    TABLES,
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("key", sa.String(64), primary_key=True),
)
"""The requests that each run paid for."""
refused_parameters = sa.Table(
    "refused_parameters",
    TABLES,
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("identity", sa.Text, primary_key=True),
    sa.Column("parameter", sa.String(32), primary_key=True),
)
"""The parameters that a run found the endpoint of a model to refuse. Its later sessions leave them out."""
batches = sa.Table(
    "batches",
    TABLES,
    sa.Column("label", sa.String(128), primary_key=True),
    sa.Column("submission", sa.String(32), nullable=False, index=True),
    sa.Column("batch", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("run", sa.Text, nullable=False),
    sa.Column("calls", sa.Integer, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
)
"""Batches that a provider accepted, by label, with the provider's ids."""
batch_requests = sa.Table(
    "batch_requests",
    TABLES,
    sa.Column("entry", sa.String(32), primary_key=True),
    sa.Column("submission", sa.String(32), nullable=False, index=True),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("label", sa.String(128)),
    sa.Column("key", sa.String(64), nullable=False),
    sa.Column("identity", sa.Text, nullable=False),
    sa.Column("share", sa.Float, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
)
"""Calls that wait in a batch, by ledger entry. One without a label may be in a batch whose id was not stored."""
flights = sa.Table(
    "flights",
    TABLES,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("repeat", sa.Integer, primary_key=True),
    sa.Column("worker", sa.String(32), nullable=False),
    sa.Column("lease_until", sa.Double, nullable=False),
    sa.Column("is_awaited", sa.Boolean, nullable=False),
)
"""Responses that a process is requesting, until which time of the database's clock, and whether another waits."""
