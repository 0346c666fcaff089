"""Catalogue entries written by name."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from agentopt.core.errors import CatalogError
from agentopt.models.add_entry import add_entry, entry_for, user_catalog
from agentopt.models.catalog import read_catalog
from agentopt.models.providers import PROVIDERS


@pytest.mark.parametrize(
    ("model", "route"),
    [
        ("openai/gpt-5-mini", {"base_url": "https://api.openai.com/v1", "model": "gpt-5-mini"}),
        ("anthropic/claude-haiku-4-5", {"litellm": "anthropic/claude-haiku-4-5", "api_key_env": "ANTHROPIC_API_KEY"}),
        ("groq/openai/gpt-oss-20b", {"model": "openai/gpt-oss-20b", "api_key_env": "GROQ_API_KEY"}),
        ("ollama/qwen3:4b", {"base_url": "http://127.0.0.1:11434/v1", "model": "qwen3:4b", "price": "free"}),
        ("vllm/org/model", {"base_url": "http://127.0.0.1:8000/v1", "model": "org/model", "price": "free"}),
        (
            "deepinfra/meta-llama/Meta-Llama-3.1-8B-Instruct",
            {"litellm": "deepinfra/meta-llama/Meta-Llama-3.1-8B-Instruct"},
        ),
    ],
)
def test_a_providers_model_gets_its_route(model: str, route: dict[str, str]) -> None:
    entry, _ = entry_for(model)
    assert route.items() <= entry.items()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_entry_loads(provider: str, tmp_path: Path) -> None:
    added = add_entry(f"{provider}/some-model", file=tmp_path / "models.yaml")
    spec = read_catalog(added.file)["some-model"]
    assert spec.is_priced is PROVIDERS[provider].is_free or added.is_known


def test_an_entry_has_prices_context_and_abilities() -> None:
    entry, is_known = entry_for("openai/gpt-5-mini")
    assert is_known
    assert entry["usd_per_1m_completion"] == 2.0
    assert entry["context_length"] == 272_000
    assert entry["max_tokens_parameter"] == "max_completion_tokens"
    assert entry["supports"]["temperature"] is False


@pytest.mark.parametrize(
    ("model", "base_url", "fields"),
    [
        (
            "azure/my-deployment",
            "https://r.openai.azure.com/",
            {
                "base_url": "https://r.openai.azure.com/openai/deployments/my-deployment",
                "model": "my-deployment",
                "query": {"api-version": "2024-10-21"},
                "api_key_header": "api-key",
                "api_key_env": "AZURE_API_KEY",
            },
        ),
        ("dashscope/qwq-plus", None, {"stream": True}),
        ("dashscope/qwen-plus", None, {"stream": None}),
        ("vllm/google/gemma-2-2b-it", None, {"system_role": "user"}),
        ("ollama/gemma2:2b", None, {"system_role": "user"}),
        ("own/gemma-7b-it", "http://127.0.0.1:5/v1", {"system_role": "user"}),
        ("vllm/google/gemma-3-4b-it", None, {"system_role": None}),
        ("ollama/gemma3:4b", None, {"system_role": None}),
    ],
)
def test_an_entry_has_what_the_bundled_table_does_not_know(
    model: str, base_url: str | None, fields: dict[str, object]
) -> None:
    entry, _ = entry_for(model, base_url=base_url)
    assert {name: entry.get(name) for name in fields} == fields


def test_another_endpoint_and_key_can_be_given() -> None:
    entry, is_known = entry_for("openai/gpt-5-mini", base_url="http://127.0.0.1:5/v1", api_key_env="MY_KEY")
    assert is_known
    assert (entry["base_url"], entry["model"], entry["api_key_env"]) == (
        "http://127.0.0.1:5/v1",
        "gpt-5-mini",
        "MY_KEY",
    )
    entry, is_known = entry_for("own/model", base_url="http://127.0.0.1:5/v1")
    assert (entry, is_known) == ({"base_url": "http://127.0.0.1:5/v1", "model": "own/model"}, False)


@pytest.mark.parametrize("address", ["http://127.0.0.1:5/anthropic", "https://proxy.example/anthropic"])
def test_a_provider_of_another_protocol_keeps_its_route_at_another_address(address: str) -> None:
    entry, is_known = entry_for("anthropic/claude-haiku-4-5", base_url=address, api_key_env="MY_KEY")
    route = {"litellm": "anthropic/claude-haiku-4-5", "base_url": address, "api_key_env": "MY_KEY"}
    assert route.items() <= entry.items()
    assert is_known
    with pytest.raises(CatalogError, match=r"only sent to .* if its variable is named") as refused:
        entry_for("anthropic/claude-haiku-4-5", base_url=address)
    assert "--api-key-env ANTHROPIC_API_KEY" in str(refused.value)
    entry, _ = entry_for("claude-haiku-4-5", base_url=address)
    assert (entry.get("litellm"), entry["base_url"]) == (None, address)


@pytest.mark.parametrize(
    ("model", "base_url", "key"),
    [
        ("openai/gpt-5-mini", "https://api.openai.com/v1", "OPENAI_API_KEY"),
        ("openai/gpt-5-mini", "https://eu.api.openai.com/v1/", "OPENAI_API_KEY"),
        ("gemini/gemini-2.5-flash", "https://generativelanguage.googleapis.com/v1/openai", "GEMINI_API_KEY"),
        ("openai/gpt-5-mini", "http://api.openai.com/v1", None),
        ("openai/gpt-5-mini", "https://api.openai.com.example/v1", None),
        ("openai/gpt-5-mini", "https://fakeapi.openai.com.example@127.0.0.1/v1", None),
        ("gemini/gemini-2.5-flash", "http://127.0.0.1:5/gemini/v1beta/openai", None),
        ("vllm/org/model", "https://api.openai.com/v1", None),
    ],
)
def test_a_providers_key_is_only_sent_to_its_own_host(model: str, base_url: str, key: str | None) -> None:
    entry, _ = entry_for(model, base_url=base_url)
    assert entry.get("api_key_env") == key


@pytest.mark.parametrize("base_url", ["https://[", "http://[::1", "http://host:port"])
def test_what_is_not_an_address_is_refused(base_url: str) -> None:
    with pytest.raises(CatalogError, match="must be an address"):
        entry_for("openai/gpt-5-mini", base_url=base_url)


@pytest.mark.parametrize("model", ["gpt-99", "nowhere/model", "openai", ""])
def test_a_model_without_a_known_provider_is_refused(model: str) -> None:
    with pytest.raises(CatalogError, match="no provider is known"):
        entry_for(model)


@pytest.mark.parametrize("model", ["small", "my model", "nowhere/small"])
def test_the_remedy_for_a_model_without_a_provider_is_a_command(model: str) -> None:
    with pytest.raises(CatalogError) as refused:
        entry_for(model)
    assert f"`agentopt models add {shlex.quote(model)} --base-url URL`" in (refused.value.remedy or "")


@pytest.mark.parametrize(
    ("model", "similar"),
    [
        ("openai/gpt-5-mni", "openai/gpt-5-mini"),
        ("openai/gtp-5-mini", "openai/gpt-5-mini"),
        ("anthropic/claude-hiaku-4-5", "anthropic/claude-haiku-4-5"),
        ("anthropic/claude-haiku-4.5", "anthropic/claude-haiku-4-5"),
        ("gemini/gemini-2.5-falsh", "gemini/gemini-2.5-flash"),
        ("openai/gpt-5-mini", None),
        ("openai/gpt-77-mini", None),
        ("openai/some-model", None),
        ("ollama/llama3.l", None),
    ],
)
def test_an_unknown_name_is_added_with_the_known_one_that_it_may_misspell(
    tmp_path: Path, model: str, similar: str | None
) -> None:
    added = add_entry(model, file=tmp_path / "models.yaml")
    assert added.similar == similar
    assert added.name in read_catalog(added.file)
    elsewhere = add_entry("own-gpt-5-mni", file=added.file, base_url="http://127.0.0.1:5/v1")
    assert elsewhere.similar is None


@pytest.mark.parametrize(
    "before",
    [
        None,
        "models:\n",
        "# mine\nmodels: {}\n",
        "models:  # all of them\n  other:\n    base_url: http://127.0.0.1:1/v1\n",
        "models:\n#  # an example\n#  ollama:\n#    base_url: x\n",
        "# only a comment\n",
    ],
)
def test_an_entry_is_added_to_every_form_of_a_file_and_the_rest_is_kept(tmp_path: Path, before: str | None) -> None:
    file = tmp_path / "folder" / "models.yaml"
    if before is not None:
        file.parent.mkdir()
        file.write_text(before)
    for name in ("one", "two"):
        add_entry("openai/gpt-5-mini", name=name, file=file)
    specs = read_catalog(file)
    assert {"one", "two"} <= set(specs)
    assert ("other" in specs) is ("other" in (before or ""))
    for comment in ("# mine", "# an example", "# only a comment"):
        assert (comment in file.read_text()) is (comment in (before or ""))


def test_a_name_that_is_taken_or_a_file_in_another_form_is_refused_and_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    for text, message in (
        ("models:\n  a:\n    base_url: x\n", "has a model 'a' already"),
        ("models: {b: {base_url: x}}\n", "has a form that an entry cannot be added to"),
    ):
        file.write_text(text)
        with pytest.raises(CatalogError, match=message):
            add_entry("openai/gpt-5-mini", name="a", file=file)
        assert file.read_text() == text


def test_entries_are_added_to_the_projects_file_or_to_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert user_catalog({"AGENTOPT_CONFIG": "/somewhere"}) == Path("/somewhere/models.yaml")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "models.yaml").write_text("models:\n")
    assert user_catalog({"AGENTOPT_CONFIG": "/somewhere"}) == Path("configs/models.yaml")


AROUND = (
    "# ours\nmodels:\n  first: {litellm: openai/gpt-4o}  # kept\n  # of the second\n",
    "\n  # of the last\n  last:\n    litellm: openai/o3\n# end\n",
)


@pytest.mark.parametrize(
    "replaced",
    [
        "  m: {base_url: 'http://127.0.0.1:1/v1'}\n",
        "  m:\n    base_url: http://127.0.0.1:1/v1\n    supports:\n      n: true\n",
        "  'm':\n    # inside\n    litellm: openai/o3\n    extra_body:\n      text: |\n        # text\n        m:\n",
    ],
)
def test_an_entry_is_replaced_and_the_others_keep_their_text(replaced: str, tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(AROUND[0] + replaced + AROUND[1])
    with pytest.raises(CatalogError, match="has a model 'm' already") as caught:
        add_entry("openai/gpt-5-mini", name="m", file=file)
    assert caught.value.remedy == "replace the entry with --replace, or choose another name with --as"
    add_entry("openai/gpt-5-mini", name="m", file=file, replace=True)
    entries = read_catalog(file)
    assert (list(entries), entries["m"].model) == (["m", "first", "last"], "gpt-5-mini")
    before, _, after = file.read_text().partition("  m:\n")
    assert before == "# ours\nmodels:\n"
    assert after.endswith(AROUND[0].partition("models:\n")[2] + AROUND[1])


def test_a_last_entry_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    for key in ("ONE", "TWO", "THREE"):
        add_entry("openai/gpt-5-mini", api_key_env=key, file=file, replace=True)
        assert read_catalog(file)["gpt-5-mini"].api_key_env == key


@pytest.mark.parametrize(
    "text", ["models: {m: {litellm: openai/gpt-4o}}\n", '{"models": {"m": {"price": "free", "base_url": "http://h"}}}']
)
def test_an_entry_of_another_form_is_not_replaced(text: str, tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(text)
    with pytest.raises(CatalogError, match="has a form that an entry cannot be added to"):
        add_entry("openai/gpt-5-mini", name="m", file=file, replace=True)
    assert file.read_text() == text
