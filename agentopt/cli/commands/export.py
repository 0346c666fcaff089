"""`agentopt export`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from agentopt.cli.output import print_plain
from agentopt.cli.run_names import CANDIDATE_FILE, run_path
from agentopt.core.errors import UserError
from agentopt.core.files import check_writable, write_output
from agentopt.core.yaml_text import to_yaml
from agentopt.deploy.deployment import Deployment, find_deployment
from agentopt.deploy.export.module import python_module
from agentopt.deploy.export.router import router_config


def candidate_file(deployment: Deployment) -> str:
    """Return the candidate as YAML, as `evaluate` and `serve` load it."""
    return f"# {deployment.title}.\n" + to_yaml(deployment.candidate.to_dict())


FORMATS: Mapping[str, Callable[[Deployment], str]] = {
    "yaml": candidate_file,
    "python": python_module,
    "litellm": router_config,
}


def run_export(
    source: Path,
    form: str,
    out: Path | None,
    task: Path | None,
    settings: Sequence[str],
    console: Console,
    *,
    force: bool = False,
) -> None:
    """`agentopt export`: writes to `out`, replacing an existing file only if `force`, or to standard output."""
    if out is not None:
        check_writable(out)
        if out.exists() and not force:
            remedy = "name another file, or add --force to replace it"
            raise UserError("the file exists already", where=out, remedy=remedy)
    text = FORMATS[form](find_deployment(run_path(source, settings, otherwise=CANDIDATE_FILE), task, settings))
    if out is None:
        # Written past Rich, which would interpret markup and wrap lines.
        console.file.write(text)
        return
    write_output(out, text)
    print_plain(console, f"written: {out}")
