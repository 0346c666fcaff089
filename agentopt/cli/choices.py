"""Options that several commands share: those with a fixed set of values, and `--json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from agentopt.core.errors import UserError
from agentopt.core.phrases import in_words

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
