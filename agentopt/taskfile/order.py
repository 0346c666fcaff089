"""The order of a task's subtasks: each after all that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

from agentopt.core.errors import TaskError


def in_order(reads: Mapping[str, tuple[str, ...]], where: str) -> list[str]:
    """Sort subtasks so that each comes after all it reads, otherwise in the order of the file.

    Args:
        reads: Subtask -> the subtasks that it reads.
        where: The place of the subtasks, for messages.

    Raises:
        TaskError: Subtasks read each other in a circle.
    """
    sorter = TopologicalSorter(reads)
    try:
        sorter.prepare()
    except CycleError as error:
        rule = f"subtasks must not read each other in a circle, but got {' -> '.join(reversed(error.args[1]))}"
        raise TaskError(rule, where=where, remedy="remove one of these references") from error
    names, ready, done = list(reads), set[str](), list[str]()
    while sorter.is_active():
        ready |= set(sorter.get_ready())
        first = min(ready, key=names.index)
        ready.remove(first)
        done.append(first)
        sorter.done(first)
    return done
