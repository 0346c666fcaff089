"""What Ray's driver refuses, and what a missing or unusable Ray leads to."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentopt.core.errors import CallsFailError, ConfigError
from agentopt.runs.config import RaySettings, load_config
from agentopt.runs.workers.pool import check_engine
from agentopt.runs.workers.ray_placement import RayPlacement, check_ray
from agentopt.taskfile.loading import load_task

pytest.importorskip("ray", reason="the extra `ray` is not installed")

from agentopt.runs.workers.ray_driver import check_nodes, room_for


def node(name: str, address: str, resources: Mapping[str, float], *, is_alive: bool = True) -> dict[str, Any]:
    return {"NodeID": name, "NodeManagerAddress": address, "Resources": resources, "Alive": is_alive}


HERE, THERE = "10.0.0.1", "10.0.0.2"


@pytest.mark.parametrize(
    ("needs", "resources", "room"),
    [
        ({"CPU": 1}, {"CPU": 4.0}, 4),
        ({"CPU": 0.1}, {"CPU": 0.3}, 3),
        ({"CPU": 2, "gguf": 1}, {"CPU": 8.0, "gguf": 3.0}, 3),
        ({"gguf": 1}, {"CPU": 8.0}, 0),
        ({"GPU": 0.5}, {"GPU": 1.0}, 2),
        ({}, {}, float("inf")),
    ],
)
def test_a_node_has_room_for_as_many_workers_as_its_scarcest_resource(
    needs: dict[str, float], resources: dict[str, float], room: float
) -> None:
    assert room_for(needs, resources) == room


def test_a_storage_in_a_file_is_refused_if_workers_would_be_on_another_host() -> None:
    two = [node("a", HERE, {"CPU": 4.0}), node("b", THERE, {"CPU": 2.0})]
    with pytest.raises(ConfigError, match=r"would be on 10\.0\.0\.1 and 10\.0\.0\.2(?s:.)*PostgreSQL"):
        check_nodes(two, "a", {"CPU": 1}, needs_one_host=True, is_own=False)
    assert check_nodes(two, "a", {"CPU": 1}, needs_one_host=False, is_own=False) == 6
    with pytest.raises(ConfigError, match="would be on"):  # all of them away from the coordinator
        check_nodes([two[0] | {"Resources": {}}, two[1]], "a", {"CPU": 1}, needs_one_host=True, is_own=False)


def test_a_storage_in_a_file_suffices_for_nodes_of_one_host() -> None:
    same = [node("a", HERE, {"CPU": 4.0}), node("b", HERE, {"CPU": 2.0})]
    assert check_nodes(same, "a", {"CPU": 1}, needs_one_host=True, is_own=False) == 6
    dead, unsuited = node("b", THERE, {"CPU": 2.0}, is_alive=False), node("c", THERE, {"memory": 1.0})
    assert check_nodes([same[0], dead, unsuited], "a", {"CPU": 1}, needs_one_host=True, is_own=False) == 4


def test_what_no_node_has_is_refused_if_no_node_can_be_added() -> None:
    alone = [node("a", HERE, {"CPU": 4.0})]
    with pytest.raises(ConfigError, match=r"does not have what a worker takes: CPU 1, GPU 2(?s:.)*set ray\.num_cpus"):
        check_nodes(alone, "a", {"CPU": 1, "GPU": 2}, needs_one_host=False, is_own=True)
    assert check_nodes(alone, "a", {"GPU": 2}, needs_one_host=False, is_own=False) == 0  # one may be added


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("ray://127.0.0.1:10001", "Ray's client is not supported(?s:.)*`ray job submit`"),
        ("nonsense", "the Ray cluster nonsense cannot be used(?s:.)*RAY_ADDRESS=local"),
    ],
)
async def test_an_address_that_cannot_be_used_is_refused_before_anything_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, problem: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    placement = RayPlacement(tmp_path / "journal.db", "run", 1, 0.0, RaySettings())
    try:
        with pytest.raises(ConfigError, match=problem):
            await placement.started(lambda _: None)
        with pytest.raises(CallsFailError, match=problem.partition("(")[0]):
            placement.check()
    finally:
        placement.kill()


def test_a_missing_ray_is_refused_with_the_command_that_installs_it() -> None:
    with pytest.raises(ConfigError, match=r"engine ray needs Ray, which is not installed(?s:.)*\[ray\]"):
        check_ray("ray-that-is-not-installed")
    check_engine(load_config(["engine=ray"]), load_task("tasks/quickstart"), None)


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("{num_cpus: 1.5}", r"ray\.num_cpus: amounts of a resource above 1 must be whole.*1\.5\n  remedy: write 2"),
        ("{resources: {gguf: 2.5}}", r"ray\.resources: amounts of a resource above 1 must be whole"),
        ("{resources: {CPU: 1}}", r"ray\.resources: CPU is no name of a further resource\n  remedy: set ray\.num_cpus"),
        ("{resources: {gguf: 0}}", r"ray\.resources\.gguf: must be greater than 0"),
        ("{num_gpus: -1}", r"ray\.num_gpus: must be greater than or equal to 0"),
        ("{cpus: 1}", r"ray\.cpus: unknown key"),
    ],
)
def test_resources_that_ray_would_refuse_are_refused_at_loading(setting: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_config([f"ray={setting}"])
    assert load_config(["ray={num_cpus: 0.1, resources: {gguf: 1}}"]).ray.resources == {"gguf": 1}


def test_the_manifest_of_kubernetes_runs_a_command_whose_settings_are_accepted() -> None:
    root = Path(__file__).parents[2]
    job = yaml.safe_load((root / "configs/deploy/kuberay.yaml").read_text())["spec"]
    words = shlex.split(job["entrypoint"])
    assert words[:3] == ["agentopt", "optimize", "/tasks/quickstart"]
    config = load_config([setting for option, setting in pairwise(words) if option == "-c"])
    cluster = job["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    room = group["replicas"] * float(container["resources"]["limits"]["cpu"]) // config.ray.num_cpus
    assert (config.engine, room) == ("ray", config.workers)
    assert f"ray=={cluster['rayVersion']}\n" in (root / "requirements.lock").read_text()
    assert config.storage
    assert "?password_env=" in config.storage
