"""Run notebooks from top to bottom and keep small outputs: `python notebooks/run.py [FILE ...]`.

Without files: all of this folder. What is kept can be read where no kernel runs: tables, numbers
and pictures. Interactive pages keep the still picture that stands in for them. With the folder of
stories260K in CIRCUITS_MODEL_FOLDER, notebooks 2 and 7 show that model too, as they are kept.
"""

import base64
import io
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

FOLDER = Path(__file__).parent
TIMEOUT = 300  # seconds a cell


def notebooks() -> list[Path]:
    """All notebooks of this folder, in order."""
    return sorted(FOLDER.glob("*.ipynb"))


def start_kernel() -> KernelManager:
    """A kernel without progress bars; one thread, for models so small."""
    kernel = KernelManager(kernel_name="python3")
    quiet = {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    kernel.start_kernel(
        env={**os.environ, **quiet},
        cwd=str(FOLDER),
        extra_arguments=["--IPKernelApp.log_level=40"],  # it warns of every plain TCP connection
    )
    return kernel


def execute(path: Path, kernel: KernelManager, change: Callable[[str], str] = str) -> NotebookNode:
    """The notebook with the outputs of a run in an emptied kernel, each cell changed before.

    Raises:
        CellExecutionError: if a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in _code(notebook):
        cell.source = change(cell.source)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    client = NotebookClient(notebook, timeout=TIMEOUT, km=kernel, record_timing=False)
    client.execute()
    client.kc.stop_channels()
    del notebook.cells[0]
    for number, cell in enumerate(_code(notebook), start=1):
        cell.execution_count = number
        cell.outputs = [_trimmed(out, number) for out in cell.outputs if not _is_widget(out)]
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec}
    return notebook


def _code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _is_widget(output: NotebookNode) -> bool:
    """A progress bar of another library, which no longer moves."""
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def _trimmed(output: NotebookNode, number: int) -> NotebookNode:
    """With a small picture and without the page that needs scripts, where it stands for one."""
    if "execution_count" in output:
        output.execution_count = number
    data = output.get("data", {})
    if "image/png" in data:
        data.pop("text/html", None)
        data["image/png"] = small(data["image/png"])
    return output


def small(picture: str) -> str:
    """The same PNG in 256 colours, a third of the size; rare ones stay, for they mean things."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    few = image.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    file = io.BytesIO()
    few.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main(names: Iterable[str]) -> None:
    """Run the named notebooks, or all, and write them back."""
    kernel = start_kernel()
    try:
        for path in [Path(name) for name in names] or notebooks():
            print(path.name)
            nbformat.write(execute(path, kernel), path)
    finally:
        kernel.shutdown_kernel(now=True)


if __name__ == "__main__":
    main(sys.argv[1:])
