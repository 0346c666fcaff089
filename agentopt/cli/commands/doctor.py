"""`agentopt doctor`: what of agentopt works on this machine. It makes no paid call and prints no key."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import httpx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agentopt import __version__
from agentopt.cli.commands.init import LOCAL
from agentopt.cli.output import print_json
from agentopt.core.errors import UserError
from agentopt.core.extras import install_command
from agentopt.core.files import file_size, folder_size
from agentopt.core.message_text import in_words
from agentopt.core.paths import cache_folder, weights_folder
from agentopt.evaluation.sandbox.confinement import Confinement, SandboxLimits
from agentopt.evaluation.sandbox.sandbox import Sandbox, working_confinement
from agentopt.models.catalog import Catalog
from agentopt.models.providers import PROVIDERS
from agentopt.models.weight_files import bytes_to_download
from agentopt.runs.config import load_config

Status = Literal["ok", "optional", "missing", "broken"]

SECONDS = 2.0
"""Longest wait for an endpoint."""

HOG = "held = bytearray(1 << 30)\nprint(len(held))"
"""A program that needs 1 GiB, twice the limit of a process."""


@dataclass(frozen=True)
class Check:
    """One line of the report. Only `broken` is a failure; `optional` is an extra that is not installed."""

    name: str
    status: Status
    detail: str


@dataclass(frozen=True, slots=True)
class Checks:
    """The output of `agentopt doctor --json`."""

    checks: tuple[Check, ...]


def run_doctor(settings: Sequence[str], endpoints: Sequence[str], as_json: bool, console: Console) -> None:
    """Print every check; exit code 1 if something is broken."""
    config = load_config(settings)
    catalog = Catalog.load(*config.models)
    checks = [
        Check("agentopt", "ok", __version__),
        Check("python", "ok" if sys.version_info >= (3, 11) else "broken", platform.python_version()),
        *_extras(),
        engine_check(),
        sandbox_check(),
        *_keys({name: catalog[name].api_key_env for name in catalog}, os.environ),
        *(_endpoint(url) for url in dict.fromkeys([*_loopback(catalog), *endpoints])),
        *_sizes(config.journal),
    ]
    if as_json:
        print_json(Checks(tuple(checks)))
    else:
        _show(checks, console)
    if any(check.status == "broken" for check in checks):
        sys.exit(1)


def _show(checks: Sequence[Check], console: Console) -> None:
    table = Table()
    for column in ("check", "status", "detail"):
        table.add_column(column)
    for check in checks:
        table.add_row(*map(escape, (check.name, check.status, check.detail)))
    console.print(table)


def _extras() -> Iterator[Check]:
    """Each extra of the package's metadata, with the libraries that it lacks."""
    lacking: dict[str, list[str]] = {name: [] for name in metadata.metadata("agentopt").get_all("Provides-Extra") or ()}
    for requirement in metadata.requires("agentopt") or ():
        named = re.match(r"([\w.-]+).*?extra == ['\"]([\w-]+)['\"]", requirement)
        for_others = re.search(r"sys_platform == ['\"](\w+)['\"]", requirement)
        if named and named[1] != "agentopt" and not (for_others and for_others[1] != sys.platform):
            lacking[named[2]] += [] if _is_installed(named[1]) else [named[1]]
    for extra, libraries in lacking.items():
        if extra not in ("all", "dev", "docs"):
            how = f"lacks {', '.join(libraries)}: {install_command(extra)}"
            yield Check(f"extra {extra}", "optional" if libraries else "ok", how if libraries else "installed")


def _is_installed(library: str) -> bool:
    try:
        metadata.version(library)
    except metadata.PackageNotFoundError:
        return False
    return True


def engine_check(library: str = "xllamacpp") -> Check:
    """Whether the engine of local models loads on this machine, in a process of its own, as it may crash.

    Args:
        library: The engine's module.
    """
    if not find_spec(library):
        return Check("engine", "missing", f"models run locally need it: {install_command('local')}")
    command = [sys.executable, "-c", f"import {library}"]
    loaded = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - our own interpreter
    last = (loaded.stderr.strip().splitlines() or [f"it ended with status {loaded.returncode}"])[-1]
    return Check("engine", "broken", f"{library}: {last}") if loaded.returncode else Check("engine", "ok", "it loads")


def sandbox_check(ways: Sequence[Confinement] | None = None) -> Check:
    """Whether programs that a model wrote can run confined, and are stopped at the limit of memory.

    Args:
        ways: Ways to confine them, best first. Default: those of this machine.
    """
    try:
        sandbox = Sandbox(SandboxLimits(), confinement=working_confinement(ways))
        kind, result = sandbox.kind, sandbox.run_sync(HOG)
    except UserError as error:
        return Check("sandbox", "missing", f"{error.message}; {error.remedy}")
    works = not result.ok
    return Check("sandbox", "ok" if works else "broken", f"{kind}; the memory limit {'holds' if works else 'fails'}")


def _keys(of_models: Mapping[str, str | None], environ: Mapping[str, str]) -> Iterator[Check]:
    """The variables of keys that are set, by name only. `missing`: an entry of the catalogue needs another."""
    needed = set(filter(None, of_models.values()))
    variables = {*needed, *(p.api_key_env for p in PROVIDERS.values() if p.api_key_env)}
    found = sorted(variable for variable in variables if environ.get(variable))
    absent = sorted(needed - set(found))
    unset = [f"not set, but needed by models of the catalogue: {', '.join(absent)}"] if absent else []
    detail = f"set: {', '.join(found)}" if found else "no API key variable is set"
    yield Check("keys", "missing" if absent else "ok", "; ".join([*unset, detail]))


def _loopback(catalog: Catalog) -> list[str]:
    """The addresses of catalogue entries on this machine."""
    urls = [spec.base_url for spec in map(catalog.__getitem__, catalog) if spec.base_url]
    return [url for url in urls if urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")]


def _endpoint(url: str) -> Check:
    """Whether GET /models is answered. No key is sent: an answer that requires one is an answer."""
    try:
        with httpx.Client(timeout=SECONDS, trust_env=False) as client:
            status = client.get(f"{url.rstrip('/')}/models").status_code
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return Check(f"endpoint {url}", "missing", f"no answer: {error or type(error).__name__}")
    if status < 500 or status == 501:  # it answers, whether or not it lists models
        return Check(f"endpoint {url}", "ok", f"reachable (status {status} for GET /models)")
    return Check(f"endpoint {url}", "missing", f"it answers GET /models with status {status}")


def _sizes(journal: str | None) -> Iterator[Check]:
    folder, known = weights_folder(), Catalog.load()
    held = f"{size / 1e6:,.1f} MB in {folder}" if (size := folder_size(folder)) else "none downloaded yet"
    left = bytes_to_download(weights for name in LOCAL if (weights := known[name].weights))
    note = f"; the first run with {in_words(LOCAL)} downloads {left / 1e6:,.0f} MB" if left else ""
    yield Check("model files", "missing" if left else "ok", f"{held}{note}")
    if journal and "://" in journal:
        yield Check("journal", "ok", "at a URL")
    else:
        file = cache_folder() / "journal.db" if journal is None else Path(journal)
        yield Check("journal", "ok", f"{file_size(file) / 1e6:,.1f} MB at {file}")
