"""What the text of every command is checked for: lines of at most 80 columns, what it is about in
the first line, and no number without its unit.

A test that has a command's text calls `check`. `COMMANDS` says how the text of each begins, and the
file of the test that checks it; `test_commands.py` proves that none is missing.
"""

import re

WIDTH = 80  # said here once more: the commands' own constant may be wrong
COMMANDS = {  # how the text begins: with what is priced, measured or listed; and who checks it
    "predict": (r"target {7}\S", "test_commands.py"),
    "plan": (r"target {7}\S", "test_commands.py"),
    "rank": (r"target {7}\S", "test_commands.py"),
    "serve-sim": (r"target {7}\S", "test_commands.py"),
    "tune": (r"target {7}\S", "test_commands.py"),
    "diagnose": (r".+\n\ntarget {7}\S|.*[Aa]ccepted", "test_commands.py"),
    "acceptance": r"published acceptance of \S",
}
