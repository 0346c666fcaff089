"""The notebooks of `examples/` run to the outputs that are committed with them."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import nbformat
import pytest

from tools.notebooks import EXAMPLES, clean, executed, is_progress, texts

pytest.importorskip("plotly")
pytest.importorskip("pandas")

NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
OF_A_MACHINE = re.compile(r"/(home|root|tmp|usr|work|Users)/|site-packages|\d+(\.\d+)? ?s\b|\d+:\d\d\b")
"""A path or a time."""

MOST_LINES = 15
"""Lines of a progress bar."""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_runs_to_the_outputs_that_are_committed(path: Path, tmp_path: Path) -> None:
    notebook = executed(path, tmp_path)
    for cell in notebook.cells:
        bars = [output.data["text/plain"] for output in cell.get("outputs", []) if is_progress(output)]
        assert len(bars) == cell.source.count("ProgressBar()")
        assert [bar for bar in bars if "trials" not in bar or len(bar.splitlines()) > MOST_LINES] == []
    clean(notebook)
    committed = nbformat.read(path, as_version=4)
    assert texts(notebook) == texts(committed)
    assert len(texts(committed)) > 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_is_committed_without_what_differs_between_machines(path: Path) -> None:
    committed = nbformat.read(path, as_version=4)
    cleaned = copy.deepcopy(committed)
    clean(cleaned)
    assert cleaned == committed
    assert [text for _, text in texts(committed) if OF_A_MACHINE.search(text)] == []
    assert path.stat().st_size < 50_000


def test_there_are_two_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["first_run", "system_prompts"]
