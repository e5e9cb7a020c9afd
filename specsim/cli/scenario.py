"""The options of a scenario, and the models, machine, drafter and acceptance that they name."""

import argparse
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specsim import catalog
from specsim.architecture import Architecture, model
from specsim.checks import Integers, SpecsimError, numbers
from specsim.drafting import Drafter, DraftModel, method
from specsim.evidence import calibration
from specsim.hardware import System, system
from specsim.operators import PRECISIONS, precision, require_even_split


def add_scenario(parser: argparse._ActionsContainer, required: bool = True) -> None:
    parser.add_argument(
        "--target", required=required, help="a model of the catalog, or a config.json"
    )
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
    parser.add_argument(
        "--tensor-parallel", type=int, default=1, help="devices the target is split over"
    )
    parser.add_argument(
        "--context", type=int, default=1024, help="KV length at the step that is priced"
    )
    parser.add_argument(
        "--routing-correlation", type=float, metavar="X",
        help="of a mixture of experts: how alike consecutive tokens choose, 0 (default) to 1",
    )  # fmt: skip
    parser.add_argument("--draft", help="a model of the catalog, or a config.json")
    parser.add_argument("--draft-precision", help="of the draft's weights (default: the target's)")
    parser.add_argument(
        "--draft-tp", type=int, metavar="N",
        help="devices the draft is split over (default: the target's)",
    )  # fmt: skip
    parser.add_argument(
        "--method", help=f"how to draft: {', '.join(catalog.load('methods'))} (default draft-model)"
    )


def add_acceptance(parser: argparse.ArgumentParser, tokens_per_cycle: bool = True) -> None:
    acceptance = parser.add_mutually_exclusive_group()
    acceptance.add_argument(
        "--alpha", type=float, help="probability that a drafted token is accepted"
    )
    acceptance.add_argument(
        "--survival", help="P(at least k accepted) for k = 1, 2, …, comma-separated"
    )
    if tokens_per_cycle:
        acceptance.add_argument(
            "--tokens-per-cycle", type=float, help="bonus included; needs a whole --gamma"
        )


@dataclass(frozen=True, slots=True)
class Scenario:
    """What the options name; `drafter` is None for plain decoding."""

    target: Architecture
    machine: System
    drafter: Drafter | None
    acceptance: dict[str, Any]  # what predict takes: alpha, survival or tokens_per_cycle


def scenario_of(options: argparse.Namespace) -> Scenario:
    """The nouns behind the options. Raises SpecsimError for what does not go together."""
    target, machine = model(options.target), machine_of(options)
    drafter, acceptance = drafter_of(options, target), acceptance_of(options)
    if drafter is None and acceptance:
        raise SpecsimError(
            "an acceptance or a gamma needs a draft: give --draft NAME|config.json or --method NAME"
        )
    if drafter is not None and not acceptance:
        raise SpecsimError("no built-in acceptance: give --alpha, --survival or --tokens-per-cycle")
    return Scenario(target, machine, drafter, acceptance)


def acceptance_of(options: argparse.Namespace) -> dict[str, Any]:
    survival = options.survival
    given = {
        "alpha": options.alpha,
        "survival": None if survival is None else numbers("--survival", survival),
        "tokens_per_cycle": getattr(options, "tokens_per_cycle", None),
    }
    return {name: value for name, value in given.items() if value is not None}


def drafter_of(options: argparse.Namespace, target: Architecture) -> Drafter | None:
    draft = None if options.draft is None else model(options.draft)
    stored, devices = options.draft_precision, options.draft_tp
    if devices is not None and not 1 <= devices <= options.tensor_parallel:
        raise SpecsimError(
            f"--draft-tp must be within 1 and the target's --tensor-parallel "
            f"{options.tensor_parallel}, got {devices}"
        )
    if draft is not None and devices is None:
        try:
            require_even_split(draft, options.tensor_parallel)
        except SpecsimError as error:
            raise SpecsimError(f"{error} (--draft-tp splits the draft over fewer)") from None
    if options.method is not None:
        return method(
            options.method, target, draft, draft_precision=stored, draft_tensor_parallel=devices
        )
    if draft is None:
        for option, given in (("--draft-precision", stored), ("--draft-tp", devices)):
            if given is not None:
                raise SpecsimError(f"{option} needs a draft: give --draft NAME|config.json")
        return None
    return DraftModel(draft, precision=stored, tensor_parallel=devices)


def machine_of(options: argparse.Namespace) -> System:
    """The System of --engine, --accelerator and --precision; a calibration file names its own
    accelerator."""
    if options.tensor_parallel < 1:
        raise SpecsimError(f"--tensor-parallel must be at least 1, got {options.tensor_parallel}")
    if options.engine.endswith(".json"):
        calibrated = calibration.load(options.engine).system
        if options.accelerator:
            raise SpecsimError(
                f"{options.engine} was measured on {calibrated.accelerator.name}: "
                "leave out --accelerator"
            )
        if options.tensor_parallel > 1:
            raise SpecsimError(
                f"{options.engine} was measured on one device: leave out --tensor-parallel"
            )
        if options.precision is not None:
            calibrated = calibrated.with_precision(options.precision)
        if options.kv_precision is not None:
            kv_bytes = precision(options.kv_precision).weight_bytes
            calibrated = replace(
                calibrated, precision=replace(calibrated.precision, kv_bytes=kv_bytes)
            )
        return calibrated
    if options.accelerator is None:
        raise SpecsimError(
            "give --accelerator NAME (or --engine calibration.json, which names its own)"
        )
    return system(
        options.accelerator,
        options.engine,
        options.precision or "bf16",
        options.kv_precision,
        options.tensor_parallel,
    )


def gammas_of(scenario: Scenario) -> Integers:
    """The gammas to look at for the best one: a survival vector is never extrapolated."""
    if scenario.drafter is None:
        return np.zeros(1, dtype=np.int64)
    if "survival" in scenario.acceptance:
        return scenario.drafter.gammas_within(len(scenario.acceptance["survival"]))
    return scenario.drafter.gammas


def assumptions(options: argparse.Namespace, scenario: Scenario) -> list[str]:
    """What the numbers rest on, in sentences."""
    devices, drafter = options.tensor_parallel, scenario.drafter
    devices_of_draft = options.draft_tp or devices
    batch = f"{options.batch} sequence(s) with" if hasattr(options, "batch") else "Sequences of"
    sentences = [
        f"{batch} {options.context} tokens of KV cache each; "
        f"{'one device' if devices == 1 else f'{devices} devices'}.",
        "Weights are read once per pass, the KV cache once per sequence; the embedding is "
        "gathered, not streamed.",
    ]
    if drafter is not None:
        sentences.append(
            "Every sequence advances by its own number of tokens; the bonus or correction token is "
            "counted."
        )
        if isinstance(drafter, DraftModel):
            sentences.append(
                "The draft keeps its own KV cache, and its first pass of a cycle reads two tokens."
            )
        if devices_of_draft != devices:
            sentences.append(
                f"The draft is split over {devices_of_draft} of the target's {devices} devices; "
                "the others wait while it drafts."
            )
        sentences += drafter.notes
        if options.method is not None:
            name = catalog.resolve("methods", options.method)
            trust = catalog.lookup("methods", name)["confidence"]
            sentences.append(f"Parameters of the method {name} come from the catalog ({trust}).")
    engine, chip = scenario.machine.engine, scenario.machine.accelerator
    if engine.layer_launch_s or engine.pass_launch_s:
        launches = (
            f"Kernels are launched one by one, {engine.layer_launch_s * 1e6:.0f} us a layer and "
            f"{engine.pass_launch_s * 1e6:.0f} us a pass"
        )
        sentences.append(
            f"{launches}, on the CPU that computes too: it adds."
            if chip.is_host
            else f"{launches}, by a host that runs ahead: a pass takes the longer of that and its "
            "kernels."
        )
    sentences += unknowns(scenario.machine)
    if not options.engine.endswith(".json"):
        trust = scenario.machine.engine.confidence
        sentences.append(
            f"Constants of the engine {options.engine} come from the catalog ({trust}), "
            "not this machine."
        )
    return sentences


def unknowns(machine: System) -> list[str]:
    """What the catalog does not know of the accelerator, and which way that errs."""
    chip, math = machine.accelerator, machine.precision.math
    said = []
    if np.isinf(chip.rate(math)):
        said.append(
            f"Compute unknown: no {math} rate of {chip.name} is known, so arithmetic is never the "
            "bound (flatters large batches and long drafts)."
        )
    if machine.tensor_parallel > 1 and chip.link_bytes_per_s is None:
        said.append(
            f"No link between several {chip.name} is known: assumed are "
            f"{chip.link_rate / 1e9:g} GB/s, both directions together, and "
            f"{chip.link_latency_s * 1e6:g} us per all-reduce, "
            f"{'as over PCIe 3.0' if chip.has_peers else 'as over a network of 10 Gbit/s'}."
        )
    if chip.memory_bytes is None:
        said.append(f"The memory of {chip.name} is unknown: whether it fits is not checked.")
    return said
