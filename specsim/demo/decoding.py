"""The main job in one command: predict, then measure, real models on this machine, and compare.

    specsim demo                                  the bundled pair, and a dialled pair
    specsim demo --target FOLDER --draft FOLDER   any pair of a supported architecture

A dialled pair is a synthetic pair with a target acceptance rate. No prediction sees what it is
compared with: first the calibration on probe shapes, then the acceptance from calibration prompts,
then the prediction, and only then the decoder, on other prompts.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from specsim.acceptance import TextTrace
from specsim.architecture import Architecture
from specsim.checks import columns
from specsim.checks.extras import require_modules
from specsim.checks.files import require_writable, write_json, writing
from specsim.drafting import DraftModel
from specsim.evidence import tables
from specsim.evidence.calibration import Calibration, fit, to_json
from specsim.evidence.comparison import Comparison, compare, median_errors, to_rows
from specsim.evidence.measurement import Measurement, Point
from specsim.prediction import Prediction
from specsim.speculation import predict

LIBRARIES = ("torch", "safetensors", "tokenizers", "tqdm", "matplotlib", "PIL")
GAMMAS = range(9)  # that are predicted, and those that are measured
MEASURED = (0, 1, 2, 3, 5, 8)
DIALLED = Architecture(
    name="dialled-160m", hidden_size=1024, num_layers=12, num_heads=16, num_kv_heads=4,
    head_dim=64, intermediate_size=3072, vocab_size=8192, max_context=1024,
)  # fmt: skip
DIALLED_ALPHA = 0.85
PROMPT = 16  # random tokens: reading 48 took a third of the time of the pair, and told nothing more
# The timed prompt that is shown: on most others, greedy text of so small a target repeats itself.
SAMPLE = 6


@dataclass(frozen=True, slots=True)
class Decoded:
    """How much is decoded of a pair: `new_tokens` after each prompt.

    The target writes `texts` texts after calibration prompts, to estimate the acceptance. Then
    `timed` prompts are decoded one by one, and `counted` prompts as one batch, which only counts
    accepted tokens.
    """

    new_tokens: int
    texts: int
    timed: int
    counted: int


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is run: rounds of probes up to the hidden size `widest`, what is decoded of each
    pair, and the dialled target."""

    probe_rounds: int
    trained: Decoded
    dialled: Decoded
    target: Architecture = DIALLED
    widest: float = np.inf


# A trained target writes two texts after each of its 25 prompts: one of them may repeat itself,
# which makes it easy to draft. The texts of the dialled target are all alike, so it writes fewer.
FULL = Effort(8, Decoded(38, texts=50, timed=4, counted=25), Decoded(24, 6, timed=2, counted=16))
QUICK = Effort(
    1,
    Decoded(12, texts=8, timed=1, counted=4),
    Decoded(8, texts=2, timed=1, counted=2),
    DIALLED.first_layers(2),
    widest=400,
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two loaded models, with token ids: prompts to calibrate the acceptance on, and to time."""

    title: str
    target: Any
    draft: Any
    calibration_prompts: list[list[int]]
    timed_prompts: list[list[int]]
    effort: Decoded


@dataclass(frozen=True, slots=True)
class PairResult:
    """The prediction of a pair over gamma, the measured points, and their comparisons."""

    title: str
    prediction: Prediction
    points: list[Point]
    comparisons: list[Comparison]


def main(
    out: str | Path = "out",
    target: str | None = None,
    draft: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    quick: bool = False,
) -> int:
    """Run the demo, print its results, and write demo.png, demo.json and calibration.json.

    Arguments: `out`, the folder for the files; `target` and `draft`, folders or hub ids (None: the
    bundled pair); `device` and `dtype` (None: chosen here); `quick`, fewer prompts and repetitions.
    The last line printed is one JSON document. Returns the exit status. Raises SpecsimError, before
    anything is timed, for a pair that cannot be loaded or a folder that cannot be written to.
    """
    require_modules("the demo", *LIBRARIES)
    import torch

    from reference import machine
    from reference.lab import probes
    from reference.lab.drift import DriftProbe

    out, effort = Path(out), QUICK if quick else FULL
    require_writable(out)
    torch.manual_seed(0)
    where = machine.device_named(device)
    environment = machine.environment(where)
    tell("machine", f"{environment.device}, {where.type}, {environment.threads} threads")
    tell("software", f"torch {environment.torch}, Python {environment.python}")
    if dtype is None:
        chosen, reason = probes.fastest_dtype(where)
    else:
        chosen, reason = machine.dtype_named(dtype), f"{dtype}, as asked"
    tell("dtype", reason)
    source = (target, draft) if target else ("bundled", None)
    trained = trained_pair(source, chosen, where, effort)

    drift = DriftProbe(where)
    drift_s: list[float] = []
    timings = probes.run_probes(
        where, chosen, effort.probe_rounds, lambda: drift_s.append(drift.now_s()), effort.widest
    )
    noted = asdict(environment) | {"drift_s": float(np.median(drift_s))}
    calibration = fit(timings, noted)
    say("", *tables.calibration_table(calibration))
    results = [predict_then_measure(trained, calibration, drift)]
    if target is None:
        say(
            "",
            "Decoding such a tiny model is hardly memory-bound, so here is a second, larger",
            "pair: random weights, a draft of the target's first layer, a target acceptance",
            "rate.",
        )
        pair = dialled_pair(chosen, where, effort)
        results.append(predict_then_measure(pair, calibration, drift))
    identical = show_sample(source, where)

    points = [point for result in results for point in result.points]
    write_json(out / "calibration.json", to_json(calibration))
    Measurement(environment, points, "calibration.json").write(out / "demo.json")
    draw(results, out / "demo.png")
    files = [str(out / name) for name in ("demo.png", "demo.json", "calibration.json")]
    say("", "wrote " + ", ".join(files), "")
    document = {
        "environment": asdict(environment),
        "precision": calibration.system.precision.name,
        "calibration": {
            "median_error": calibration.median_error,
            "worst_error": calibration.worst_error,
            "band": calibration.system.engine.error,
        },
        "pairs": [summary(result) for result in results],
        "greedy_identical": identical,
        "files": files,
    }
    print(json.dumps(document, allow_nan=False), flush=True)
    return 0


def predict_then_measure(pair: Pair, calibration: Calibration, drift: Any) -> PairResult:
    """Acceptance from calibration prompts, the prediction, the measurement, the comparison.

    `drift` is the probe that times fixed tasks again: is the machine still as fast as when it was
    calibrated?
    """
    texts = f"{pair.effort.texts} texts from calibration prompts"
    say("", f"{pair.title}: acceptance at temperature 1 from {texts}")
    trace, prediction = predict_pair(pair, calibration)
    say("", *tables.prediction_table(prediction))
    result = measure_predicted(pair, trace, prediction, calibration, drift)
    say("", *tables.comparison_table(result.comparisons))
    say("", *tables.waterfall_table(prediction, result.comparisons))
    return result


def predict_pair(pair: Pair, calibration: Calibration) -> tuple[TextTrace, Prediction]:
    """Acceptance from the calibration prompts, and the prediction over gamma that follows from it,
    before any cycle is run."""
    from reference.lab import suites

    target, draft = pair.target, pair.draft
    trace = TextTrace(
        *suites.text_trace(
            target,
            draft,
            list(islice(cycle(pair.calibration_prompts), pair.effort.texts)),
            max_new_tokens=pair.effort.new_tokens + len(GAMMAS),
        )
    )
    lengths = [len(prompt) for prompt in pair.timed_prompts]
    prediction = predict(
        target.architecture,
        DraftModel(draft.architecture),
        calibration.system,
        gamma=np.array(GAMMAS),
        acceptance=trace,
        context=round(np.mean(lengths) + pair.effort.new_tokens / 2),
        tokens_error=[float(trace.tokens_error(gamma)) if gamma else 0.0 for gamma in GAMMAS],
    )
    return trace, prediction


def measure_predicted(
    pair: Pair,
    trace: TextTrace,
    prediction: Prediction,
    calibration: Calibration,
    drift: Any,
    gammas: Sequence[int] = MEASURED,
) -> PairResult:
    """Plain and speculative decoding of the timed prompts, compared with the prediction."""
    from reference.lab import suites

    measured = suites.measure_pair(
        pair.target,
        pair.draft,
        pair.timed_prompts[: pair.effort.timed],
        gammas,
        max_new_tokens=pair.effort.new_tokens,
        counted_prompts=pair.timed_prompts[: pair.effort.counted],
        drift=drift,
        calibration_drift_s=calibration.environment["drift_s"],
    )
    points = [with_calibration(point, trace) for point in measured]
    comparisons = [compare(point, calibration.system) for point in points]
    return PairResult(pair.title, prediction, points, comparisons)


def with_calibration(point: Point, trace: TextTrace) -> Point:
    """The point with the survival that was estimated on the calibration prompts."""
    gamma = point.scenario.gamma
    if gamma == 0:
        return point
    survival = np.asarray(trace.at(gamma).vector).tolist()
    return replace(
        point, calibration_survival=survival, tokens_error=float(trace.tokens_error(gamma))
    )


# The two pairs


def trained_pair(source: tuple[str, str | None], dtype: Any, device: Any, effort: Effort) -> Pair:
    """The bundled pair, or the one that was named, on the bundled prompts."""
    from reference import checkpoints

    target, draft, tokenizer = checkpoints.load_pair(*source, dtype=dtype, device=device)
    shapes = (model.architecture for model in (target, draft))
    described = " and ".join(
        f"{shape.name} ({shape.parameters / 1e6:.1f}M parameters)" for shape in shapes
    )
    tell("pair", described)
    texts = checkpoints.prompt_texts()
    prompts = {which: [tokenizer.encode(text)[:96] for text in texts[which]] for which in texts}
    return Pair(
        f"the trained pair, {target.architecture.name}",
        target,
        draft,
        prompts["calibration"],
        prompts["timed"],
        effort.trained,
    )


def dialled_pair(dtype: Any, device: Any, effort: Effort) -> Pair:
    """Random weights, a draft of the first layer alone, and random prompts."""
    from reference.lab import dialled

    shape = effort.target
    target, draft, alpha = dialled.dialled_pair(shape, 1, DIALLED_ALPHA, dtype=dtype, device=device)
    target.stop_ids = dialled.UNHEARD  # as a checkpoint has some: looking for them takes time
    millions = shape.parameters / 1e6
    tell("pair", f"{shape.name} ({millions:.0f}M parameters), alpha dialled to {alpha:.2f}")
    ids = np.random.default_rng(0).integers(0, shape.vocab_size, (28, PROMPT)).tolist()
    return Pair(
        f"a dialled pair, {shape.name}",
        target,
        draft,
        ids[:12],
        ids[12:],
        effort.dialled,
    )


# Files and text


def say(*lines: str) -> None:
    """Print lines of at most 80 columns at once, also into a pipe."""
    print(*columns.fit(lines), sep="\n", flush=True)


def tell(label: str, fact: str) -> None:
    """Print what is measured, as a label and a fact."""
    say(*columns.wrap(fact, f"{label:13s}"))


def show_sample(source: tuple[str, str | None], device: Any) -> bool:
    """Print a greedy text, plain and speculative, in fp32, whose rounding leaves near-ties as they
    are; whether the two are identical."""
    import torch

    import reference
    from reference import checkpoints
    from reference.lab import suites

    target, draft, tokenizer = reference.load_pair(*source, dtype=torch.float32, device=device)
    prompt = tokenizer.encode(checkpoints.prompt_texts()["timed"][SAMPLE])[:64]
    plain = reference.generate(target, prompt, max_new_tokens=64)
    drafter = reference.DraftModel(draft, gamma=4)
    speculative = reference.speculate(target, drafter, prompt, max_new_tokens=64)
    difference = suites.first_difference(target, prompt, plain.tokens, speculative.tokens)
    say("", "a sample, greedy, fp32: the end of a prompt after which so small a target does")
    say("not repeat itself, and how the two decoders continue it")
    say(f"  | {tokenizer.decode(prompt).splitlines()[-1]} [...]")
    for name, run in (("plain", plain), ("speculative", speculative)):
        say(f"  {name}:", *(f"  | {line}" for line in tokenizer.decode(run.tokens).splitlines()))
    if difference is not None:
        say(f"  not identical: {difference}")
        return False
    passes = len(speculative.statistics.cycle_times)
    count = len(plain.tokens)
    say(f"  identical: {count} tokens, in {passes} passes of the target instead of {count}")
    return True


def draw(results: Sequence[PairResult], file: Path) -> None:
    """The figure, written whole or not at all."""
    from specsim.figures import predicted_and_measured

    figure = predicted_and_measured([(r.title, r.prediction, r.comparisons) for r in results])
    with writing(file) as new:
        figure.savefig(new, format="png")


def summary(result: PairResult) -> dict[str, Any]:
    """The numbers of one pair as plain data, for JSON."""
    prediction = result.prediction
    best = max(result.comparisons, key=lambda comparison: comparison.parts["speedup"].measured)
    return {
        "title": result.title,
        "predicted_best_gamma": int(prediction.gamma[prediction.best()]),
        "tied_gammas": prediction.ties().tolist(),
        "measured_best_gamma": best.gamma,
        "measured_best_speedup": best.parts["speedup"].measured,
        "predicted_speedup_there": best.parts["speedup"].predicted,
        "median_errors": median_errors(result.comparisons),
        "factors": {str(c.gamma): c.factors for c in result.comparisons if c.gamma},
        "rows": to_rows(result.comparisons),
    }
