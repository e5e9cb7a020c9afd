"""A measured point of a sweep: `reference` decodes with a pair of models on this machine."""

from functools import lru_cache
from typing import Any

from specsim.checks import SpecsimError, require_count
from specsim.checks.extras import needed
from specsim.scenario.sweeping import MeasuredPair, SweepPoint, compute_point
from specsim.scenario.sweeping.points import measured_in

PROMPT_TOKENS = 96  # of a prompt, as `python -m reference measure` cuts it
TIMES = ("step_s", "draft_step_s", "verify_step_s", "cycle_s", "host_s")


def compute_any(point: SweepPoint) -> dict[str, Any]:
    """The numbers of a point of any kind."""
    if point.kind != "measure":
        return compute_point(point)
    with needed("measuring", "reference"):
        return measured(measured_in(point.settings))


def measured(pair: MeasuredPair) -> dict[str, Any]:
    """The numbers of `python -m reference measure` at one gamma: medians, and 80 % of the runs."""
    from reference.lab.suites import measure_pair
    from reference.machine import device_named

    if pair.gamma is None:
        raise SpecsimError("a measured point needs a whole gamma, not the best")
    require_count("prompts", pair.prompts)
    device = str(device_named(pair.device))
    target, draft, prompts = _models(
        pair.target, pair.draft, pair.dtype, device, pair.dialled, pair.alpha, pair.draft_layers,
        pair.prompts,
    )  # fmt: skip
    point = measure_pair(
        target, draft, prompts, [pair.gamma], max_new_tokens=pair.max_new_tokens,
        temperature=pair.temperature, seed=pair.seed,
    )[-1]  # fmt: skip
    timings = {name: getattr(point, name) for name in TIMES}
    found: dict[str, Any] = {
        name: None if each is None else each.median for name, each in timings.items()
    }
    gain = point.speedup
    return found | {
        "tokens_per_cycle": point.tokens_per_cycle,
        "tokens_per_s": point.tokens_per_s,
        "speedup": None if gain is None else gain.median,
        "speedup_low": None if gain is None else gain.low,
        "speedup_high": None if gain is None else gain.high,
        "peak_memory_bytes": point.peak_memory_bytes,
        "device": device,
    }


@lru_cache(maxsize=1)  # the next point mostly has the same models; two pairs may not fit
def _models(
    target: str,
    draft: str | None,
    dtype: str,
    device: str,
    dialled: str | None,
    alpha: float,
    draft_layers: int | None,
    prompts: int,
) -> Any:
    from reference.checkpoints import load_pair, prompt_texts
    from reference.machine import DTYPES, device_named

    if dtype not in DTYPES:
        raise SpecsimError(f"dtype must be {', '.join(DTYPES)}, not {dtype!r:.60}")
    if dialled is not None:
        from reference.lab.dialled import architecture_named, dialled_pair, random_prompts

        model = architecture_named(dialled)
        layers = max(1, model.num_layers // 6) if draft_layers is None else draft_layers
        made, drafts, _ = dialled_pair(
            model, layers, alpha, dtype=DTYPES[dtype], device=device_named(device)
        )
        return made, drafts, random_prompts(model, prompts, PROMPT_TOKENS)
    texts = prompt_texts()["timed"]
    if prompts > len(texts):
        raise SpecsimError(f"there are {len(texts)} prompts, not {prompts}")
    placed = {"dtype": DTYPES[dtype], "device": device_named(device)}
    made, drafts, tokenizer = load_pair(target, draft, **placed)
    return made, drafts, [tokenizer.encode(text)[:PROMPT_TOKENS] for text in texts[:prompts]]
