"""The command line: specsim predict | compare | demo.

A user's mistake is one line on standard error and exit status 2; `--json` prints one object and
nothing else.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from specsim import __version__, calibration
from specsim.acceptance import whole
from specsim.architecture import model
from specsim.catalog import SpecsimError
from specsim.drafting import DraftModel
from specsim.measurement import Measurement, write_json
from specsim.speculation import Prediction, predict
from specsim.system import System, system
from specsim.work import PRECISIONS

MAX_GAMMA = 16  # how far --gamma best looks


def main(arguments: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except SpecsimError as error:
        print(f"specsim: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nspecsim: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


class Parser(argparse.ArgumentParser):
    """Argument errors in one line, like every other."""

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="specsim", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"specsim {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    predicting = commands.add_parser(
        "predict", help="predict plain and speculative decoding of one scenario"
    )
    predicting.set_defaults(run=run_predict)
    add_scenario(predicting)
    predicting.add_argument("--json", action="store_true", help="print one JSON object")
    predicting.add_argument("--out", type=Path, help="write the JSON object to this file")

    comparing = commands.add_parser("compare", help="measured files beside their predictions")
    comparing.set_defaults(run=run_compare)
    comparing.add_argument(
        "paths", type=Path, nargs="+", help="measurement files, or folders of them"
    )
    comparing.add_argument(
        "--engine", help="a calibration file; default: the one beside the measurements"
    )
    comparing.add_argument("--json", action="store_true", help="print one JSON object")

    demo = commands.add_parser(
        "demo", help="predict, then measure, a pair of models on this machine"
    )
    demo.set_defaults(run=run_demo)
    demo.add_argument("--target", help="a folder or a hub id; default: the bundled pair")
    demo.add_argument("--draft", help="a folder or a hub id")
    demo.add_argument("--device", help="cpu, cuda, mps")
    demo.add_argument("--dtype", help="fp32, bf16 or fp16; default: whichever is faster here")
    demo.add_argument(
        "--out", type=Path, default=Path("out"), help="folder for demo.png and demo.json"
    )
    demo.add_argument(
        "--quick", action="store_true", help="fewer prompts and repetitions, wider error bars"
    )
    return parser


def add_scenario(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", required=True, help="a model of the catalog, or a config.json")
    parser.add_argument("--accelerator", help="an accelerator of the catalog")
    parser.add_argument(
        "--engine", default="cuda-graphs", help="an engine of the catalog, or a calibration file"
    )
    parser.add_argument(
        "--precision", help=f"of the weights: {', '.join(PRECISIONS)} (default bf16)"
    )
    parser.add_argument(
        "--kv-precision", help="of the KV cache (default: as the weights' activations)"
    )
    parser.add_argument("--batch", type=int, default=1, help="sequences decoded together")
    parser.add_argument(
        "--context", type=int, default=1024, help="KV length at the step that is priced"
    )
    parser.add_argument("--draft", help="a model of the catalog, or a config.json")
    parser.add_argument("--draft-precision", help="of the draft's weights (default: the target's)")
    parser.add_argument("--gamma", default="best", help="drafted tokens per cycle, or 'best'")
    acceptance = parser.add_mutually_exclusive_group()
    acceptance.add_argument(
        "--alpha", type=float, help="probability that a drafted token is accepted"
    )
    acceptance.add_argument(
        "--survival", help="P(at least k accepted) for k = 1, 2, …, comma-separated"
    )
    acceptance.add_argument(
        "--tokens-per-cycle", type=float, help="bonus included; needs a whole --gamma"
    )


def run_predict(options: argparse.Namespace) -> int:
    prediction, drafting = scenario(options)
    document = to_json(prediction, drafting, options)
    if options.out:
        write_json(options.out, document)
    if options.json:
        print(json.dumps(document, allow_nan=False))
    else:
        show(document, options)
    return 0


def scenario(options: argparse.Namespace) -> tuple[Prediction, Prediction | None]:
    """The prediction that was asked for, and where a draft is given the one over all gammas that
    were looked at."""
    target = model(options.target)
    machine = machine_of(options)
    place: dict[str, Any] = {"batch": options.batch, "context": options.context}
    given = {
        "alpha": options.alpha,
        "survival": None if options.survival is None else numbers("--survival", options.survival),
        "tokens_per_cycle": options.tokens_per_cycle,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if options.draft is None:
        if given or options.gamma not in ("best", "0"):
            raise SpecsimError(
                "an acceptance or a gamma needs a draft: give --draft NAME|config.json"
            )
        return predict(target, None, machine, gamma=0, **place), None
    draft = model(options.draft)
    drafter = DraftModel(draft, precision=options.draft_precision)
    if not given:
        raise SpecsimError("no built-in acceptance: give --alpha, --survival or --tokens-per-cycle")
    if options.gamma == "best":
        if "tokens_per_cycle" in given:
            raise SpecsimError("--tokens-per-cycle needs the whole --gamma that it was measured at")
        known = len(given["survival"]) if "survival" in given else MAX_GAMMA
        over = predict(target, drafter, machine, gamma=np.arange(known + 1), **given, **place)
        gamma = int(over.gamma[over.best()])
        return predict(target, drafter, machine, gamma=gamma, **given, **place), over
    gamma = int(whole("gamma", number("--gamma", options.gamma)))
    chosen = predict(target, drafter, machine, gamma=gamma, **given, **place)
    return chosen, None


def machine_of(options: argparse.Namespace) -> System:
    """The System of --engine, --accelerator and --precision; a calibration file names its own
    accelerator."""
    if options.engine.endswith(".json"):
        calibrated = calibration.load(options.engine).system
        if options.accelerator:
            raise SpecsimError(
                f"{options.engine} was measured on {calibrated.accelerator.name}: "
                "leave out --accelerator"
            )
        return calibrated.with_precision(options.precision) if options.precision else calibrated
    if options.accelerator is None:
        raise SpecsimError(
            "give --accelerator NAME (or --engine calibration.json, which names its own)"
        )
    return system(
        options.accelerator, options.engine, options.precision or "bf16", options.kv_precision
    )


def number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SpecsimError(f"{name} must be a number, not {text!r}") from None


def numbers(name: str, text: str) -> list[float]:
    return [number(name, part) for part in text.split(",")]


def to_json(
    prediction: Prediction, over: Prediction | None, options: argparse.Namespace
) -> dict[str, Any]:
    """The keys of the public contract; speculative ones are null without a draft."""
    speculative = options.draft is not None
    scan = over if over is not None else prediction
    band = {name: [float(low), float(high)] for name, (low, high) in prediction.band.items()}

    def drafted(value: Any) -> float | None:
        return float(value) if speculative else None

    return {
        "step_s": float(prediction.step_s),
        "tokens_per_s": float(prediction.tokens_per_s),
        "draft_step_s": drafted(prediction.draft_step_s),
        "verify_step_s": drafted(prediction.verify_step_s),
        "overhead_s": drafted(prediction.overhead_s),
        "cycle_s": drafted(prediction.cycle_s),
        "tokens_per_cycle": drafted(prediction.tokens_per_cycle),
        "gamma": int(prediction.gamma) if speculative else None,
        "speculative_tokens_per_s": drafted(prediction.speculative_tokens_per_s),
        "speedup": drafted(prediction.speedup),
        "best_gamma": int(scan.gamma.flat[int(scan.best())]) if over is not None else None,
        "tied_gammas": over.ties().tolist() if over is not None else None,
        "bound": str(prediction.bound),
        "band": {"step_s": band["step_s"], "speedup": band["speedup"] if speculative else None},
        "waterfall": {name: float(f) for name, f in prediction.waterfall().items()}
        if speculative
        else None,
        "breakdown": [
            {key: value if isinstance(value, str) else plain(value) for key, value in row.items()}
            for row in prediction.step.breakdown()
        ],
        "assumptions": assumptions(options),
        "version": __version__,
    }


def plain(value: Any) -> float | str:
    return str(value) if np.asarray(value).dtype.kind == "U" else float(value)


def assumptions(options: argparse.Namespace) -> list[str]:
    """What the numbers rest on, in sentences."""
    sentences = [
        f"{options.batch} sequence(s) with {options.context} tokens of KV cache each; one device.",
        "Weights are read once per pass, the KV cache once per sequence; the embedding is "
        "gathered, not streamed.",
    ]
    if options.draft:
        sentences += [
            "Every sequence advances by its own number of tokens; the bonus or correction token is "
            "counted.",
            "The draft keeps its own KV cache, and its first pass of a cycle reads two tokens.",
        ]
    if not options.engine.endswith(".json"):
        sentences.append(
            f"Constants of the engine {options.engine} come from the catalog, not this machine."
        )
    return sentences


def show(document: dict[str, Any], options: argparse.Namespace) -> None:
    """The same, for a person."""
    low, high = document["band"]["step_s"]
    print(
        f"plain step    {document['step_s'] * 1e3:8.3f} ms  ({low * 1e3:.3f} to {high * 1e3:.3f}), "
        f"{document['tokens_per_s']:.1f} tokens/s, bound by {document['bound']}"
    )
    total = sum(row["seconds"] for row in document["breakdown"])
    for row in document["breakdown"]:
        if row["seconds"] > 0:
            print(
                f"  {row['name']:28s} {row['seconds'] * 1e3:8.3f} ms  {row['seconds'] / total:5.1%}  {row['bound']}"
            )
    if document["speedup"] is not None:
        low, high = document["band"]["speedup"]
        print(f"draft step    {document['draft_step_s'] * 1e3:8.3f} ms")
        print(
            f"verification  {document['verify_step_s'] * 1e3:8.3f} ms for {document['gamma'] + 1} rows per sequence"
        )
        print(
            f"cycle         {document['cycle_s'] * 1e3:8.3f} ms, {document['tokens_per_cycle']:.3f} tokens per cycle"
        )
        print(
            f"speedup       {document['speedup']:8.3f} x   ({low:.2f} to {high:.2f}) at gamma = {document['gamma']}"
        )
        ties = document["tied_gammas"]
        if ties and len(ties) > 1:
            print(f"              gamma = {ties[0]} … {ties[-1]} are within 2 % of the best")
    for sentence in document["assumptions"]:
        print(f"- {sentence}")


def run_compare(options: argparse.Namespace) -> int:
    from specsim.comparison import compare_file, median_errors, to_rows

    document: dict[str, Any] = {"files": []}
    for path in measurement_files(options.paths):
        measurement = Measurement.read(path)
        place = options.engine or beside(path, measurement)
        comparisons = compare_file(measurement, calibration.load(place).system)
        errors = median_errors(comparisons)
        rows = to_rows(comparisons)
        document["files"].append({"file": str(path), "median_errors": errors, "rows": rows})
        if not options.json:
            print(f"{path}, measured on {measurement.environment.device}, predicted from {place}")
            for row in rows:
                unit, scale = ("ms", 1e3) if row["part"].endswith("_s") else ("", 1.0)
                print(
                    f"  {row['target']:18s} gamma {row['gamma']}  {row['part']:17s} predicted "
                    f"{row['predicted'] * scale:8.3f} {unit:2s} measured {row['measured'] * scale:8.3f} {unit:2s} {row['error']:+6.1%}"
                )
            print(
                "  median |error|: "
                + ", ".join(f"{name} {error:.1%}" for name, error in errors.items())
            )
    if options.json:
        print(json.dumps(document, allow_nan=False))
    return 0


def measurement_files(paths: Sequence[Path]) -> list[Path]:
    """The files named, and the measurement files of the folders named."""
    files = []
    for path in paths:
        found = sorted(path.glob("*.json")) if path.is_dir() else [path]
        files += [
            file for file in found if path.is_file() or not file.name.startswith("calibration")
        ]
    if not files:
        raise SpecsimError(f"no measurement files in {', '.join(map(str, paths))}")
    return files


def beside(path: Path, measurement: Measurement) -> Path:
    """The calibration that a measurement names, or that lies beside it."""
    place = path.parent / (measurement.calibration or "calibration.json")
    if not place.is_file():
        raise SpecsimError(f"{path} comes with no calibration; give one: --engine calibration.json")
    return place


def run_demo(options: argparse.Namespace) -> int:
    try:
        from specsim import demo
    except ImportError as missing:
        raise SpecsimError(
            f"the demo needs {missing.name}: pip install 'specsim-llm[reference,figures]'"
        ) from None
    if (options.target is None) != (options.draft is None):
        raise SpecsimError("give --target and --draft together, or neither")
    return demo.main(
        out=options.out,
        target=options.target,
        draft=options.draft,
        device=options.device,
        dtype=options.dtype,
        quick=options.quick,
    )


if __name__ == "__main__":
    sys.exit(main())
