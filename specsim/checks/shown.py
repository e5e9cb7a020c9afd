"""How results show themselves: one line in a terminal, a small table in a notebook."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

MOST_ROWS = 40  # of a table in a notebook
CELL = 'style="text-align:left"'


class Shown:
    """A type that says what it holds in a few facts: `_facts` gives names and short texts, and
    `_columns`, for what is a table, a list of values under each title."""

    __slots__ = ()

    def _facts(self) -> Mapping[str, Any]:
        raise NotImplementedError

    def _columns(self) -> Mapping[str, Sequence[Any]]:
        return {}

    def __repr__(self) -> str:
        told = ", ".join(f"{name} {value}" for name, value in self._facts().items())
        return f"{type(self).__name__}({' '.join(told.split())})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th {CELL}>{escape(str(name))}</th><td {CELL}>{escape(str(value))}</td></tr>"
            for name, value in self._facts().items()
        )
        page = f"<table><caption>{escape(type(self).__name__)}</caption>{rows}</table>"
        columns = self._columns()
        return page + html_table(columns) if columns else page


def html_table(columns: Mapping[str, Sequence[Any]]) -> str:
    """Values under their titles, as a table of HTML; of many rows the first."""
    titles = "".join(f"<th>{escape(title)}</th>" for title in columns)
    lines = list(zip(*columns.values(), strict=True))
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(short(value))}</td>" for value in line) + "</tr>"
        for line in lines[:MOST_ROWS]
    )
    left = len(lines) - MOST_ROWS
    more = f"<tr><td>{left} more</td></tr>" if left > 0 else ""
    return f"<table><tr>{titles}</tr>{rows}{more}</table>"


def short(value: Any) -> str:
    """A number in four digits, an array as its least and its largest, anything else as text."""
    if isinstance(value, str) or value is None:
        return str(value)
    numbers = np.ravel(np.asarray(value))
    if numbers.dtype.kind not in "iufb":
        return str(value)
    if not numbers.size:
        return "none"
    low, high = (float(each) for each in (numbers.min(), numbers.max()))
    return _digits(low) if low == high else f"{_digits(low)} … {_digits(high)}"


def _digits(value: float) -> str:
    whole = value == round(value) and abs(value) < 1e15
    return f"{value:,.0f}" if whole else f"{value:.4g}"


def gigabytes(count: Any) -> str:
    """Bytes as GB."""
    return f"{short(np.asarray(count, float) / 1e9)} GB"


def milliseconds(seconds: Any) -> str:
    """Seconds as ms."""
    return f"{short(np.asarray(seconds, float) * 1e3)} ms"
