"""The command line: parses arguments, calls `agentopt.api`, prints the result.

Exit codes: 0 success, 1 the run failed or a gate does not pass, 2 invalid input (one message, never a traceback), 3 a
job's champion got worse or a gate has too few rows, 4 a cap left a job undecided, 130 ended by Ctrl-C, 143 by SIGTERM.

The modules of commands have no `from __future__ import annotations`: typer would evaluate each annotation four times,
which is a fifth of the time of `--help`.
"""

import gc
import signal
import sys
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from agentopt import __version__
from agentopt.cli.choices import JsonOption, check_arguments, choice_option
from agentopt.cli.experiments_app import record, reproduce
from agentopt.cli.help_pages import MainGroup, UncutGroup
from agentopt.cli.inspect_app import compare, inspect
from agentopt.cli.interrupts import terminable
from agentopt.cli.jobs_app import jobs_app
from agentopt.cli.journal_app import journal_app
from agentopt.cli.models_app import models_app
from agentopt.cli.output import CommandError, Failure, database_failure, exit_with, print_json, stdout_console
from agentopt.cli.start_app import ConfigOption, doctor, init, quickstart
from agentopt.cli.storage_app import storage_app
from agentopt.cli.worker_app import worker
from agentopt.core.errors import AgentoptError, UserError

app = typer.Typer(
    cls=MainGroup,
    add_completion=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: loading rich takes more time than all else
    help="Find the model, the number of samples and the system prompt for each subtask of an LLM task.",
    epilog="Next step: `agentopt optimize TASK --dry-run` prints what a run on the task folder TASK costs at most; "
    "without `--dry-run` it runs.",
)
runs_app = typer.Typer(cls=UncutGroup, no_args_is_help=True, help="List and show earlier runs.")
judge_app = typer.Typer(cls=UncutGroup, no_args_is_help=True, help="Check the judge that scores a task.")
app.add_typer(models_app, name="models")
app.add_typer(judge_app, name="judge")
app.add_typer(runs_app, name="runs")
app.add_typer(journal_app, name="journal")
app.add_typer(storage_app, name="storage")
app.add_typer(jobs_app, name="jobs")
for command in (quickstart, init, doctor, inspect, compare, worker, record, reproduce):
    app.command()(command)

ExportFormat = Literal["yaml", "python", "litellm"]
Split = Literal["train", "validation", "test"]
Tracking = Literal["mlflow", "wandb"]

TaskArgument = Annotated[Path, typer.Argument(metavar="TASK", help="Task folder, such as tasks/quickstart.")]
TaskOption = Annotated[Path | None, typer.Option(help="Task folder. Default: the run's task.")]
CandidateOption = Annotated[
    Path | None,
    typer.Option(
        help="Candidate file such as best.yaml, or a run's name or folder for its best candidate; the settings of that "
        "run apply, except for what -c sets. Default: the baseline."
    ),
]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Request every answer anew instead of using the journal's.")]
LiveOption = Annotated[
    bool, typer.Option("--live", help="Serve the page on this machine, and bring it up to date while the run goes on.")
]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="Port of the live page; 0 picks a free one.")]
SourceHelp = "Run name, run folder, or candidate file such as best.yaml."


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"agentopt {__version__}")
        raise typer.Exit


def _check_live(live: bool, port: int, *, is_opened: bool = False) -> None:
    if not live and (port or is_opened):
        given = "--port" if port else "--open"
        raise UserError(f"{given} is an option of --live, which is not given", remedy="add --live")


commands = cache(lambda: typer.main.get_command(app))  # building them takes a third of the time of a short one


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of `agentopt` itself."""
    if context.invoked_subcommand is None:
        from agentopt.cli.commands.next_step import show_next_step

        show_next_step(Path.cwd(), stdout_console())


@app.command()
def optimize(
    task: Annotated[Path | None, typer.Argument(metavar="TASK", help="Task folder. Not needed with --resume.")] = None,
    config: ConfigOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the worst-case cost without calling a model.")
    ] = False,
    resume: Annotated[Path | None, typer.Option(help="Resume this run: its name or its folder.")] = None,
    live: LiveOption = False,
    port: PortOption = 0,
    open_page: Annotated[bool, typer.Option("--open", help="Open the live page in the browser.")] = False,
    track: Annotated[
        list[str] | None,
        choice_option("--track", get_args(Tracking), help="Record the run in this tracker, too. Repeatable."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Search for the best candidate for TASK and test it on held-out data."""
    from agentopt.cli.commands.optimize import LiveOptions, estimate_run, run_optimization

    _check_live(live, port, is_opened=open_page)
    if dry_run and (resume or live):
        given = "--resume" if resume else "--live"
        raise UserError(f"a dry run estimates a new run, but got {given}", remedy="leave one of the two out")
    if task is None and resume is None:
        raise UserError("a task folder must be given", remedy="agentopt optimize TASK, or agentopt quickstart")
    if dry_run and task:
        estimate_run(task, config or [], stdout_console(), as_json=json)
    else:
        options = LiveOptions(port, open_page) if live else None
        run_optimization(task, config or [], resume, stdout_console(), as_json=json, live=options, track=track or [])


@app.command()
def evaluate(
    task: TaskArgument,
    candidate: CandidateOption = None,
    split: Annotated[Split, choice_option("--split", get_args(Split), help="Split to score.")] = "test",
    fresh: FreshOption = False,
    repeats: Annotated[
        int, typer.Option(metavar="N", help="Independent repeats of every example; the score is their mean.")
    ] = 1,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Score one candidate on one split of TASK."""
    from agentopt.cli.commands.evaluate import run_evaluation

    console = stdout_console()
    run_evaluation(task, candidate, split, config or [], console, fresh=fresh, repeats=repeats, as_json=json)


@app.command()
def whatif(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run name or run folder.")],
    max_usd_per_1000: Annotated[float | None, typer.Option(metavar="X", help="Most USD per 1,000 requests.")] = None,
    max_seconds: Annotated[float | None, typer.Option(metavar="S", help="Longest mean latency of a request.")] = None,
    min_score: Annotated[
        float | None, typer.Option(metavar="S", help="Least score; the cheapest candidate that has it is chosen.")
    ] = None,
    prices: Annotated[
        Path | None, typer.Option(help="YAML file of new prices, such as `models: {NAME: {usd_per_1m_prompt: 0.8}}`.")
    ] = None,
    models: Annotated[str | None, typer.Option(metavar="A,B", help="Models that may be used. Default: all.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the chosen candidate to this file.")] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show what RUN would choose under other limits, prices or models, without a model call."""
    from agentopt.cli.commands.whatif import WhatIfOptions, answer_what_if

    options = WhatIfOptions(run, max_usd_per_1000, max_seconds, min_score, prices, models, out, json)
    answer_what_if(options, config or [], stdout_console())


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run name or run folder.")],
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: report.html in the run's folder.")] = None,
    every_trial: Annotated[
        bool, typer.Option("--every-trial", help="Write the traces of every trial to files beside the page.")
    ] = False,
    live: LiveOption = False,
    port: PortOption = 0,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Write one HTML page that shows RUN, finished or not, without a model call."""
    from agentopt.cli.commands.report import ReportOptions, build_report, serve_live

    _check_live(live, port)
    if live:
        if out or every_trial or json:
            raise UserError("--live writes no file, but got --out, --every-trial or --json", remedy="leave --live out")
        serve_live(run, config or [], stdout_console(), port=port, open_page=open_page)
        return
    options = ReportOptions(out, every_trial, open_page, json)
    build_report(run, config or [], stdout_console(), options)


@app.command()
def gate(
    candidate: Annotated[Path, typer.Argument(metavar="CANDIDATE", help=SourceHelp)],
    against: Annotated[str, typer.Option(help="`baseline`, or a candidate file such as the one in use.")] = "baseline",
    task: TaskOption = None,
    margin: Annotated[float, typer.Option(help="Loss of score that still counts as non-inferior.")] = 0.02,
    max_cost_ratio: Annotated[
        float | None, typer.Option(help="Highest cost per example, as a ratio to the reference's. Default: any.")
    ] = None,
    split: Annotated[Split, choice_option("--split", get_args(Split), help="Split to compare on.")] = "test",
    rows_needed: Annotated[
        bool, typer.Option("--rows-needed", help="Estimate the rows that the gate needs, by simulation.")
    ] = False,
    json: JsonOption = False,
    markdown: Annotated[Path | None, typer.Option(help="Write a summary for a pull request to this file.")] = None,
    config: ConfigOption = None,
) -> None:
    """Decide whether CANDIDATE may replace a reference: superior, non-inferior, inferior, or not enough rows.

    Exit code 0 for superior and non-inferior, 1 for inferior or too dear, 3 for not enough rows, 4 if a cap or failing
    calls end the evaluation. A run is compared with its baseline by its stored test scores, without a call; anything
    else is evaluated through the journal.
    """
    from agentopt.cli.commands.gate import GateOptions, run_gate

    options = GateOptions(candidate, against, task, margin, max_cost_ratio, split, rows_needed, json, markdown)
    run_gate(options, config or [], stdout_console())


@app.command("export")
def export_candidate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help=SourceHelp)],
    to: Annotated[
        ExportFormat,
        choice_option(
            "--to",
            get_args(ExportFormat),
            help="yaml: a candidate file; python: a module that does not need agentopt; "
            "litellm: a router configuration.",
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Output file. Default: standard output.")] = None,
    task: TaskOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file if it exists.")] = False,
    config: ConfigOption = None,
) -> None:
    """Export the best candidate of RUN for use in other programs."""
    from agentopt.cli.commands.export import run_export

    run_export(run, to, out, task, config or [], stdout_console(), force=force)


@app.command()
def diagnose(
    task: TaskArgument,
    subtask: Annotated[str | None, typer.Option(help="Subtask to diagnose. Default: every subtask.")] = None,
    candidate: CandidateOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the worst-case cost without calling a model.")
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Estimate whether optimising the system prompts of TASK pays off, and on which user prompts."""
    from agentopt.cli.commands.diagnose import estimate_pilots, run_diagnosis

    command = estimate_pilots if dry_run else run_diagnosis
    command(task, subtask, candidate, json, config or [], stdout_console())


@app.command()
def serve(
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help=SourceHelp)] = None,
    job: Annotated[
        str | None, typer.Option(help="Serve this job's champion; a new champion is used from the next request on.")
    ] = None,
    task: TaskOption = None,
    host: Annotated[str, typer.Option(help="Address to bind. Other addresses than loopback need keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="File with one accepted API key per line; reloaded when it changes. Default: a new key."),
    ] = None,
    no_api_key: Annotated[
        bool, typer.Option("--no-api-key", help="Answer every program of this machine, of any user, without a key.")
    ] = False,
    cache: Annotated[bool, typer.Option("--cache", help="Answer repeated requests from the journal.")] = False,
    max_body: Annotated[int, typer.Option(min=1, help="Maximum size of a request body in bytes.")] = 2**20,
    max_in_flight: Annotated[int, typer.Option(min=1, help="Maximum number of concurrent requests.")] = 256,
    timeout: Annotated[float, typer.Option(min=0.001, help="Maximum duration of a request in seconds.")] = 300.0,
    max_per_key: Annotated[int | None, typer.Option(min=1, help="Maximum concurrent requests of one key.")] = None,
    max_connections: Annotated[
        int, typer.Option(min=1, help="Maximum number of open connections; at most half of the descriptors.")
    ] = 1000,
    head_timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds for the first byte of a request, and for its headers.")
    ] = 10.0,
    body_timeout: Annotated[float, typer.Option(min=0.001, help="Seconds for the body of a request.")] = 60.0,
    drain: Annotated[
        float, typer.Option(min=0, help="Seconds for which requests in flight are completed after SIGTERM.")
    ] = 300.0,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file with the certificate chain, for HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file with the private key of --tls-cert.")] = None,
    config: ConfigOption = None,
) -> None:
    """Serve the best candidate of RUN behind the OpenAI API. Caps (-c budget.usd=5) cover the server's lifetime."""
    from agentopt.cli.commands.serve import ServeOptions, run_server

    limits = (max_body, max_in_flight, timeout, max_per_key, max_connections, head_timeout, body_timeout, drain)
    options = ServeOptions(host, port, api_key_file, cache, *limits, tls_cert, tls_key, no_api_key)
    run_server(run, job, task, options, config or [], stdout_console())


@judge_app.command("check")
def judge_check(
    task: TaskArgument,
    labels: Annotated[Path, typer.Option(help="CSV or JSONL file with the columns id, output and label.")],
    candidate: CandidateOption = None,
    split: Annotated[
        Split, choice_option("--split", get_args(Split), help="Split that the labels are about.")
    ] = "test",
    repeats: Annotated[
        int, typer.Option(metavar="N", help="Independent repeats of the judge's verdicts on each labelled output.")
    ] = 1,
    fresh: FreshOption = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Compare the judge of TASK with labels that people gave, and correct the candidate's score for its errors."""
    from agentopt.cli.commands.judge import run_judge_check

    console = stdout_console()
    run_judge_check(task, labels, candidate, split, repeats, config or [], console, as_json=json, fresh=fresh)


@runs_app.command("list")
def runs_list(
    storage: Annotated[
        str | None, typer.Option(help="List the runs of this storage, a path or a SQLAlchemy URL, that you began.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="List the runs of all users of the storage.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List every run in the runs folder with its best score."""
    from agentopt.cli.commands.runs import show_runs
    from agentopt.cli.commands.stored_runs import show_stored_runs, storage_of

    if place := storage_of(storage, every, config or []):
        show_stored_runs(place, stdout_console(), is_of_all=every, as_json=json)
    else:
        show_runs(config or [], stdout_console(), as_json=json)


@runs_app.command("show")
def runs_show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run name or run folder.")],
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Print the result of one run again."""
    from agentopt.cli.commands.runs import show_run

    show_run(run, config or [], stdout_console(), as_json=json)


@terminable()
def main() -> None:
    """Run the command line. Errors of agentopt become one message on stderr and an exit code."""
    # Loading libraries allocates much and frees nothing: collecting garbage meanwhile is a tenth of the start.
    gc.set_threshold(100_000, 50, 100)
    # A shell disables SIGINT for background processes of a script. A clean stop needs it enabled.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        check_arguments(sys.argv[1:])
        commands()(prog_name="agentopt")
    except CommandError as error:
        _fail(error, error.exit_code)
    except AgentoptError as error:
        _fail(error, 2 if isinstance(error, UserError) else 1)
    except Exception as error:
        if (reason := database_failure(error)) is None:
            raise
        remedy = "`agentopt storage check` with the database or the run finds what is damaged"
        _fail(AgentoptError(f"a database cannot be used: {reason}\n  remedy: {remedy}"), 1)


def _fail(error: AgentoptError, code: int) -> None:
    """Print the message on stderr, and as the document of `--json`, whose command raised before it printed a result."""
    message = "\n".join([str(error), *getattr(error, "__notes__", ())])
    if "--json" in sys.argv:
        print_json(Failure(message, code))
    exit_with(message, code)
