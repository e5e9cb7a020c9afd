"""specsim sweep: many scenarios, here, on more processes or on a Dask cluster; resumable."""

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from specsim import __version__
from specsim.checks import SpecsimError, quoted
from specsim.checks.columns import fit
from specsim.checks.extras import MissingExtra
from specsim.checks.files import require_writable, writing
from specsim.cli.measuring import compute_any
from specsim.cli.parser import Commands
from specsim.cli.progress import StatusLine, bar, clock
from specsim.scenario.sweeping import (
    Metric,
    SweepPlan,
    SweepPoint,
    SweepProgress,
    SweepResult,
    SweepSummary,
    WorkerPool,
    dask_pool,
    metric_named,
    process_pool,
    read_plan,
    run_sweep,
    summarise_sweep,
    usual_metric,
    write_csv,
)
from specsim.scenario.sweeping.summary import cell, require_metric

DRAWN = 2  # axes of a figure, at most
LOGGED_S = 60.0  # how often a log says how far a sweep is


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "sweep", help="many scenarios: here, on more processes or on a Dask cluster; resumable"
    )
    parser.set_defaults(run=run)
    parser.add_argument("axes", metavar="FILE", type=Path, help="a TOML file: see docs/scale.md")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--workers", type=int, metavar="N", help="processes of this machine (default: this one)"
    )
    where.add_argument(
        "--dask", metavar="ADDRESS", help="the scheduler of a Dask cluster, or its scheduler file"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER",
        help="for the results, as the file is called: .jsonl, .csv, .png (default: its folder)",
    )  # fmt: skip
    parser.add_argument(
        "--best", metavar="METRIC",
        help="what is looked for: speedup, output_throughput, min:mean_ttft_ms, …",
    )  # fmt: skip
    parser.add_argument(
        "--along", metavar="AXIS[,AXIS]", help="the axes of the figure (default: the first two)"
    )
    parser.add_argument("--retry", action="store_true", help="compute again what was an error")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be computed")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    plan = read_plan(options.axes)
    first = next(iter(plan)).settings
    metric = metric_named(options.best) if options.best else usual_metric(plan.kind, first)
    along = axes_named(plan, options.along)
    if plan.kind == "measure" and options.workers not in (None, 1):
        raise SpecsimError(
            "measured points share this machine and would disturb each other: leave out --workers"
        )
    folder = options.axes.parent if options.out is None else options.out
    files = {end: folder / f"{options.axes.stem}.{end}" for end in ("jsonl", "csv", "png")}
    if options.axes.resolve() in {file.resolve() for file in files.values()}:
        raise SpecsimError(f"{options.axes} would be overwritten: call it …toml, or give --out")
    if options.dry_run:
        print(*about(plan), sep="\n")
        return 0
    require_writable(folder)
    watch = SweepBar(metric)
    with pool_of(options) as pool:
        try:
            done = run_sweep(
                plan, pool, files["jsonl"], compute=compute_any, retry=options.retry, watch=watch
            )
        finally:
            watch.status.end()
    summary = summarise_sweep(done, metric)
    write_csv(files["csv"], done, summary, plan.axes)
    drawn = draw(files["png"], summary, along)
    document = to_json(plan, done, summary, files, drawn)
    if options.json:
        print(json.dumps(document, allow_nan=False))
    else:
        print(*about(plan), *lines(document, metric), sep="\n")
    return 0


class SweepBar:
    """How far the sweep is: on a terminal a bar, else a line every minute. Stops a sweep whose
    results lack the metric, at the first of them."""

    def __init__(self, metric: Metric) -> None:
        self.metric, self.checked, self.status = metric, False, StatusLine(LOGGED_S)

    def __call__(
        self, progress: SweepProgress, point: SweepPoint, outcome: Mapping[str, Any]
    ) -> None:
        if not self.checked and "result" in outcome:
            require_metric(self.metric, outcome["result"])
            self.checked = True
        if not self.status.is_due():
            return
        done = progress.total - progress.left
        rate = progress.computed / self.status.seconds
        failed = f", {progress.errors:,} errors" if progress.errors else ""
        self.status.write(
            f"{bar(done / progress.total)}, {done:,} of {progress.total:,}{failed}, {rate:.3g}/s, "
            f"{clock(progress.left / rate)} left"
        )


def pool_of(options: argparse.Namespace) -> AbstractContextManager[WorkerPool | None]:
    """Where the points are computed; None for this process."""
    if options.dask is not None:
        return dask_pool(options.dask)
    return nullcontext(None if options.workers is None else process_pool(options.workers))


def axes_named(plan: SweepPlan, text: str | None) -> list[str]:
    """The axes of the figure: those named, or the first ones with more than one value."""
    axes = [name for name in plan.axes if name != "seed"]  # values are means over it
    if text is None:
        return [name for name in axes if len(plan.axes[name]) > 1][:DRAWN]
    names = [name.strip().replace("-", "_") for name in text.split(",")]
    for name in names:
        if name not in axes:
            raise SpecsimError(f"--along: no axis is called {quoted(name)}; there are: "
                               f"{', '.join(axes)}")  # fmt: skip
    if len(names) > DRAWN or len(set(names)) < len(names):
        raise SpecsimError("--along takes one axis or two different ones")
    return names


def described(axes: Mapping[str, tuple[Any, ...]]) -> str:
    """The axes in words: batch (3) x alpha (9)."""
    return " x ".join(f"{name} ({len(values):,})" for name, values in axes.items())


def about(plan: SweepPlan) -> list[str]:
    """What is swept: the points, their axes, and what all of them share."""
    said = [f"{len(plan):,} points of {plan.kind} over {described(plan.axes)}"]
    shared = ", ".join(
        f"{name.replace('_', ' ')} {cell(each)}" for name, each in plan.fixed.items()
    )
    return list(fit([*said, *([f"all with {shared}"] if shared else [])]))


def draw(path: Path, summary: SweepSummary, along: Sequence[str]) -> str | None:
    """Draw the figure; the reason where there is none."""
    if not along:
        return "no axis has more than one value"
    values = summary.along(along)
    if np.isnan(values).all():
        return f"no point has a number for the {summary.metric}"
    try:
        from specsim import figures
    except MissingExtra as missing:
        return str(missing)
    axes = {name: summary.axes[name] for name in along}
    hidden = [n for n, each in summary.axes.items() if n not in along and len(each) > 1]
    title = f"at the best {', '.join(hidden)}" if hidden else ""
    figure = figures.swept(axes, values, summary.metric.name, title)
    with writing(path) as new:
        new.write_bytes(figures.png(figure))
    return None


def to_json(
    plan: SweepPlan,
    done: SweepResult,
    summary: SweepSummary,
    files: Mapping[str, Path],
    not_drawn: str | None,
) -> dict[str, Any]:
    """What was done, and the best point."""
    best = None
    if summary.best is not None:
        here, value = summary.best
        best = {"axes": {name: cell(each) for name, each in here.items()}, "value": value}
        if summary.seeds == 1:
            found = done.outcome(SweepPoint(plan.kind, {**plan.fixed, **first_seed(plan), **here}))
            best["result"] = None if found is None else found["result"]
    return {
        "kind": plan.kind,
        "points": len(plan),
        "computed": done.progress.computed,
        "stored_before": done.progress.skipped,
        "errors": summary.errors,
        "first_error": summary.first_error,
        "computing_s": done.progress.seconds,
        "metric": str(summary.metric),
        "seeds": summary.seeds,
        "best": best,
        "store": str(files["jsonl"]),
        "csv": str(files["csv"]),
        "figure": None if not_drawn else str(files["png"]),
        "no_figure": not_drawn,
        "version": __version__,
    }


def first_seed(plan: SweepPlan) -> dict[str, Any]:
    """The one value of an axis `seed`, if there is one."""
    return {"seed": plan.axes["seed"][0]} if "seed" in plan.axes else {}


def lines(document: Mapping[str, Any], metric: Metric) -> list[str]:
    """The document for a person."""
    said = [f"{document['computed']:,} computed, {document['stored_before']:,} stored before"]
    if document["errors"]:
        said.append(
            f"{document['errors']:,} of them are errors (--retry computes them again), the first: "
            f"{document['first_error']}"
        )
    best = document["best"]
    if best is None:
        said.append(f"no point has a number for the {document['metric']}")
    else:
        place = ", ".join(f"{name} {value}" for name, value in best["axes"].items())
        mean = f", the mean over {document['seeds']:,} seeds" if document["seeds"] > 1 else ""
        value = f"{best['value']:.4g} {metric.unit}".rstrip()
        said.append(f"{metric}: {value}{mean}{place and ' at ' + place}")
    said.append(f"wrote {document['store']} and {document['csv']}")
    if document["figure"]:
        said.append(f"drew {document['figure']}")
    else:
        said.append(f"no figure: {document['no_figure']}")
    return list(fit(said))
