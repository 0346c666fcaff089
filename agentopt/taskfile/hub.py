"""Rows of a dataset of the Hugging Face hub."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from agentopt.core.errors import TaskError
from agentopt.taskfile.table import Placed, plain

HUB = "hf:"

HubLoader = Callable[[str, str | None, str | None], Iterable[Mapping[str, Any]]]
"""Dataset name, its configuration and its split -> rows."""

_NAME = re.compile(r"(?P<name>[^/@:\s]+/[^/@:\s]+)([/:](?P<config>[^@\s]+))?(@(?P<split>[^\s]+))?")


def hub_rows(source: str, where: str, hub: HubLoader) -> Iterator[Placed]:
    """Yield the place and the columns of each row.

    Args:
        source: `hf:owner/name:config@split`; the configuration and the split may be left out if there is one.
        where: The key that names it, for messages.
        hub: Loads the dataset.

    Raises:
        ImportError: The library `datasets` is not installed.
        TaskError: The name has another form, or the dataset cannot be loaded.
    """
    named = _NAME.fullmatch(source.removeprefix(HUB))
    if named is None:
        rule = f"a dataset of the Hugging Face hub must be named as hf:owner/name:config@split, but got {source}"
        raise TaskError(rule, where=where, remedy="leave out :config or @split if there is only one")
    try:
        rows = hub(named["name"], named["config"], named["split"])
    except (OSError, ValueError) as error:  # no network, no such dataset, configuration or split
        rule = f"{source} cannot be loaded: {' '.join(str(error).split())[:300]}"
        remedy = "check the name and the network, or download the rows as JSONL and give the file; a private dataset "
        raise TaskError(rule, where=where, remedy=f"{remedy}needs the environment variable HF_TOKEN") from error
    for number, row in enumerate(rows, 1):
        place = f"{source}:{number}"
        yield place, plain(dict(row), place)


@contextmanager
def quietly(*loggers: str) -> Iterator[None]:
    """Silence loggers inside the block: offline, every attempt logs a warning, and the failure is raised anyway."""
    levels = {logger: logger.level for logger in map(logging.getLogger, loggers)}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def load_from_hub(name: str, config: str | None, split: str | None) -> Iterable[Mapping[str, Any]]:
    """Load the rows of one split of a dataset from the Hugging Face hub.

    A token is read from the environment variable HF_TOKEN only.

    Args:
        name: `owner/name`.
        config: Configuration of the dataset, if it has several.
        split: Split of the dataset; may be None if it has one.

    Raises:
        ImportError: The library `datasets` is not installed.
        OSError: The network or the hub failed.
        ValueError: The dataset, its configuration or its split does not exist.
    """
    import datasets  # an extra, and it takes seconds

    token = os.environ.get("HF_TOKEN") or False  # False: no token that an earlier login stored
    try:
        with quietly("huggingface_hub", "datasets"):
            loaded = datasets.load_dataset(name, config, split=split, token=token)
    except datasets.exceptions.DatasetsError as error:
        raise ValueError(str(error)) from error
    if isinstance(loaded, Mapping):
        if len(loaded) != 1:
            raise ValueError(f"it has the splits {', '.join(loaded)}: name one behind an @")
        loaded = next(iter(loaded.values()))
    rows: Iterable[Mapping[str, Any]] = loaded
    return rows
