"""The command line: specsim predict | plan | compare | validate | diagnose | explore | demo.

A user's mistake is one line on standard error and exit status 2; `--json` prints one object and
nothing else. One file per command: each `add`s its parser and sets `run`.
"""

import argparse
import sys
from collections.abc import Sequence

from specsim import __version__
from specsim.checks import SpecsimError
from specsim.cli import compare, demo, diagnose, explore, plan, predict, validate
from specsim.cli.parser import Parser

COMMANDS = (predict, plan, compare, validate, diagnose, explore, demo)


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


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="specsim", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"specsim {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS:
        command.add(commands)
    return parser
