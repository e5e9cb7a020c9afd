"""What LM Studio and MLX tell: accepted drafts as a share of the generated tokens.

A cycle generates its accepted drafts and one token more, so with a share f of the tokens from the
draft there are 1 / (1 - f) tokens per cycle. Sources: LM Studio's SDK (`LLMPredictionStats`) and
the line below an answer in its window; mlx_lm's `GenerationResponse.from_draft`.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from specsim.evidence.counters import Counters
from specsim.evidence.served.accounts import Account, printed
from specsim.evidence.served.tally import Tally
from specsim.evidence.served.text import DIGITS, float_of

_NAMES = ("predicted_tokens_count", "accepted_draft_tokens_count", "rejected_draft_tokens_count",
          "ignored_draft_tokens_count", "total_draft_tokens_count")  # fmt: skip


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)


ANSWERS = (*_NAMES, *map(_camel, _NAMES))


def answers(records: Iterable[dict[str, str]]) -> Counters | None:
    """LM Studio's statistics of answers, added."""
    tally = Tally("LM Studio's statistics of answers", "lm-studio")
    for record in records:
        predicted, accepted, rejected, ignored, drafted = (
            float_of(record, name, _camel(name)) for name in _NAMES
        )
        if accepted is None:
            continue
        if predicted is None:
            tally.leave_out("a record has no predictedTokensCount")
            continue
        parts = None if rejected is None else accepted + rejected + (ignored or 0.0)
        if parts is not None and drafted is not None and abs(parts - drafted) > 0.5:
            tally.leave_out(
                f"accepted, rejected and ignored drafts add up to {parts:g}, not to {drafted:g}"
            )
            continue
        drafts = drafted if drafted is not None else parts
        tally.add(Account(accepted=accepted, drafted=drafts, cycles=predicted - accepted))
    return tally.total()


SHARE = re.compile(
    rf"Accepted\s{{1,9}}({DIGITS})\s{{0,3}}/\s{{0,3}}({DIGITS})\s{{1,9}}(draft )?tokens"
)
PERCENT = re.compile(r" {0,3}\((\d{1,3}\.\d{1,3})%\)")
GENERATED = re.compile(rf"(?<![\d./])({DIGITS}) tokens\b")


def share_lines(text: str) -> Counters | None:
    """`Accepted 221/402 draft tokens`: in spite of its name, of the generated tokens."""
    tally = Tally("LM Studio's lines of answers", "lm-studio")
    unsure = False
    for match in SHARE.finditer(text):
        before = text[max(0, match.start() - 300) : match.start()].rpartition("\n")[2]
        accepted, of = float(match[1]), float(match[2])
        generated = GENERATED.findall(before)
        told = float(generated[-1]) if generated else None
        percent = PERCENT.match(text, match.end())
        if percent and of and not printed(percent[1], 0.01).agrees(accepted / of):
            tally.leave_out(f"{accepted:g} of {of:g} are not {percent[1]} %")
        elif accepted > of or (told is not None and accepted > told):
            tally.leave_out(f"{accepted:g} accepted tokens of {min(of, told or of):g}")
        elif told is None or told == of:
            unsure = unsure or (told is None and match[3] is not None)
            tally.add(Account(accepted=accepted, cycles=of - accepted))
        else:
            tally.add(Account(accepted=accepted, drafted=of, cycles=told - accepted))
    total = tally.total()
    if total is not None and unsure:
        said = (
            "The line does not say how many tokens were generated. LM Studio divides by those, "
            "and so it is read; if it divides by the drafted tokens, give --accepted, --drafted "
            "and --cycles."
        )
        total = replace(total, cautions=(*total.cautions, said))
    return total


FLAG = re.compile(r"[\"']?from_draft[\"']?\s{0,4}[:=]\s{0,4}(true|false)", re.IGNORECASE)


def flags(text: str) -> Counters | None:
    """mlx_lm's responses, one a token: `from_draft` tells which came from the draft."""
    if "from_draft" not in text:
        return None
    told = [flag.lower() == "true" for flag in FLAG.findall(text)]
    if not told:
        return None
    tally = Tally("mlx_lm's tokens", "mlx")
    accepted = float(sum(told))
    tally.add(Account(accepted=accepted, cycles=len(told) - accepted))
    return tally.total()
