"""A process of a test: sends distinct calls of one run until a cap is reached, and prints the number of answers.

Arguments: base URL, journal, caps as JSON, number of calls, a word that makes its prompts distinct.
"""

from __future__ import annotations

import asyncio
import json
import sys

from agentopt.core.budget import Caps
from agentopt.core.errors import BudgetExceeded
from agentopt.models.base import Message, Request
from agentopt.models.catalog import ModelSpec, with_table_defaults
from agentopt.models.session import open_session

PRICE = 1000.0
"""USD per million tokens."""


async def main(base_url: str, journal: str, caps: str, calls: str, word: str) -> None:
    prices = {"usd_per_1m_prompt": PRICE, "usd_per_1m_completion": PRICE}
    spec = with_table_defaults(ModelSpec(name="m", base_url=base_url, concurrency=8, **prices))
    answered = 0

    async with open_session({"m": spec}, "run", caps=Caps(**json.loads(caps)), journal=journal) as session:
        print("open", flush=True)
        sys.stdin.readline()  # all processes begin together

        async def send(i: int) -> None:
            nonlocal answered
            try:
                await session.model.generate(Request("m", (Message("user", f"{word} {i}"),), max_tokens=16))
            except BudgetExceeded:
                return
            answered += 1

        await asyncio.gather(*map(send, range(int(calls))))
    print(answered, flush=True)


asyncio.run(main(*sys.argv[1:]))
