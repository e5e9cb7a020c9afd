"""Arguments: errors in one line, and numbers out of text."""

import argparse
from typing import Any, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class Parser(argparse.ArgumentParser):
    """Argument errors in one line, like every other."""

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {message}\n")
