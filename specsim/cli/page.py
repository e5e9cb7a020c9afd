"""What people read: lines of at most 80 columns, and first of all what was priced."""

import re
import shlex
from collections.abc import Iterable, Sequence

from specsim import catalog
from specsim.architecture import billions
from specsim.checks.columns import INDENT, WIDTH, wrap
from specsim.drafting import DraftModel
from specsim.operators import AUTO
from specsim.planning.acceptances import AcceptanceRange
from specsim.scenario import Resolved, Scenario

LABEL = 13  # columns of the labels of what was priced


def notes(sentences: Iterable[str]) -> list[str]:
    """Sentences as a list."""
    return [line for sentence in sentences for line in wrap(sentence, "- ")]


def facts(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """A label and a text in each row; the texts stand under each other."""
    return [line for label, text in pairs for line in wrap(text, f"{label:{LABEL}s}")]


# ------------------------------------------------------------------------------ what was priced


def priced(
    found: Resolved,
    assumed: AcceptanceRange | None = None,
    load: str = "",
    options: Sequence[str] = ("engine", "batch", "context"),
    candidates: int | None = None,
    needs: str = "",
) -> list[str]:
    """What a report is about: names as they were resolved, precision and where it comes from, the
    engine, the acceptance, the `load`, what memory it `needs`; and which of some `options` nobody
    gave. Of several `candidates`, how many there are stands in place of the draft."""
    scenario, system, engine = found.scenario, found.system, found.system.engine
    chip, devices = system.accelerator, scenario.tensor_parallel
    size = f"{billions(found.target.parameters)} parameters"
    memory = "unknown memory" if chip.memory_bytes is None else f"{chip.memory_bytes / 1e9:.0f} GB"
    each = f"{devices} x {chip.name}" if devices > 1 else chip.name
    asked = scenario.accelerator
    alias = f" (asked for as {asked})" if asked not in (None, chip.name) else ""
    trust = f"measured on {chip.name}" if scenario.calibrated else trust_of(found)
    pairs = [
        ("target", f"{found.target.name}, {size}; {precision_of(found)}"),
        ("accelerator", f"{each}{alias}, {memory}{' each' if devices > 1 else ''}"),
        ("engine", f"{scenario.engine}: {trust}; a step within {engine.band} (80 % band)"),
        ("drafting", drafting_of(found)),
    ]
    if scenario.offload_layers and system.host is not None:
        pairs.insert(2, ("host", f"{system.host.name}, holds {scenario.offload_layers} layers"))
    if candidates is not None:
        pairs[-1] = ("drafting", f"{candidates} candidates, and plain decoding")
    if found.drafter is not None:
        pairs.append(("acceptance", acceptance_of(scenario, assumed)))
    pairs.append(("load", load or load_of(scenario)))
    if needs:
        pairs.append(("memory", needs))
    if defaults := defaults_of(scenario, options):
        pairs.append(("by default", f"{', '.join(defaults)}: where no option says otherwise"))
    return facts(pairs)


def trust_of(found: Resolved) -> str:
    """Where the constants of a catalog's engine come from."""
    confidence = found.system.engine.confidence
    return {
        "fitted": "constants fitted to published rows", "assumed": "constants assumed",
        "definition": "the roofline, by definition",
    }.get(confidence, f"constants {confidence}")  # fmt: skip


def precision_of(found: Resolved) -> str:
    """The format of weights and cache, and who says so."""
    scenario, used, stored = found.scenario, found.system.precision, found.target.stored
    if not scenario.auto:
        who = "as --precision says" if scenario.precision else "as the calibration says"
    elif stored is None:
        who = "its config names no quantisation"
    else:
        who = f"as its {stored.source} says"
    cache = "by default"
    if scenario.kv_precision not in (None, AUTO):
        cache = "--kv-precision"
    elif scenario.auto and stored is not None and stored.kv_bits is not None:
        cache = f"as its {stored.source} says"
    elif scenario.calibrated and not scenario.precision:
        cache = "as the calibration says"
    return f"weights in {used.name} ({who}), KV cache in {8 * used.kv_bytes:g} bits ({cache})"


def drafting_of(found: Resolved) -> str:
    """How drafts are made, and in which format the draft is."""
    scenario, drafter = found.scenario, found.drafter
    if drafter is None:
        return "none: plain decoding"
    method = found.method or "draft-model"
    if scenario.draft is None:
        return f"{method}, which needs {catalog.lookup('methods', method)['needs']}"
    inner = getattr(drafter, "drafter", getattr(drafter, "draft", drafter))
    if not isinstance(inner, DraftModel):
        return f"{method}, with {scenario.draft}"
    own = inner.priced_on(found.system).precision.name
    how = "as asked for"
    if inner.precision == AUTO:
        how = "as its own checkpoint says"
        if inner.architecture.stored is None:
            how = "16 bits: its config names no format"
    elif inner.precision is None:
        how = "as the target"
    return f"{method}, with {inner.architecture.name} in {own} ({how})"


def acceptance_of(scenario: Scenario, assumed: AcceptanceRange | None) -> str:
    """The acceptance, and whether it was given."""
    if assumed is not None:
        return (
            f"not given: alpha {assumed.low:.2f}, {assumed.middle:.2f} and {assumed.high:.2f}, low "
            f"to high, from {assumed.rates} published rate{'s' * (assumed.rates > 1)}"
        )
    if scenario.alpha is not None:
        return f"alpha {scenario.alpha:g} (given)"
    if scenario.survival:
        return f"a survival of {len(scenario.survival)} positions (given)"
    if scenario.tokens_per_cycle is not None:
        return f"{scenario.tokens_per_cycle:g} tokens per cycle, bonus included (given)"
    return "none"


def load_of(scenario: Scenario) -> str:
    """How many sequences are decoded together, and how long they are."""
    sequences = "1 sequence" if scenario.batch == 1 else f"{scenario.batch} sequences together"
    return f"{sequences}, {scenario.context} tokens of context each"


def defaults_of(scenario: Scenario, options: Sequence[str]) -> list[str]:
    """What the numbers hang on and no option said: the values of these options are the defaults."""
    plain = Scenario(target=scenario.target)
    return [
        f"{name.replace('_', ' ')} {getattr(scenario, name)}"
        for name in options
        if getattr(scenario, name) == getattr(plain, name)
    ]


# ------------------------------------------------------------------------------------ commands


def shell(command: str) -> list[str]:
    """A command for a shell in lines of at most 80 columns, where its words allow it: an option a
    line, joined by backslashes. Quoted JSON is broken after its commas. What stands between
    `<<'END'` and `END` is a file, whose long lists are broken where YAML allows it."""
    lines, inside = [], False
    for line in command.split("\n"):
        if inside:
            inside = line != "END"
            lines += _yaml(line)
        else:
            inside = line.endswith("<<'END'")
            lines += [line] if len(line) <= WIDTH or inside else _options(line)
    return lines


def _options(line: str) -> list[str]:
    """An option and its values in each line."""
    groups: list[list[str]] = []
    for word in shlex.split(line):
        if word.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(word)
    lines: list[str] = []
    for group in groups:
        text = shlex.join(group)
        margin = INDENT if lines else ""
        if len(margin + text) > WIDTH - 2 and "{" in text:
            option, _, quoted = text.partition(" ")
            lines += [f"{margin}{option} \\", *_json(quoted, INDENT * 2)]
        elif len(margin + text) > WIDTH - 2 and len(group) == 2:
            lines += [f"{margin}{group[0]} \\", INDENT * 2 + shlex.quote(group[1])]
        else:
            lines += [margin + text]
    return [each + ("" if at == len(lines) - 1 or _open(lines[: at + 1]) or each.endswith("\\")
                    else " \\") for at, each in enumerate(lines)]  # fmt: skip


def _json(quoted: str, margin: str) -> list[str]:
    """A JSON object in single quotes: spaces and line ends between its parts mean nothing."""
    parts = re.split(r"(?<=,) (?=[\"\[])", quoted)
    lines, line = [], margin + parts[0]
    for part in parts[1:]:
        if len(line) + len(part) + 1 > WIDTH - 2:
            lines.append(line)
            line = f"{margin} {part}"
        else:
            line += f" {part}"
    return [*lines, line]


def _open(lines: list[str]) -> bool:
    """Whether a single quote is open at the end of the lines."""
    return "\n".join(lines).count("'") % 2 == 1


def _yaml(line: str) -> list[str]:
    if len(line) <= WIDTH:
        return [line]
    margin = " " * (len(line) - len(line.lstrip()))
    return wrap(line.strip(), margin, margin + INDENT)


def pasted(notes_: Iterable[str], command: str) -> list[str]:
    """A command to paste, its notes before it as comments."""
    said = [line for note in notes_ for line in wrap(note, "# ", "#   ")]
    return [*said, *shell(command)]
