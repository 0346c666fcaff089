"""`agentopt export`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from agentopt.cli.output import print_plain
from agentopt.cli.run_names import run_path
from agentopt.core.errors import UserError
from agentopt.core.files import write_atomically
from agentopt.core.yaml_models import to_yaml
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
    if out is not None and out.is_dir():
        raise UserError("a file is written, but this is a folder", where=out, remedy="name a file in it")
    if out is not None and out.exists() and not force:
        raise UserError("the file exists already", where=out, remedy="name another file, or add --force to replace it")
    text = FORMATS[form](find_deployment(run_path(source, settings), task, settings))
    if out is None:
        # Written past Rich, which would interpret markup and wrap lines.
        console.file.write(text)
        return
    try:
        write_atomically(out, text)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(
            f"cannot be written: {reason}", where=out, remedy="name a file in an existing folder"
        ) from error
    print_plain(console, f"written: {out}")
