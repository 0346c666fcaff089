"""Loading the model catalogue: precedence of files, and error messages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agentopt.core.errors import CatalogError
from agentopt.models.catalog import Catalog, read_catalog

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
    assert "configs/models.yaml" in message
    assert "gpt-99" not in catalog
    assert catalog.get("gpt-99") is None
    assert len(catalog) == 3


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("models:\n  a: {base_url: x, contxt_length: 5}", "models.a.contxt_length", "did you mean 'context_length'?"),
        ("models:\n  a: {base_url: x, concurrency: many}", "models.a.concurrency", "but got 'many'"),
        ("models:\n  a: {base_url: x, usd_per_1m_prompt: -1}", "models.a.usd_per_1m_prompt", "but got -1"),
        ("models:\n  a: {base_url: x, weights: {file: f}}", "models.a", "but got base_url and weights"),
        ("models:\n  a: {litellm: x, weights: {file: f}}", "models.a", "but got litellm and weights"),
        ("models:\n  a: {parameters: 5}", "models.a", "exactly one of litellm, base_url and weights must be given"),
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
    assert {"ollama-qwen3-4b", "claude-haiku", "my-gguf"} <= set(entries)


def test_loading_the_catalogue_imports_no_client_library() -> None:
    code = (
        "import sys; from agentopt.models.catalog import Catalog; Catalog.load();"
        "print([name for name in ('openai', 'litellm', 'xllamacpp', 'httpx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout.strip() == "[]", done.stderr
