"""What is shown as files to download: the pictures as a PNG, the numbers as CSV."""

import csv
import html
from collections.abc import Sequence
from io import StringIO

import numpy as np

from specsim.catalog import slug
from specsim.explorer.scenarios import NAMES, PredictedScenario
from specsim.explorer.static_view import beside, data_uri

COLUMNS = ("speedup", "tokens_per_cycle", "cycle_s", "draft_s", "verify_step_s", "step_s")


def as_csv(shown: PredictedScenario) -> str:
    """A row for every gamma: what is predicted (seconds, and the speedup's 80 % band), then the
    settings, the same in every row."""
    over, count = shown.over, len(shown.over.gamma)
    low, high = over.band["speedup"]
    columns = {"gamma": over.gamma, **{name: getattr(over, name) for name in COLUMNS}}
    columns |= {"speedup_low": low, "speedup_high": high}
    settings = {name: _plain(getattr(shown.scenario, name)) for name in NAMES if name != "gamma"}
    out = StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow([*columns, *(f"set_{name}" for name in settings)])
    values = [np.broadcast_to(each, (count,)) for each in columns.values()]
    fixed = list(settings.values())
    for at in range(count):
        rows.writerow([*(f"{each[at]:.6g}" for each in values), *fixed])
    return out.getvalue()


def _plain(value: object) -> str:
    """A setting for a spreadsheet: empty where there is none."""
    if isinstance(value, tuple):
        return " ".join(f"{each:g}" for each in value)
    return "" if value is None else str(value)


def file_name(shown: PredictedScenario, ending: str) -> str:
    """A name that says what is in the file."""
    scenario = shown.scenario
    parts = (shown.target.name, shown.method or "plain", shown.system.accelerator.name)
    return f"{slug(' '.join(map(str, parts)))}-batch-{scenario.batch}.{ending}"


def links(shown: PredictedScenario, pictures: Sequence[bytes]) -> str:
    """Links that download both."""
    found = [("the numbers as CSV", "csv", data_uri(as_csv(shown).encode(), "text/csv"))]
    if pictures:
        whole = data_uri(beside(pictures, few_colours=False), "image/png")
        found.insert(0, ("the pictures as PNG", "png", whole))
    said = ", ".join(
        f'<a download="{html.escape(file_name(shown, ending))}" href="{address}">{words}</a>'
        for words, ending, address in found
    )
    return f'<p class="specsim-note">Download {said}.</p>'
