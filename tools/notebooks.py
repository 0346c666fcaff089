"""Executes the notebooks of `examples/` and writes them without what differs between executions and machines.

Usage: python tools/notebooks.py
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"
PLOTLY = "application/vnd.plotly.v1+json"
FIGURES_AS_DATA = {"PLOTLY_RENDERER": "plotly_mimetype"}
"""Environment of the kernel."""

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def executed(path: Path, folder: Path) -> Any:
    """Return a notebook with the outputs of an execution.

    Args:
        path: The notebook.
        folder: The working folder of its kernel.

    Raises:
        CellExecutionError: A cell raised an exception.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute(env={**os.environ, **FIGURES_AS_DATA})
    return notebook


def clean(notebook: Any) -> None:
    """Remove metadata, progress bars, which contain times, and the template of figures, which is most of their size."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_progress(output)]
            for figure in (data[PLOTLY] for output in cell.outputs if PLOTLY in (data := output.get("data", {}))):
                figure["layout"].pop("template", None)


def is_progress(output: Any) -> bool:
    """Whether an output of a cell is a progress bar: text that a program displayed."""
    return output.output_type == "display_data" and set(output.data) == {"text/plain"}


def texts(notebook: Any) -> list[tuple[int, str]]:
    """The position and the text of each output of a notebook; of a figure, the types of its traces."""
    return [(i, _text(output)) for i, cell in enumerate(notebook.cells) for output in cell.get("outputs", [])]


def _text(output: Any) -> str:
    if output.output_type == "stream":
        return f"{output.name}: {output.text}"
    if figure := output.data.get(PLOTLY):
        return " ".join(trace["type"] for trace in figure["data"])
    return str(output.data["text/plain"])


def main() -> None:
    """Execute each notebook and write it in place."""
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(path, Path(folder))
        clean(notebook)
        nbformat.validate(notebook)
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
