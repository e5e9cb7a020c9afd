"""What a text holds that looks like counters of speculation, for the message that refuses it."""

import re
from itertools import islice

from specsim.checks import SpecsimError, quoted
from specsim.evidence.served.text import NUMBER, segments

NEEDED = (
    "what would be needed are the accepted tokens, the drafted tokens and the cycles "
    "(verifications of a sequence): --accepted N --drafted N --cycles N"
)
READ = (
    "specsim reads the logs, metrics and answers of vLLM, SGLang, llama.cpp, TensorRT-LLM, "
    "LM Studio and MLX, and results of vllm bench serve, SGLang's bench_serving and aiperf"
)
METRIC = re.compile(
    r"^([A-Za-z_][\w:]{0,120}?(?:spec|draft|accept)\w{0,120})(?:\{[^}\n]{0,2000}\})?"
    rf"[ \t]{{1,9}}{NUMBER}(?=\s|$)",
    re.MULTILINE | re.IGNORECASE,
)
WORD = re.compile(
    r"(\w{0,20}[ _]?\w{0,20}accept\w{0,60}(?:[ _]\w{1,30}){0,2}[\"']?\s{0,4}[:=]\s{0,4}"
    rf"{NUMBER})",
    re.IGNORECASE,
)
SHOWN = 3
LOOKED_AT = 200_000  # characters of each end of a text


def refusal(text: str) -> SpecsimError:
    """The error for a text with no counters that specsim knows: what it holds instead."""
    found = lookalike(text)
    if found is None:
        return SpecsimError(f"no speculation counters found; {READ}; {NEEDED}")
    return SpecsimError(
        f"no speculation counters of a known engine: found {found}, whose meaning is not known; "
        f"{NEEDED}"
    )


def lookalike(text: str) -> str | None:
    """What in a text looks like a counter of speculation; None if nothing does."""
    ends = text if len(text) < 2 * LOOKED_AT else text[:LOOKED_AT] + text[-LOOKED_AT:]
    found = list(dict.fromkeys(match[1] for match in METRIC.finditer(ends)))
    if found:
        return f"the metrics {', '.join(found[:SHOWN])}"
    for segment, before in islice(segments("ccept", ends), 200):
        match = WORD.search(before[-60:] + segment[:200])
        if match is not None:
            return quoted(match[1].strip())
    return None
