"""Published draft heads: the one that a command can name for a target, a method and an engine."""

from specsim import catalog
from specsim.checks import SpecsimError


def published_head(target: str, method: str, engine: str) -> catalog.Row | None:
    """A row of catalog/heads.toml for a `target`, by any name of the catalog, and a `method`.

    One that `engine` is documented to start comes first, then one whose source names no engine;
    heads that are named for other engines alone are left out. None if there is none.
    """
    try:
        name = catalog.resolve("models", target)
    except SpecsimError:
        return None
    rows = catalog.load("heads").values()
    fitting = [row for row in rows if row["target"] == name and method in row["methods"]]
    documented = [row for row in fitting if engine in row.get("engines", ())]
    return next(iter(documented or [row for row in fitting if "engines" not in row]), None)
