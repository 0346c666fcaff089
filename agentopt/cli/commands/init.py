"""`agentopt init`: a task folder from a data file."""

from __future__ import annotations

import json
import os
import re
import shlex
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from agentopt.api import load
from agentopt.cli.output import print_json, print_plain
from agentopt.core.errors import CatalogError, TaskError, UserError
from agentopt.core.files import write_output
from agentopt.core.message_text import in_words
from agentopt.core.yaml_models import closest
from agentopt.core.yaml_text import to_yaml
from agentopt.models.add_entry import entry_for
from agentopt.models.catalog import BUILT_IN, Catalog, ModelSpec, read_catalog, with_table_defaults
from agentopt.models.engine import missing_note
from agentopt.models.model_table import similar_model
from agentopt.models.providers import PROVIDERS, name_of, table_name
from agentopt.models.weight_files import bytes_to_download
from agentopt.runs.config import load_config
from agentopt.taskfile.scaffold import Draft, ModelsDraft, TemplateName, draft_task, sample_data
from agentopt.taskfile.sources import rows_of
from agentopt.taskfile.text_rows import CORRECT_ARGUMENT
from agentopt.taskfile.trace_task import draft_trace_task
from agentopt.taskfile.traces import Call, is_traces, read_calls

LOCAL = ("smollm2-135m", "qwen2.5-coder-0.5b")

HOSTED: Mapping[str, tuple[str, ...]] = {
    "OPENAI_API_KEY": ("openai/gpt-5-nano", "openai/gpt-5-mini"),
    "ANTHROPIC_API_KEY": ("anthropic/claude-haiku-4-5",),
    "GEMINI_API_KEY": ("gemini/gemini-2.5-flash-lite", "gemini/gemini-2.5-flash"),
    "MISTRAL_API_KEY": ("mistral/mistral-small-latest",),
    "DEEPSEEK_API_KEY": ("deepseek/deepseek-chat",),
    "GROQ_API_KEY": ("groq/llama-3.1-8b-instant",),
}
"""Variable of a key -> models that a new task compares if it is set, cheapest first."""

MOST_OWN = 3
"""Most models of the user's own catalogue that a new task compares unless models are named."""

CONFIG = """# Settings of a run; `-c key=value` overrides them. The module agentopt.runs.config documents every key.
models: [{models}] # a path from the working folder: call agentopt where `agentopt init` was called
strategy: optuna # or agent: a language model proposes; set agent.model
budget:
  trials: 10
{cap}prompts:
  when: {prompts} # before: system prompts are optimised first, on the training split
"""

README = """# {name}

Made by `agentopt init`. `task.yaml` describes the task: edit its prompts and its description. `config.yaml` has the
settings of a run, `models.yaml` the models that are not built in, and `data/` the rows, split by a seed.

    agentopt optimize {folder} -c {config} --dry-run   # what a run costs at most; no model is called
    agentopt optimize {folder} -c {config}
    agentopt report RUN                                # the run as a page
"""


@dataclass(frozen=True, slots=True)
class InitOptions:
    """The options of `agentopt init`; see its help."""

    folder: Path
    source: str | None
    template: TemplateName
    models: Sequence[str]
    target: str | None
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class NewTask:
    """The output of `agentopt init --json`.

    Attributes:
        folder: The task's folder.
        files: The files in it.
        models: Catalogue names of its models.
        notes: How the data was read, and what a run downloads.
        next: The command that estimates a run.
    """

    folder: Path
    files: tuple[str, ...]
    models: tuple[str, ...]
    notes: tuple[str, ...]
    next: str


def run_init(options: InitOptions, console: Console) -> None:
    """Write a task folder; nothing is written if anything in it exists or the data cannot be used."""
    folder, source = options.folder, options.source
    rows = _rows(source) if source else _sample_rows()
    where = source or "--from"
    calls = read_calls(rows, where) if rows and is_traces(rows[0]) else []
    known = Catalog.load()
    chosen = _chosen(options.models or _recorded(calls, known), known, os.environ)
    name = re.sub(r"[^a-z0-9]+", "-", folder.absolute().name.lower()).strip("-") or "task"
    if calls:
        draft = draft_trace_task(name, calls, chosen.draft, where)
    else:
        draft = draft_task(name, rows, options.template, chosen.draft, options.target, where)
    files = {**draft.files, **_settings(folder, name, draft, chosen)}
    _check_free(folder, files)
    _check_loads(files, where)
    _write(folder, files)
    invented = () if source else ("No data was given: data/ has twelve invented rows.",)
    missing = () if options.models else _unknown_models_note(calls, chosen.names)
    of_models = (*_catalogue_notes(chosen), *_price_notes(options.models, chosen), *_download_note(chosen))
    notes = (*invented, *draft.notes, *missing, *of_models)
    made = NewTask(folder, tuple(files), chosen.names, notes, _command(folder, "--dry-run"))
    if options.as_json:
        print_json(made)
    else:
        _show(made, console)


def _check_loads(files: Mapping[str, str], where: str) -> None:
    """Raise a `TaskError` of the source if the files are not a task that loads."""
    with tempfile.TemporaryDirectory() as scratch:
        _write(Path(scratch), files)
        try:
            load(Path(scratch), load_config([f"{scratch}/config.yaml", f"models={scratch}/models.yaml"]))
        except TaskError as error:
            of = str(error.where or "task.yaml").replace(f"{scratch}/", "")
            message = f"its task does not load: {of}: {error.message.replace(f'{scratch}/', '')}"
            raise TaskError(message, where=where, remedy=error.remedy) from error


def _show(made: NewTask, console: Console) -> None:
    for note in made.notes:
        print_plain(console, note)
    print_plain(console, f"Wrote {', '.join(made.files)} to {made.folder}. Models: {', '.join(made.models)}.")
    print_plain(console, f"Next: {made.next}  # then without --dry-run")


def _sample_rows() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "sample.csv"
        file.write_text(sample_data(), encoding="utf-8")
        return _rows(str(file))


def _rows(source: str) -> list[dict[str, Any]]:
    return [row for _, row in rows_of(source, Path(), "--from", remedy=CORRECT_ARGUMENT)]


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The models of the new task.

    Attributes:
        names: Their catalogue names.
        entries: Those to write into its models.yaml.
        known: The user's catalogue, which has the others.
    """

    names: tuple[str, ...]
    entries: Mapping[str, Any]
    known: Mapping[str, ModelSpec]

    @property
    def draft(self) -> ModelsDraft:
        return ModelsDraft(self.names, all(spec.weights for spec in self.specs))

    @property
    def specs(self) -> list[ModelSpec]:
        """The entries that a run will use, with the prices of the bundled table."""
        specs = (ModelSpec(name=n, **self.entries[n]) if n in self.entries else self.known[n] for n in self.names)
        return [with_table_defaults(spec) for spec in specs]


def _chosen(models: Sequence[str], known: Catalog, environ: Mapping[str, str]) -> _Chosen:
    """The models that were named; else the user's own, or those of `HOSTED`, whose key is set; else `LOCAL`."""
    hosted = (list(names) for key, names in HOSTED.items() if environ.get(key))
    given = list(models) or _own(known, environ) or next(hosted, list(LOCAL))
    entries = {name_of(model): _entry_for(model, known) for model in given if model not in known}
    return _Chosen(tuple(dict.fromkeys(model if model in known else name_of(model) for model in given)), entries, known)


def _own(known: Mapping[str, ModelSpec], environ: Mapping[str, str]) -> list[str]:
    """The cheapest models that the user added to the catalogue and whose key is set."""
    built_in = read_catalog(BUILT_IN)
    own = [spec for name, spec in known.items() if name not in built_in and environ.get(spec.api_key_env or "")]
    cheapest = sorted(own, key=lambda spec: (not spec.is_priced, astuple(spec.prices)[:2]))
    return [spec.name for spec in cheapest[:MOST_OWN]]


def _entry_for(model: str, known: Collection[str]) -> dict[str, Any]:
    """The entry of a model that no catalogue has; the remedy for an unknown one names a known model that is alike."""
    try:
        return entry_for(model)[0]
    except CatalogError as error:
        if close := closest(model, known):
            raise CatalogError(error.message, remedy=f"did you mean {close!r}, which is in your catalogue?") from None
        raise


def _recorded(calls: Sequence[Call], known: Catalog) -> list[str]:
    """The models of recorded calls that can be called, and those that a new task of their provider compares."""
    found = []
    for name in dict.fromkeys(call.model for call in calls if call.model):
        model = name if name in known else table_name(name)
        found += [model] if model else []
    keys = [provider.api_key_env for name in found if (provider := PROVIDERS.get(name.partition("/")[0]))]
    return list(dict.fromkeys([*found, *(model for key in keys for model in HOSTED.get(key or "", ()))]))


def _unknown_models_note(calls: Sequence[Call], models: Sequence[str]) -> list[str]:
    unknown = [
        name for name in dict.fromkeys(call.model for call in calls if call.model) if name_of(name) not in models
    ]
    remedy = "add it by `agentopt models add`, and to `models` in task.yaml, to compare with it"
    return [f"The recorded model {name} is not among the models: {remedy}." for name in unknown]


def _catalogue_notes(chosen: _Chosen) -> list[str]:
    """What a colleague who gets the folder lacks, and which entries of the user's catalogue the folder's replace."""
    notes, built_in = [], read_catalog(BUILT_IN)
    if own := [name for name in chosen.names if name not in chosen.entries and name not in built_in]:
        verb, entry = ("are", "entries") if own[1:] else ("is", "entry")
        place = f"{in_words(own)} {verb} in your own catalogue, not in models.yaml"
        notes.append(f"{place}: copy the {entry} there for other users.")
    if replaced := [name for name in chosen.entries if name in chosen.known]:
        remedy = f"to use that of your catalogue, name it without its provider: --models {replaced[0]}"
        notes.append(f"models.yaml has an entry of its own for {in_words(replaced)}; {remedy}.")
    return notes


def _price_notes(given: Sequence[str], chosen: _Chosen) -> list[str]:
    """Which models have no known price, without which a cap in USD is refused, and which names may be misspelled."""
    unpriced = [spec.name for spec in chosen.specs if not spec.weights and not spec.is_priced]
    if not unpriced:
        return []
    meant = [similar for model in given if name_of(model) in unpriced and (similar := similar_model(model))]
    hint = f" Did you mean {in_words(meant)}?" if meant else ""
    remedy = "add usd_per_1m_prompt and usd_per_1m_completion to the entry; a cap in USD (budget.usd) needs them"
    return [f"The price of {in_words(unpriced)} is not known: {remedy}.{hint}"]


def _download_note(chosen: _Chosen) -> list[str]:
    local = {spec.name: spec.weights for spec in chosen.specs if spec.weights}
    left, missing = bytes_to_download(local.values()), missing_note(local)
    notes = [f"The first run downloads the files of its local models: {left / 1e6:,.0f} MB."] if left else []
    return [*notes, *([missing] if missing else [])]


def _settings(folder: Path, name: str, draft: Draft, chosen: _Chosen) -> dict[str, str]:
    head = (
        "# Models of this task that are not built in; `agentopt models list` shows all, the module "
        "agentopt.models.catalog\n# documents the fields.\n"
    )
    is_paid = any(any(astuple(spec.prices)) for spec in chosen.specs)
    prompts = "before" if "data/train.jsonl" in draft.files else "never"
    return {
        "config.yaml": CONFIG.format(
            models=json.dumps(str(folder / "models.yaml")),
            cap="  usd: 1 # the run stops before it\n" if is_paid else "",
            prompts=prompts,
        ),
        "models.yaml": head + to_yaml({"models": dict(chosen.entries)}),
        "README.md": README.format(
            name=name, folder=shlex.quote(str(folder)), config=shlex.quote(str(folder / "config.yaml"))
        ),
    }


def _check_free(folder: Path, files: Mapping[str, str]) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError("a task is a folder, but this is a file", where=folder, remedy="name another folder")
    if taken := [file for file in files if (folder / file).exists() or (folder / file).is_symlink()]:
        rule = f"nothing is overwritten, but there is {', '.join(taken)}"
        raise UserError(rule, where=folder, remedy="name another folder, or move these files")


def _write(folder: Path, files: Mapping[str, str]) -> None:
    for file, text in files.items():
        path = folder / file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot be created: {error.strerror}", where=path.parent, remedy="name another") from error
        write_output(path, text)


def _command(folder: Path, *options: str) -> str:
    return shlex.join(["agentopt", "optimize", str(folder), "-c", str(folder / "config.yaml"), *options])
