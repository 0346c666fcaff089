"""The error of a checker whose library is not installed."""

from __future__ import annotations

from importlib.util import find_spec

from agentopt.core.errors import UserError
from agentopt.core.extras import install_command


def needs(*modules: str) -> None:
    """Raise `UserError` with the remedy unless all these modules are installed; imports none of them."""
    for module in modules:
        if find_spec(module) is None:
            raise UserError(f"scoring this task needs {module}", remedy=install_command("tasks"))
