"""The example files in configs: each keeps the promise of its first comment."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from agentopt.api import load
from agentopt.jobs.jobfile import read_job
from agentopt.models.catalog import ModelSpec
from agentopt.runs.config import Config, load_config

ROOT = Path(__file__).parents[2]
FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml"))
CONFIGS = [file for file in FILES if file.count("/") == 1 and file != "configs/models.yaml"]
JOBS = [file for file in FILES if "/jobs/" in file]


@pytest.fixture
def hosted(tmp_path: Path) -> str:
    """A `-c` setting with the model that `agentopt models add openai/gpt-5-mini` adds."""
    entry = {"base_url": "https://api.openai.com/v1", "model": "gpt-5-mini", "api_key_env": "OPENAI_API_KEY"}
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"models": {"gpt-5-mini": entry}}))
    return f"models={tmp_path / 'models.yaml'}"


def configured(file: str, *settings: str) -> Config:
    sources = read_job(ROOT / file).config if file in JOBS else (file,)
    return load_config([str(ROOT / one) if one.endswith(".yaml") else one for one in (*sources,)] + [*settings])


def models_of(file: str, *settings: str) -> list[ModelSpec]:
    return list(load(ROOT / "tasks" / "quickstart", configured(file, *settings)).specs.values())


def test_every_example_is_covered() -> None:
    assert {*CONFIGS, *JOBS} | {"configs/models.yaml"} == {
        file for file in FILES if not {"ci", "papers", "deploy"} & set(Path(file).parts)
    }
    assert len(CONFIGS) > 1 < len(JOBS)


@pytest.mark.parametrize("file", [*CONFIGS, *JOBS])
def test_an_example_of_hosted_models_uses_no_local_one(
    file: str, hosted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTOPT_CONFIG", str(tmp_path / "nothing"))
    promised = "hosted" in (ROOT / file).read_text().partition("\n")[0] or "hosted" in file
    local = {spec.name for spec in models_of(file, hosted) if spec.weights}
    assert bool(local) is not promised, local


@pytest.mark.parametrize("file", JOBS)
def test_an_example_of_a_job_names_files_that_exist(file: str) -> None:
    job = read_job(ROOT / file)
    assert (ROOT / job.task / "task.yaml").is_file()
    assert all((ROOT / one).is_file() for one in job.config if "=" not in one)


def test_the_first_run_makes_fewer_than_800_calls() -> None:
    assert "fewer than 800 model calls" in (ROOT / "configs" / "quickstart.yaml").read_text()
    calls = configured("configs/quickstart.yaml").budget.calls
    assert calls is not None
    assert calls < 800
