"""Reads the speculation counters from the logs of vLLM, SGLang and llama.cpp.

Counts on several lines of one log are added. Rates on several lines are averaged.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from specsim.checks import SpecsimError
from specsim.checks.limits import require_limit


@dataclass(frozen=True, slots=True)
class Counters:
    """The counters of an engine; None for a counter that its log lacks.

    `tokens_per_cycle` includes the bonus token. `survival` is the acceptance rate per position.
    """

    engine: str | None = None
    accepted: float | None = None
    drafted: float | None = None
    cycles: float | None = None
    gamma: float | None = None
    accepted_per_drafted: float | None = None
    tokens_per_cycle: float | None = None
    survival: tuple[float, ...] | None = None


# Every pattern takes time in proportion to the text, one long line included: digits are bounded,
# and nothing that repeats can begin again inside what it has read.
DIGITS = r"\d{1,40}"
NUMBER = rf"([-+]?(?:{DIGITS}(?:\.\d{{0,40}})?|\.{DIGITS})(?:[eE][-+]?\d{{1,3}})?)"
ENTRY = rf"\d{{0,40}}\.?{DIGITS}"
LIST = rf"[(\[]?\s*({ENTRY}(?:\s*,\s*{ENTRY}){{0,2000}})"


def read_log(text: str) -> Counters:
    """The counters in the text of a log; SpecsimError if no known counters are in it."""
    text = text.replace("\r", "\n")  # progress bars overwrite their line
    for reader in (_vllm, _vllm_0, _prometheus, _llama_cpp, _llama_cpp_example, _sglang, _json):
        found = reader(text)
        if found is not None:
            return found
    raise SpecsimError(
        "no speculation counters found; specsim reads vLLM's 'SpecDecoding metrics' and Prometheus "
        "counters, SGLang's 'accept len', llama.cpp's 'draft acceptance' and 'n_drafted'"
    )


def _vllm(text: str) -> Counters | None:
    lines = _lines_with("SpecDecoding metrics", text)
    if not lines:
        return None
    accepted = _all(r"Accepted: " + NUMBER + " tokens", lines)
    drafted = _all(r"Drafted: " + NUMBER + " tokens", lines)
    lengths = _all(r"Mean acceptance length: " + NUMBER, lines)
    rates = _all(r"[Dd]raft acceptance rate: " + NUMBER + r"\s*%", lines)
    positions = [_list(r"Per-position acceptance rate: " + LIST, line) for line in lines]
    known = [each for each in positions if each]
    if not (accepted and drafted) and not lengths and not known and not rates:
        raise SpecsimError("a line of 'SpecDecoding metrics' has none of the expected numbers")
    counted = len(accepted) == len(drafted) == len(lines)
    # a line covers drafted / gamma cycles, so its rates are weighted by its drafted tokens
    weights = drafted if counted and sum(drafted) > 0 else [1.0] * len(lines)
    return Counters(
        engine="vllm",
        accepted=sum(accepted) if counted else None,
        drafted=sum(drafted) if counted else None,
        accepted_per_drafted=_mean(rates, weights, 0.01),
        tokens_per_cycle=_mean(lengths, weights),
        survival=_mean_vector(known, weights if len(known) == len(lines) else None),
    )


def _vllm_0(text: str) -> Counters | None:
    """vLLM 0: cycles = drafted / gamma, tokens per cycle = emitted / cycles."""
    found: tuple[str, str, str] | None = None
    for line in _lines_with("Number of speculative tokens: ", text):
        found = _last_of_line(line) or found
    if found is None:
        return None
    gamma, drafted, emitted = found  # the counts are cumulative: the last line holds the totals
    cycles = float(drafted) / float(gamma) if float(gamma) else 0.0
    if not cycles or not emitted:
        raise SpecsimError("vLLM's 'Speculative metrics' line counts no emitted tokens")
    return Counters(
        engine="vllm-0",
        gamma=float(gamma),
        cycles=cycles,
        drafted=float(drafted),
        tokens_per_cycle=float(emitted) / cycles,
    )


def _last_of_line(line: str) -> tuple[str, str, str] | None:
    """gamma, drafted and emitted tokens of the last metrics in a line; "" if none are emitted."""
    counts = re.findall(rf"Number of (speculative|draft|emitted) tokens: ({DIGITS})", line)
    last_emitted = max((i for i, (name, _) in enumerate(counts) if name == "emitted"), default=-1)
    found: tuple[str, str, str] | None = None
    gamma = drafted = ""
    for index, (name, count) in enumerate(counts):
        if not gamma:
            gamma = count if name == "speculative" else ""
        elif not drafted and name == "draft":
            drafted = count
        if drafted and (name == "emitted" or index > last_emitted):
            found = (gamma, drafted, count if name == "emitted" else "")
            gamma = drafted = ""
    return found


def _prometheus(text: str) -> Counters | None:
    def total(name: str) -> float | None:
        pattern = rf"^vllm:spec_decode_num_{name}(?:_total)?(?:\{{[^}}\n]*\}})?[ \t]+{NUMBER}"
        values = re.findall(pattern, text, flags=re.MULTILINE)
        return sum(map(float, values)) if values else None

    cycles, drafted, accepted = (
        total(name) for name in ("drafts", "draft_tokens", "accepted_tokens")
    )
    if accepted is None or drafted is None:
        return None
    pattern = rf"accepted_tokens_per_pos(?:_total)?\{{([^{{}}\n]*)\}}[ \t]+{NUMBER}"
    by_position: dict[int, float] = {}
    for labels, value in re.findall(pattern, text):
        if label := re.search(r'position="(\d{1,9})"', labels):
            position = int(label[1])
            require_limit("gamma", position, "a position in the log")
            by_position[position] = by_position.get(position, 0.0) + float(value)
    survival = None
    if by_position and cycles:
        survival = tuple(by_position.get(k, 0.0) / cycles for k in range(max(by_position) + 1))
    return Counters(
        engine="vllm", accepted=accepted, drafted=drafted, cycles=cycles, survival=survival
    )


def _llama_cpp(text: str) -> Counters | None:
    """llama-server, one line per request: accepted and drafted; newer versions add the lengths."""
    lines = _lines_with("draft acceptance", text)
    pairs = [
        re.search(rf"\(\s*{NUMBER}\s+accepted\s*/\s*{NUMBER}\s+generated\s*\)", line)
        for line in lines
    ]
    if not lines or not all(pairs):
        return None
    accepted = [float(pair[1]) for pair in pairs if pair]
    drafted = [float(pair[2]) for pair in pairs if pair]
    lengths = _all(r"mean acceptance length\s*=\s*" + NUMBER, lines)
    # the rates of a request are weighted by its cycles: accepted / (mean length - 1)
    full = len(lengths) == len(lines)
    cycles = (
        [a / (m - 1) if m > 1 else 1.0 for a, m in zip(accepted, lengths, strict=True)]
        if full
        else None
    )
    positions = [_list(r"acceptance rate per position\s*=\s*" + LIST, line) for line in lines]
    known = [each for each in positions if each]
    return Counters(
        engine="llama.cpp",
        accepted=sum(accepted),
        drafted=sum(drafted),
        tokens_per_cycle=_mean(lengths, cycles),
        survival=_mean_vector(known, cycles if len(known) == len(lines) else None),
    )


def _llama_cpp_example(text: str) -> Counters | None:
    """The summary of llama-speculative: n_draft (the largest gamma), n_drafted, n_accept."""
    drafted = re.findall(r"n_drafted\s*=\s*" + NUMBER, text)
    accepted = re.findall(r"n_accept(?:ed)?\s*=\s*" + NUMBER, text)
    if not drafted or len(drafted) != len(accepted):
        return None
    return Counters(
        engine="llama.cpp", accepted=sum(map(float, accepted)), drafted=sum(map(float, drafted))
    )


def _sglang(text: str) -> Counters | None:
    lengths = [float(v) for v in re.findall(r"[Aa]ccept len(?:gth)?\s*[:=]\s*" + NUMBER, text)]
    if not lengths:
        return None
    rates = [float(v) for v in re.findall(r"[Aa]ccept rate\s*[:=]\s*" + NUMBER, text)]
    return Counters(
        engine="sglang",
        tokens_per_cycle=_mean(lengths, None),
        accepted_per_drafted=_mean(rates, None),
    )


def _json(text: str) -> Counters | None:
    """JSON: llama-server's `timings`, SGLang's `meta_info`, or the `statistics` of `reference`."""
    values: dict[str, float] = {}
    names = "draft_n|draft_n_accepted|accepted|drafted|cycles|spec_accept_rate|spec_accept_length"
    for name, value in re.findall(rf"[\"']({names})[\"']\s*:\s*{NUMBER}", text):
        values[name] = float(value)
    accepted = values.get("draft_n_accepted", values.get("accepted"))
    drafted = values.get("draft_n", values.get("drafted"))
    if accepted is not None and drafted is not None:
        engine = "llama.cpp" if "draft_n" in values else None
        return Counters(engine, accepted=accepted, drafted=drafted, cycles=values.get("cycles"))
    if "spec_accept_length" in values:
        return Counters(
            "sglang",
            tokens_per_cycle=values["spec_accept_length"],
            accepted_per_drafted=values.get("spec_accept_rate"),
        )
    return None


def _lines_with(mark: str, text: str) -> list[str]:
    """The lines that hold `mark`, without making a list of all lines."""
    lines, start = [], 0
    while (at := text.find(mark, start)) >= 0:
        first = text.rfind("\n", start, at) + 1 or start
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        lines.append(text[first:end])
        require_limit("log_lines", len(lines), f"the lines with {mark!r}")
        start = end
    return lines


def _all(pattern: str, lines: Iterable[str]) -> list[float]:
    found = (re.search(pattern, line) for line in lines)
    return [float(match[1]) for match in found if match]


def _list(pattern: str, line: str) -> tuple[float, ...] | None:
    match = re.search(pattern, line)
    if match is None:
        return None
    require_limit("gamma", match[1].count(",") + 1, "the number of positions in the log")
    return tuple(float(part) for part in match[1].split(","))


def _mean(values: list[float], weights: list[float] | None, unit: float = 1.0) -> float | None:
    if not values:
        return None
    if weights is None or len(weights) != len(values) or not sum(weights) > 0:
        weights = [1.0] * len(values)
    total = sum(v * w for v, w in zip(values, weights, strict=True))
    return unit * total / sum(weights)


def _mean_vector(
    vectors: list[tuple[float, ...]], weights: list[float] | None
) -> tuple[float, ...] | None:
    if not vectors:
        return None
    if weights is None or len(weights) != len(vectors) or not sum(weights) > 0:
        weights = [1.0] * len(vectors)
    totals = [0.0] * max(map(len, vectors))
    for vector, weight in zip(vectors, weights, strict=True):
        for position, value in enumerate(vector):  # a position that is absent counts as 0
            totals[position] += value * weight
    weight_of_all = sum(weights)
    return tuple(total / weight_of_all for total in totals)
