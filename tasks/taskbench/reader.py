"""TaskBench rows become examples: the tools to choose from, and the steps, tools and arguments that are right."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from agentopt.core.task import Example
from agentopt.evaluation.checkers.tool_plans import written
from agentopt.taskfile.columns import at_least_one, column, items, text

Tool = dict[str, Any]


def read(row: Mapping[str, Any], *, tools_file: Path, max_tools: int = 8, seed: int = 0) -> Example | None:
    """The example, with the right tools and seeded others, `max_tools` in all.

    `tools_file` is TaskBench's tool_desc.json. None for a row that needs more tools, or one that is not described.
    """
    at_least_one("max_tools", max_tools)
    described = tools_of(tools_file)
    nodes = _field(row, "nodes")
    needed = list(dict.fromkeys(node["task"] for node in nodes))
    if not 0 < len(needed) <= max_tools or not described.keys() >= set(needed):
        return None
    chance = random.Random(f"{seed}:{row['id']}")
    others = [name for name in described if name not in needed]
    names = needed + chance.sample(others, min(len(others), max_tools - len(needed)))
    chance.shuffle(names)
    arguments = [[node["task"], a["name"], written(a["value"])] for node in nodes for a in node["arguments"]]
    return Example(
        str(row["id"]),
        {"instruction": text(row, "instruction"), "tools": [described[name] for name in names]},
        arguments,
        {
            "steps": _field(row, "steps"),
            "tools": needed,
            "sequence": [node["task"] for node in nodes],
            "links": [[link["source"], link["target"]] for link in _field(row, "links")],
        },
    )


@cache
def tools_of(file: Path) -> dict[str, Tool]:
    """The tools of a tool_desc.json of the daily-life APIs, by name."""
    nodes = json.loads(file.read_text(encoding="utf-8"))["nodes"]
    return {
        node["id"]: {
            "name": node["id"],
            "description": node["desc"],
            "parameters": [{"name": p["name"], "description": p["desc"]} for p in node["parameters"]],
        }
        for node in nodes
    }


def _field(row: Mapping[str, Any], name: str) -> list[Any]:
    """`task_nodes` as the repository has it, or `tool_nodes` as the hub has it: there a list written as JSON."""
    names = (f"task_{name}", f"tool_{name}")
    value = column(row, *names)
    listed: list[Any] = json.loads(value) if isinstance(value, str) else items(row, *names)
    return listed
