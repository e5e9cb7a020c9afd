"""specsim models | accelerators | engines | methods: what the catalog has, a line each.

`--like` keeps the rows whose name, other spelling, hub id or full name contains a text, whatever
its case and its hyphens; without it every row is listed.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from specsim import __version__, catalog
from specsim.checks import SpecsimError
from specsim.checks.columns import WIDTH
from specsim.cli.parser import Commands
from specsim.hardware import accelerator
from specsim.planning.launching import hub_id

GAP = "  "
UNKNOWN = "-"

Row = dict[str, Any]


def add(commands: Commands) -> None:
    """Add the four commands to the parser."""
    for table, (_, _, help_text) in TABLES.items():
        parser = commands.add_parser(table, help=help_text)
        parser.set_defaults(run=run, table=table)
        parser.add_argument(
            "--like", metavar="TEXT", default="", help="only names (and hub ids) that contain TEXT"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    table = options.table
    describe, columns, _ = TABLES[table]
    rows = [describe(name) for name in matching(table, options.like)]
    if options.json:
        print(json.dumps({table: rows, "version": __version__}, allow_nan=False))
    else:
        show([columns(row) for row in rows])
    return 0


def matching(table: str, text: str) -> list[str]:
    """The names of the rows that contain `text`; SpecsimError with the nearest if none does."""
    wanted = letters(text)
    found = [
        name
        for name in catalog.load(table)
        if any(wanted in letters(spelling) for spelling in spellings(table, name))
    ]
    if not found:
        near = ", ".join(catalog.nearest(table, text))
        hint = (
            f"nearest: {near}" if near else f"specsim {table} lists all {len(catalog.load(table))}"
        )
        raise SpecsimError(f"no {table.removesuffix('s')} is like {text!r}; {hint}")
    return found


def spellings(table: str, name: str) -> Iterator[str]:
    """What a row may be called: its name, its aliases, its full name, its id on the hub."""
    row = catalog.load(table)[name]
    yield name
    yield from row.get("aliases", ())
    yield row.get("name", "")
    if table == "models":
        yield hub_id(name)


def letters(text: str) -> str:
    """Letters and digits alone, lower-case."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


# ------------------------------------------------------------------------------- what a row says


def of_model(name: str) -> Row:
    """Size, context, tokenizer and hub id of a model, and the heads that are published for it."""
    row = catalog.load("models")[name]
    config = row["config"]
    heads = [head for head in catalog.load("heads").values() if head["target"] == name]
    return {
        "name": name,
        "parameters": row["parameters"],
        "active_parameters": row.get("active_parameters", row["parameters"]),
        "context": config.get("max_position_embeddings", config.get("n_positions")),
        "tokenizer": row["tokenizer"],
        "hub_id": hub_id(name),
        "aliases": list(row.get("aliases", ())),
        "heads": [{key: _plain(value) for key, value in head.items()} for head in heads],
    }


def model_columns(row: Row) -> dict[str, str]:
    """The columns of a model's line; active parameters where they are fewer."""
    fewer = row["active_parameters"] < row["parameters"]
    return {
        "name": row["name"],
        ">parameters": billions(row["parameters"]),
        ">active": billions(row["active_parameters"]) if fewer else "",
        ">context": f"{row['context']:,}",
        "tokenizer": row["tokenizer"],
        "?hub id": row["hub_id"],
    }


def of_accelerator(name: str) -> Row:
    """Memory, bandwidth, rates and kind of an accelerator."""
    row, found = catalog.load("accelerators")[name], accelerator(name)
    rate = found.rate("bf16")
    return {
        "name": name,
        "full_name": row["name"],
        "kind": row["kind"],
        "memory_bytes": row.get("memory_bytes"),
        "bandwidth_bytes_per_s": row["bandwidth_bytes_per_s"],
        "bf16_flops_per_s": None if rate == float("inf") else rate,
        "flops_per_s": dict(found.flops_per_s),
        "link_devices": row.get("link_devices"),
        "confidence": row["confidence"],
        "aliases": list(row.get("aliases", ())),
    }


def accelerator_columns(row: Row) -> dict[str, str]:
    """The columns of an accelerator's line: 16-bit rates, or those that stand in for them."""
    memory, rate = row["memory_bytes"], row["bf16_flops_per_s"]
    return {
        "name": row["name"],
        ">memory": UNKNOWN if memory is None else f"{memory / 1e9:g} GB",
        ">GB/s": f"{row['bandwidth_bytes_per_s'] / 1e9:.0f}",
        ">bf16 TFLOP/s": UNKNOWN if rate is None else teraflops(rate),
        "kind": row["kind"],
        "?full name": row["full_name"],
    }


def of_engine(name: str) -> Row:
    """How far an engine is to be trusted, and on what its constants stand."""
    row = catalog.load("engines")[name]
    return {
        "name": name,
        "confidence": row["confidence"],
        "band": row["error"],
        "like": row.get("like"),
        "points": row.get("points"),
        "fitted_on": _plain(row["fitted_on"]) if "fitted_on" in row else None,
        "source": row["source"],
        "aliases": list(row.get("aliases", ())),
    }


def engine_columns(row: Row) -> dict[str, str]:
    """The columns of an engine's line."""
    said, rows = row["source"], row["fitted_on"]
    if row["points"]:
        low, high = rows["batch"]
        batches = f"batch {low}" if low == high else f"batch {low} to {high}"
        said = f"{row['points']} published rows: {', '.join(rows['families'])}; {batches}"
    elif row["like"]:
        said = f"none: as {row['like']}"
    return {
        "name": row["name"],
        "confidence": row["confidence"],
        "band": f"±{row['band']:.0%}",
        "fitted on": said,
    }


def of_method(name: str) -> Row:
    """What a drafting method needs, its parameters, and where they come from."""
    row = catalog.load("methods")[name]
    heads = [head for head in catalog.load("heads").values() if name in head["methods"]]
    return {
        "name": name,
        "needs": row["needs"],
        "published_heads": len(heads),
        "parameters": _plain(row.get("parameters", {})),
        "confidence": row["confidence"],
        "source": row["source"],
        "aliases": list(row.get("aliases", ())),
    }


def method_columns(row: Row) -> dict[str, str]:
    """The columns of a method's line."""
    heads = row["published_heads"] if "trained" in row["needs"] else 0  # an MTP module is not one
    published = f" ({heads} published)" if heads else ""
    return {
        "name": row["name"],
        "needs": row["needs"] + published,
        "confidence": row["confidence"],
        "?source": row["source"],
    }


Describe = Callable[[str], Row]
Columns = Callable[[Row], dict[str, str]]
TABLES: dict[str, tuple[Describe, Columns, str]] = {
    "models": (of_model, model_columns, "the models of the catalog, and their sizes"),
    "accelerators": (
        of_accelerator, accelerator_columns, "the accelerators of the catalog, and their rates"
    ),
    "engines": (of_engine, engine_columns, "the engines of the catalog, and how sure they are"),
    "methods": (of_method, method_columns, "the drafting methods, and what they need"),
}  # fmt: skip


# ---------------------------------------------------------------------------------------- a table


def show(lines: list[dict[str, str]]) -> None:
    """Print aligned columns under their titles; a title that begins with > stands to the right.
    The last column is cut at the width of the page; one that begins with ? is left out where a row
    of it would be cut."""
    titles = list(lines[0])
    table = [[title.lstrip(">?") for title in titles], *([*line.values()] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    room = WIDTH - sum(widths[:-1]) - len(GAP) * (len(widths) - 1)
    if titles[-1].startswith("?") and widths[-1] > room:
        show([dict(list(line.items())[:-1]) for line in lines])
        return
    widths[-1] = min(widths[-1], max(8, room))
    for cells in table:
        last = cells[-1]
        cells[-1] = last if len(last) <= widths[-1] else last[: widths[-1] - 1] + "…"
        aligned = [
            cell.rjust(width) if title.startswith(">") else cell.ljust(width)
            for title, cell, width in zip(titles, cells, widths, strict=True)
        ]
        print(GAP.join(aligned).rstrip())


def billions(count: int) -> str:
    """A number of parameters: 8.03 B, 135 M."""
    if count >= 1e11:
        return f"{count / 1e9:,.0f} B"
    return f"{count / 1e9:.3g} B" if count >= 999.5e6 else f"{count / 1e6:.3g} M"


def teraflops(rate: float) -> str:
    """A rate in TFLOP/s, with three digits at least."""
    return f"{rate / 1e12:.0f}" if rate >= 100e12 else f"{rate / 1e12:.3g}"


def _plain(value: Any) -> Any:
    """Data of the catalog as JSON takes it."""
    if hasattr(value, "items"):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple) else value
