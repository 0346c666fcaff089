"""The registries of extensions are the same before every test."""

from __future__ import annotations

import pytest

from agentopt.core import plugins
from agentopt.core.registry import FUSIONS, PARSERS, SCORERS, STRATEGIES, Registry


@pytest.mark.parametrize("registry", [SCORERS, PARSERS, FUSIONS, STRATEGIES], ids=lambda registry: registry.kind)
@pytest.mark.parametrize("number", [1, 2])
def test_what_a_test_registers_is_removed_after_it(registry: Registry, number: int) -> None:
    def make(first: object, second: object = None) -> object:
        return first

    make.__qualname__ = f"make{number}"  # two functions of one name are refused
    assert "mine" not in registry.names()
    assert "mine" not in plugins._loaded
    registry.register("mine", compares=True)(make)
    plugins._loaded.add("mine")
    assert registry.find("mine").make is make
    assert "mine" in registry.names()
