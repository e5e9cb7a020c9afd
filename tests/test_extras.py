"""Without an extra, what needs it says so in one line; everything else works. Each combination is a
process in which the modules of these extras cannot be found."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from specsim.checks.extras import EXTRAS

ROOT = Path(__file__).parent.parent

# Runs in the process: argv holds the hidden modules. Prints one JSON object: what was tried -> what
# came of it.
PROGRAM = """
import contextlib, importlib.abc, io, json, pkgutil, sys, traceback
from pathlib import Path

hidden = set(sys.argv[1:])
sys.argv = ["specsim"]

class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())
found = {}

def attempt(name, do):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = do()
        except (SystemExit, Exception) as error:
            lines = traceback.format_exception_only(error)
            status = getattr(error, "code", "".join(lines))
    found[name] = [status, err.getvalue()]

from specsim import cli

pair = ["--target", "llama-3.1-8b", "--accelerator", "h100-sxm", "--draft", "llama-3.2-1b"]
suite = str(Path(cli.__file__).parents[2] / "measurements" / "cpu-2core" / "plain.json")
attempt("predict", lambda: cli.main(["predict", *pair, "--alpha", "0.8"]))
attempt("plan", lambda: cli.main(["plan", *pair, "--alpha", "0.8"]))
attempt("diagnose", lambda: cli.main(["diagnose", "--accepted", "3", "--drafted", "9"]))
attempt("compare", lambda: cli.main(["compare", suite]))
attempt("validate", lambda: cli.main(["validate", "--help"]))
if hidden & {"matplotlib", "PIL"}:
    attempt("compare --figures", lambda: cli.main(["compare", suite, "--figures", "figures"]))
if hidden & {"matplotlib", "PIL", "torch", "safetensors", "tokenizers", "tqdm"}:
    attempt("demo", lambda: cli.main(["demo", "--quick", "--out", "demo"]))
if hidden & {"matplotlib", "PIL", "ipywidgets", "IPython", "ipykernel", "voila", "traitlets"}:
    attempt("explore", lambda: cli.main(["explore", "--no-browser"]))

import specsim
for each in pkgutil.walk_packages(specsim.__path__, "specsim.", onerror=lambda name: None):
    if not each.name.endswith("__main__"):
        attempt(f"import {each.name}", lambda: bool(__import__(each.name)) - 1)

from specsim import explorer
from specsim.course import notebooks
attempt("sweep", lambda: bool(explorer.sweep(lambda s: s.speedup, {"alpha": [0.5, 0.8]})) - 1)
if hidden & {"matplotlib", "PIL"}:
    sweep = explorer.sweep(lambda s: s.speedup, {"alpha": [0.5, 0.8]})
    attempt("figure of a sweep", sweep.figure)
if hidden & {"matplotlib", "PIL", "ipywidgets", "IPython"}:
    attempt("Explorer", lambda: explorer.Explorer())
    attempt("roofline", lambda: explorer.roofline())
if "IPython" in hidden:
    attempt("say", lambda: notebooks.say("words"))
attempt("here", lambda: bool(notebooks.here().sentence) - 1)
print(json.dumps(found))
"""
DRAWING = {"matplotlib", "PIL", "contourpy"}
WIDGETS = {"ipywidgets", "IPython"}
NEEDS = {  # what was tried, by how its name begins; of modules that are imported see `needs_of`
    "compare --figures": DRAWING,
    "demo": DRAWING | set(EXTRAS["reference"]),
    "explore": DRAWING | set(EXTRAS["notebooks"]),
    "figure of": DRAWING,
    "Explorer": DRAWING | WIDGETS,
    "roofline": DRAWING | WIDGETS,
    "say": {"IPython"},
    "import specsim.figures": DRAWING,
    "import specsim.explorer.panels": DRAWING,
    "import specsim.explorer.figure_canvas": DRAWING,
    "import specsim.explorer.live_view": DRAWING | WIDGETS,
    "import specsim.explorer.load_view": DRAWING | WIDGETS,
    "import specsim.explorer.single_panel": DRAWING | WIDGETS,
    "import specsim.explorer.widget": DRAWING | WIDGETS,
    "import specsim.explorer.controls": WIDGETS,
    "import specsim.explorer.comparison_view": DRAWING | WIDGETS,
    "import specsim.explorer.finding": DRAWING | WIDGETS,
    "import specsim.explorer.frames": DRAWING | WIDGETS,
    "import specsim.explorer.task_control": DRAWING | WIDGETS,
    "import specsim.explorer.hover": DRAWING,
    "import specsim.explorer.memory_bar": DRAWING,
    "import specsim.explorer.static_view": {"PIL"},
    "import specsim.explorer.sweep_view": DRAWING | WIDGETS,
    "import specsim.explorer.taking": {"PIL"},
}


def tried_without(hidden: set[str], folder: Path) -> dict[str, list]:
    """What comes of every command, module and function where `hidden` cannot be imported."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *sorted(hidden)],
        env=os.environ | {"PYTHONPATH": paths}, cwd=folder, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found: dict[str, list] = json.loads(run.stdout)
    return found


def judge(hidden: set[str], folder: Path) -> set[str]:
    """Check what comes of everything; returns what was refused."""
    refused = set()
    for name, (status, said) in tried_without(hidden, folder).items():
        needs = next((value for start, value in NEEDS.items() if name.startswith(start)), set())
        if not needs & hidden:
            assert status in (0, None), (name, status, said)
            continue
        refused.add(name)
        line = said if status == 2 else str(status)
        assert status == 2 or "MissingExtra: " in line, (name, status, said)
        assert line.count("\n") == 1, (name, line)
        (missing,) = [m for m in needs & hidden if f" needs {m}: pip install" in line][:1]
        (extra,) = (extra for extra, modules in EXTRAS.items() if missing in modules)
        whole = any(word in name.lower() for word in ("explore", "roofline"))  # it needs them all
        assert f"pip install 'specsim-llm[{'notebooks' if whole else extra}]'" in line
    return refused


def modules_of(*extras: str) -> set[str]:
    return {module for extra in extras for module in EXTRAS[extra]} - {"reference"}


def test_with_numpy_alone(tmp_path: Path) -> None:
    refused = judge(modules_of(*EXTRAS), tmp_path)
    assert {"demo", "explore", "compare --figures", "Explorer", "say"} <= refused
    assert list(tmp_path.iterdir()) == []  # refused before anything was written


def test_without_pytorch_a_notebook_draws(tmp_path: Path) -> None:
    assert judge(modules_of("reference", "hub"), tmp_path) == {"demo"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "extras",
    [each for n in range(1, len(EXTRAS)) for each in itertools.combinations(EXTRAS, n)],
    ids="-".join,
)
def test_each_combination_of_extras_may_be_absent(extras: tuple[str, ...], tmp_path: Path) -> None:
    judge(modules_of(*extras), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", ["torch", "safetensors", "tokenizers", "tqdm", "matplotlib", "PIL", "ipywidgets",
               "IPython", "voila", "ipykernel"],
)  # fmt: skip
def test_each_library_may_be_absent(module: str, tmp_path: Path) -> None:
    assert judge({module}, tmp_path)


@pytest.mark.parametrize(
    ("module", "hidden", "extra"),
    [("specsim.figures", "matplotlib", "figures"), ("reference", "torch", "reference")],
)
def test_a_module_that_is_run_says_so_too(
    module: str, hidden: str, extra: str, tmp_path: Path
) -> None:
    # a sitecustomize of our own hides the library before anything else runs
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.abc, sys\n"
        "class Hide(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] == {hidden!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", module, *(["generate", "hello"] if module == "reference" else [])],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert f"needs {hidden}: pip install 'specsim-llm[{extra}]'" in run.stderr
