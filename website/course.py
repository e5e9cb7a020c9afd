"""A notebook of the course as a page: its text, its code, and the outputs that are stored in it.

Nothing is run. Formulas become MathML, which browsers draw without a script.
"""

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

DISPLAYED = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
INLINE = re.compile(r"(?<![\w$\\`])\$(?=[^\s\d$])([^$\n`]+?)(?<=\S)\$(?![\w$])")
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """The Markdown of a notebook, and its pictures by file name."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    parts: list[str] = []
    images: dict[str, bytes] = {}
    for index, cell in enumerate(notebook["cells"]):
        source = joined(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(formulas(source))
            continue
        parts.append(fenced(source, "python"))
        for number, output in enumerate(cell.get("outputs", [])):
            name = f"{path.stem}-{index:02d}-{number}.png"
            parts.append(shown(output, name, images))
    return "\n\n".join(part for part in parts if part) + "\n", images


def shown(output: dict[str, Any], name: str, images: dict[str, bytes]) -> str:
    """One output of a cell, the richest form that a page can show."""
    if output["output_type"] == "stream":
        return fenced(joined(output["text"]), "text", "nb-output")
    data = output.get("data", {})
    if "image/png" in data:
        images[name] = base64.b64decode(joined(data["image/png"]))
        return f"![the figure that the cell above draws]({name}){{ .nb-figure loading=lazy }}"
    if "text/markdown" in data:
        text = joined(data["text/markdown"])
        return f'<div class="nb-said" markdown="1">\n\n{text}\n\n</div>'
    return fenced(joined(data.get("text/plain", "")), "text", "nb-output")


def joined(text: str | list[str]) -> str:
    """The text of a field, which the format may keep as a list of lines."""
    return text if isinstance(text, str) else "".join(text)


def fenced(text: str, language: str, *classes: str) -> str:
    """A block of code that may itself hold fences."""
    ticks = "`" * max([3, *(len(run) + 1 for run in re.findall(r"^`{3,}", text, re.MULTILINE))])
    dotted = " ".join(f".{name}" for name in (language, *classes))
    return f"{ticks} {{ {dotted} }}\n{text.rstrip()}\n{ticks}"


def formulas(text: str) -> str:
    """`text` with its LaTeX between dollar signs as MathML; code is left alone."""
    pieces = CODE.split(text)
    for index in range(0, len(pieces), 2):
        piece = DISPLAYED.sub(lambda m: convert(m[1].strip(), display="block"), pieces[index])
        pieces[index] = INLINE.sub(lambda m: convert(m[1]), piece)
    return "".join(pieces)


def launch(stem: str) -> str:
    """A line that says where the notebook `stem` can be run, for its page.

    Colab and Binder are named where the code host is known: its workflows set GITHUB_REPOSITORY.
    JupyterLite is named where it is built (`make lite`)."""
    places = {f"../{stem}.ipynb": "download the notebook"}
    if os.environ.get("SPECSIM_LITE") and stem in lite_notebooks():
        places[f"../../lite/lab/index.html?path={stem}.ipynb"] = "run it in this browser"
    if host := os.environ.get("GITHUB_REPOSITORY"):
        path = f"notebooks/{stem}.ipynb"
        colab = "https://colab.research.google.com/github"
        places[f"{colab}/{host}/blob/main/{path}"] = "open in Colab"
        places[f"https://mybinder.org/v2/gh/{host}/main?labpath={path}"] = "open in Binder"
    return " · ".join(f'<a href="{place}">{words}</a>' for place, words in places.items())


def lite_notebooks() -> tuple[str, ...]:
    """The notebooks that need no PyTorch, which a browser cannot have."""
    listed = json.loads((Path(__file__).parent / "lite.json").read_text(encoding="utf-8"))
    return tuple(listed["notebooks"])
