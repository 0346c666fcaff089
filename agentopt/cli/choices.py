"""Options that several commands share: those of fixed values, and `--json`; and the check of all arguments."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from agentopt.core.errors import UserError
from agentopt.core.message_text import in_words

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]


def choice_option(name: str, choices: Sequence[str], **options: Any) -> Any:
    """A `typer.Option` whose value is one of `choices`; another one raises `UserError`.

    Args:
        name: Name of the option, such as `--split`.
        choices: The values.
        options: Further arguments of `typer.Option`.
    """

    def parse(text: str) -> str:
        if text not in choices:
            from agentopt.core.yaml_models import did_you_mean

            rule = f"must be one of {in_words(choices)}, but got {text!r}"
            raise UserError(rule, where=name, remedy=did_you_mean(text, choices, "use one of these"))
        return text

    return typer.Option(name, parser=parse, metavar="|".join(choices), **options)


def check_arguments(arguments: Sequence[str]) -> None:
    """Check that arguments can be printed and stored. Raises `UserError` for a control character or a wrong encoding.

    Characters that change the direction of text are accepted: names of tasks and runs may contain them, and output
    shows them as escapes.

    Args:
        arguments: All arguments of the command line.
    """
    for argument in arguments:
        if any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\r\t" for c in argument):
            rule = f"an argument must be text without control characters, but got {argument!r:.200}"
            raise UserError(rule, remedy="rename the file, or write the value into a YAML file, given by -c FILE")
