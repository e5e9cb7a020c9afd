"""specsim validate: predictions compared with published measurements, by engine."""

import argparse
import json

from specsim.checks.columns import fit
from specsim.cli.parser import Commands
from specsim.cli.progress import working


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "validate", help="predictions compared with published measurements, by engine"
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--worst", type=int, default=12, metavar="N", help="how many of the largest errors to list"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from specsim.evidence import validation

    with working("predicting all published rows"):
        report = validation.report()
    if options.json:
        print(json.dumps(report, allow_nan=False))
    else:
        print(*fit(validation.render(report, worst=max(options.worst, 0)).split("\n")), sep="\n")
    return 0
