"""The command line: predictions, plans, comparisons with measurements, and what the catalog has.

    specsim predict | plan | rank | acceptance | serve-sim | tune | sweep
    specsim compare | validate | diagnose | measure-server | explore | demo
    specsim models | accelerators | engines | methods

A user's mistake is one line on standard error and exit status 2; `--json` prints one object and
nothing else. One file per command: its `add` describes the options, its `run` carries it out. Only
the file of the command that is asked for is imported, and nothing heavy before an interrupt
(Ctrl-C) is answered in one line. The commands that list the catalog share one file.
"""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from specsim import __version__

if TYPE_CHECKING:
    from argparse import ArgumentParser

COMMANDS = {  # and the file of each
    "predict": "predict", "plan": "plan", "rank": "rank", "acceptance": "acceptance",
    "serve-sim": "serve_sim", "tune": "tune", "sweep": "sweep",
    "models": "listing", "accelerators": "listing", "engines": "listing", "methods": "listing",
    "compare": "compare", "validate": "validate", "diagnose": "diagnose", "explore": "explore",
    "demo": "demo", "measure-server": "measure_server",
}  # fmt: skip
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; without `arguments`, those of the process, whose
    signals and streams are then taken care of too."""
    if arguments is not None:
        return answer(arguments)
    on_interrupt(_leave)  # while modules are imported there is nothing to clean up
    for stream in (sys.stdout, sys.stderr):  # a terminal may know few characters
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = answer(sys.argv[1:], own=True)
    except SystemExit as left:  # --help, and mistakes that argparse finds
        status = left.code if isinstance(left.code, int) else 0
    status = flushed(status)
    on_interrupt(_leave)
    return status


def answer(arguments: Sequence[str], own: bool = False) -> int:
    """The exit status of one command; what ends it early is one line. Without a command, the help.
    `own`: of this process."""
    from specsim.checks import SpecsimError

    try:
        if not arguments:
            build_parser().print_help(sys.stdout)
            return 0
        options = build_parser(arguments).parse_args(arguments)
        if own:
            on_interrupt(_stop)
        status: int = options.run(options)
        return status
    except SpecsimError as error:
        complain(str(error))
        return 2
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # whoever read it has read enough
        discard()
        return 0
    except OSError as error:
        complain(f"{error.filename or 'cannot read or write'}: {error.strerror or error}")
        return 2
    except MemoryError:
        complain("the memory does not suffice")
        return 2
    except Exception:
        if _stop.asked:  # an interrupt that an import made into another error
            complain("interrupted")
            return INTERRUPTED
        raise


def build_parser(arguments: Sequence[str] = ()) -> "ArgumentParser":
    """The parser of the command that `arguments` name, or of all commands if they name none."""
    from specsim.cli.parser import Parser

    parser = Parser(prog="specsim", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"specsim {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    first = next((word for word in arguments if not word.startswith("-")), None)
    files = [COMMANDS[first]] if first in COMMANDS else dict.fromkeys(COMMANDS.values())
    for file in files:
        import_module(f"specsim.cli.{file}").add(commands)
    return parser


def complain(message: str) -> None:
    """Print an error in one line, where anybody listens."""
    from specsim.checks import one_line

    with suppress(OSError, ValueError):
        print(f"specsim: {one_line(message)}", file=sys.stderr)


def flushed(status: int) -> int:
    """The exit status once everything is written; 2 where it cannot be, as on a full disk."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        discard()
    except (OSError, ValueError) as error:
        complain(f"cannot write the output: {getattr(error, 'strerror', None) or error}")
        discard()
        return 2
    return status


def discard() -> None:
    """Send what is still to be written nowhere, so that the end of the process does not fail."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def on_interrupt(handler: Any) -> None:
    """Let `handler` answer Ctrl-C, where this is the main thread."""
    with suppress(ValueError):
        signal.signal(signal.SIGINT, handler)


def _leave(*_: object) -> None:
    """End at once: no file is open, and an import may turn an interrupt into its own error."""
    with suppress(OSError):
        os.write(2, b"\nspecsim: interrupted\n")
    os._exit(INTERRUPTED)


class _Stop:
    """Interrupts what is computed, so that half-written files go, and remembers that it did."""

    asked = False

    def __call__(self, *_: object) -> None:
        self.asked = True
        raise KeyboardInterrupt


_stop = _Stop()
