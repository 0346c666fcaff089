"""Odd bodies never raise anything but a `ModelError` out of a call, and each is charged as the server counts it."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from agentopt.core.budget import Caps
from agentopt.core.errors import ModelError
from agentopt.models.base import Message, Request
from agentopt.models.catalog import Catalog, ModelSpec
from agentopt.models.charging import worst_case
from agentopt.models.session import open_session
from agentopt.testing.odd_bodies import CONTENTS, ENCODINGS, ENVELOPES, USAGES, OddBody, odd_bodies

BODIES = odd_bodies(200)


async def respond(request: web.Request) -> web.Response:
    body = BODIES[int((await request.json())["model"])]
    headers = {"Content-Type": "application/json", **body.headers}
    if body.status == 302:
        headers["Location"] = "/elsewhere"
    return web.Response(status=body.status, body=body.content, headers=headers)


async def test_no_odd_body_raises_out_of_a_call_or_is_charged_wrongly(tmp_path: Path) -> None:
    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", respond)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    # One entry for each body: what is found about one endpoint does not change the requests to another.
    specs = {
        str(i): ModelSpec(name=str(i), base_url=url, usd_per_1m_prompt=1, usd_per_1m_completion=2, max_attempts=1)
        for i in range(len(BODIES))
    }
    catalog, wrong = Catalog(specs), []
    caps = Caps(tokens=10**9, usd=10**6)
    async with open_session(catalog, "run", caps=caps, journal=str(tmp_path / "journal.db")) as session:
        for name, body in zip(specs, BODIES, strict=True):
            request = Request(name, (Message("user", f"question {name}"),), 50)
            before = session.budget.spent
            try:
                for choice in (await session.model.generate(request)).choices:
                    choice.text.encode()
            except ModelError:
                pass
            after = session.budget.spent
            charged = (after.prompt_tokens - before.prompt_tokens, after.completion_tokens - before.completion_tokens)
            if charged != expected(body, request, catalog[name]) or after.calls - before.calls != 1:
                wrong.append((body.name, charged, expected(body, request, catalog[name]), after.calls - before.calls))
    await runner.cleanup()
    assert wrong == []


def expected(body: OddBody, request: Request, spec: ModelSpec) -> tuple[int, int]:
    worst = worst_case(request, spec)
    if body.bill == "worst":
        return worst.prompt_tokens, worst.completion_tokens
    return (0, 0) if body.bill == "nothing" else body.bill


def test_every_option_occurs_and_the_bodies_are_reproducible() -> None:
    assert odd_bodies(200) == BODIES
    assert odd_bodies(200, seed=1) != BODIES
    names = "\n".join(body.name for body in BODIES)
    for part, options in {"content": CONTENTS, "usage": USAGES, "envelope": ENVELOPES, "encoding": ENCODINGS}.items():
        assert [option for option in options if f"{part} {option}" not in names] == []
