"""What all tests share: Hypothesis without deadlines, as durations depend on the machine, processes, fixtures."""

from __future__ import annotations

import compileall
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

import agentopt
from agentopt.core import plugins
from agentopt.core.errors import UserError
from agentopt.core.registry import FUSIONS, PARSERS, SCORERS, STRATEGIES
from agentopt.testing.postgres import PostgresServer

settings.register_profile("agentopt", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("agentopt")

# pytest-xdist gives its processes the width of the terminal. Commands print as into a pipe, whatever that is.
os.environ.pop("COLUMNS", None)

MEMORY, ENOUGH_MEMORY = Path("/dev/shm"), 4 * 2**30
"""The file system in memory of Linux, and the free bytes that it must have."""
if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ENOUGH_MEMORY:
    # No test loses power, so that waiting for a disk shows nothing. Processes that a test starts inherit the variable.
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)

HANGING = 600
"""Seconds after which a test of the default run is ended. The longest takes one minute on an idle machine."""
REGISTRIES = (SCORERS, PARSERS, FUSIONS, STRATEGIES)


@pytest.fixture(scope="session")
def registered_at_start() -> None:
    """Imports the modules whose entries are registered once in a process, so that no test is the first to do so."""
    for registry in REGISTRIES:
        registry.names()


@pytest.fixture(autouse=True)
def registries(registered_at_start: None) -> Iterator[None]:
    """After each test, the registries have the entries that they had before it."""
    before, loaded = [dict(registry._entries) for registry in REGISTRIES], set(plugins._loaded)
    yield
    for registry, entries in zip(REGISTRIES, before, strict=True):
        registry._entries = entries
    plugins._loaded.intersection_update(loaded)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the number of cases of the suites of mutated input, and of processes that are killed."""
    parser.addoption("--cases", type=int, help="Cases of the suites of bad input, all together. Default: a few each.")
    parser.addoption(
        "--runs", type=int, help="How often test_killed_processes.py disturbs a run in each way. Default: 1."
    )


def pytest_configure() -> None:
    """Compiles the package once: if `PYTHONDONTWRITEBYTECODE` is set, each process that a test starts would do so."""
    compileall.compile_dir(Path(agentopt.__file__).parent, quiet=2)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keeps the compiled test modules, and exempts what was collected from garbage collection.

    The modules are kept even if `PYTHONDONTWRITEBYTECODE` is set. Those that a test writes are not: Python would run
    the first version of one written twice within a second. The whole suite is 640,000 objects that live until its end.
    """
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        sys.dont_write_bytecode = before


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ends a test of the default run that hangs; it fails with the stack of each thread."""
    for item in items:
        if not any(item.get_closest_marker(name) for name in ("slow", "faults", "timeout")):
            item.add_marker(pytest.mark.timeout(HANGING))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes for the whole suite and for folders; for files none, because starting two takes longer."""
    if any(argument.partition("::")[0].endswith(".py") for argument in config.args):
        return 0
    return min(2, os.cpu_count() or 1)


@pytest.fixture(autouse=True)
def one_local_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let one process at a time use a real local model: the threads of two engines slow each other down."""
    if "PYTEST_XDIST_WORKER" not in os.environ or request.node.get_closest_marker("real") is None:
        yield
        return
    with FileLock(tmp_path_factory.getbasetemp().parent / "local-model.lock"):  # the parent folder is of all processes
        yield


@pytest.fixture
def console_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Calls the console script in this process, which is much faster than starting one: (exit code, stdout, stderr)."""
    from agentopt.cli import main as cli

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["agentopt", *arguments])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server that all tests of this process share. One that needs a database of its own restarts it."""
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    server = PostgresServer()
    try:
        server.__enter__()
    except UserError as error:
        pytest.skip(str(error))
    yield server
    server.__exit__()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL, with its password, of an empty PostgreSQL database of this test alone."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)
