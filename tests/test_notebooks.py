"""The course runs, its generated .ipynb match their sources, and its prose has no number that no
cell computes.

A fast run of every notebook is here; `make notebooks-run` is the full one.
"""

import ast
import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from specsim import course
from specsim.checks import SpecsimError

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"


@pytest.fixture(autouse=True, scope="module")
def libraries() -> None:
    """Those for notebooks take seconds to import. They are imported here, not while tests are
    collected, which every process does."""
    global execute, nbformat
    import nbformat

    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    execute = sys.modules["execute"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(execute)


SOURCES = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
every_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


# Run before each notebook, which then finds a kernel without names and loads the project's modules
# anew. The libraries stay loaded: that saves most of the time.
FRESH = """
get_ipython().reset(new_session=True)
import sys
for name in list(sys.modules):
    if name.split(".")[0] in ("specsim", "reference", "what_fits"):
        del sys.modules[name]
del sys, name
"""

# Run after each notebook: its own questions can be answered, and their mistakes are not answers.
EXERCISES = """
from specsim.course import quiz
for own in [value for value in list(globals().values()) if isinstance(value, quiz.Question)]:
    assert own.check(own.expected), own.prompt
    for mistake, value in own.mistake_values().items():
        assert own.check(value).mistake == mistake, (own.prompt, mistake)
"""

# Run before notebooks that probe the machine: what they ask for is measured once for all of them,
# by few, small probes. Between two notebooks it is kept as bytes: the classes are loaded anew.
PROBES = f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
def keep_probes():
    import functools, inspect, pickle, types
    import few_probes
    from reference.lab import probes
    few_probes.install()
    kept = vars(sys.modules.setdefault("kept", types.ModuleType("kept")))
    def keeping(name, run):
        @functools.wraps(run)
        def once(*given, **options):
            bound = inspect.signature(run).bind(*given, **options)
            asked = repr((name, bound.arguments))
            if asked not in kept:
                kept[asked] = pickle.dumps(run(*given, **options))
            return pickle.loads(kept[asked])
        return once
    for name in ("fastest_dtype", "run_probes"):
        setattr(probes, name, keeping(name, getattr(probes, name)))
keep_probes()
del keep_probes, sys
"""

# Run before and after each notebook: what it prices fits into memory, or the cell says where memory
# ends (see `what_fits.py`).
RECORD = f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
import what_fits
watching = what_fits.Recorder()
watching.start()
del sys, what_fits
"""
FITS = """
assert watching.misfits() == [], watching.misfits()
"""


def watched(notebook):
    """The notebook between two cells that record what it prices and check that it fits."""
    notebook.cells.insert(0, nbformat.v4.new_code_cell(RECORD, id="record"))
    notebook.cells.append(nbformat.v4.new_code_cell(FITS, id="fits"))
    return notebook


@pytest.fixture(scope="module")
def run():
    """Executes notebooks in one kernel, fast, each as if it were the first."""
    with pytest.MonkeyPatch.context() as environment, execute.kernel() as in_kernel:
        environment.setenv("SPECSIM_FAST", "1")

        def fresh(notebook):
            notebook.cells.insert(0, nbformat.v4.new_code_cell(FRESH, id="fresh"))
            return in_kernel(notebook)

        yield fresh


# --- running them ------------------------------------------------------------------------------


@every_notebook
def test_it_runs_from_top_to_bottom_without_a_warning(source: Path, run) -> None:
    notebook = execute.read(source)
    notebook.cells.append(nbformat.v4.new_code_cell(EXERCISES, id="exercises"))
    watched(notebook)
    if re.search(r"probes\.|served\.compared", source.read_text(encoding="utf-8")):
        notebook.cells.insert(0, nbformat.v4.new_code_cell(PROBES, id="probes"))
    assert execute.complaints(run(notebook)) == []


@pytest.mark.slow
@every_notebook
def test_it_runs_without_torch_and_says_so(source: Path, tmp_path: Path, monkeypatch) -> None:
    """Notebooks that measure say what they skip; notebooks that only predict skip nothing."""
    hidden = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    (tmp_path / "torch.py").write_text(hidden)
    # before every other folder; run() puts only the project's own before it, which has no torch
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SPECSIM_FAST", "1")
    notebook = execute.run(execute.read(source))
    assert execute.complaints(notebook) == []
    measures = "course.here()" in source.read_text(encoding="utf-8")
    assert ("PyTorch is not installed here" in json.dumps(notebook)) == measures


def notebook_of(source: str):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source, id="cell-00")])


def test_a_warning_is_a_complaint(run) -> None:
    notebook = run(notebook_of("import warnings; warnings.warn('deprecated thing')"))
    (sentence,) = execute.complaints(notebook)
    assert "deprecated thing" in sentence


def test_a_notebook_finds_nothing_of_the_one_before(run) -> None:
    run(notebook_of("import specsim; specsim.planted = planted = 1"))
    run(notebook_of("import specsim; assert 'planted' not in {*vars(specsim), *globals()}"))


def test_a_scenario_that_does_not_fit_stops_the_run(run) -> None:
    source = "import specsim\nfound = specsim.predict(specsim.model('llama-3-70b'), None, {})"
    fits = source.format("specsim.system('h100-sxm', tensor_parallel=2)")
    run(watched(notebook_of(fits)))
    with pytest.raises(execute.CellExecutionError, match="141 GB of 80 on each device"):
        run(watched(notebook_of(source.format("specsim.system('h100-sxm')"))))


def test_a_failing_cell_stops_the_run(run) -> None:
    with pytest.raises(execute.CellExecutionError, match="1 / 0"):
        run(notebook_of("1 / 0"))


def test_a_notebook_that_takes_too_long_is_named(tmp_path: Path, monkeypatch, capsys) -> None:
    slow = tmp_path / "01_slow.py"
    slow.write_text("# %%\nimport time\n\ntime.sleep(90)\n")
    monkeypatch.setattr(execute, "sources", lambda: [slow])
    monkeypatch.setattr(execute, "CELL_LIMIT_S", 1)
    assert execute.main([]) == 1
    assert "01_slow.py: A cell timed out" in capsys.readouterr().err


# --- the generated pairs -----------------------------------------------------------------------


def test_the_course_has_notebooks_with_one_number_each() -> None:
    assert execute.sources() == SOURCES
    numbers = [source.name[:2] for source in SOURCES]
    assert numbers
    assert len(set(numbers)) == len(numbers)
    orphans = {path.stem for path in FOLDER.glob("*.ipynb")} - {s.stem for s in SOURCES}
    assert orphans == set(), "generated from a source that was removed"


@every_notebook
def test_the_pair_is_in_sync(source: Path) -> None:
    """`make notebooks` was run after the last change of the source."""

    def said(notebook) -> list[tuple[str, str, list[str]]]:
        return [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in notebook.cells]

    pair = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert said(pair) == said(execute.read(source)), "run: make notebooks"


@every_notebook
def test_the_pair_is_fit_for_a_code_host(source: Path) -> None:
    path = source.with_suffix(".ipynb")
    assert path.stat().st_size <= execute.SIZE_LIMIT
    pair = nbformat.read(path, as_version=4)
    nbformat.validate(pair)
    assert execute.complaints(pair) == []
    text = path.read_text(encoding="utf-8")
    assert '"widgets"' not in text, "the state of widgets"
    assert execute.WIDGETS not in text
    assert str(ROOT) not in text
    assert not re.search(r"(?<![\w.])/(home|root|tmp|Users)/", text), "the name of a folder"
    code = [cell for cell in pair.cells if cell.cell_type == "code"]
    assert all(cell.execution_count is None for cell in code)
    assert any(cell.outputs for cell in code)
    assert execute.clean(nbformat.from_dict(pair.copy())) == pair, "cleaning again changes it"


# --- what they say -----------------------------------------------------------------------------

UNITS = (
    r"%|×|x\b|per ?cent|[kMGTP]i?B(?:/s)?\b|bytes?\b|[kMGTP]?FLOPs?(?:/s|/byte)?\b|tok(?:ens?)?/s\b"
    r"|(?:milli|micro|nano)?seconds?\b|[mµun]?s\b|W\b|watts?\b|k?Wh\b|J\b|joules?\b|billion\b"
    r"|million\b|dollars?\b|tokens?\b|times\b"
)
NUMBER = re.compile(
    rf"(?<![\w.#/-])(?P<money>[$€])?(?P<value>\d[\d,]*(?:\.\d+)?(?:e-?\d+)?)"
    rf"(?:\s?(?P<unit>{UNITS}))?(?P<rest>[\w-]*)"
)
COUNT = 12  # whole numbers up to this, without a unit, are counts: two exercises, γ = 4


def claims(markdown: str) -> list[str]:
    """The numbers in prose that look predicted, measured or quoted: with a unit, with a decimal
    point, or larger than COUNT. Names (8B, H200, bf16) do not count."""
    text = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    text = re.sub(r"^#+ \d+\.", "#", text, flags=re.MULTILINE)  # the number of a heading
    text = re.sub(r"\]\([^)]*\)|<https?:[^>]*>|https?:\S+|arXiv:[\d.]+", "]", text)
    found = []
    for piece in re.split(r"(`[^`]*`)", text):
        for match in NUMBER.finditer(piece):
            whole = match["value"].rstrip(",")
            is_name = bool(match["rest"]) and not match["unit"]
            large = "." in whole or "e" in whole or int(whole.replace(",", "")) > COUNT
            # in code a number is a setting, unless it has a unit
            bare = large and not is_name and not piece.startswith("`")
            if match["money"] or match["unit"] or bare:
                found.append(match.group(0).strip())
    return found


def facts() -> list[dict[str, str]]:
    return tomllib.loads((FOLDER / "facts.toml").read_text(encoding="utf-8")).get("fact", [])


def prose(source: Path) -> list[str]:
    return [c.source for c in execute.read(source).cells if c.cell_type == "markdown"]


@every_notebook
def test_no_number_in_prose_that_no_cell_computes(source: Path) -> None:
    """Compute it in a cell and `course.say` it, or list it with its source in facts.toml."""
    known = sorted((fact["text"] for fact in facts()), key=len, reverse=True)
    found = []
    for text in prose(source):
        for fact in known:
            text = text.replace(fact, "…")
        found += claims(text)
    assert found == []


def test_every_listed_fact_has_a_source_and_is_used() -> None:
    everything = "\n".join(text for source in SOURCES for text in prose(source))
    assert [fact for fact in facts() if fact["text"] not in everything] == []
    assert all(len(fact["source"]) > 5 for fact in facts())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is 2.4 times faster, or 1.3× with 60 % of it.", ["2.4 times", "1.3×", "60 %"]),
        ("A step takes 12 ms at 4.8 TB/s and costs $3.", ["12 ms", "4.8 TB/s", "$3"]),
        ("Llama 8B and llama-3.1-8b on an H200 in bf16, int4-g32; layer 3 of 4", []),
        ("See [the paper](https://arxiv.org/abs/2211.17192), arXiv:2302.01318.", []),
        ("set `alpha=0.85`, which gives `3.7 ms`", ["3.7 ms"]),
        ("```\n3.7 ms\n```", []),
        ("a ridge of 295", ["295"]),
        ("24GB in 5ms", ["24GB", "5ms"]),
        ("### 27. What does P99 do?\nIt is 27.", ["27"]),
    ],
)
def test_the_lint_finds_numbers_and_ignores_names(text: str, expected: list[str]) -> None:
    assert claims(text) == expected


# --- how they are written ----------------------------------------------------------------------

MAY_IMPORT = {
    "specsim", "reference", "numpy", "torch", "IPython", "ipywidgets",
    "dataclasses", "itertools", "json", "math", "pathlib", "time",
}  # fmt: skip
LONGEST_CELL = 30  # lines


def objections(notebook) -> list[str]:
    """Where a notebook contains its own algorithm instead of importing it. Only cells tagged
    `teaching` may do that: they build one line by line."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        tree = ast.parse(re.sub(r"\A%%measured.*\n", "", cell.source))
        if len(cell.source.splitlines()) > LONGEST_CELL:
            found.append(f"{cell.id}: longer than {LONGEST_CELL} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names = names or [node.module]
                strange = {name.split(".")[0] for name in names} - MAY_IMPORT
                found += [f"{cell.id}: imports {name}" for name in strange]
            kinds = (ast.FunctionDef, ast.ClassDef, ast.While)
            if isinstance(node, kinds) and "teaching" not in cell.metadata.get("tags", []):
                found.append(f"{cell.id}: a {type(node).__name__} outside a cell tagged teaching")
    return found


@every_notebook
def test_algorithms_are_imported(source: Path) -> None:
    assert objections(execute.read(source)) == []


@pytest.mark.parametrize(
    "source",
    ["def f(): ...", "class A: ...", "while True: break", "import pandas", "\n" * 40 + "1"],
)
def test_an_algorithm_in_a_notebook_is_found(source: str) -> None:
    assert len(objections(notebook_of(source))) == 1


@every_notebook
def test_it_opens_with_its_question_its_runtime_and_its_needs(source: Path) -> None:
    first = execute.read(source).cells[0].source
    assert first.startswith("# ")
    for word in ("**Question", "**Takes", "**Needs"):
        assert word in first, f"{word} is missing in the first cell"


@every_notebook
def test_every_section_ends_with_one_bold_takeaway(source: Path) -> None:
    sections: list[list[str]] = []
    for cell in execute.read(source).cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            sections.append([])
        if sections:
            sections[-1].append(cell.source)
    assert len(sections) >= 3
    without = [
        cells[0].splitlines()[0]
        for cells in sections
        if not cells[0].startswith(("## Exercises", "## References")) and "**" not in cells[-1]
    ]
    assert without == []


@every_notebook
def test_it_ends_with_references_that_are_linked(source: Path) -> None:
    last = execute.read(source).cells[-1].source
    assert last.startswith("## References\n")
    entries = re.split(r"^- ", last, flags=re.MULTILINE)[1:]
    assert len(entries) >= 3
    for entry in entries:
        links = re.findall(r"\[([^\]]+)\]\((https://[^)\s]+)\)", entry)
        assert len(links) == 1, entry
        words, address = links[0]
        if found := re.fullmatch(r"arXiv:(\d{4}\.\d{5})", words):
            assert address == f"https://arxiv.org/abs/{found[1]}"


@every_notebook
def test_it_asks_the_reader(source: Path) -> None:
    """It has two or more exercises with checked answers."""
    code = "".join(c.source for c in execute.read(source).cells if c.cell_type == "code")
    assert len(re.findall(r"quiz\.ask\(", code)) >= 2


# --- what the notebooks share ------------------------------------------------------------------


@pytest.mark.parametrize(("value", "quick"), [("1", True), ("", False), ("0", False)])
def test_effort_follows_the_environment(monkeypatch, value: str, quick: bool) -> None:
    monkeypatch.setenv("SPECSIM_FAST", value)
    assert course.effort(10, 2) == (2 if quick else 10)


def test_what_is_live_says_what_it_needs(monkeypatch) -> None:
    said = []
    monkeypatch.setattr("specsim.course.notebooks.say", said.append)

    def no_widgets():
        raise SpecsimError("the explorer needs ipywidgets")

    course.live(no_widgets)
    assert "needs ipywidgets" in said[0]


def test_a_measured_cell_runs_with_torch_and_says_that_it_is_skipped_without(monkeypatch) -> None:
    from specsim.course.notebooks import measured_cell

    cell = ["%%measured\n", "x = 1\n", "x\n"]
    assert measured_cell(["x = 1\n", "%%measured\n"]) == ["x = 1\n", "%%measured\n"]
    assert measured_cell([]) == []
    if importlib.util.find_spec("torch") is not None:
        assert measured_cell(cell) == cell[1:]
    monkeypatch.setitem(sys.modules, "torch", None)
    said = []
    monkeypatch.setattr(course, "say", said.append)
    exec("".join(measured_cell(cell)), {})
    assert said == ["*Skipped: this cell measures, and PyTorch is not installed.*"]
    otherwise = ["%%measured else: **Nothing is 'measured'.**\n", *cell[1:]]
    exec("".join(measured_cell(otherwise)), {})
    assert said[1:] == ["**Nothing is 'measured'.**"]
    another = ["%%measured_elsewhere\n", "x = 1\n"]
    assert measured_cell(another) == another


@every_notebook
def test_no_cell_asks_what_is_installed(source: Path) -> None:
    """That is for `%%measured`: a reader's code has no `if here.torch`."""
    code = [c.source for c in execute.read(source).cells if c.cell_type == "code"]
    assert [cell for cell in code if "here.torch" in cell] == []


def test_a_notebook_knows_measured_cells_once(monkeypatch) -> None:
    from types import SimpleNamespace

    from specsim.course.notebooks import know_measured_cells

    def another(lines: list[str]) -> list[str]:
        return lines

    shell = SimpleNamespace(input_transformers_cleanup=[another])
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    for _ in range(2):
        know_measured_cells()
    names = [each.__name__ for each in shell.input_transformers_cleanup]
    assert names == ["another", "measured_cell"]


def test_here_says_what_is_skipped_without_torch(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = course.here()
    assert not found.torch
    assert not found.gpu
    assert "not installed" in found.sentence
