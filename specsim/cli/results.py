"""specsim compare --results: served runs of any tool, compared with a prediction of their cycle and
a simulation of their load."""

import argparse
import json
from dataclasses import dataclass, replace
from typing import Any

from specsim import __version__, serving
from specsim.acceptance import IID, PerPosition, alpha_from_tokens_per_cycle
from specsim.checks import SpecsimError
from specsim.checks.columns import INDENT, WIDTH, fit
from specsim.checks.files import read_ascii
from specsim.cli.options import scenario_of
from specsim.cli.progress import working
from specsim.drafting import DraftModel
from specsim.evidence.comparison.served import ServedComparison, ServedRow, compare_run
from specsim.evidence.diagnosis import Diagnosis, diagnose
from specsim.evidence.served import CONVENTIONS, ServedRun, read_runs
from specsim.planning.prefill import time_to_first_token
from specsim.prediction import Prediction
from specsim.scenario import Resolved, Scenario, resolve

ENGINES = {"vllm-0": "vllm"}  # by the name of who counted: its name in the catalog
KNOWN = ("vllm", "sglang", "llama.cpp", "tensorrt-llm")
MOST_FILES = 1000
# of a run that is simulated: requests, tokens of one, and tokens that are written in all
MOST_SIMULATED, MOST_TOKENS, MOST_WRITTEN = 5000, 131_072, 2_000_000


@dataclass(frozen=True, slots=True)
class Told:
    """One run with its acceptance, the scenario that it was predicted as, and what is doubtful."""

    file: str
    run: ServedRun
    diagnosis: Diagnosis | None
    scenario: Scenario | None
    comparison: ServedComparison
    prediction: Prediction | None
    simulated: serving.Served | None
    findings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        told = self.diagnosis
        names = ("tokens_per_cycle", "accepted_per_drafted", "alpha", "gamma", "survival")
        return {
            "file": self.file,
            "run": self.run.to_json(),
            "acceptance": None if told is None else {n: told.to_json()[n] for n in names},
            "predicted_as": self.predicted_as,
            "simulated": None if self.simulated is None else self.simulated.summary,
            "rows": [row.to_json() for row in self.comparison.rows],
            "factors": self.comparison.factors,
            "largest_factor": self.comparison.largest,
            "reading": self.comparison.reading,
            "findings": list(self.findings),
        }

    @property
    def predicted_as(self) -> dict[str, Any] | None:
        """The scenario of the prediction, and its batch, which need not be whole."""
        if self.scenario is None or self.prediction is None:
            return None
        names = ("target", "accelerator", "engine", "method", "draft", "gamma", "context")
        named = {name: getattr(self.scenario, name) for name in names}
        return named | {"batch": float(self.prediction.batch)}


def run_results(options: argparse.Namespace) -> int:
    """Compare the files of `--results` and return the exit status."""
    if len(options.results) > MOST_FILES:
        raise SpecsimError(f"--results takes at most {MOST_FILES:,} files")
    told: list[Told] = []
    for file in options.results:
        for run in read_runs(read_ascii(file, "log_bytes"), file):
            with working(f"predicting and simulating {file}"):
                told.append(tell(options, file, run))
    if options.json:
        document = {"results": [each.to_json() for each in told], "version": __version__}
        print(json.dumps(document, allow_nan=False))
    else:
        for each in told:
            print(*fit(lines(each)), sep="\n")
    return 0


def tell(options: argparse.Namespace, file: str, run: ServedRun) -> Told:
    """One run, with its prediction where the options name a target."""
    found = None if run.counters is None else diagnose(run.counters)
    findings = [*run.cautions, *(run.counters.cautions if run.counters else ())]
    tokens = None if found is None else found.tokens_per_cycle
    scenario, prediction, first, simulated = None, None, None, None
    if options.target is None:
        findings.append("For a prediction give --target, --accelerator, and --draft or --method.")
    elif run.decoding is None and options.batch is None:
        findings.append("No prediction: the run does not tell its mean batch; give --batch.")
    else:
        scenario = scenario_for(options, run, found, findings)
    if scenario is not None:
        resolved = resolve(scenario)
        batch = float(scenario.batch) if options.batch else max(1.0, run.decoding or 1.0)
        prediction = resolved.predict(gamma=scenario.gamma or 0, batch=batch)
        first = first_token_s(resolved, run)
        simulated = simulation_of(resolved, run, findings)
    metrics = None if simulated is None else simulated.metrics
    comparison = compare_run(run, prediction, first, tokens, metrics)
    return Told(file, run, found, scenario, comparison, prediction, simulated, tuple(findings))


def simulation_of(resolved: Resolved, run: ServedRun, findings: list[str]) -> serving.Served | None:
    """The load of a run, simulated; None, with a finding, where the run does not tell it."""
    prompt, output, count = run.mean_input, run.mean_output, run.completed
    rate, users = run.request_rate, run.max_concurrency
    if not prompt or not output or not count or prompt < 1 or output < 1:
        findings.append("Not simulated: the run does not tell its requests and their tokens.")
        return None
    if not rate and not users:
        findings.append("Not simulated: the run tells neither a request rate nor a concurrency.")
        return None
    if prompt + output > MOST_TOKENS:
        findings.append(f"Not simulated: its requests are longer than {MOST_TOKENS:,} tokens.")
        return None
    scenario = resolved.scenario
    chain: serving.Accepting | None = None
    if resolved.drafter is not None:
        if scenario.tokens_per_cycle is not None:
            gamma = scenario.gamma or 1
            alpha = alpha_from_tokens_per_cycle(scenario.tokens_per_cycle, gamma)
            chain = serving.Accepting(IID(alpha), of_cycles=True)
        elif scenario.survival:
            chain = serving.Accepting(PerPosition(scenario.survival), of_cycles=True)
        else:
            chain = serving.Accepting(IID(scenario.alpha or 0.0))
    try:
        load = serving.traffic(
            rate=rate or None,
            concurrency=max(1, round(users)) if users else None,
            requests=max(1, min(count, MOST_SIMULATED, int(MOST_WRITTEN / output))),
            prompt=serving.Lengths(prompt),
            output=serving.Lengths(output),
        )
        server = serving.Server(
            target=resolved.target, drafter=resolved.drafter, system=resolved.system
        )
        found = serving.simulate(
            server, load, policy=f"fixed:{scenario.gamma or 0}", acceptance=chain
        )
    except SpecsimError as error:
        findings.append(f"Not simulated: {error}.")
        return None
    findings.append(
        "The simulation takes the mean lengths for every request, one acceptance for all of them, "
        "vLLM's default limits (256 sequences, 2,048 tokens a pass), an empty prefix cache, and no "
        "time of client, network and tokeniser: the run does not tell those."
    )
    findings += found.sentences
    return found


def scenario_for(
    options: argparse.Namespace, run: ServedRun, found: Diagnosis | None, findings: list[str]
) -> Scenario | None:
    """The scenario of a run's mean decode step; None, with a finding, where the run leaves open how
    it drafted. Options replace what the run tells."""
    counted = run.counters.engine if run.counters else run.engine
    engine = ENGINES.get(counted or "", counted)
    batch = options.batch or max(1, round(run.decoding or 1))
    context = options.context or (None if run.context is None else max(1, round(run.context)))
    if context is None:
        context = 1024
        findings.append("The run does not tell its context: 1,024 is assumed; --context sets it.")
    scenario = scenario_of(
        options,
        engine=options.engine or (engine if engine in KNOWN else "cuda-graphs"),
        batch=batch,
        context=context,
        gamma=None,
    )
    drafts = scenario.draft is not None or scenario.method is not None
    gamma = options.gamma
    if found is None and not scenario.acceptance:
        if drafts:
            findings.append(
                "The run has no counters of speculation: it is predicted as plain decoding. If it "
                "speculated, give --alpha (or --survival) and --gamma."
            )
        return replace(scenario, draft=None, method=None, draft_precision=None,
                       draft_tensor_parallel=None)  # fmt: skip
    if not drafts:
        findings.append("No prediction: the run speculates; say how by --draft or --method.")
        return None
    if gamma is None and found is not None and found.gamma is not None:
        gamma = max(1, round(found.gamma))
    if gamma is None:
        findings.append(
            "No prediction: the run does not tell how many tokens it drafts; give --gamma."
        )
        return None
    if scenario.acceptance:
        return replace(scenario, gamma=gamma)
    assert found is not None
    if found.tokens_per_cycle is None:
        findings.append(
            "No prediction: tokens per cycle are not known; give --alpha or --survival."
        )
        return None
    if found.survival is not None and len(found.survival) == gamma:
        return replace(scenario, gamma=gamma, survival=found.survival)
    return replace(scenario, gamma=gamma, tokens_per_cycle=min(found.tokens_per_cycle, gamma + 1.0))


def first_token_s(resolved: Resolved, run: ServedRun) -> float | None:
    """The prefill of a mean prompt alone at an idle engine; None if the run tells no prompts."""
    if run.mean_input is None or run.mean_input < 1:
        return None
    drafter = resolved.drafter
    draft = drafter.architecture if isinstance(drafter, DraftModel) else None
    found = time_to_first_token(
        resolved.target, resolved.system, prompt=run.mean_input, draft=draft
    )
    return float(found.total_s)


TITLES = {
    "output_tokens_per_s": "output tokens per second",
    "tokens_per_cycle": "tokens per cycle",
}


def lines(told: Told) -> list[str]:
    """The report of one run for a person."""
    run = told.run
    facts = [
        run.tool,
        f"model {run.model}" if run.model else "",
        f"{run.completed} requests" if run.completed is not None else "",
        f"{run.failed} failed" if run.failed else "",
        f"{run.duration_s:.2f} s" if run.duration_s is not None else "",
        f"{run.decoding:.2f} sequences decode at a time" if run.decoding is not None else "",
    ]
    said = [f"{told.file}: {', '.join(fact for fact in facts if fact)}"]
    found = told.diagnosis
    if found is not None:
        rates = {
            "tokens per cycle": found.tokens_per_cycle,
            "accepted / drafted": found.accepted_per_drafted,
            "alpha": found.alpha,
        }
        shown = [f"{name} {value:.3f}" for name, value in rates.items() if value is not None]
        said.append(f"  acceptance: {', '.join(shown)}")
    if told.scenario is not None and told.prediction is not None:
        as_ = told.scenario
        how = f"gamma {as_.gamma}" if as_.gamma else "plain decoding"
        said.append(
            f"  predicted as {as_.target} under {as_.engine}, {how}, batch "
            f"{float(told.prediction.batch):.3g}, context {as_.context}"
        )
    said += table(told)
    if told.comparison.factors:
        product = " x ".join(f"{f:.2f} ({name})" for name, f in told.comparison.factors.items())
        said.append(f"  time per token, measured / predicted: {product}")
        said.append(f"  largest factor: {told.comparison.largest}: {told.comparison.reading}")
    conventions = [name for name in CONVENTIONS if name in run.latencies]
    said += [f"  {run.latencies[name].called}: {CONVENTIONS[name]}" for name in conventions]
    return said + [f"  - {sentence}" for sentence in told.findings] + [""]


def table(told: Told) -> list[str]:
    """A line for each quantity; two where its name leaves no room for the numbers."""
    titles = [title(row.metric, row.convention) for row in told.comparison.rows]
    if not titles:
        return []
    heads = f"{'measured':>11s}{'predicted':>11s}{'ratio':>7s}"
    if told.simulated is not None:
        heads += f"{'simulated':>11s}{'ratio':>7s}"
    room = WIDTH - len(INDENT) - len(heads)
    wide = min(max(map(len, titles)), room)
    said = [f"{INDENT}{'':{wide}s}{heads}"]
    for name, row in zip(titles, told.comparison.rows, strict=True):
        if len(name) > wide:
            said.append(INDENT + name)
            name = ""
        said.append(f"{INDENT}{name:{wide}s}{cells(row)}")
    return said


def title(metric: str, called: str | None) -> str:
    """What a person reads for a metric: the statistic, the tool's name, our convention."""
    if called is None:
        return TITLES[metric]
    statistic, _, convention = metric.removesuffix("_s").partition("_")
    alone = ", no waiting" if convention == "ttft" else ""
    return f"{statistic} {called} ({convention}{alone})"


def cells(row: ServedRow) -> str:
    """Measured, predicted, simulated and their ratios, times in milliseconds."""
    is_time = row.metric.endswith("_s") and row.convention is not None
    scale, unit = (1e3, " ms") if is_time else (1.0, "   ")
    shown = f"{row.measured * scale:8.2f}{unit}"
    pairs = [(row.predicted, row.ratio)]
    if row.simulated is not None:
        pairs.append((row.simulated, row.simulated_ratio))
    for value, ratio in pairs:
        if value is None or ratio is None:
            shown += f"{'-':>11s}{'-':>7s}"
        else:
            shown += f"{value * scale:8.2f}{unit}{ratio:7.2f}"
    return shown
