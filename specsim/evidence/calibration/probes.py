"""What was timed: the probes of one machine, whose host is its device (a CPU)."""

from dataclasses import dataclass, replace

from specsim.architecture import Architecture


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """A stack of `kernels` matrix products, `weight_bytes` in all, of `rows` rows: `seconds`.

    `format` is that of weights in fewer bits than those of the models; empty for theirs.
    """

    weight_bytes: float
    kernels: int
    rows: int
    seconds: float
    format: str = ""


@dataclass(frozen=True, slots=True)
class AttentionProbe:
    """One attention product of `rows` query rows over `context` cached tokens: keys and values of
    its own, `kv_bytes` in all, which no cache of the processor holds.

    `format` is that of weights beside which a cache is of this kind; empty for the probes' own.
    """

    context: int
    rows: int
    kv_bytes: float
    flops: float
    seconds: float
    format: str = ""


@dataclass(frozen=True, slots=True)
class StageProbe:
    """The seconds of one stage of a decoding cycle of a probe pair, with `gamma` drafted tokens.

    `stage` is "draft" (gamma passes of the draft, the first of two rows, and gamma draws), "verify"
    (one pass of the target, gamma + 1 rows) or "host" (the rest of the cycle); or "begin", the part
    of the host's in which a cycle without drafts begins; or "lookup", beginning and finding drafts
    in the text. `architecture` is the model that runs in this stage, its weights stored in `format`
    (empty: the probes' own).
    `filtered`: tokens are drawn from a nucleus, for which the likeliest tokens are sorted;
    `greedy`: the likeliest is taken.
    """

    stage: str
    architecture: Architecture
    gamma: int
    context: int
    seconds: float
    batch: int = 1
    filtered: bool = False
    format: str = ""
    greedy: bool = False

    @property
    def passes(self) -> list[int]:
        """The rows of each pass in this stage."""
        if self.stage == "verify":
            return [self.gamma + 1]
        return [2] + [1] * (self.gamma - 1) if self.stage == "draft" else []


@dataclass(frozen=True, slots=True)
class Probes:
    """All timings of one machine; `flops_per_s`, `bandwidth_bytes_per_s`: the highest reached."""

    machine: str
    precision: str
    bandwidth_bytes_per_s: float
    flops_per_s: float
    linear: tuple[LinearProbe, ...]
    attention: tuple[AttentionProbe, ...]
    stages: tuple[StageProbe, ...]
    sorted_at_once: int = 1  # distributions: so many threads share what is sorted
    halves: tuple["Probes", ...] = ()  # the same from the first and the second half of the rounds

    @property
    def formats(self) -> list[str]:
        """The formats of weights that were timed beside the models' own."""
        return sorted({probe.format for probe in self.linear} - {""})

    def of_format(self, name: str) -> "Probes":
        """The probes of weights in one format; the empty name means the models' own."""
        linear = tuple(probe for probe in self.linear if probe.format == name)
        attention = tuple(probe for probe in self.attention if probe.format == name)
        stages = tuple(probe for probe in self.stages if probe.format == name)
        return replace(self, linear=linear, attention=attention, stages=stages)
