"""Pages of the documentation site that are made when it is built (a hook of mkdocs, see mkdocs.yml).

Generated: the reference of settings, commands and Python. Added: files outside of docs/ that a page links to. They are
below `repository/` in the site, and links to them are rewritten, so that the same links work in a clone.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import posixpath
import re
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import agentopt
from agentopt.jobs.jobfile import Job
from agentopt.models.catalog import ModelSpec
from agentopt.runs.config import Config
from agentopt.taskfile.schema import TaskSpec

ROOT = Path(__file__).parents[1]
MERMAID = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)((?:#[^)\s]*)?\))")

SETTINGS: dict[str, tuple[type[BaseModel], str]] = {
    "Run": (Config, "Keys of a configuration file, or `-c key=value`; `agentopt.Config` in Python."),
    "Task file": (TaskSpec, "Keys of `task.yaml`. [The task file](../task-file.md) describes them with examples."),
    "Catalogue entry": (ModelSpec, "Keys of a model in `models.yaml`, by its name. See [models](../models.md)."),
    "Job file": (Job, "Keys of a job for `agentopt jobs add`. See [jobs](../jobs.md)."),
}
"""Heading -> the model of a file, and a description."""

API = {
    "Functions": "api taskfile.loading runs.config.load_config runs.result.load_result core.candidate.load_candidate",
    "Tasks": "core.task core.cost workflow.templates",
    "Candidates and results": "core.candidate core.records core.stop_reason runs.result prompts.diagnosis",
    "Progress, plots and trackers": "report.progress_bar report.plots report.trackers",
    "Search": "search.base",
    "Registration": "core.registry",
    "Errors and events": "core.errors core.events",
    "Settings": "runs.config models.catalog search.settings prompts.settings",
}
"""Heading -> the homes of its public names: modules, or single names, which take precedence."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and every file of the repository that a page links to."""
    for name, make in {"settings": settings, "cli": commands, "api": api}.items():
        files.append(File.generated(config, f"reference/{name}.md", content=make()))
    waiting = [file for file in files if file.is_documentation_page()]
    while waiting:
        page = waiting.pop()
        for place in (place for place, _ in linked(page) if not place.startswith("docs/")):
            if (ROOT / place).is_file() and not files.get_file_from_path(in_site(place)):
                file = File.generated(config, in_site(place), abs_src_path=str(ROOT / place))
                files.append(file)
                waiting += [file] if file.is_documentation_page() else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of a page to where its targets are in the site, and show its diagrams as drawings."""
    markdown = MERMAID.sub(lambda source: f"![The diagram that {page.title} describes]({drawing(source[1])})", markdown)
    folder = posixpath.dirname(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        place = resolved(page.file, link[1])
        return (posixpath.relpath(in_site(place), folder or ".") if (ROOT / place).is_file() else link[1]) + link[2]

    return LINK.sub(moved, markdown)


def drawing(source: str) -> str:
    """The path in docs/ of the drawing of a Mermaid diagram, which `tools/diagrams.py` makes."""
    return f"images/diagram-{hashlib.sha256(source.encode()).hexdigest()[:12]}.svg"


def in_repository(file: File) -> str:
    """The path of a page of the site in the repository."""
    outside = file.abs_src_path and Path(file.abs_src_path).is_relative_to(ROOT)
    return Path(str(file.abs_src_path)).relative_to(ROOT).as_posix() if outside else f"docs/{file.src_uri}"


def in_site(place: str) -> str:
    """The path in the site of a file of the repository."""
    return place.removeprefix("docs/") if place.startswith("docs/") else f"repository/{place.removeprefix('.')}"


def resolved(page: File, target: str) -> str:
    """The path in the repository of the target of a link."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(in_repository(page)), target))


def linked(page: File) -> Iterator[tuple[str, str]]:
    """The targets of a page's links as paths in the repository, and what follows each."""
    for target, rest in LINK.findall(page.content_string):
        yield resolved(page, target), rest


def settings() -> str:
    """The page of all settings: names, types, defaults and attribute docstrings of the models."""
    parts = ["# Settings", "Generated from the models that read the files. Unknown keys are refused."]
    for heading, (model, text) in SETTINGS.items():
        parts += [f"## {heading}", text, *tables(model)]
    return "\n\n".join(parts)


def tables(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The table of a model's keys, then those of the models in it."""
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    nested: list[tuple[str, type[BaseModel]]] = []
    described = descriptions(model)
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        inner = [kind for kind in parts_of(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        nested += [(key, kind) for kind in inner if kind is not ModelSpec or model is ModelSpec]
        about = described.get(name) or (inner[0].__doc__ or "" if inner else "")
        rows.append("| " + " | ".join((f"`{key}`", cell(typed(field.annotation)), default(field), cell(about))) + " |")
    yield "\n".join(rows)
    for key, kind in nested:
        yield f"### `{key}`"
        yield kind.__doc__ or ""
        yield from tables(kind, f"{key}.")


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Field -> its attribute docstring, also of inherited fields."""
    found: dict[str, str] = {}
    for part in reversed(model.__mro__):
        if part.__module__.startswith("agentopt."):
            found |= docstrings(part)
    return found


def docstrings(model: type) -> dict[str, str]:
    """Field -> the string literal that follows it in the class."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(tree, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(tree.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def parts_of(annotation: Any) -> Iterator[Any]:
    """A type and its arguments, at any depth; the metadata of `Annotated` is left out."""
    yield annotation
    arguments = get_args(annotation)
    for part in arguments[:1] if get_origin(annotation) is Annotated else arguments:
        yield from parts_of(part)


NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path", Any: "any value"}


def typed(annotation: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return typed(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(typed(part) for part in arguments if part is not type(None)) + (
            " or null" if type(None) in arguments else ""
        )
    if origin in (tuple, list, frozenset):
        return f"list of {typed(arguments[0])}"
    if origin is not None:
        return f"mapping to {typed(arguments[-1])}"
    return NAMES.get(annotation) or ("mapping" if issubclass(annotation, BaseModel | dict) else "text")


def default(field: FieldInfo) -> str:
    """The default of a field as YAML would have it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel) or value in ({}, (), PydanticUndefined):
        return ""
    text = value if isinstance(value, str) else json.dumps(value, default=str).strip('"')
    return f"`{text}`"


def cell(text: str) -> str:
    """Text as it may be in a cell of a table."""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def commands() -> str:
    """The page of all commands, as typer documents them."""
    call = [sys.executable, "-m", "typer", "agentopt.cli.main", "utils", "docs", "--name", "agentopt"]
    text = subprocess.run(call, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return text.replace("# `agentopt`", "# Command line", 1).replace("<list[str]>", "TEXT")


def api() -> str:
    """The page of all public names; mkdocstrings fills it from their docstrings."""
    parts = ["# Python", "Every name can be imported from `agentopt`."]
    left = {name: home(name) for name in agentopt.__all__}
    for heading, homes in API.items():
        names = [name for name, place in left.items() if {place, f"{place}.{name}"} & set(homes.split())]
        left = {name: place for name, place in left.items() if name not in names}
        parts += [f"## {heading}", *(f"::: agentopt.{name}" for name in names)]
    if left:
        raise LookupError(f"public names without a heading in {Path(__file__).name}: {sorted(left)}")
    return "\n\n".join(parts)


def home(name: str) -> str:
    """The module of a public name, without the package."""
    found = getattr(agentopt, name)
    return (found.__name__ if isinstance(found, types.ModuleType) else found.__module__).removeprefix("agentopt.")
