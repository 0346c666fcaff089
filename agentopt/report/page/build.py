"""Builds `report.html` of a run, and the files beside it with the traces that do not fit."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from agentopt.core.files import write_atomically, write_output
from agentopt.core.records import Split
from agentopt.core.unicode_text import well_formed
from agentopt.report.page.content import page_content
from agentopt.report.page.packing import TracePack
from agentopt.runs.archive import RunArchive
from agentopt.runs.traces import Trace, traces, why_untraced

PAGE = "report.html"
"""Name of the page in a run's folder."""

MOST_EMBEDDED = 3_000_000
"""Bytes of traces in the page; the trials whose traces do not fit have a file each, in the folder beside it."""

MOST_OF_FRONT = 10
"""Trials of the Pareto front whose traces are in the page at most; reading one takes about 1 ms for each row."""

SPLITS: tuple[Split, ...] = ("validation", "test")


def write_page(
    archive: RunArchive, out: Path | None = None, *, every_trial: bool = False, most_embedded: int = MOST_EMBEDDED
) -> Path:
    """Write the page of a run, with the traces of its finalists and of the trials on the Pareto front.

    Traces that do not fit into the page are in `report/trial-N.js` beside it.

    Args:
        archive: The run.
        out: The page's file. Default: `report.html` in the run's folder.
        every_trial: Whether the traces of every other trial are written beside the page too.
        most_embedded: Bytes of traces in the page.

    Returns:
        The page's file.

    Raises:
        UserError: It cannot be written.
    """
    page = out or archive.run.path / PAGE
    folder = page.with_suffix("")
    embedded, others = _traces(archive, every_trial, most_embedded)
    write_output(page, page_of(archive, embedded, folder.name))
    if others:
        folder.mkdir(exist_ok=True)
    for number, pack in others.items():
        script = f"agentoptTraces({number}, {json.dumps(pack.packed())});\n"
        write_atomically(folder / f"trial-{number}.js", script)
    return page


def page_of(archive: RunArchive, embedded: str, folder: str) -> str:
    """Return the page as HTML.

    Args:
        archive: The run.
        embedded: The packed traces of the trials that are in the page.
        folder: Name of the folder beside the page with those of the others.
    """
    content = page_data(archive, folder)
    return _rendered(content, json_for_html(content), embedded, live=False)[0]


def page_data(archive: RunArchive, folder: str) -> dict[str, Any]:
    """Return the page's data, and where its traces are.

    Args:
        archive: The run.
        folder: Name of the folder beside the page with traces.
    """
    rebuild = shlex.join(["agentopt", "report", str(archive.run.path), "--every-trial"])
    return {**page_content(archive), "folder": folder, "untraced": why_untraced(archive.task), "rebuild": rebuild}


def live_page() -> tuple[str, Sequence[str]]:
    """Return the page that requests its data from the server, and its scripts."""
    return _rendered({"task": "agentopt"}, "null", "", live=True)


def policy(scripts: Sequence[str], *, live: bool) -> str:
    """Return the content security policy: the page's own scripts and files of traces; requests in the live form only.

    Args:
        scripts: The page's scripts.
        live: Whether the page requests its data from a server.
    """
    hashes = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    sources = "'self'; connect-src 'self'" if live else "'self' file:"
    return (
        f"default-src 'none'; script-src {hashes} {sources}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _rendered(content: dict[str, Any], data: str, embedded: str, *, live: bool) -> tuple[str, Sequence[str]]:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    scripts = [resource("plotly-cartesian.min.js"), resource("page.js")]
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(resource("page.html"))
    page = template.render(
        content=content,
        style=resource("page.css"),
        scripts=scripts,
        policy=Markup(policy(scripts, live=live)),  # noqa: S704 - hashes and fixed words only
        data=data,
        traces=embedded,
        live=live,
    )
    return page, scripts


def json_for_html(data: Any) -> str:
    """JSON that cannot end its script element, and that holds no character that some parser takes for a line end.

    Args:
        data: Plain data. Infinite numbers and NaN become null; half a surrogate pair becomes a question mark.
    """
    text = well_formed(json.dumps(_finite(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if -float("inf") < data < float("inf") else None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, list | tuple) else data


def _traces(archive: RunArchive, every_trial: bool, most: int) -> tuple[str, dict[int, TracePack]]:
    """The packed traces for the page, and those of each other trial: of the finalists first, then of the front."""
    step = -(-len(archive.front) // MOST_OF_FRONT) or 1
    numbers = dict.fromkeys([*(finalist.trial for finalist in archive.finalists), *archive.front[::step]])
    if every_trial:
        numbers |= dict.fromkeys(trial.number for trial in archive.trials)
    found = traces(archive, [(number, split) for number in numbers for split in SPLITS])
    return pack_within(archive, list(numbers), found, most)


def pack_within(
    archive: RunArchive, numbers: Sequence[int], found: Mapping[tuple[int, Split], Mapping[str, Trace]], most: int
) -> tuple[str, dict[int, TracePack]]:
    """Pack the first trials that fit together, and each of the others alone.

    Args:
        archive: The run.
        numbers: Numbers of the trials, the most important first.
        found: (trial, split) -> example id -> its trace.
        most: Characters of the pack of several trials.
    """
    inside = list(numbers)
    packed = TracePack.of(archive, inside, found).packed()
    while len(packed) > most and inside:
        inside = inside[: len(inside) * most // len(packed)]
        packed = TracePack.of(archive, inside, found).packed()
    return packed, {n: TracePack.of(archive, [n], found) for n in numbers if n not in inside}


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def resource(name: str) -> str:
    """Return the text of a file in this folder."""
    return files("agentopt.report.page").joinpath(name).read_text(encoding="utf-8")
