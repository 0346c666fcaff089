"""`agentopt journal`: the stored responses of models."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agentopt.cli.output import print_json, print_plain
from agentopt.cli.run_names import run_path
from agentopt.core.errors import ConfigError, UserError
from agentopt.core.files import check_writable, write_output
from agentopt.core.message_text import counted
from agentopt.models.catalog import Catalog
from agentopt.models.journal_admin import JournalAdmin
from agentopt.models.session import open_journal_admin
from agentopt.runs.config import Config, load_config
from agentopt.runs.folder import RunFolder

SECONDS = {"h": 3600.0, "d": 86_400.0, "w": 604_800.0}


@dataclass(frozen=True, slots=True)
class JournalModel:
    """The stored responses of one model.

    Attributes:
        model: Catalogue name, or the model's identity if the catalogue has no entry of it.
        responses: Number of stored choices.
        oldest: When the oldest was stored, in seconds since 1970.
        newest: When the newest was stored.
    """

    model: str
    responses: int
    oldest: float
    newest: float


@dataclass(frozen=True, slots=True)
class JournalModels:
    """The output of `agentopt journal list --json`; the model with most responses first."""

    models: tuple[JournalModel, ...]


@dataclass(frozen=True, slots=True)
class Removed:
    """The output of `agentopt journal prune --json` and `forget --json`.

    Attributes:
        responses: Number of removed choices.
    """

    responses: int


def show_size(settings: Sequence[str], console: Console, *, as_json: bool = False) -> None:
    """`agentopt journal size`."""
    with _admin(settings) as admin:
        size = admin.size()
    if as_json:
        print_json(size)
        return
    disk = "" if size.bytes is None else f", {size.bytes / 1e6:.1f} MB"
    print_plain(console, f"{counted(size.responses, 'response')} to {counted(size.requests, 'request')}{disk}")
    payers = "run, evaluation, check or server" if size.runs == 1 else "runs, evaluations, checks and servers"
    print_plain(console, f"paid for by {size.runs:,} {payers}")
    if size.oldest is not None and size.newest is not None:
        print_plain(console, f"stored from {_date(size.oldest)} to {_date(size.newest)}")


def list_models(settings: Sequence[str], console: Console, *, as_json: bool = False) -> None:
    """`agentopt journal list`."""
    catalog = Catalog.load(*load_config(settings).models)
    names = {spec.identity: name for name, spec in catalog.items()}
    with _admin(settings) as admin:
        models = tuple(
            JournalModel(names.get(m.identity, m.identity), m.responses, m.oldest, m.newest) for m in admin.models()
        )
    if as_json:
        print_json(JournalModels(models))
        return
    table = Table("model", "responses", "oldest", "newest")
    for found in models:
        table.add_row(escape(found.model), str(found.responses), _date(found.oldest), _date(found.newest))
    console.print(table)


def prune_journal(older_than: str, settings: Sequence[str], console: Console, *, as_json: bool = False) -> None:
    """`agentopt journal prune`."""
    age = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", older_than.strip())
    if age is None:
        raise UserError(
            f"an age must be a number with h, d or w, but got {older_than!r}",
            where="--older-than",
            remedy="such as 30d",
        )
    with _admin(settings) as admin:
        removed = admin.prune(time.time() - float(age[1]) * SECONDS[age[2]])
    _show_removed(removed, console, as_json)


def _show_removed(removed: int, console: Console, as_json: bool) -> None:
    if as_json:
        print_json(Removed(removed))
    else:
        print_plain(console, f"removed {counted(removed, 'response')}")


def forget_responses(
    model: str | None, run: str | None, settings: Sequence[str], console: Console, *, as_json: bool = False
) -> None:
    """`agentopt journal forget`. A model is named as `agentopt journal list` names it."""
    config, run = _of_run(run, settings) if run else (load_config(settings), None)
    catalog = Catalog.load(*config.models)
    with open_journal_admin(config.journal) as admin:
        stored = {found.identity for found in admin.models()}
        identity = model if model is None or model in stored else catalog[model].identity
        removed = admin.forget(identity=identity, run=run)
    _show_removed(removed, console, as_json)


def _of_run(run: str, settings: Sequence[str]) -> tuple[Config, str]:
    """The settings and the identifier of a run. An evaluation or a check has no folder: its identifier is given."""
    try:
        found = RunFolder.open(run_path(Path(run), settings))
    except ConfigError:
        return load_config(settings), run
    return load_config(settings, found.config), found.id


def export_journal(out: Path | None, settings: Sequence[str], console: Console) -> None:
    """`agentopt journal export`."""
    if out is not None:
        check_writable(out)
    with _admin(settings) as admin:
        if out is None:
            for line in admin.export():
                sys.stdout.write(f"{line}\n")
            return
        lines = count()
        write_output(out, (f"{line}\n" for line, _ in zip(admin.export(), lines, strict=False)))
    print_plain(console, f"{counted(next(lines), 'response')} in {out}")


def _admin(settings: Sequence[str]) -> JournalAdmin:
    return open_journal_admin(load_config(settings).journal)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
