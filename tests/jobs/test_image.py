"""The files of configs/deploy: the image that `jobs export` names, and the services that run it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from jobs_place import QUALITY, Place

from agentopt.core.yaml_text import to_yaml
from agentopt.evaluation.sandbox.confinement import Bubblewrap, available
from agentopt.jobs.export import IMAGE_FOLDERS, USER, kubernetes_cronjob
from agentopt.jobs.jobfile import read_job
from agentopt.jobs.tables import KnownJob
from agentopt.runs.config import load_config
from agentopt.testing.server_process import ServerProcess

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "deploy"
IMAGE_FILE = (FOLDER / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if name != "database"}


def test_the_image_is_built_from_files_that_exist_with_extras_that_exist() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", IMAGE_FILE, re.MULTILINE)
    assert all((ROOT / source).exists() for line in copied for source in line.split()), copied
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())
    sources = included["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert all(any(Path(one).is_relative_to(root) for line in copied for root in line.split()) for one in sources)
    (extras,) = re.findall(r"^ARG EXTRAS=(.+)$", IMAGE_FILE, re.MULTILINE)
    assert {"jobs", "postgres"} <= set(extras.split(",")) <= set(included["project"]["optional-dependencies"])


def test_the_cronjob_the_image_and_the_services_agree(tmp_path: Path) -> None:
    known = KnownJob(read_job(ROOT / "configs/jobs/nightly.yaml"), tmp_path, 0.0, False, None, None)
    spec = yaml.safe_load(kubernetes_cronjob(known))["spec"]
    image = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["image"]
    assert f"docker build -t {image} " in IMAGE_FILE
    assert {service["image"] for service in OURS.values()} == {image}
    assert f"USER {USER}:{USER}\n" in IMAGE_FILE
    assert dict(re.findall(r"^(?:ENV)? +(HOME|AGENTOPT_\w+)=(\S+)", IMAGE_FILE, re.MULTILINE)) == IMAGE_FOLDERS


@pytest.mark.parametrize("name", OURS)
def test_a_service_cannot_write_to_its_image(name: str) -> None:
    service = OURS[name]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert {mount.split(":")[1] for mount in service["volumes"] if not mount.endswith(":ro")} == {"/data"}


def test_runs_and_workers_use_the_database_of_the_compose_file() -> None:
    config = load_config([str(FOLDER / "shared.yaml")])
    places = {service["environment"]["AGENTOPT_STORAGE"] for service in OURS.values()} | {config.storage}
    (place,) = places
    url, database = urlsplit(str(place)), COMPOSE["services"]["database"]["environment"]
    assert (url.hostname, url.username, url.path) == (
        "database",
        database["POSTGRES_USER"],
        f"/{database['POSTGRES_DB']}",
    )
    (variable,) = re.findall(r"password_env=(\w+)", url.query)
    assert f"${{{variable}:?" in database["POSTGRES_PASSWORD"]


def read_only(folder: Path) -> list[str]:
    """A command's beginning that starts it as the image does: another user, one folder and /tmp to write to."""
    bubblewraps = [way.executable for way in available() if isinstance(way, Bubblewrap)]
    begins = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
    # The project and its interpreter may be in /tmp, too.
    needed = [part for place in (ROOT, sys.prefix, sys.base_prefix) for part in ("--ro-bind", str(place), str(place))]
    user = ["--unshare-user", "--uid", str(USER), "--gid", str(USER)]
    for executable in bubblewraps:
        command = [executable, *begins, *needed, "--bind", str(folder), str(folder), "--chdir", str(folder), *user]
        if not subprocess.run([*command, "true"], capture_output=True).returncode:
            return command
    pytest.skip("no bubblewrap works on this machine")


def test_a_job_and_a_run_work_with_a_root_file_system_that_is_read_only(tmp_path: Path) -> None:
    places = {name: str(tmp_path / Path(value).relative_to("/data")) for name, value in IMAGE_FOLDERS.items()}
    begin = read_only(tmp_path)
    with ServerProcess(counter=tmp_path / "received.jsonl", quality=QUALITY) as server:
        place = Place(tmp_path, server.base_url, models=["small", "better"])
        place.write(schedule={"every": "6h"})

        def agentopt(*arguments: str) -> str:
            command = [*begin, sys.executable, "-m", "agentopt", *arguments]
            ended = subprocess.run(command, env={**place.environ, **places}, capture_output=True, text=True)
            assert not ended.returncode, (arguments, ended.stdout, ended.stderr)
            return ended.stdout + ended.stderr

        assert "job nightly added" in agentopt("jobs", "add", "job.yaml")
        assert "nightly: promoted" in agentopt("jobs", "run-now", "nightly")
        settings = {"strategy": "grid", "models": ["models.yaml"], "journal": "journal.db", "storage": "storage.db"}
        (tmp_path / "settings.yaml").write_text(to_yaml(settings))
        engine = ("-c", "engine=processes", "-c", "workers=2", "-c", "budget.trials=4")
        assert "Verdict" in agentopt("optimize", "task", "-c", "settings.yaml", *engine)
