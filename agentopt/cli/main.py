"""The command line: parses, calls `api`, shows. A user's mistake is one message and exit code 2, never a traceback.

Exit codes: 0 done, 1 the run failed, 2 a mistake in what was asked, 3 a job's champion got worse, 130 stopped by
Ctrl-C.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentopt.cli.jobs import jobs_app
from agentopt.core.errors import AgentoptError, UserError

if TYPE_CHECKING:
    from rich.console import Console


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Find which model, how many samples and which prompt each stage of an LLM task should use.",
)
models_app = typer.Typer(no_args_is_help=True, help="The models that can be used, and their files.")
runs_app = typer.Typer(no_args_is_help=True, help="Runs that were made.")
app.add_typer(models_app, name="models")
app.add_typer(runs_app, name="runs")
app.add_typer(jobs_app, name="jobs")

TaskArgument = Annotated[Path, typer.Argument(help="Task folder, such as tasks/quickstart.")]
ConfigOption = Annotated[
    list[str] | None, typer.Option("-c", "--config", help="YAML file, or key=value; repeatable, later ones win.")
]


@app.command()
def optimize(
    task: Annotated[Path | None, typer.Argument(help="Task folder; with --resume the run knows it.")] = None,
    config: ConfigOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell the worst case, and make no model call.")] = False,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
) -> None:
    """Search models and sample counts for TASK, and test what was found."""
    from agentopt.cli.commands.optimize import estimate_run, run_optimization

    if dry_run and resume:
        raise UserError("a dry run tells about a new run, but got --resume", remedy="leave one of the two out")
    if dry_run:
        estimate_run(_required(task), config or [], _console())
    else:
        run_optimization(task, config or [], resume, _console())


@app.command()
def evaluate(
    task: TaskArgument,
    candidate: Annotated[Path | None, typer.Option(help="A best.yaml; the baseline unless given.")] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    config: ConfigOption = None,
) -> None:
    """Score one candidate on one split of TASK."""
    from agentopt.cli.commands.evaluate import run_evaluation

    run_evaluation(task, candidate, split, config or [], _console())


@app.command("export")
def export_candidate(
    run: Annotated[Path, typer.Argument(help="Run folder, or a candidate's file such as best.yaml.")],
    to: Annotated[str, typer.Option(help="yaml, python (a module on the openai client alone) or litellm (a router).")],
    out: Annotated[Path | None, typer.Option(help="File to write; standard output unless given.")] = None,
    task: Annotated[Path | None, typer.Option(help="Task folder; a run knows its own.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --out where there is one.")] = False,
    config: ConfigOption = None,
) -> None:
    """Write what RUN found in a form that other programs use."""
    from agentopt.cli.commands.export import run_export

    run_export(run, to, out, task, config or [], _console(), force=force)


@app.command()
def diagnose(
    task: TaskArgument,
    subtask: Annotated[str | None, typer.Option(help="The subtask; each of them unless given.")] = None,
    candidate: Annotated[Path | None, typer.Option(help="A best.yaml; the baseline unless given.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
    config: ConfigOption = None,
) -> None:
    """Tell whether system prompts of TASK are worth optimising, and on which user prompts."""
    from agentopt.cli.commands.diagnose import run_diagnosis

    run_diagnosis(task, subtask, candidate, json, config or [], _console())


@app.command("record")
def record_landscape(
    task: TaskArgument,
    out: Annotated[Path, typer.Option(help="File to write, such as mytask.npz.")],
    config: ConfigOption = None,
) -> None:
    """Evaluate every affordable allocation of TASK once, to measure searches on for free afterwards."""
    from agentopt.cli.commands.record import run_recording

    run_recording(task, out, config or [], _console())


@app.command()
def serve(
    run: Annotated[Path | None, typer.Argument(help="Run folder, or a candidate's file such as best.yaml.")] = None,
    job: Annotated[
        str | None, typer.Option(help="Serve this job's champion, and each new one from when it is.")
    ] = None,
    task: Annotated[Path | None, typer.Option(help="Task folder; a run knows its own.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; others than loopback need keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8000,
    api_key_file: Annotated[Path | None, typer.Option(help="Keys, one a line; read again when it changes.")] = None,
    cache: Annotated[bool, typer.Option("--cache", help="Let the journal answer what was asked before.")] = False,
    max_body: Annotated[int, typer.Option(min=1, help="Most bytes of a request.")] = 2**20,
    max_in_flight: Annotated[int, typer.Option(min=1, help="Most calls at once.")] = 256,
    timeout: Annotated[float, typer.Option(min=0.001, help="Most seconds that a call may take.")] = 300.0,
    config: ConfigOption = None,
) -> None:
    """Serve what RUN found behind the OpenAI API; -c budget.usd=... holds for the server's life."""
    from agentopt.cli.commands.serve import ServeOptions, run_server

    options = ServeOptions(host, port, api_key_file, cache, max_body, max_in_flight, timeout)
    run_server(run, job, task, options, config or [], _console())


@runs_app.command("list")
def runs_list(config: ConfigOption = None) -> None:
    """Every run in the runs folder, with its best score."""
    from agentopt.cli.commands.runs import show_runs

    show_runs(config or [], _console())


@runs_app.command("show")
def runs_show(run: Annotated[Path, typer.Argument(help="Run folder.")]) -> None:
    """The result of one run, as it was printed at its end."""
    from agentopt.cli.commands.runs import show_run

    show_run(run, _console())


@models_app.command("list")
def models_list(config: ConfigOption = None) -> None:
    """The catalogue: how each model is reached, its size, price and limits."""
    from agentopt.cli.commands.models import show_models

    show_models(config or [], _console())


@models_app.command("pull")
def models_pull(name: Annotated[str, typer.Argument(help="Catalogue name.")], config: ConfigOption = None) -> None:
    """Fetch a local model's file, verify its checksum, and keep it in the cache."""
    from agentopt.cli.commands.models import pull_model

    pull_model(name, config or [], _console())


@models_app.command("check")
def models_check(name: Annotated[str, typer.Argument(help="Catalogue name.")], config: ConfigOption = None) -> None:
    """Make one real call: what answered, how fast, and what it costs."""
    from agentopt.cli.commands.models import check_model

    check_model(name, config or [], _console())


def main() -> None:
    """The console script. Turns what went wrong into a message and an exit code."""
    # Loading libraries allocates much and frees nothing: collecting garbage meanwhile is a tenth of the start.
    gc.set_threshold(100_000, 50, 100)
    # A shell switches Ctrl-C off for what a script starts in the background. It must be on for a stop to be clean.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A service manager's stop should end a run as cleanly as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        app()
    except UserError as error:
        _fail(str(error), 2)
    except AgentoptError as error:
        _fail(str(error), 1)


def _fail(message: str, code: int) -> None:
    print(f"agentopt: {message}", file=sys.stderr)  # noqa: T201 - the one line that a mistake gets
    sys.exit(code)


def _required(task: Path | None) -> Path:
    if task is None:
        raise UserError("a task folder must be given", remedy="agentopt optimize tasks/quickstart")
    return task


def _console() -> Console:
    from rich.console import Console

    # A pipe has no width of its own; a table that is folded at 80 columns is hard to read in a log.
    return Console(width=None if sys.stdout.isatty() else 160)
