"""`agentopt export`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from agentopt.core.errors import UserError
from agentopt.core.files import write_atomically
from agentopt.core.yaml_models import did_you_mean, to_yaml
from agentopt.deploy.deployment import Deployment, find_deployment
from agentopt.deploy.export.module import python_module
from agentopt.deploy.export.router import router_config


def candidate_file(deployment: Deployment) -> str:
    """The candidate as YAML that `evaluate` and `serve` load."""
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
    """`agentopt export`: to a file, which is replaced with `force` only, or to standard output."""
    if form not in FORMATS:
        remedy = did_you_mean(form, FORMATS)
        raise UserError(f"`--to` must be one of {', '.join(FORMATS)}, but got {form}", remedy=remedy)
    if out is not None and out.is_dir():
        raise UserError("a file is written, but this is a folder", where=out, remedy="name a file in it")
    if out is not None and out.exists() and not force:
        raise UserError("the file exists already", where=out, remedy="name another file, or add --force to replace it")
    text = FORMATS[form](find_deployment(source, task, settings))
    if out is None:
        # Not through a table's eyes: neither markup nor line breaks are the console's here.
        console.file.write(text)
        return
    try:
        write_atomically(out, text)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"cannot be written: {reason}", where=out, remedy="name a file in a folder there is") from error
    console.print(f"written: {out}", markup=False, highlight=False, soft_wrap=True)
