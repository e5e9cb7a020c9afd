"""Many scenarios, one by one: predicted, simulated or measured, here or on a cluster, resumable.

    plan = read_plan("axes.toml")
    done = run_sweep(plan, process_pool(8), "axes.jsonl")
    summarise_sweep(done, metric_named("speedup")).best

For arrays of batch, context, gamma or alpha alone, `planning.sweep` is one call of NumPy and a
thousand times faster: see docs/scale.md.

| file | holds |
|---|---|
| `points` | `SweepPoint`: one scenario, its key, its numbers |
| `axes` | `SweepPlan`: the combinations of the axes in a TOML file |
| `store` | `SweepStore`: a JSON line for each finished point |
| `pools` | processes, a Dask cluster, any executor |
| `running` | `run_sweep`: what is missing is computed and stored |
| `summary` | the table, the best point, the values along axes |
"""

from specsim.scenario.sweeping.axes import SweepPlan, plan_of, read_plan
from specsim.scenario.sweeping.points import MeasuredPair, SweepPoint, compute_point
from specsim.scenario.sweeping.pools import WorkerPool, dask_pool, process_pool
from specsim.scenario.sweeping.running import SweepProgress, SweepResult, run_sweep
from specsim.scenario.sweeping.store import SweepStore
from specsim.scenario.sweeping.summary import (
    Metric,
    SweepSummary,
    metric_named,
    summarise_sweep,
    usual_metric,
    write_csv,
)

__all__ = [
    "MeasuredPair",
    "Metric",
    "SweepPlan",
    "SweepPoint",
    "SweepProgress",
    "SweepResult",
    "SweepStore",
    "SweepSummary",
    "WorkerPool",
    "compute_point",
    "dask_pool",
    "metric_named",
    "plan_of",
    "process_pool",
    "read_plan",
    "run_sweep",
    "summarise_sweep",
    "usual_metric",
    "write_csv",
]
