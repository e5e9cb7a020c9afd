"""JupyterLite for the site: notebooks that run in the reader's browser, with specsim inside.

    python website/lite.py site/lite

Makes a wheel of this checkout, adds the wheels of the widgets, copies the notebooks of `lite.json`
without their outputs and with a first cell that installs specsim, and builds JupyterLite.

Pyodide itself, NumPy and matplotlib come from its CDN (jsDelivr) when a reader opens a notebook:
the registries have no NumPy for browsers, and the bundle of Pyodide has several hundred megabytes.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WIDGETS = (
    "ipywidgets",
    "jupyterlab_widgets",
    "widgetsnbextension",
)  # pure Python
FIRST = "%pip install -q specsim-llm matplotlib ipywidgets"
EXPLORER = {
    "# The explorer\n\nRun the two cells below: sliders, and pictures that follow them.": None,
    FIRST: "code",
    "from specsim.explorer import Explorer\n\nExplorer()": "code",
}


def main() -> None:
    """Build into the folder that is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output.resolve()
    with TemporaryDirectory() as folder:
        contents, wheels = Path(folder) / "contents", Path(folder) / "wheels"
        contents.mkdir()
        for stem in json.loads((ROOT / "website" / "lite.json").read_text())["notebooks"]:
            source = ROOT / "notebooks" / f"{stem}.ipynb"
            write(contents / source.name, prepared(json.loads(source.read_text(encoding="utf-8"))))
        write(contents / "explorer.ipynb", notebook(EXPLORER))
        run("-m", "hatchling", "build", "-t", "wheel", "-d", wheels, cwd=ROOT)
        run("-m", "pip", "download", "-q", "--no-deps", "-c", ROOT / "constraints.txt",
            "-d", wheels, *WIDGETS)  # fmt: skip
        shutil.rmtree(output, ignore_errors=True)
        given = [
            part for wheel in sorted(wheels.glob("*.whl")) for part in ("--piplite-wheels", wheel)
        ]
        run("-m", "jupyter", "lite", "build", "--contents", contents, "--output-dir", output,
            "--no-sourcemaps", *given, cwd=folder)  # fmt: skip
    missing = absent(output)
    if missing:
        sys.exit("JupyterLite was built without " + ", ".join(missing))
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(f"{output}: {size / 1e6:.0f} MB")


def run(*command: object, cwd: object = None) -> None:
    """Run Python with `command`; what it prints is shown if it fails."""
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, text=True, capture_output=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def prepared(found: dict[str, Any]) -> dict[str, Any]:
    """A notebook without outputs, and with a first cell that installs specsim."""
    for cell in found["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    found["cells"].insert(1, cell_of(FIRST, "code", "install"))
    found["metadata"]["kernelspec"] = {"name": "python", "display_name": "Python (Pyodide)"}
    return found


def notebook(cells: dict[str, str | None]) -> dict[str, Any]:
    """A new notebook of texts, and of code where the kind says so."""
    made = [
        cell_of(text, kind or "markdown", f"cell-{i}")
        for i, (text, kind) in enumerate(cells.items())
    ]
    kernel = {"name": "python", "display_name": "Python (Pyodide)"}
    return {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def cell_of(text: str, kind: str, name: str) -> dict[str, Any]:
    """A cell with an id."""
    cell: dict[str, Any] = {"cell_type": kind, "id": name, "metadata": {}, "source": text}
    return cell | ({"outputs": [], "execution_count": None} if kind == "code" else {})


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a notebook."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def absent(output: Path) -> list[str]:
    """What a reader's browser will ask for and would not find."""
    wanted = [output / "lab" / "index.html", output / "files" / "explorer.ipynb"]
    wanted.append(output / "api" / "contents" / "all.json")  # without it no notebook opens
    listed = sorted((output / "pypi").glob("all.json"))
    wanted += [] if listed else [output / "pypi" / "all.json"]
    names = {name for each in listed for name in json.loads(each.read_text(encoding="utf-8"))}
    lacks = {"specsim-llm", "ipywidgets"} - names if listed else set()
    return [str(path.relative_to(output)) for path in wanted if not path.is_file()] + sorted(lacks)


if __name__ == "__main__":
    main()
