"""python -m reference generate | serve | calibrate | measure | train"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

METHODS = ("draft-model", "n-gram", "early-exit", "quantised-self", "ensemble", "head")
PRECISIONS = ("fp32", "bf16", "fp16")  # those of reference.machine, known without PyTorch


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit status, 2 after an error in one line."""
    options = build_parser().parse_args(arguments)
    try:
        return run(options)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


def run(options: argparse.Namespace) -> int:
    """Carry out a command; an error of the user's, or of the device's memory, is one line."""
    from specsim.checks import SpecsimError
    from specsim.checks.extras import needed

    try:
        with needed(*options.needs), group_of(options):
            return options.run(options)
    except SpecsimError as error:
        print(f"reference: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        from reference.memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        words = " ".join(str(error).split())[:300]
        print(f"reference: {options.device} is out of memory: {words}", file=sys.stderr)
        return 2


@contextmanager
def group_of(options: argparse.Namespace) -> Iterator[None]:
    """Set `options.device`, and `options.group`: with --tensor-parallel the processes that torchrun
    started, else None. Raises SpecsimError for options that do not go with several devices."""
    from reference.machine import device_named
    from specsim.checks import SpecsimError

    options.group = None
    if not getattr(options, "tensor_parallel", False):
        if getattr(options, "split_draft", False):
            raise SpecsimError("--split-draft needs --tensor-parallel")
        options.device = device_named(options.device)
        yield
        return
    from reference.tensor_parallel import joined

    with joined(options.device) as group:
        options.group, options.device = group, group.device
        told = {name: repr(value) for name, value in vars(options).items()}
        for own in ("run", "group", "device", "out"):  # of each process
            told.pop(own, None)
        group.agree("options", told)
        yield


class Parser(argparse.ArgumentParser):
    """Fails where its text cannot be written, as on a full disk; argparse would hide that."""

    def _print_message(self, message: str, file=None) -> None:
        print(message, end="", file=file or sys.stderr)


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = Parser(prog="python -m reference", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(run=run, needs=("the decoder", "reference"))
        sub.add_argument("--device", help="cpu, cuda or mps; default: the GPU if there is one")
        sub.add_argument("--json", action="store_true", help="print one JSON object")
        return sub

    def pair(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--target", default="bundled", help="'bundled', a folder or a hub id")
        sub.add_argument("--draft", help="a folder or a hub id")
        sub.add_argument("--dtype", choices=PRECISIONS, default="fp32")
        sub.add_argument("--temperature", type=float, default=0.0)
        sub.add_argument("--max-new-tokens", type=int, default=128)
        sub.add_argument(
            "--tensor-parallel", action="store_true",
            help="split the target over the processes that torchrun started, a device for each",
        )  # fmt: skip
        sub.add_argument(
            "--split-draft", action="store_true",
            help="with --tensor-parallel: split the draft too; default: a copy on every device",
        )  # fmt: skip

    generate = command(
        "generate", run_generate, "continue a prompt, plain (gamma 0) or with a draft"
    )
    pair(generate)
    generate.add_argument("prompt", help="text; '-' reads standard input")
    generate.add_argument("--gamma", type=int, help="drafts per cycle; 0: plain; default: 4")
    generate.add_argument(
        "--method", choices=METHODS, help="default: head if --head is given, else draft-model"
    )
    generate.add_argument("--head", help="head: 'bundled', a folder or a hub id; default: bundled")
    generate.add_argument("--layers", type=int, help="early-exit: layers that draft; default: half")
    generate.add_argument(
        "--tree", metavar="SHAPE",
        help="the draft model drafts a tree: the number of children at each depth, as 4,2,1; or "
        "the number of nodes of a tree of depth gamma that follows the draft's probabilities",
    )  # fmt: skip
    generate.add_argument(
        "--drawn-children", action="store_true",
        help="draw the children of a tree of a given shape; default: the likeliest",
    )  # fmt: skip
    generate.add_argument(
        "--rule", choices=("token", "block", "match", "typical"), default="token",
        help="the accept rule above temperature 0; typical is lossy",
    )  # fmt: skip
    add_weights_and_stages(
        generate,
        "compile the stages, in about a minute, and on a CPU keep them on disk: later runs like "
        "this one load them",
    )
    generate.add_argument("--seed", type=int, default=0)

    add_serve(
        command("serve", run_serve, "serve a pair by OpenAI's protocol, plain or with a draft")
    )

    measure = command(
        "measure", run_measure, "time a pair over gamma, or the listed points of a suite"
    )
    pair(measure)
    measure.add_argument("--gamma", type=int, nargs="+", default=list(range(9)))
    measure.add_argument(
        "--prompts", type=int, default=8,
        help="how many of the bundled prompts are timed; as many others predict the acceptance",
    )  # fmt: skip
    measure.add_argument(
        "--out", type=Path, required=True, help="the file to write; for a suite, the folder"
    )
    measure.add_argument(
        "--dialled",
        metavar="SHAPE",
        help="a synthetic pair with acceptance --alpha: 1b, 8b, 70b-slice, preset or config.json",
    )
    measure.add_argument(
        "--alpha", type=float, help="the synthetic pair's acceptance; default: 0.8"
    )
    measure.add_argument(
        "--draft-layers", type=int, help="of the synthetic draft; default: a sixth of the target's"
    )  # fmt: skip
    measure.add_argument("--suite", help="gpu, cpu, or a .toml file of points like theirs")
    measure.add_argument(
        "--part", nargs="+",
        help="probes, plain, verify, speculation, trained, peer; default: all, in this order",
    )  # fmt: skip
    measure.add_argument("--machine", help="the name of the folder; default: the device's")
    measure.add_argument("--pair", help="the folder of the trained pair; default: bundled")
    measure.add_argument("--minutes", type=float, help="start no point after this, in each part")
    measure.add_argument("--longest", type=float, help="skip points that need more seconds")
    measure.add_argument(
        "--dry-run", action="store_true", help="print what would be measured, and for how long"
    )

    calibrate = command("calibrate", run_calibrate, "time the probes and fit a System to them")
    calibrate.add_argument("--dtype", choices=PRECISIONS, help="default: the faster one here")
    calibrate.add_argument("--out", type=Path, required=True, help="the calibration file to write")

    train = command("train", run_train, "make a pair from the standard library's source")
    train.add_argument("--preset", choices=("bundled", "gpu"), default="bundled")
    train.add_argument("--out", type=Path, required=True, help="the folder to write")
    train.add_argument(
        "--part", choices=("target", "draft", "head"), nargs="+",
        help="train only these and keep the rest of --out; default: all",
    )  # fmt: skip
    train.add_argument("--tokens", type=int, help="a budget other than the recipe's, for a trial")
    train.add_argument("--no-compile", action="store_true", help="if there is no C++ compiler")
    return parser


def add_weights_and_stages(sub: argparse.ArgumentParser, compiles: str) -> None:
    """Options of how weights are stored and stages are run; `compiles` says what --compile does."""
    for role in ("target", "draft"):
        sub.add_argument(
            f"--{role}-precision", choices=(*PRECISIONS, "int8", "int4", "int4-g32"),
            help=f"precision of the {role}'s weights; default: --dtype",
        )  # fmt: skip
    how = sub.add_mutually_exclusive_group()
    how.add_argument(
        "--eager", action="store_true",
        help="run the stages as they are written: no CUDA graphs, and no kept compiled stages",
    )  # fmt: skip
    how.add_argument("--compile", action="store_true", help=compiles)
    how.add_argument(
        "--fused", action="store_true", help="on CUDA: matrix products as Triton kernels too"
    )


def add_serve(sub: argparse.ArgumentParser) -> None:
    """The options of `serve`."""
    sub.description = (
        "Serves completions and chats at http://HOST:PORT/v1, in OpenAI's form, until Ctrl-C or "
        "SIGTERM. Requests join and leave between cycles. See docs/serve.md."
    )
    sub.add_argument("--target", default="bundled", help="'bundled', a folder or a hub id")
    sub.add_argument("--draft", help="a folder or a hub id")
    sub.set_defaults(needs=("the server", "serve"), tree=None, drawn_children=False)
    sub.add_argument("--gamma", type=int, default=2, help="drafts per cycle; 0: plain; default: 2")
    sub.add_argument(
        "--method", choices=METHODS, help="default: head if --head is given, else draft-model"
    )
    sub.add_argument("--head", help="head: 'bundled', a folder or a hub id; default: bundled")
    sub.add_argument("--layers", type=int, help="early-exit: layers that draft; default: half")
    sub.add_argument(
        "--rule",
        choices=("token", "block", "typical"),
        default="token",
        help="the accept rule above temperature 0; typical is lossy",
    )
    sub.add_argument("--dtype", choices=PRECISIONS, help="default: the faster one here")
    add_weights_and_stages(
        sub,
        "on a CPU: compile all that greedy and plainly sampled texts may need before it listens, "
        "about a minute each, and keep it on disk; later starts load what is kept",
    )
    place = sub.add_argument_group("where it listens, and for whom")
    place.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine alone")
    place.add_argument("--port", type=int, default=8000, help="0: a free one; default: 8000")
    place.add_argument("--served-model-name", metavar="NAME", help="default: that of --target")
    limits = sub.add_argument_group("limits")
    for name, default, what in (
        ("--slots", 8, "texts that are written at once"),
        ("--max-model-len", None, "tokens of a text, prompt included; default: the context"),
        ("--prompt-tokens", 256, "tokens of prompts that are read between two cycles"),
        ("--max-queue", 256, "requests that wait for a slot; more are refused (429)"),
        ("--max-body-bytes", 1 << 20, "of a request (413)"),
    ):
        said = what if default is None else f"{what}; default: {default}"
        limits.add_argument(name, type=int, default=default, metavar="N", help=said)
    for name, default, what in (
        ("--max-seconds", 600.0, "from a request's arrival to its last token"),
        ("--shutdown-seconds", 30, "that running requests have to end after SIGTERM"),
    ):
        limits.add_argument(
            name,
            type=type(default),
            default=default,
            metavar="S",
            help=f"{what}; default: {default:g}",
        )


def run_serve(options: argparse.Namespace) -> int:
    """Load a pair and serve it."""
    from specsim.checks.extras import require_modules

    require_modules("the server", "torch", "starlette", "uvicorn", extra="serve")
    from reference.lab.probes import fastest_dtype
    from reference.machine import PRECISION_OF
    from reference.serving.command import check, serve

    check(options)
    choose_method(options)
    options.dtype = options.dtype or PRECISION_OF[fastest_dtype(options.device)[0]]
    for note in quantized_notes(options):
        print(f"reference: {note}", file=sys.stderr)
    needs_draft = options.gamma > 0 and options.method in ("draft-model", "ensemble")
    target, draft, tokenizer = load(options, needs_draft)
    return serve(options, target, drafter_named(options, target, draft), tokenizer)


def load(options: argparse.Namespace, needs_draft: bool = True):
    """Target, draft and tokenizer; the draft is None if none is asked for or needed."""
    from reference.checkpoints import (
        Tokenizer,
        is_pair,
        load_checkpoint,
        load_pair,
        resolve,
        tokenizer_file,
    )
    from reference.machine import DTYPES

    placed = {"dtype": DTYPES[options.dtype], "device": options.device}
    if options.group:  # what a device does not keep, it need not hold
        placed |= {"device": "cpu", "packed": False}
    target_precision, draft_precision = (
        getattr(options, f"{role}_precision", None) for role in ("target", "draft")
    )
    if needs_draft or options.draft is not None or is_pair(options.target):
        target, draft, tokenizer = load_pair(
            options.target, options.draft, **placed,
            target_precision=target_precision, draft_precision=draft_precision,
        )  # fmt: skip
        split_over(options, target, draft)
        return target, draft, tokenizer
    folder = resolve(options.target)
    target = load_checkpoint(folder, **placed, precision=target_precision)
    split_over(options, target, None)
    return target, None, Tokenizer(tokenizer_file(folder))


def split_over(options: argparse.Namespace, target, draft) -> None:
    """With --tensor-parallel, keep this process's part of the target, and of the draft if asked."""
    if options.group is None:
        return
    from reference.heads import fingerprint
    from reference.packing import pack
    from reference.tensor_parallel import split

    options.group.agree("weights", fingerprint(target))
    split(target, options.group)
    if draft is not None and options.split_draft:
        split(draft, options.group)
    elif draft is not None:
        pack(draft.to(options.device))


def quantized_notes(options: argparse.Namespace) -> list[str]:
    """What quantised weights gain on this device: a sentence each for target, draft and copy."""
    from reference.quantization import GROUPS, kernel_note

    asked = {"target": options.target_precision, "draft": options.draft_precision}
    if options.method == "quantised-self":
        asked["draft"] = options.draft_precision or "int4-g32"
    return [
        f"{role}: {kernel_note(options.device, precision)}"
        for role, precision in asked.items()
        if precision in GROUPS
    ]


def run_generate(options: argparse.Namespace) -> int:
    """Continue a prompt, and print the text or one JSON object."""
    from reference import speculate
    from reference.huge_pages import held_bytes
    from reference.settings import check_seed
    from reference.verification import LOSSLESS
    from specsim.checks import SpecsimError

    check_seed(options.seed)
    choose_method(options)
    if options.gamma < 0:
        raise SpecsimError(f"gamma must be at least 0, not {options.gamma}")
    notes = quantized_notes(options)
    if notes and options.group:
        raise SpecsimError(
            "--tensor-parallel splits weights in fp32, bf16 or fp16; leave out int8 and int4, and "
            "--method quantised-self"
        )
    for note in notes:
        print(f"reference: {note}", file=sys.stderr)
    needs_draft = options.gamma > 0 and options.method in ("draft-model", "ensemble")
    if options.group and (options.compile or options.fused):
        asked = "--compile" if options.compile else "--fused"
        raise SpecsimError(f"--tensor-parallel decodes eagerly; leave out {asked}")
    if options.split_draft and not needs_draft:
        raise SpecsimError("--split-draft: no draft model drafts here")
    text = prompt_of(options)
    target, draft, tokenizer = load(options, needs_draft)
    for note in (*target.notes, *(draft.notes if draft else ())):
        print(f"reference: {note}", file=sys.stderr)
    drafter = drafter_named(options, target, draft)
    method = options.method if options.tree is None else "tree"
    mode = "fused" if options.fused else "compiled" if options.compile else None
    mode = "eager" if options.eager or options.group else mode
    result = speculate(
        target,
        drafter,
        tokenizer.encode(text),
        options.max_new_tokens,
        options.temperature,
        rule=options.rule,
        seed=options.seed,
        mode=mode,
    )
    for note in result.statistics.notes:
        print(f"reference: {note}", file=sys.stderr)
    if options.group:
        options.group.agree("tokens", result.tokens)
    statistics = result.statistics
    report = {
        "text": tokenizer.decode(result.tokens),
        "tokens": result.tokens,
        "gamma": drafter.gamma,
        "nodes": drafter.nodes,
        "method": method if drafter.gamma else "plain",
        "rule": options.rule if options.temperature else "greedy",
        "lossless": options.rule in LOSSLESS or options.temperature == 0,
        "cycles": statistics.cycles,
        "tokens_per_cycle": statistics.tokens_per_cycle,
        "alpha": statistics.alpha,
        "accepted_per_drafted": statistics.accepted_per_drafted,
        "cycle_s": statistics.cycle_s,
        "draft_s": statistics.draft_s,
        "verify_s": statistics.verify_s,
        "accept_s": statistics.accept_s,
        "host_s": statistics.host_s,
        "compiled_cycles": statistics.compiled_cycles,
        "notes": statistics.notes,
        "huge_page_bytes": held_bytes(),
    }
    print(json.dumps(report) if options.json else text + report["text"])
    return 0


def choose_method(options: argparse.Namespace) -> None:
    """Set the method and gamma where the options of `generate` or `serve` leave them open.

    Raises SpecsimError for an option that has no effect beside the others. With gamma 0 nothing
    drafts, and a method may be named all the same: its text is then compared with plain decoding.
    """
    from specsim.checks import SpecsimError

    tree, head = options.tree is not None, options.head is not None
    if tree and options.method:
        raise SpecsimError(f"--tree uses the draft model; leave out --method {options.method}")
    has_shape = tree and len(numbers := tree_numbers(options.tree)) > 1
    if has_shape and options.gamma not in (None, len(numbers)):
        raise SpecsimError(
            f"--tree {options.tree:.100} has depth {len(numbers)}; leave out --gamma "
            f"{options.gamma}"
        )
    options.method = options.method or ("head" if head and not tree else "draft-model")
    options.gamma = 4 if options.gamma is None else options.gamma
    method = options.method
    uses_draft = method in ("draft-model", "ensemble")
    needs = (
        ("--layers", options.layers is not None, method == "early-exit", "--method early-exit"),
        ("--head", head, method == "head", "--method head"),
        ("--drawn-children", options.drawn_children, has_shape, "a --tree of a given shape"),
        ("--draft", options.draft is not None, uses_draft, "--method draft-model or ensemble"),
        (
            "--draft-precision", options.draft_precision is not None,
            uses_draft or method == "quantised-self",
            "--method draft-model, ensemble or quantised-self",
        ),
    )  # fmt: skip
    for name, is_given, has_effect, wanted in needs:
        if is_given and not has_effect:
            raise SpecsimError(f"{name} needs {wanted}")


def prompt_of(options: argparse.Namespace) -> str:
    """The prompt, or standard input, which one process reads for all."""
    if options.prompt != "-":
        return options.prompt
    if options.group is None:
        return standard_input()
    return options.group.from_first(None if options.group.rank else standard_input())


def standard_input() -> str:
    """The text on standard input, in UTF-8."""
    from specsim.checks import SpecsimError
    from specsim.checks.limits import LIMITS, require_limit

    content = sys.stdin.buffer.read(LIMITS["prompt_bytes"].most + 1)
    require_limit("prompt_bytes", len(content), "the size of standard input in bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecsimError(f"standard input is not text in UTF-8: {error.reason}") from None


def drafter_named(options: argparse.Namespace, target, draft):
    """The drafter that the options ask for."""
    from reference import (
        DraftHead,
        DraftModel,
        EarlyExit,
        Ensemble,
        NGram,
        NoDrafter,
        QuantisedSelf,
        load_head,
        load_mtp,
    )
    from reference.checkpoints import is_pair

    gamma = options.gamma
    if gamma == 0:
        return NoDrafter()
    if options.tree is not None:
        return tree_named(options, draft)
    if options.method == "n-gram":
        return NGram(gamma)
    if options.method == "early-exit":
        half = max(1, target.architecture.num_layers // 2)
        return EarlyExit(half if options.layers is None else options.layers, gamma)
    if options.method == "quantised-self":
        return QuantisedSelf(gamma, options.draft_precision or "int4-g32")
    if options.method == "head" and options.head is None and target.details is not None:
        source = Path(options.target)  # a hybrid's checkpoint holds a module of its own
        return DraftHead(load_mtp(source / "target" if is_pair(source) else source, target), gamma)
    if options.method == "head":
        return DraftHead(load_head(options.head or "bundled", target), gamma)
    model = DraftModel(draft, gamma)
    return Ensemble(model) if options.method == "ensemble" else model


def tree_named(options: argparse.Namespace, draft):
    """The drafter of --tree: children at each depth, or a number of nodes."""
    from reference import ConfidenceTree, StaticTree, Tree

    numbers = tree_numbers(options.tree)
    if len(numbers) > 1:
        return StaticTree(draft, Tree.branching(numbers), options.drawn_children)
    return ConfidenceTree(draft, numbers[0], options.gamma)


def tree_numbers(asked: str) -> list[int]:
    """The numbers of --tree; SpecsimError for what is no number."""
    from specsim.checks import SpecsimError

    try:
        return [int(number) for number in asked.split(",")]
    except ValueError:
        raise SpecsimError(f"--tree takes numbers, as 4,2,1 or 16, not {asked!r:.100}") from None


def run_measure(options: argparse.Namespace) -> int:
    """Measure a suite of points, or one pair."""
    from specsim.checks import SpecsimError

    if options.suite and options.group:
        raise SpecsimError("--tensor-parallel measures one pair; leave out --suite")
    require_effect(options)
    return measure_suite(options) if options.suite else measure_one(options)


def require_effect(options: argparse.Namespace) -> None:
    """SpecsimError for an option of `measure` that has no effect beside the others."""
    from specsim.checks import SpecsimError

    of_a_suite = ("part", "machine", "pair", "minutes", "longest", "dry_run")
    for needed, names in (("suite", of_a_suite), ("dialled", ("alpha", "draft_layers"))):
        for name in () if getattr(options, needed) else names:
            value = getattr(options, name)
            if value is not None and value is not False:  # 0 is a value
                raise SpecsimError(f"--{name.replace('_', '-')} needs --{needed}")
    for chosen, names in (("suite", ("dialled", "draft")), ("dialled", ("draft",))):
        for name in names if getattr(options, chosen) else ():
            if getattr(options, name):
                raise SpecsimError(f"--{chosen} brings its own models; leave out --{name}")


def measure_suite(options: argparse.Namespace) -> int:
    """Measure the points of a suite into a folder; returns 1 if some failed."""
    from reference.lab.suites.points import PARTS, load_suite
    from reference.lab.suites.running import run_suite

    parts = PARTS if options.part in (None, ["all"]) else options.part
    failed = run_suite(
        load_suite(options.suite),
        parts,
        options.out,
        options.device,
        machine=options.machine,
        pair=options.pair or "bundled",
        minutes=options.minutes,
        longest=options.longest,
        dry_run=options.dry_run,
        say=lambda sentence: print(sentence, flush=True),
    )
    if options.json:
        print(json.dumps({"parts": list(parts), "failed": failed}))
    if failed:
        print(f"reference: {failed} points failed or were left, as said above", file=sys.stderr)
    return 1 if failed else 0


def measure_one(options: argparse.Namespace) -> int:
    """Measure one pair over gamma into a file."""
    from reference.checkpoints import prompt_texts
    from reference.lab.suites import measure_pair, text_trace, with_survival
    from reference.machine import DTYPES, environment
    from specsim.acceptance import TextTrace
    from specsim.checks import SpecsimError, require_count
    from specsim.checks.files import require_place
    from specsim.checks.limits import require_limit
    from specsim.evidence.measurement import Measurement

    require_count("--prompts", options.prompts)
    require_limit("values", options.prompts, "--prompts")
    group = options.group
    if group is None or group.rank == 0:
        require_place(options.out)
    if options.dialled:
        from reference.drafters.early_exit import first_layers
        from reference.lab.dialled import architecture_named, dialled_pair, random_prompts

        model = architecture_named(options.dialled)
        sixth = max(1, model.num_layers // 6)
        layers = sixth if options.draft_layers is None else options.draft_layers
        alpha = 0.8 if options.alpha is None else options.alpha
        target, draft, reached = dialled_pair(
            model, layers, alpha, dtype=DTYPES[options.dtype], device=options.device,
            packed=group is None,
        )  # fmt: skip
        if group:  # the draft's layers are the target's, and so are split with them
            split_over(options, target, None)
            draft = first_layers(target, layers)
            draft.whole = target.whole.first_layers(layers)
        print(
            f"reference: {model.name}, random weights, drafted by its first {layers} layers; alpha "
            f"{reached:.3f} at temperature 1; tokens are accepted more independently than in text",
            file=sys.stderr,
        )
        prompts = random_prompts(model, options.prompts, 96)
        others = random_prompts(model, max(2, options.prompts), 96, seed=1)
    else:
        texts = prompt_texts()["timed"]
        if options.prompts > len(texts):
            raise SpecsimError(f"there are {len(texts)} prompts, not {options.prompts}")
        target, draft, tokenizer = load(options)
        prompts = [tokenizer.encode(text)[:96] for text in texts[: options.prompts]]
        texts = prompt_texts()["calibration"][: max(2, options.prompts)]  # fewer have no spread
        others = [tokenizer.encode(text)[:96] for text in texts]
    run = {"max_new_tokens": options.max_new_tokens, "temperature": options.temperature}
    run["mode"] = "eager" if group else None
    points = measure_pair(target, draft, prompts, options.gamma, **run)
    if any(options.gamma):
        points = with_survival(points, TextTrace(*text_trace(target, draft, others, **run)))
    if group:
        group.agree("accept counts", [point.accepted_histogram for point in points])
    measurement = Measurement(environment(options.device), points)
    if group is None or group.rank == 0:
        measurement.write(options.out)
    if options.json:
        print(json.dumps(asdict(measurement)))
        return 0
    for point in points:
        print(
            f"gamma {point.scenario.gamma}: {point.tokens_per_cycle:.2f} tokens per cycle, "
            f"{point.speedup.median:.2f}x"
        )
    print(f"wrote {options.out}")
    return 0


def run_calibrate(options: argparse.Namespace) -> int:
    """Time the probes, fit a calibration to them, and write it."""
    from reference.lab.probes import fastest_dtype, run_probes
    from reference.machine import DTYPES, environment
    from specsim.checks.files import require_place, write_json
    from specsim.evidence.calibration import fit, to_json

    require_place(options.out)
    device = options.device
    dtype = DTYPES[options.dtype] if options.dtype else fastest_dtype(device)[0]
    calibration = fit(run_probes(device, dtype), asdict(environment(device)))
    write_json(options.out, to_json(calibration))
    print(
        json.dumps(to_json(calibration))
        if options.json
        else f"median error {calibration.median_error:.1%}, worst {calibration.worst_error:.1%}; "
        f"wrote {options.out}"
    )
    return 0


def run_train(options: argparse.Namespace) -> int:
    """Train a pair, or parts of it."""
    from reference.lab.training import PARTS, make_pair

    card = make_pair(
        options.preset, options.out, options.device, not options.no_compile, options.tokens,
        parts=options.part or PARTS,
    )  # fmt: skip
    if options.json:
        print(json.dumps(card))
    return 0


def process() -> int:
    """`main` of a process of its own: Ctrl-C while modules are imported, a terminal that knows few
    characters, a full disk and a reader that leaves end it without a traceback."""
    interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)
    with suppress(ImportError):
        import_module("reference.decoding")  # PyTorch takes seconds
    signal.signal(signal.SIGINT, interrupt)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    try:
        try:
            status = main()
        except SystemExit as end:  # --help, and mistakes that argparse finds
            status = end.code
        sys.stdout.flush()
        return status
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 0
        print(f"reference: cannot write the output: {error.strerror}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(process())
