"""specsim explore: the explorer in a browser, served only to this machine."""

import argparse
from urllib.parse import urlencode

from specsim.checks import SpecsimError
from specsim.cli.parser import Commands


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("explore", help="the explorer in a browser")
    parser.set_defaults(run=run)
    parser.add_argument("--preset", help='the preset to start from, such as "moe"')
    parser.add_argument("--port", type=int, help="port on 127.0.0.1 (default: a free one)")
    parser.add_argument("--no-browser", action="store_true", help="print the address, open nothing")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from specsim.explorer.page import open_page
    from specsim.explorer.presets import preset

    if options.port is not None and not 1 <= options.port <= 65535:
        raise SpecsimError(f"--port must be within [1, 65535], got {options.port}")
    query = urlencode({"preset": preset(options.preset).key}) if options.preset else ""
    return open_page(query, options.port, not options.no_browser)
