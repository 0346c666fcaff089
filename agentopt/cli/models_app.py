"""The command line of `agentopt models`: parses arguments and calls `commands.models`."""

from pathlib import Path
from typing import Annotated

import typer

from agentopt.cli.choices import JsonOption
from agentopt.cli.help_pages import UncutGroup
from agentopt.cli.output import stdout_console
from agentopt.cli.start_app import ConfigOption

models_app = typer.Typer(cls=UncutGroup, no_args_is_help=True, help="List, download and test models.")

ModelName = Annotated[str, typer.Argument(metavar="NAME", help="Catalogue name.")]


@models_app.command("list")
def models_list(json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the catalogue: each model's route, size, price and limits."""
    from agentopt.cli.commands.models import show_models

    show_models(config or [], stdout_console(), as_json=json)


@models_app.command("pull")
def models_pull(name: ModelName, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Download a local model's file into the cache and verify its checksum."""
    from agentopt.cli.commands.models import pull_model

    pull_model(name, config or [], stdout_console(), as_json=json)


@models_app.command("add")
def models_add(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="PROVIDER/MODEL, such as openai/gpt-5-mini.")],
    name: Annotated[str | None, typer.Option("--as", metavar="NAME", help="Catalogue name.")] = None,
    base_url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint that serves the model.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable with the API key.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Catalogue file. Default: configs/models.yaml, or that of the config folder.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an entry that has this name.")] = False,
    json: JsonOption = False,
) -> None:
    """Write a catalogue entry with prices, context length and abilities from the bundled table."""
    from agentopt.cli.commands.models import add_model

    add_model(model, name, base_url, api_key_env, file, stdout_console(), replace=replace, as_json=json)


@models_app.command("search")
def models_search(
    word: Annotated[str, typer.Argument(metavar="WORD", help="Part of a model's name, such as haiku.")],
    json: JsonOption = False,
) -> None:
    """List the models of the bundled table whose name contains WORD."""
    from agentopt.cli.commands.models import search_models

    search_models(word, stdout_console(), as_json=json)


@models_app.command("check")
def models_check(name: ModelName, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Make real calls and print the answer, its latency and cost, and what the endpoint accepts."""
    from agentopt.cli.commands.models import check_model

    check_model(name, config or [], stdout_console(), as_json=json)
