"""A parameter that an endpoint refused in one run of a job is left out by the next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jobs_place import Job, Place

from tests.models.free_server import Answer, FreeServer, completion, refusal

pytestmark = pytest.mark.usefixtures("only_its_folders")


@pytest.mark.parametrize(("parameter", "canary"), [("temperature", 0), ("top_p", 0.5)])
async def test_the_next_run_of_a_job_leaves_out_what_was_refused_in_the_first(
    tmp_path: Path, parameter: str, canary: float
) -> None:
    refused: list[str] = []

    def handler(body: dict[str, Any], _: int) -> Answer:
        if parameter in body:
            refused.append(body["model"])
            return refusal(400, f"Unsupported parameter: '{parameter}'", param=parameter)
        word = body["messages"][-1]["content"].split("[[")[1].split("]]")[0]
        return completion(word if body["model"] == "better" else "wrong")

    async with FreeServer(handler) as server:
        subtask = {"temperature": 0.5, "top_p": 0.9}
        place = Place(tmp_path, server.base_url, models=["small", "better"], max_choices=1, subtask=subtask)
        job = Job(place, canary=canary)
        first = await job.run()
        assert first.state == "promoted", first.message
        assert set(refused) == {"small", "better"}
        before = len(refused), len(server.bodies)
        rows = [{"id": f"new{i}", "word": f"new-{i}", "target": f"new-{i}"} for i in range(12)]
        (tmp_path / "task" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        second = await job.run()
        assert second.state in ("kept", "promoted"), second.message
        assert len(server.bodies) > before[1]
        assert len(refused) == before[0]
