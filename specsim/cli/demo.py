"""specsim demo: predict, then measure, a pair of models here, alone or behind a server."""

import argparse
from pathlib import Path

from specsim.checks import SpecsimError
from specsim.cli.parser import Commands


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "demo", help="predict, then measure, a pair of models on this machine"
    )
    parser.set_defaults(run=run)
    parser.add_argument("--target", help="a folder or a hub id; default: the bundled pair")
    parser.add_argument("--draft", help="a folder or a hub id")
    parser.add_argument("--device", help="cpu, cuda, mps")
    parser.add_argument("--dtype", help="fp32, bf16 or fp16; default: whichever is faster here")
    parser.add_argument(
        "--out", type=Path, default=Path("out"), help="folder for demo.png and demo.json"
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer prompts and repetitions, wider error bars"
    )
    parser.add_argument(
        "--serve", action="store_true",
        help="put the bundled pair behind a server, and predict and measure 1 to 8 streams",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from specsim import demo

    if (options.target is None) != (options.draft is None):
        raise SpecsimError("give --target and --draft together, or neither")
    if options.serve:
        for name in ("target", "device"):
            if getattr(options, name) is not None:
                raise SpecsimError(
                    f"--{name} has no use with --serve, which serves the bundled pair on the CPU; "
                    "python -m reference serve takes any"
                )
        from specsim.demo import served

        return served.main(out=options.out, dtype=options.dtype, quick=options.quick)
    return demo.main(
        out=options.out,
        target=options.target,
        draft=options.draft,
        device=options.device,
        dtype=options.dtype,
        quick=options.quick,
    )
