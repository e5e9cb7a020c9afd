"""The options that describe a scenario, and the `Scenario` that they give."""

import argparse
from dataclasses import fields
from typing import Any

from specsim import catalog
from specsim.checks import number, numbers, whole
from specsim.hardware import DEFAULT_HOST
from specsim.operators import AUTO, PRECISIONS
from specsim.planning.memory import MEMORY_SHARE
from specsim.scenario import Scenario


def add_scenario(
    parser: argparse._ActionsContainer,
    required: bool = True,
    context: bool = True,
    drafting: bool = True,
) -> None:
    """The options of a scenario, but for its batch, its gamma and its acceptance; without
    `drafting`, also but for its draft and its method."""
    parser.add_argument(
        "--scenario", metavar="FILE",
        help="a TOML file with options as keys (target = \"llama-3.1-8b\"); those given here win",
    )  # fmt: skip
    parser.add_argument(
        "--target", required=required,
        help="a model of the catalog (specsim models lists them), or a config.json",
    )  # fmt: skip
    parser.add_argument(
        "--like", metavar="FAMILY",
        help="the model_type (llama, qwen3_moe, …) as which a config.json of an unknown one is "
        "read",
    )  # fmt: skip
    parser.add_argument(
        "--accelerator", help="an accelerator of the catalog (specsim accelerators lists them)"
    )
    parser.add_argument(
        "--engine", default="cuda-graphs",
        help="an engine of the catalog (specsim engines lists them), or a calibration file "
        "(default cuda-graphs)",
    )  # fmt: skip
    parser.add_argument(
        "--precision",
        help=f"of the weights: {', '.join((AUTO, *PRECISIONS))} (default auto: as the model's own "
        "checkpoint stores them, bf16 where its config says nothing)",
    )
    parser.add_argument(
        "--kv-precision",
        help="of the KV cache (default auto: as the model's own checkpoint says, else that of the "
        "activations)",
    )
    parser.add_argument(
        "--tensor-parallel",
        "--tp",
        type=int,
        default=1,
        help="devices that share the target (default 1)",
    )
    parser.add_argument(
        "--offload-layers", type=int, default=0, metavar="N",
        help="layers of the target in host memory, computed by the host (llama.cpp; default 0)",
    )  # fmt: skip
    parser.add_argument(
        "--host", metavar="NAME",
        help="with --offload-layers: a CPU of the catalog (default: an assumed desktop, "
        f"{DEFAULT_HOST})",
    )  # fmt: skip
    if context:
        parser.add_argument(
            "--context",
            type=int,
            default=1024,
            help="KV length at the step that is priced (default 1024)",
        )
    parser.add_argument(
        "--top-p", type=float, metavar="P",
        help="below 1: target and draft sort the vocabulary to draw from its likeliest tokens; a "
        "calibration knows what that takes, the catalog's engines take it as free",
    )  # fmt: skip
    parser.add_argument(
        "--routing-correlation", type=float, metavar="X",
        help="mixture of experts: how alike consecutive tokens choose experts, from 0, "
        "independently (default), to 1, the same",
    )  # fmt: skip
    if drafting:
        add_drafting(parser)


def add_drafting(parser: argparse._ActionsContainer) -> None:
    """The options of a draft, and of how it drafts."""
    parser.add_argument(
        "--draft", help="a model of the catalog, or a config.json: that of a draft head (EAGLE, "
        "DFlash, Medusa, …) names its method",
    )  # fmt: skip
    parser.add_argument(
        "--draft-precision", help="of the draft's weights (default auto: as its own checkpoint "
        "stores them; where that says nothing, a --precision that is named, else 16 bits)",
    )  # fmt: skip
    parser.add_argument(
        "--draft-tp", dest="draft_tensor_parallel", type=int, metavar="N",
        help="devices that share the draft (default: the target's; for pearl and ssd one of its "
        "own)",
    )  # fmt: skip
    parser.add_argument(
        "--method", help=f"how to draft: {', '.join(catalog.load('methods'))} (default draft-model)"
    )


def add_memory_share(parser: argparse.ArgumentParser) -> None:
    """The option that says how much of the memory may be filled."""
    parser.add_argument(
        "--memory-share", type=float, default=MEMORY_SHARE, metavar="X",
        help=f"share of the device's memory that may be filled (default {MEMORY_SHARE:g})",
    )  # fmt: skip


def add_acceptance(parser: argparse.ArgumentParser, tokens_per_cycle: bool = True) -> None:
    """The options that say how many drafted tokens are accepted; one of them at a time."""
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


def scenario_of(options: argparse.Namespace, **changes: Any) -> Scenario:
    """The scenario of the options; `changes` replace some of its values."""
    names = {each.name for each in fields(Scenario)}
    given = {name: value for name, value in vars(options).items() if name in names} | changes
    if isinstance(survival := given.pop("survival", None), str):
        given["survival"] = tuple(numbers("--survival", survival))
    if isinstance(gamma := given.pop("gamma", None), str) and gamma != "best":
        given["gamma"] = int(whole("gamma", number("--gamma", gamma)))
    return Scenario(**given)
