"""Reads the acceptance in a text of any engine: a log, a page of metrics, answers, printed results.

Every reader looks at the whole text. What several of them find must be one engine's and agree.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from specsim.checks import SpecsimError
from specsim.evidence.counters import Counters
from specsim.evidence.served import (
    bench,
    blocks,
    llama_cpp,
    llama_cpp_runs,
    local_apps,
    metrics,
    own,
    results,
    sglang,
    tensorrt_llm,
    unknown,
    vllm,
    vllm_0,
)
from specsim.evidence.served.json_records import records_of

# Those that count cycles come first: where several tell of one run, the first one's numbers are
# taken.
TEXTS: tuple[Callable[[str], Counters | None], ...] = (
    blocks.acceptance,
    llama_cpp.server_lines,
    llama_cpp_runs.example_summaries,
    llama_cpp_runs.bench_table,
    vllm.example_script,
    vllm.interval_lines,
    vllm_0.lines,
    local_apps.share_lines,
    local_apps.flags,
    sglang.batch_lines,
)
Records = Iterable[dict[str, str]]
# A mark without which there is none of the records, their names, and what reads them.
RECORDS: tuple[tuple[str, tuple[str, ...], Callable[[Records], Counters | None]], ...] = (
    ("spec_decode_", bench.ANSWERS, bench.answers),
    ("_accept", vllm.ANSWERS, vllm.answers),
    ("spec_", sglang.ANSWERS, sglang.answers),
    ("draft_n", llama_cpp_runs.ANSWERS, llama_cpp_runs.answers),
    ("ccepted", tensorrt_llm.ANSWERS, tensorrt_llm.statistics),
    ("raft", local_apps.ANSWERS, local_apps.answers),
    ("cycles", own.ANSWERS, own.statistics),
)
CLOSE = 0.02  # relative: two accounts of one run differ by rounding, and by what begins and ends it


def read_log(text: str) -> Counters:
    """The acceptance counters in a text.

    Raises SpecsimError if no known counters are in it, if they contradict themselves, and if it
    holds those of several engines, or several accounts that differ by more than 2 %.
    """
    if "\r" in text:
        text = text.replace("\r", "\n")  # progress bars overwrite their line
    found = acceptances(text)
    if not found:
        raise unknown.refusal(text)
    first = one_of(found)
    if text[-1:].isdigit():
        said = "The text ends with a number, without the end of its line: it may be cut."
        first = replace(first, cautions=(*first.cautions, said))
    return first


def acceptances(text: str) -> list[Counters]:
    """What each reader finds in a text; the most exact account first."""
    found = metrics.acceptance(text)
    if text.lstrip("\ufeff \t\n")[:1] == "{":
        found += _of_results(text)
    found += [counters for read in TEXTS if (counters := read(text)) is not None]
    for mark, names, read_records in RECORDS:
        counters = read_records(records_of(text, names)) if mark in text else None
        if counters is not None:
            found.append(counters)
    return found


def _of_results(text: str) -> list[Counters]:
    """The acceptance in the JSON of a benchmark.

    Raises SpecsimError for results without acceptance.
    """
    runs = results.from_json(text, "the text")
    found = [run.counters for run in runs if run.counters is not None]
    if runs and not found:
        raise SpecsimError(
            f"the results of {runs[0].tool} hold no acceptance: the run did not speculate, or its "
            "tool does not count it; give the server's log or metrics"
        )
    if any(tokens_of(each) != tokens_of(found[0]) for each in found[1:]):
        raise SpecsimError(
            f"the text holds {len(found)} runs with different acceptance; give one of them, or "
            "specsim compare --results for all"
        )
    return found[:1]


def one_of(found: list[Counters]) -> Counters:
    """The first of several accounts of one run; SpecsimError if they cannot be of one run."""
    first = found[0]
    for other in found[1:]:
        if first.engine and other.engine and _family(first) != _family(other):
            raise SpecsimError(
                f"the text holds counters of two engines, {first.source} and {other.source}; give "
                "those of one"
            )
        for name, title in (("tokens per cycle", tokens_of), ("accepted / drafted", rate_of)):
            one, two = title(first), title(other)
            if one is not None and two is not None and abs(one - two) > CLOSE * max(one, two):
                raise SpecsimError(
                    f"the text contradicts itself: {first.source} make {one:.4g} {name}, "
                    f"{other.source} {two:.4g}; give one of them"
                )
    return first


def _family(counters: Counters) -> str:
    """The engine, whatever its version."""
    return str(counters.engine).removesuffix("-0")


def tokens_of(counters: Counters) -> float | None:
    """Tokens per cycle, where they follow from what was read alone."""
    if counters.accepted is not None and counters.cycles:
        return 1.0 + counters.accepted / counters.cycles
    return counters.tokens_per_cycle


def rate_of(counters: Counters) -> float | None:
    """Accepted / drafted, where both were counted."""
    if counters.accepted is not None and counters.drafted:
        return counters.accepted / counters.drafted
    return None
