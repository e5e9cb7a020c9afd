"""specsim measure-server: send a load to a server of the OpenAI protocol, measure its answers."""

import argparse
import json
import textwrap
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from specsim import __version__, serving
from specsim.checks import SpecsimError, one_line
from specsim.checks.columns import WIDTH, fit
from specsim.cli.load import add_traffic, loads_of
from specsim.cli.parser import Commands
from specsim.cli.progress import StatusLine, bar
from specsim.evidence import client
from specsim.evidence.client.address import Key, address_of
from specsim.evidence.client.arrays import METRICS
from specsim.evidence.client.measuring import require_run
from specsim.evidence.client.prompts import is_lengths
from specsim.evidence.served import CONVENTIONS

REQUESTS = 100
PROMPTS = (
    "tokens of a prompt: fixed, lognormal, or drawn from a file with a length per line; or a file "
    "with a prompt per line, or JSON lines with prompt, messages, output_tokens"
)
STATISTICS = ("mean", "median", "p90", "p95", "p99")
ROWS = {
    "ttft": ("TTFT (ms)", "ttft"),
    "tpot": ("TPOT (ms)", "tpot"),
    "itl": ("ITL, between chunks (ms)", "chunk_gap"),
    "e2el": ("end to end (ms)", "e2e"),
}
FAILED, INTERRUPTED = 1, 130  # exit status: nothing was answered, or the server is gone; Ctrl-C


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "measure-server",
        help="measure a running server of the OpenAI protocol: latencies, tokens, acceptance",
        description="Send a load to a running server and measure its answers. Nothing else is "
        "contacted. A key is read from SPECSIM_API_KEY or OPENAI_API_KEY, and written nowhere. "
        "Exit status: 0 measured, 1 the server went away or answered nothing, 2 a mistake, 130 "
        "interrupted; what was measured is printed and written in all but the third case.",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--url", required=True, help="its address, such as http://127.0.0.1:8000, up to /v1 or not"
    )
    parser.add_argument("--model", help="its name there (default: the first that it lists)")
    parser.add_argument(
        "--chat", action="store_true", help="ask /chat/completions instead of /completions"
    )
    add_traffic(parser, rates="", requests=REQUESTS, prompt=PROMPTS)
    asking = parser.add_argument_group("asking")
    asking.add_argument(
        "--timeout", type=float, default=600.0, metavar="S", help="of one request (default 600)"
    )
    asking.add_argument(
        "--temperature", type=float, metavar="T", help="of sampling (default: the server's own)"
    )
    asking.add_argument(
        "--ignore-eos", action="store_true",
        help="answers of full length: a field of vLLM, SGLang, llama.cpp and specsim's own server",
    )  # fmt: skip
    asking.add_argument(
        "--warmup", type=int, default=0, metavar="N", help="requests before, not counted (0)"
    )
    asking.add_argument(
        "--tokenizer", metavar="FILE",
        help="a tokenizer.json, or a folder with one: counts the tokens in the texts, too",
    )  # fmt: skip
    asking.add_argument(
        "--no-overhead", action="store_true",
        help="do not measure first what the client itself takes (a tenth of a second)",
    )  # fmt: skip
    asking.add_argument(
        "--dry-run", action="store_true", help="check all options, say what would be sent, and stop"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the result of vllm bench serve there"
    )
    parser.add_argument(
        "--save-detailed", action="store_true",
        help="add the lists per request of vllm bench serve to the JSON object",
    )  # fmt: skip
    schema = parser.add_argument_group(
        "a measured file", "for specsim compare FILE: what a client cannot see has to be said"
    )
    schema.add_argument("--measurement", type=Path, metavar="FILE", help="write it there")
    schema.add_argument("--device", help="what the server runs on")
    schema.add_argument("--target", help="its model: a name of the catalog, or a config.json")
    schema.add_argument("--draft", help="its draft, likewise")
    schema.add_argument("--method", help="how it drafts (default draft-model)")
    schema.add_argument("--precision", help="of its weights (default bf16)")
    schema.add_argument(
        "--gamma", type=int, help="drafted tokens per cycle (default: what its counters tell)"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status. Every option is checked before the server is
    contacted."""
    address = address_of(options.url)
    key = Key.of_environment()
    slo = serving.slo_of(options.slo)
    require_run(options.timeout, options.temperature, options.warmup)
    for name in ("model", "device"):
        value = getattr(options, name)
        if value is not None and (not value.strip() or not value.isprintable()):
            raise SpecsimError(f"--{name} must be a name, not {value[:60]!r}")
    if options.save_detailed and not (options.json or options.out):
        raise SpecsimError("--save-detailed needs --json or --out FILE, where its lists go")
    measured = _measured_file(options)
    for file in (options.out, options.measurement):
        if file:
            from specsim.checks.files import require_place  # rarely needed, slow to import

            require_place(file)
    load, written = load_of(options)
    chat = options.chat if address.chat is None else address.chat
    if any(each.is_chat for each in written) and not chat:
        raise SpecsimError(f"{options.prompt} holds messages: give --chat")
    tokenizer = client.tokenizer_of(options.tokenizer) if options.tokenizer else None
    if options.dry_run:
        return _dry(options, address.shown, load, written)
    open_many_files(options.concurrency or len(load))
    progress = Progress()
    found = client.measure_server(
        options.url, load, model=options.model, chat=chat, prompts=written, slo=slo.limits,
        timeout_s=options.timeout, temperature=options.temperature, ignore_eos=options.ignore_eos,
        warmup=options.warmup, tokenizer=tokenizer, tokenizer_name=options.tokenizer,
        overhead=not options.no_overhead, key=key, progress=progress,
    )  # fmt: skip
    progress.end()
    if options.out:
        from specsim.checks.files import write_json  # rarely needed, slow to import

        document = found.to_json(options.save_detailed) | {"version": __version__}
        write_json(options.out, document)
    if options.json:
        document = found.to_json(options.save_detailed) | {"version": __version__}
        print(json.dumps(document, allow_nan=False))
    else:
        print(*lines(found), sep="\n")
        if options.out:
            print(f"wrote {options.out}")
    if options.measurement and found.completed.any():
        client.measurement_of(found, **measured).write(options.measurement)
    return status_of(found)


def status_of(found: client.ServerRun) -> int:
    """The exit status of a run: whether it was ended early, and whether anything was answered."""
    if found.stopped == "interrupted":
        return INTERRUPTED
    return FAILED if found.stopped is not None or not found.completed.any() else 0


def load_of(options: argparse.Namespace) -> tuple[serving.Traffic, tuple[client.Written, ...]]:
    """The traffic of the options, and the prompts of a file, if --prompt names one of prompts."""
    if options.rate is not None and "," in options.rate:
        raise SpecsimError("--rate takes one rate: measure one after another")
    written: tuple[client.Written, ...] = ()
    if options.prompt is not None and options.trace is None and _names_prompts(options.prompt):
        written = client.written_prompts(options.prompt)
        options = argparse.Namespace(**vars(options))
        options.prompt = "1"
        if options.requests is None:
            options.requests = len(written)
    (asked,) = loads_of(options)
    if asked.requests is None and asked.trace is None:
        asked = replace(asked, requests=REQUESTS)
    load = asked.traffic()
    if not written:
        return load, ()
    told = [written[k % len(written)].output_tokens for k in range(len(load))]
    outputs = [mine or drawn for mine, drawn in zip(told, load.output_tokens.tolist(), strict=True)]
    unknown = np.zeros(len(load), dtype=np.int64)
    return replace(load, input_tokens=unknown, output_tokens=np.array(outputs)), written


def _names_prompts(text: str) -> bool:
    """Whether --prompt names a file of prompts, not a length or a file of lengths."""
    with suppress(ValueError):
        [float(word) for word in text.split(",")]
        return False
    from specsim.checks.files import read_text  # rarely needed, slow to import

    content = read_text(text, "log_bytes")
    start = content.lstrip()[:400]
    return not (is_lengths(content) or (start[:1] == "{" and '"lengths"' in start))


def _measured_file(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `measurement_of`, with what its options name looked up."""
    given = ("device", "target", "draft", "method", "precision", "gamma")
    if options.measurement is None:
        for name in given:
            if getattr(options, name) is not None:
                raise SpecsimError(f"--{name} has a use with --measurement FILE alone")
        return {}
    if options.device is None or options.target is None:
        raise SpecsimError("--measurement needs --device and --target: a client cannot see them")
    from specsim import catalog, model
    from specsim.checks.limits import require_limit
    from specsim.operators import PRECISIONS

    precision = options.precision or "bf16"
    if precision not in PRECISIONS:
        raise SpecsimError(f"--precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if options.method is not None:
        catalog.lookup("methods", options.method)
    if options.gamma is not None:
        require_limit("gamma", options.gamma, "--gamma")
        if options.gamma < 0:
            raise SpecsimError(f"--gamma must be at least 0, got {options.gamma}")
    draft = None if options.draft is None else model(options.draft)
    return {"device": options.device, "target": model(options.target), "draft": draft,
            "method": options.method, "precision": precision, "gamma": options.gamma}  # fmt: skip


def _dry(
    options: argparse.Namespace,
    shown: str,
    load: serving.Traffic,
    written: tuple[client.Written, ...],
) -> int:
    """Say what would be sent."""
    document = {
        "base_url": shown, "num_prompts": len(load), "max_concurrency": load.concurrency,
        "request_rate": load.rate if np.isfinite(load.rate) else "inf",
        "last_arrival_s": float(load.arrival_s[-1]),
        "mean_input_tokens": None if written else float(load.input_tokens.mean()),
        "mean_output_tokens": float(load.output_tokens.mean()), "version": __version__,
    }  # fmt: skip
    if options.json:
        print(json.dumps(document, allow_nan=False))
        return 0
    read = (
        "the prompts of a file" if written else f"prompts of {load.input_tokens.mean():.1f} tokens"
    )
    said = (
        f"{shown}, {load_words(load)}; {read} and answers of {load.output_tokens.mean():.1f} "
        "tokens on average: nothing is sent"
    )
    print(*fit([said]), sep="\n")
    return 0


def load_words(load: client.ClientLoad) -> str:
    """How the requests come, in words."""
    count = len(load.arrival_s)
    said = f"{count:,} request{'' if count == 1 else 's'}"
    if np.isfinite(load.rate):
        said += f", {load.rate:g} per second"
        if not np.isfinite(load.burstiness):
            said += " (evenly)"
        elif load.burstiness != 1.0:
            said += f" (burstiness {load.burstiness:g})"
    if load.concurrency is not None:
        at_most = "at most " if np.isfinite(load.rate) else ""
        return f"{said}, {at_most}{load.concurrency} at a time"
    return said if np.isfinite(load.rate) else f"{said}, all at once"


def lines(found: client.ServerRun) -> list[str]:
    """One run for a person, in 80 columns; what was measured comes first."""
    summary, done = found.summary, int(found.completed.sum())
    engine = f" ({found.engine})" if found.engine else ""
    kind = {"words": " of random words", "token ids": " of random token ids"}.get(found.prompts, "")
    said = [
        f"{found.url}{'/chat/completions' if found.chat else '/completions'}, model "
        f"{one_line(found.model)}{engine}",
        load_words(found.load),
    ]
    if done:
        said.append(
            f"prompts{kind}: {summary['total_input_tokens'] / done:.1f} tokens; answers: "
            f"{summary['total_output_tokens'] / done:.1f} tokens"
        )
    good = ""
    if found.slo:
        limits = ", ".join(f"{name.upper()} {most:g} ms" for name, most in found.slo.items())
        good = f"; {summary['request_goodput']:.2f} good/s ({limits})"
    said.append(
        f"{done:,} completed, {summary['failed']:,} failed in {summary['duration']:.2f} s: "
        f"{summary['request_throughput']:.2f} requests/s, "
        f"{summary['output_throughput']:.1f} tokens/s{good}"
    )
    said = [part for line in said for part in textwrap.wrap(line, WIDTH) or [""]]
    if found.stopped is not None:
        said.insert(0, f"PARTIAL RESULT: {one_line(found.stopped)}"[:WIDTH])
    if done:
        said += _table(found)
    for reason, count in list(found.failures.items())[:8]:
        said += _item(f"failed: {count:,} x {one_line(reason)}")
    return said + [part for sentence in found.findings for part in _item(one_line(sentence))]


def _table(found: client.ServerRun) -> list[str]:
    summary = found.summary
    said = [f"{'':27s}" + "".join(f"{name:>10s}" for name in STATISTICS)]
    for metric in METRICS:
        values = [summary[f"{name}_{metric}_ms"] for name in STATISTICS]
        if any(value is not None for value in values):
            cells = "".join(f"{'-' if v is None else f'{v:.2f}':>10s}" for v in values)
            said.append(f"{ROWS[metric][0]:27s}{cells}")
    conventions = "; ".join(
        f"{name.upper()} {CONVENTIONS[ROWS[name][1]]}" for name in ("ttft", "tpot", "itl")
    )
    said += textwrap.wrap(f"as vllm bench serve: {conventions}", WIDTH)
    counts = {
        "server's usage": "usage", "chunks with text": "chunks", "tokenizer": "text",
        "server's counter": "server",
    }  # fmt: skip
    shown = [f"{name} {found.token_counts[key]:,.0f}" for name, key in counts.items()
             if found.token_counts[key] is not None]  # fmt: skip
    said += textwrap.wrap(f"tokens of the answers: {', '.join(shown)}", WIDTH)
    if found.counters is not None:
        length, rate = (summary.get(f"spec_decode_acceptance_{n}") for n in ("length", "rate"))
        parts = [] if length is None else [f"{length:.3f} tokens per cycle"]
        parts += [] if rate is None else [f"{rate:.1f} % of drafted tokens accepted"]
        drafts = summary.get("spec_decode_num_drafts")
        parts += [] if drafts is None else [f"{drafts:,.0f} drafts"]
        said += textwrap.wrap(f"speculation, by its counters: {', '.join(parts)}", WIDTH)
    own = found.overhead
    if own is not None:
        busy = "" if found.busy is None else f"; busy {found.busy:.0%} of this run"
        said += textwrap.wrap(
            f"the client itself: {own.first_s * 1e3:.2f} ms to a first chunk, "
            f"{own.chunks_per_s:,.0f} chunks/s at most{busy}", WIDTH,
        )  # fmt: skip
    return said


def _item(sentence: str) -> list[str]:
    return textwrap.wrap(f"- {sentence}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)


class Progress:
    """How far the run is."""

    def __init__(self) -> None:
        self.status = StatusLine()

    def __call__(self, ended: int, total: int, failed: int) -> None:
        if self.status.is_due():
            bad = f", {failed:,} failed" if failed else ""
            self.status.write(
                f"{bar(ended / total)}, {ended:,} of {total:,} requests{bad}, "
                f"{self.status.seconds:.0f} s"
            )

    def end(self) -> None:
        """Clear the line."""
        self.status.end()


def open_many_files(streams: int) -> None:
    """Let this process open a connection for each stream, where the system lets it."""
    with suppress(ImportError, ValueError, OSError):
        import resource  # not on Windows

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = streams + 128
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
