"""The quickstart task runs on every family of endpoints: evaluate, optimise, export, serve."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentopt.core.errors import CatalogError
from agentopt.core.yaml_text import load_yaml
from agentopt.models.add_entry import add_entry
from agentopt.models.catalog import Catalog
from agentopt.testing.zoo import Zoo, running_zoo
from agentopt.testing.zoo_families import FAMILIES, Family
from benchmarks.zoo import run_family


@pytest.fixture(scope="module")
def zoo() -> Iterator[Zoo]:
    with running_zoo() as zoo:
        yield zoo


@pytest.mark.parametrize("one", FAMILIES, ids=[known.name for known in FAMILIES])
def test_the_quickstart_runs_on_a_family_from_its_example_entry(one: Family, zoo: Zoo, tmp_path: Path) -> None:
    row = run_family(one, zoo, tmp_path, examples=2)
    assert (row.score, row.best, row.served) == (1.0, 1.0, "Lion")
    assert row.refused == {}, "the example entry fits its endpoint"
    assert {"yaml", "litellm"} <= set(row.exports)
    expected = {"anthropic": "the openai client cannot reach", "openai-responses": "through the responses API"}
    assert expected.get(one.name, "Lion") in row.exported


@pytest.mark.parametrize("one", FAMILIES, ids=lambda known: known.name)
def test_an_entry_is_added_by_name(one: Family, tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    added = add_entry(one.added_by, name="m", file=file)
    spec = Catalog.load(file, environ={"AGENTOPT_CONFIG": str(tmp_path / "none")})["m"]
    assert load_yaml(file, CatalogError)["models"] == {"m": added.entry}
    assert spec.api_key_env or spec.price == "free"
    assert spec.is_priced or not added.is_known
