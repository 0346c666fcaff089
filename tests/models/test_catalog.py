"""Loading the model catalogue: precedence of files, and error messages."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agentopt.core.errors import CatalogError
from agentopt.models.add_entry import add_entry
from agentopt.models.catalog import Catalog, ModelSpec, Weights, read_catalog, with_table_defaults
from agentopt.models.model_table import MAKERS, find_entry, search_table
from agentopt.models.providers import adding_command

EXAMPLE = Path(__file__).parents[2] / "configs" / "models.yaml"


def written(folder: Path, text: str, name: str = "models.yaml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.chdir(tmp_path)
    return {"AGENTOPT_CONFIG": str(tmp_path / "config")}


def test_the_built_in_models_can_be_fetched_and_verified(environ: dict[str, str]) -> None:
    catalog = Catalog.load(environ=environ)
    assert catalog.names == ("smollm2-135m", "qwen2.5-coder-0.5b", "gemma3-270m")
    assert [spec.parameters for spec in catalog.values()] == [134.5e6, 494e6, 268e6]
    for spec in catalog.values():
        assert spec.weights is not None
        assert spec.weights.is_fetched
        assert spec.weights.sha256
        assert spec.prices.usd(1_000_000, 1_000_000) == 0
    assert not catalog["gemma3-270m"].chat_template


def test_later_files_win_by_name(environ: dict[str, str], tmp_path: Path) -> None:
    form = "models: {{smollm2-135m: {{base_url: {0}}}, {0}: {{base_url: x}}}}"
    written(tmp_path / "config", form.format("user"))
    assert Catalog.load(environ=environ)["smollm2-135m"].base_url == "user"
    written(tmp_path / "configs", form.format("project"))
    assert Catalog.load(environ=environ)["smollm2-135m"].base_url == "project"
    extra = written(tmp_path, form.format("extra"), "extra.yaml")
    catalog = Catalog.load(extra, environ=environ)
    assert catalog["smollm2-135m"].base_url == "extra"
    assert {"user", "project", "extra", "qwen2.5-coder-0.5b"} <= set(catalog)


def test_an_unknown_model_is_reported_with_the_closest_and_the_known_names(environ: dict[str, str]) -> None:
    catalog = Catalog.load(environ=environ)
    with pytest.raises(CatalogError) as caught:
        catalog["smolm2-135m"]
    message = str(caught.value)
    assert message.startswith("the model 'smolm2-135m' is not in the catalogue\n  remedy: did you mean 'smollm2-135m'?")
    assert "known: gemma3-270m, qwen2.5-coder-0.5b, smollm2-135m" in message
    assert "agentopt models add" in message
    assert "in Python to Config(models=[ModelSpec(...)])" in message
    assert "gpt-99" not in catalog
    assert catalog.get("gpt-99") is None
    assert len(catalog) == 3


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("gpt-5-mini", "agentopt models add openai/gpt-5-mini"),
        ("openai/gpt-5-mini", "agentopt models add openai/gpt-5-mini --as openai/gpt-5-mini"),
        ("gemini-2.5-flash", "agentopt models add gemini/gemini-2.5-flash"),
        ("deepseek-chat", "agentopt models add deepseek/deepseek-chat"),
    ],
)
def test_an_unknown_model_of_the_bundled_table_is_reported_with_the_command_that_adds_it(
    tmp_path: Path, name: str, command: str
) -> None:
    with pytest.raises(CatalogError) as caught:
        Catalog({})[name]
    assert f"add it by `{command}`" in str(caught.value)
    _, _, _, model, *alias = command.split()
    added = add_entry(model, name=alias[1] if alias else None, file=tmp_path / "models.yaml")
    assert (added.name, added.is_known) == (name, True)
    assert name in Catalog.load(tmp_path / "models.yaml", environ={"AGENTOPT_CONFIG": str(tmp_path)})


@pytest.mark.parametrize("name", ["smolm2-135m", "gpt-99", "", "/", "a b"])
def test_no_command_is_made_up_for_a_model_that_the_table_does_not_have(name: str) -> None:
    assert adding_command(name) is None


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("models:\n  a: {base_url: x, contxt_length: 5}", "models.a.contxt_length", "did you mean 'context_length'?"),
        ("models:\n  a: {base_url: x, concurrency: many}", "models.a.concurrency", "but got 'many'"),
        ("models:\n  a: {base_url: x, usd_per_1m_prompt: -1}", "models.a.usd_per_1m_prompt", "but got -1"),
        ("models:\n  a: {base_url: x, usd_per_1m_completion: .inf}", "models.a.usd_per_1m_completion", "finite"),
        ("models:\n  a: {base_url: x, usd_per_request: 1.0e+308}", "models.a.usd_per_request", "1000000"),
        ("models:\n  a: {base_url: x, parameters: .nan}", "models.a.parameters", "finite"),
        ("models:\n  a: {base_url: x, timeout_seconds: .inf}", "models.a.timeout_seconds", "finite"),
        ("models:\n  a: {base_url: x, weights: {file: f}}", "models.a", "but got base_url and weights"),
        ("models:\n  a: {litellm: x, weights: {file: f}}", "models.a", "but got litellm and weights"),
        ("models:\n  a: {parameters: 5}", "models.a", "exactly one of litellm, base_url and weights must be given"),
        ("models:\n  a: {litellm: x/y, query: {a: b}}", "models.a", "litellm sends no query parameter but api-version"),
        ("models:\n  a: {litellm: x/y, api_key_header: X-Key}", "models.a", "chooses the header of the key itself"),
        ("models:\n  a: {name: b, base_url: x}", "models.a.name", "takes no name"),
        ("models:\n  a: {weights: {file: f, url: u}}", "models.a.weights.sha256", "the checksum is trusted"),
        ("models:\n  a: {weights: {file: f, sha256: abc}}", "models.a.weights.sha256", "but got 'abc'"),
        ("models:\n  a: {weights: {file: f, wheels: [{member: x}]}}", "weights.wheels.0.requirement", "must be given"),
        ("models:\n  a:", "models.a", "but got None"),
        ("models: [a, b]", "models", "but got ['a', 'b']"),
        ("model:\n  a: {}", "model", "did you mean 'models'?"),
        ("- a\n- b", "models.yaml", "but got ['a', 'b']"),
        ("models:\n  a: {base_url: x\n  b: 1", "models.yaml:", "is not valid YAML"),
        ("models:\n  a: {base_url: x}\n  a: {base_url: y}", "models.yaml:3", "is given twice"),
    ],
)
def test_a_mistake_names_file_key_rule_and_remedy(tmp_path: Path, text: str, where: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(CatalogError) as caught:
        read_catalog(path)
    assert str(caught.value.where).startswith(str(path))
    assert where in str(caught.value.where)
    assert message in str(caught.value)
    assert caught.value.remedy


def test_an_explicitly_given_file_must_exist(environ: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no such file"):
        Catalog.load(tmp_path / "absent.yaml", environ=environ)


def test_a_relative_model_file_is_resolved_against_the_catalogue_file(tmp_path: Path) -> None:
    text = "models: {near: {weights: {file: m/x.gguf}}, far: {weights: {file: /opt/y.gguf}}}"
    entries = read_catalog(written(tmp_path, text))
    files = [entry.weights.file for entry in entries.values() if entry.weights]
    assert files == [str(tmp_path / "m" / "x.gguf"), "/opt/y.gguf"]


def test_an_empty_catalogue_file_adds_nothing(tmp_path: Path) -> None:
    assert read_catalog(written(tmp_path, "")) == {}
    assert read_catalog(written(tmp_path, "models:\n")) == {}
    assert read_catalog(EXAMPLE) == {}


def test_every_commented_entry_of_the_example_loads(tmp_path: Path) -> None:
    _, body = EXAMPLE.read_text(encoding="utf-8").split("\nmodels:\n")
    uncommented = "models:\n" + "".join(f"{line[1:]}\n" for line in body.splitlines())
    entries = read_catalog(written(tmp_path, uncommented))
    assert set(entries) == set(re.findall(r"^  ([\w-]+):$", uncommented, flags=re.MULTILINE))
    assert {"gpt-5-mini", "ollama-qwen3-4b", "claude-haiku", "my-gguf", "qwq-plus"} <= set(entries)


def test_loading_the_catalogue_imports_no_client_library() -> None:
    code = (
        "import sys; from agentopt.models.catalog import Catalog; Catalog.load();"
        "print([name for name in ('openai', 'litellm', 'xllamacpp', 'httpx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("fields", "where", "message"),
    [
        ({"base_url": "https://user:secret@host/v1"}, "models.a.base_url", "must not contain a user name or password"),
        ({"base_url": "https://token@host/v1"}, "models.a.base_url", "must not contain a user name or password"),
        ({"base_url": "user:secret@host/v1"}, "models.a.base_url", "must not contain a user name or password"),
        ({"base_url": "x", "extra_headers": {"x-a": "b\nc"}}, "models.a.extra_headers", "printable ASCII"),
        ({"base_url": "x", "extra_headers": {"x a": "b"}}, "models.a.extra_headers", "printable ASCII"),
        ({"base_url": "x", "supports": {"tempreture": False}}, "models.a.supports", "did you mean 'temperature'?"),
        ({"base_url": "x", "price": "cheap"}, "models.a.price", "but got 'cheap'"),
        ({"base_url": "x", "max_tokens_parameter": "tokens"}, "models.a.max_tokens_parameter", "but got 'tokens'"),
    ],
)
def test_a_mistake_in_what_an_endpoint_takes_is_reported(
    tmp_path: Path, fields: dict[str, object], where: str, message: str
) -> None:
    path = written(tmp_path, json.dumps({"models": {"a": fields}}))
    with pytest.raises(CatalogError) as caught:
        read_catalog(path)
    assert where in str(caught.value.where)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"litellm": "openai/gpt-5-mini"},
        {"base_url": "https://api.openai.com/v1", "model": "gpt-5-mini"},
        {"base_url": "http://127.0.0.1:1/v1", "model": "gpt-5-mini"},
    ],
)
def test_prices_context_and_abilities_default_to_the_bundled_table(fields: dict[str, str]) -> None:
    spec = Catalog({"a": ModelSpec(name="a", **fields)})["a"]
    assert (spec.usd_per_1m_prompt, spec.usd_per_1m_completion, spec.usd_per_1m_cached_prompt) == (0.25, 2.0, 0.025)
    assert spec.context_length == spec.known_context_length == 272_000
    assert spec.max_tokens_parameter == "max_completion_tokens"
    assert (spec.supports.temperature, spec.supports.top_p, spec.supports.seed) == (False, False, False)
    assert spec.json_schema
    assert spec.is_priced


def test_an_entry_takes_precedence_over_the_bundled_table() -> None:
    given = {"usd_per_1m_prompt": 9.0, "context_length": 99, "json_schema": False, "supports": {"temperature": True}}
    spec = with_table_defaults(ModelSpec(name="gpt-5-mini", base_url="x", **given))
    assert (spec.usd_per_1m_prompt, spec.usd_per_1m_completion, spec.context_length) == (9.0, 2.0, 99)
    assert (spec.supports.temperature, spec.supports.top_p, spec.json_schema) == (True, False, False)
    free = with_table_defaults(ModelSpec(name="gpt-5-mini", base_url="x", price="free"))
    assert free.prices.usd(1000, 1000) == 0
    assert free.is_priced


def test_a_model_that_is_not_in_the_table_keeps_its_entry() -> None:
    spec = ModelSpec(name="my-own-model", base_url="x")
    assert with_table_defaults(spec) == spec
    assert not spec.is_priced
    assert spec.known_context_length is None


def test_the_tables_provider_is_found_by_the_host_name() -> None:
    groq = with_table_defaults(
        ModelSpec(name="a", base_url="https://api.groq.com/openai/v1", model="openai/gpt-oss-20b")
    )
    assert groq.is_priced
    assert (
        find_entry("gemini-2.5-flash", base_url="https://generativelanguage.googleapis.com/v1beta/openai") is not None
    )
    assert find_entry("no-such-model", base_url="https://api.groq.com/openai/v1") is None


def test_a_users_file_of_weights_is_identified_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTOPT_CACHE", str(tmp_path / "cache"))

    def identity(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return ModelSpec(name="a", weights=Weights(file=str(tmp_path / name))).identity

    first, same, other = identity("a.gguf", b"one"), identity("b.gguf", b"one"), identity("c.gguf", b"two!")
    assert first == same == f"gguf:{hashlib.sha256(b'one').hexdigest()}"
    assert other != first
    assert identity("a.gguf", b"three") != first
    missing = ModelSpec(name="a", weights=Weights(file="/no/such.gguf"))
    assert missing.identity == "gguf:/no/such.gguf"


@pytest.mark.parametrize(
    ("word", "whole", "within"),
    [
        ("mini", "openai/gpt-5-mini", "gemini/gemini-2.5-flash"),
        ("MINI", "openai/gpt-5-mini", "gemini/gemini-2.5-flash"),
        ("llama", "anyscale/meta-llama/Llama-2-13b-chat-hf", "anyscale/codellama/CodeLlama-34b-Instruct-hf"),
        ("5", "openai/gpt-5-mini", "mistral/codestral-2508"),
        ("gpt-4", "openai/gpt-4.1-mini", None),
        ("-mini", "openai/gpt-5-mini", None),
    ],
)
def test_whole_words_of_names_are_found_apart_from_parts_of_longer_words(
    word: str, whole: str, within: str | None
) -> None:
    found, longer = search_table(word)
    assert whole in found
    assert within is None or within in longer
    assert not set(found) & set(longer)
    assert all(word.lower() in name.lower() for name in (*found, *longer))


@pytest.mark.parametrize("word", ["gemi", "haik", "sonn"])
def test_the_start_of_a_word_is_found_within_longer_words(word: str) -> None:
    found, longer = search_table(word)
    assert not found
    assert longer


def test_models_that_need_a_fine_tune_are_listed_last() -> None:
    for word in ("mini", "gpt", "o4", "babbage"):
        tuned = ["ft:" in name for name in search_table(word)[0]]
        assert any(tuned)
        assert tuned == sorted(tuned)


@pytest.mark.parametrize("word", ["mini", "claude", "GEMINI"])
def test_models_of_their_makers_are_listed_before_those_of_resellers(word: str) -> None:
    own = [name.partition("/")[0] in MAKERS for name in search_table(word)[0] if "ft:" not in name]
    assert own == sorted(own, reverse=True)
    assert own[0]
    assert not own[-1]


PRICES = ["usd_per_1m_prompt", "usd_per_1m_completion", "usd_per_1m_cached_prompt", "usd_per_1m_reasoning"]


@pytest.mark.parametrize("key", [*PRICES, "usd_per_request"])
def test_a_free_model_with_a_price_is_refused(key: str, tmp_path: Path) -> None:
    file = written(tmp_path, f"models:\n  a: {{base_url: x, price: free, {key}: 4}}")
    with pytest.raises(CatalogError) as caught:
        read_catalog(file)
    message = str(caught.value)
    assert f"models.a: with `price: free`, no price may be above 0, but got `{key}: 4`" in message
    assert f"remedy: remove `price: free`, or remove `{key}`" in message
    with pytest.raises(CatalogError, match=f"but got `{key}: 4`"):
        ModelSpec(**{"name": "a", "base_url": "x", "price": "free", key: 4})


def test_a_free_model_may_have_prices_of_zero(tmp_path: Path) -> None:
    file = written(tmp_path, f"models:\n  a: {{base_url: x, price: free, {': 0, '.join(PRICES)}: 0}}")
    assert read_catalog(file)["a"].prices.usd(1_000_000, 1_000_000) == 0
