"""Run the course: every notebook from top to bottom, and write its .ipynb.

    python notebooks/execute.py                run all; fails on an error or a warning
    python notebooks/execute.py --write        also write the .ipynb next to each .py
    python notebooks/execute.py 01 05          only these

The source of a notebook is NN_name.py (jupytext's percent format); review that file. The .ipynb is
generated from a run. It has the figures, but no widget state, execution counts, random cell ids or
folder names. So only measured values change from one run to the next. SPECSIM_FAST=1 runs the same
cells with fewer repetitions.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from traitlets.config import Config

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
CELL_LIMIT_S = 600  # for a slow or busy machine; on an idle one a notebook needs less than a sixth
START_LIMIT_S = 240
SIZE_LIMIT = 400_000  # bytes of an .ipynb: code hosts do not render large files

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
KEPT = ("tags", "jupyter")  # of a cell's metadata; `jupyter` hides the code of folded answers
WIDGETS = "application/vnd.jupyter.widget-view+json"

Notebook = Any  # nbformat.NotebookNode, which is a dict with attributes


def sources() -> list[Path]:
    """The .py of every notebook, in the order of the course."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def read(source: Path) -> Notebook:
    """The notebook in the file `source`, with cell ids that depend only on their order."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = {"kernelspec": dict(KERNEL), "language_info": dict(LANGUAGE)}
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index:02d}"
    return notebook


@contextmanager
def kernel() -> Iterator[Callable[[Notebook], Notebook]]:
    """A kernel, which starts at the first use, as a function that executes a notebook in place.

    What a notebook defines is there for the next one. The function raises CellExecutionError if a
    cell fails, CellTimeoutError if a cell takes CELL_LIMIT_S, DeadKernelError if the kernel
    dies."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {"PYTHONPATH": path, "TQDM_DISABLE": "1", "PYTHONHASHSEED": "0"}
    with TemporaryDirectory() as sockets:  # our own files; TCP ports are shared
        files = {"transport": "ipc", "ip": f"{sockets}/kernel"}
        client = NotebookClient(
            nbformat.v4.new_notebook(),
            timeout=CELL_LIMIT_S,
            startup_timeout=START_LIMIT_S,
            kernel_name="python3",
            resources={"metadata": {"path": str(FOLDER)}},
            config=Config({} if os.name == "nt" else {"KernelManager": files}),
        )

        def execute(notebook: Notebook) -> Notebook:
            client.nb = notebook
            client.execute(env=os.environ | environment, cleanup_kc=False)
            return notebook

        try:
            yield execute
        finally:
            if client.km is not None:  # it was started
                client._cleanup_kernel()


def run(notebook: Notebook) -> Notebook:
    """Execute in a fresh kernel, in place. Raises what `kernel` says."""
    with kernel() as execute:
        return execute(notebook)


def complaints(notebook: Notebook) -> list[str]:
    """What must not be in an executed notebook: an error, or any text on stderr (a warning)."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                found.append(f"{cell.id}: {output.ename}: {output.evalue}")
            elif output.output_type == "stream" and output.name == "stderr":
                found.append(f"{cell.id}: stderr: {output.text.strip()[:400]}")
    return found


def clean(notebook: Notebook) -> Notebook:
    """Keep only what a page shows: no counts, no times, no widget state, no folder names.

    Changes the notebook in place."""
    notebook.metadata = {"kernelspec": dict(KERNEL), "language_info": dict(LANGUAGE)}
    for cell in notebook.cells:
        cell.metadata = {key: cell.metadata[key] for key in KEPT if key in cell.metadata}
        if cell.cell_type != "code":
            continue
        cell.execution_count = None
        kept = []
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = None
            data = output.get("data", {})
            if data.pop(WIDGETS, None) is not None:  # a widget needs a kernel: keep its pictures
                if "image/png" in data or "text/html" in data:
                    kept.append(output)
                continue
            if output.output_type == "stream":
                output.text = without_folders(output.text)
            for kind in data:
                if kind.startswith("text/"):
                    data[kind] = without_folders(data[kind])
            kept.append(output)
        cell.outputs = merged(kept)
    return notebook


def merged(outputs: list[Any]) -> list[Any]:
    """Join neighbouring pieces of one stream, because where they are cut is random."""
    result: list[Any] = []
    for output in outputs:
        last = result[-1] if result else None
        if last and output.output_type == "stream" == last.output_type and last.name == output.name:
            last.text += output.text
        else:
            result.append(output)
    return result


def without_folders(text: str) -> str:
    """`text` without the names of folders on this machine and without addresses of objects."""
    for folder in (ROOT, Path.home(), Path(sys.prefix)):
        if str(folder) != folder.anchor:
            text = text.replace(str(folder), folder.name)
    return re.sub(r"0x[0-9a-f]{6,}", "0x…", text)


def write(notebook: Notebook, source: Path) -> Path:
    """Write the .ipynb of `source`, completely or not at all."""
    target = source.with_suffix(".ipynb")
    text = nbformat.writes(notebook, version=4) + "\n"
    if len(text.encode()) > SIZE_LIMIT:
        raise ValueError(f"{target.name}: {len(text.encode())} bytes, more than {SIZE_LIMIT}")
    partial = target.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(target)
    return target


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen notebooks and print their times; 1 if one of them fails."""
    parser = argparse.ArgumentParser(description="Run the notebooks of the course.")
    parser.add_argument("names", nargs="*", help="how names start: 01 05_when (default: all)")
    parser.add_argument("--write", action="store_true", help="write the .ipynb next to each .py")
    options = parser.parse_args(arguments)
    chosen = [s for s in sources() if s.name.startswith(tuple(options.names) or "")]
    failed = not chosen
    for source in chosen:
        started = time.perf_counter()
        try:
            notebook = run(read(source))
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            print(f"{source.name}: {error}", file=sys.stderr)
            failed = True
            continue
        found = complaints(notebook)
        seconds = time.perf_counter() - started
        size = ""
        if options.write and not found:
            size = f", {write(clean(notebook), source).stat().st_size / 1e3:.0f} kB"
        print(f"{source.stem:32s} {seconds:5.1f} s{size}", flush=True)
        for sentence in found:
            print(f"{source.name}: {sentence}", file=sys.stderr)
        failed |= bool(found)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
