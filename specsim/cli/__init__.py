"""The command line: specsim predict | plan | compare | validate | diagnose | explore | demo.

A user's mistake is one line on standard error and exit status 2; `--json` prints one object and
nothing else. One file per command: its `add` describes the options, its `run` carries it out. Only
the file of the command that is asked for is imported.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from importlib import import_module

from specsim import __version__
from specsim.checks import SpecsimError
from specsim.cli.parser import Parser

COMMANDS = ("predict", "plan", "compare", "validate", "diagnose", "explore", "demo")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; without `arguments`, those of the process."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser(arguments).parse_args(arguments)
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


def build_parser(arguments: Sequence[str] = ()) -> ArgumentParser:
    """The parser of the command that `arguments` name, or of all commands if they name none."""
    parser = Parser(prog="specsim", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"specsim {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    first = next((word for word in arguments if not word.startswith("-")), None)
    for name in [first] if first in COMMANDS else COMMANDS:
        import_module(f"specsim.cli.{name}").add(commands)
    return parser
