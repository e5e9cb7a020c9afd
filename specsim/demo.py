"""The main job in one command: predict, then measure, a pair of real models on this machine, and
compare.

    specsim demo                                  the bundled pair, and a dialled pair that is memory-bound on a CPU
    specsim demo --target FOLDER --draft FOLDER   any pair of a supported architecture

The order is honest: calibration on probe shapes, acceptance from calibration prompts, prediction,
and only then the decoder on other prompts.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from specsim.acceptance import TextTrace
from specsim.calibration import Calibration, fit, to_json
from specsim.catalog import SpecsimError
from specsim.comparison import Comparison, compare, median_errors, to_rows
from specsim.drafting import DraftModel
from specsim.measurement import Measurement, Point, write_json
from specsim.speculation import Prediction, predict
from specsim.system import EfficiencyTable, System

GAMMAS = range(9)


@dataclass(frozen=True, slots=True)
class PairResult:
    """One pair: what was predicted, what was measured, and the two side by side."""

    title: str
    prediction: Prediction
    comparisons: list[Comparison]


def run(
    out: str | Path = "out",
    target: str | None = None,
    draft: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    quick: bool = False,
) -> dict[str, Any]:
    """Run the demo, printing as it goes; writes demo.png and demo.json into `out` and returns what
    it measured.

    Raises SpecsimError for a pair that cannot be loaded or a place that cannot be written, before
    anything is timed.
    """
    import torch

    from reference import checkpoints, probes

    out = Path(out)
    check_writable(out)
    torch.manual_seed(0)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    environment = probes.environment(where)
    say(f"machine      {environment.device}, {where.type}, {environment.threads} threads")
    say(f"software     torch {environment.torch}, Python {environment.python}")
    if dtype is None:
        chosen, reason = probes.fastest_dtype(where)
    else:
        chosen, reason = dtype_named(dtype), f"{dtype}, as asked"
    say(f"dtype        {reason}")
    source = (target, draft) if target else ("bundled", None)
    models = checkpoints.load_pair(*source, dtype=chosen, device=where)
    described = " and ".join(
        f"{m.architecture.name} ({m.architecture.parameters / 1e6:.1f}M parameters)"
        for m in models[:2]
    )
    say(f"pair         {described}")

    calibration = fit(
        probes.run_probes(where, chosen, rounds=3 if quick else 7), asdict(environment)
    )
    show_calibration(calibration)
    measurement = Measurement(environment, calibration="calibration.json")
    results = [run_pair("the trained pair", models, calibration.system, measurement, quick)]
    if target is None:
        say(
            "\nA tiny model on a CPU is not what memory-bound decoding is about, so here is a second pair: random"
        )
        say(
            "weights, the draft being the target's first layer, dialled to an acceptance (see reference/dialled.py)."
        )
        results.append(
            run_pair(
                "a dialled pair", dialled(where, chosen), calibration.system, measurement, quick
            )
        )
    identical = show_sample(source, where)

    figure_file, json_file = out / "demo.png", out / "demo.json"
    write_json(out / "calibration.json", to_json(calibration))
    measurement.write(json_file)
    draw(results, figure_file)
    say(f"\nwrote {figure_file} and {json_file}")
    return {
        "environment": asdict(environment),
        "precision": calibration.system.precision.name,
        "calibration": to_json(calibration)
        | {"median_error": calibration.median_error, "worst_error": calibration.worst_error},
        "pairs": [summary(result) for result in results],
        "greedy_identical": identical,
        "files": [str(figure_file), str(json_file)],
    }


def main(**options: Any) -> int:
    document = run(**options)
    print(json.dumps(document, allow_nan=False), flush=True)
    return 0


def say(line: str = "") -> None:
    print(line, flush=True)


def check_writable(out: Path) -> None:
    """Fail now rather than after a minute of measuring."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SpecsimError(f"cannot write to {out}: {error.strerror}") from None


def dtype_named(name: str) -> Any:
    import torch

    known = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name not in known:
        raise SpecsimError(f"unknown dtype {name!r}; known: {', '.join(known)}")
    return known[name]


def dialled(device: Any, dtype: Any) -> tuple[Any, Any, None]:
    """160M random parameters, and a draft of one of its twelve layers, at alpha .85."""
    from reference.dialled import dialled_pair
    from specsim.architecture import Architecture

    shape = Architecture(
        name="dialled-160m", hidden_size=1024, num_layers=12, num_heads=16, num_kv_heads=4, head_dim=64,
        intermediate_size=3072, vocab_size=8192, max_context=1024,
    )  # fmt: skip
    target, draft, alpha = dialled_pair(shape, 1, 0.85, dtype=dtype, device=device)
    say(
        f"pair         {shape.name} ({shape.parameters / 1e6:.0f}M parameters) and its first layer; alpha dialled to {alpha:.2f}"
    )
    return target, draft, None


def run_pair(
    title: str, models: Sequence[Any], system: System, measurement: Measurement, quick: bool
) -> PairResult:
    """Acceptance from calibration prompts, prediction, measurement on other prompts, comparison."""
    from reference import checkpoints, suites

    target, draft, tokenizer = models
    if tokenizer is None:  # random weights: any token ids will do
        generator = np.random.default_rng(0)
        ids = generator.integers(0, target.architecture.vocab_size, (2, 12, 48)).tolist()
        calibration_prompts, timed_prompts, length = ids[0], ids[1][:5], 48
    else:
        texts = checkpoints.prompt_texts()
        calibration_prompts, timed_prompts = (
            [tokenizer.encode(t)[:96] for t in texts[which]] for which in texts
        )
        timed_prompts, length = timed_prompts[:12], 80
    if quick:
        timed_prompts, length = timed_prompts[:2], 24
    context = round(sum(map(len, timed_prompts)) / len(timed_prompts) + length / 2)

    say(
        f"\n{title}: acceptance at temperature 1, from {len(calibration_prompts)} calibration prompts"
    )
    trace = TextTrace(*suites.text_trace(target, draft, calibration_prompts, max_new_tokens=96))
    gammas = np.array(GAMMAS)
    prediction = predict(
        target.architecture,
        DraftModel(draft.architecture),
        system,
        gamma=gammas,
        acceptance=trace,
        context=context,
        tokens_error=np.array([trace.tokens_error(g) if g else 0.0 for g in GAMMAS]),
    )
    show_prediction(prediction)
    points = suites.measure_pair(target, draft, timed_prompts, GAMMAS, max_new_tokens=length)
    points = [with_calibration(point, trace) for point in points]
    measurement.points += points
    comparisons = [compare(point, system) for point in points]
    show_comparison(prediction, comparisons)
    return PairResult(f"{title}: {target.architecture.name}", prediction, comparisons)


def with_calibration(point: Point, trace: TextTrace) -> Point:
    """The point with the survival that was estimated on the calibration prompts."""
    gamma = point.scenario.gamma
    if gamma == 0:
        return point
    return replace(
        point,
        calibration_survival=np.asarray(trace.at(gamma).vector).tolist(),
        tokens_error=float(trace.tokens_error(gamma)),
    )


# What a person reads


def show_calibration(calibration: Calibration) -> None:
    system, engine = calibration.system, calibration.system.engine
    table = engine.weight_efficiency
    assert isinstance(table, EfficiencyTable)
    achieved = table.values[:, 0] * system.bandwidth_bytes_per_s / 1e9
    say("\ncalibration on probe shapes (none of them a shape that is predicted below)")
    speeds = ", ".join(
        f"{size / 1e6:.3g} MB {speed:.0f}"
        for size, speed in zip(table.pass_bytes, achieved, strict=True)
    )
    say(f"  weights, one row       GB/s by size of the pass: {speeds}")
    say(
        f"  KV cache               {engine.kv_efficiency * system.bandwidth_bytes_per_s / 1e9:.1f} GB/s"
    )
    say(
        f"  arithmetic             {system.accelerator.rate(system.precision.math) / 1e9:.0f} GFLOP/s"
    )
    say(
        f"  overhead               {engine.layer_overhead_s * 1e6:.0f} us a layer, {engine.pass_overhead_s * 1e6:.0f} us a pass"
    )
    say(
        f"  drafting               {engine.drafting_overhead_s * 1e6:.0f} us a cycle, {engine.sampling_overhead_s * 1e6:.0f} us a draw"
    )
    say(
        f"  sampling and host      {engine.cycle_overhead_s * 1e6:.0f} us a step, {engine.speculation_overhead_s * 1e6:.0f} us more to "
        f"accept, {engine.logit_overhead_s * 1e9:.1f} ns a logit"
    )
    say(
        f"  fit                    median error {calibration.median_error:.1%}, worst {calibration.worst_error:.1%} "
        f"over {len(calibration.residuals)} laps; band ±{engine.error:.0%}"
    )


def show_prediction(p: Prediction) -> None:
    say("\npredicted    γ   draft   verify   cycle   tokens/cycle   speedup (80 % band)")
    low, high = p.band["speedup"]
    for i, gamma in enumerate(p.gamma):
        say(
            f"{gamma:14d} {p.draft_step_s[i] * 1e3:7.2f} {p.verify_step_s[i] * 1e3:8.2f} {p.cycle_s[i] * 1e3:7.2f} "
            f"{p.tokens_per_cycle[i]:14.2f} {p.speedup[i]:9.2f}  ({low[i]:.2f} to {high[i]:.2f})"
        )
    ties = p.ties()
    tie = f"; γ = {ties[0]} … {ties[-1]} are within 2 % of it" if len(ties) > 1 else ""
    say(
        f"plain step {p.step_s.flat[0] * 1e3:.2f} ms; best γ = {p.gamma[p.best()]}{tie}   (times in ms)"
    )


COLUMNS = {
    "draft_step_s": "draft step (ms)",
    "verify_step_s": "verification (ms)",
    "overhead_s": "overhead (ms)",
    "cycle_s": "cycle (ms)",
    "tokens_per_cycle": "tokens per cycle",
    "speedup": "speedup",
}
REASONS = {
    "acceptance": "the draft is wrong too often",
    "drafting": "drafting takes too long beside a step of the target",
    "wider verification": "verifying several tokens takes longer than one step",
    "overhead": "the work around the passes is not negligible",
}


def show_comparison(prediction: Prediction, comparisons: Sequence[Comparison]) -> None:
    """Predicted beside measured beside error for every part, the waterfall, and what limits the
    speedup."""
    say("\nmeasured, as predicted / measured / error")
    say(" γ " + "".join(f"{title:^22s}" for title in COLUMNS.values()))
    for comparison in comparisons:
        say(f"{comparison.gamma:2d} " + "".join(cell(comparison, name) for name in COLUMNS))
    step, errors = comparisons[0].parts["step_s"], median_errors(comparisons)
    say(f"plain step (ms) {cell(comparisons[0], 'step_s').strip()}")
    tokens = [c.point.tokens_per_cycle_error or 0.0 for c in comparisons if c.gamma]
    say(f"standard error of the measured tokens per cycle: {min(tokens):.2f} to {max(tokens):.2f}")
    named = {"step_s": "plain step"} | COLUMNS
    say(
        "median |error|: "
        + ", ".join(f"{named[n].split(' (')[0]} {e:.1%}" for n, e in errors.items())
    )

    drafting = [comparison for comparison in comparisons if comparison.gamma]
    best = max(drafting, key=lambda comparison: comparison.parts["speedup"].measured)
    at = int(np.flatnonzero(prediction.gamma == best.gamma)[0])
    shape = prediction.speedup.shape
    falls = {
        name: float(np.broadcast_to(f, shape)[at]) for name, f in prediction.waterfall().items()
    }
    say(f"\nwhere the ideal {falls['ideal']:.0f}x of γ = {best.gamma} goes, as predicted:")
    left = 1.0
    for name, factor in falls.items():
        left *= factor
        say(f"  {name:20s} x {factor:4.2f}  ->  {left:4.2f}x")
    parts = " ".join(f"x {factor:.3f} ({name})" for name, factor in best.factors.items())
    speedup = best.parts["speedup"]
    say(
        f"measured ÷ predicted there: {speedup.measured / speedup.predicted:.3f} = {parts.removeprefix('x ')}"
    )
    limit = min((name for name in falls if name != "ideal"), key=lambda name: falls[name])
    say(
        f"Measured best: {speedup.measured:.2f}x at γ = {best.gamma}, {speedup.predicted:.2f}x predicted. "
        f"What limits it most is {limit}: {REASONS[limit]}. ({step.measured * 1e3:.2f} ms a plain step.)"
    )


def cell(comparison: Comparison, name: str) -> str:
    """One quantity: predicted, measured, error."""
    part = comparison.parts.get(name)
    if part is None:
        return f"{'-':^22s}"
    scale = 1e3 if name.endswith("_s") else 1.0
    return f"{part.predicted * scale:8.2f} {part.measured * scale:6.2f} {part.error:+5.0%} "


def show_sample(source: tuple[str, str | None], device: Any) -> bool:
    """Greedy text, plain and speculative, in fp32, where near-ties are not decided by rounding."""
    import torch

    import reference
    from reference import checkpoints, suites

    target, draft, tokenizer = checkpoints.load_pair(*source, dtype=torch.float32, device=device)
    text = checkpoints.prompt_texts()["timed"][0]
    prompt = tokenizer.encode(text)[:64]
    plain = reference.generate(target, prompt, max_new_tokens=64)
    speculative = reference.speculate(
        target, reference.DraftModel(draft, gamma=4), prompt, max_new_tokens=64
    )
    difference = suites.first_difference(target, prompt, plain.tokens, speculative.tokens)
    say(
        "\na sample, greedy, fp32: the prompt's last line, then the continuation by plain and by speculative decoding"
    )
    say("  | " + tokenizer.decode(prompt).splitlines()[-1] + " [...]")
    for name, run in (("plain", plain), ("speculative", speculative)):
        say(f"  {name}:")
        for line in tokenizer.decode(run.tokens).splitlines():
            say(f"  | {line}")
    if difference is None:
        rounds = speculative.statistics
        say(f"  identical, in {rounds.cycles} target passes instead of {len(plain.tokens)}")
    else:
        say(f"  not identical: {difference}")
    return difference is None


def draw(results: Sequence[PairResult], file: Path) -> None:
    """The figure, written whole or not at all."""
    from specsim.figures import predicted_and_measured

    figure = predicted_and_measured([(r.title, r.prediction, r.comparisons) for r in results])
    partial = file.with_suffix(".partial.png")
    figure.savefig(partial)
    partial.replace(file)


def summary(result: PairResult) -> dict[str, Any]:
    """The numbers of one pair, for programs."""
    prediction = result.prediction
    best = max(result.comparisons, key=lambda comparison: comparison.parts["speedup"].measured)
    return {
        "title": result.title,
        "predicted_best_gamma": int(prediction.gamma[prediction.best()]),
        "measured_best_gamma": best.gamma,
        "measured_best_speedup": best.parts["speedup"].measured,
        "predicted_speedup_there": best.parts["speedup"].predicted,
        "median_errors": median_errors(result.comparisons),
        "factors": {str(c.gamma): c.factors for c in result.comparisons if c.gamma},
        "rows": to_rows(result.comparisons),
    }
