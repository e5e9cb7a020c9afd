"""Which tiles are fastest for the fused layers of `reference/fused.py`, on the GPU at hand.

    python bench/tune_fused.py [--seconds 60] [--json FILE] [--workers 14]
    python bench/tune_fused.py --check [--no-overlap]

For the four matrix products of Llama 3.1 8B and of Llama 3.2 1B, with one row and with five, many
ways to cut the product into programs are compared: first with torch in fp32, then by time. Each
call reads another copy of the weight, so no cache holds it. The tables give microseconds, TB/s, and
the share of the rate at which torch sums a large buffer; torch's own product stands next to them.
Then the attention is timed for several numbers of parts, and whole layers of the 8B with the
present table `TILES` and with the fastest tiles, with and without programmatic dependent launch,
next to the layer of torch's kernels. The fastest tiles are printed in the form of `TILES`.

Kernels are compiled first, by several processes, into Triton's cache. After `--seconds` the script
stops and prints what it knows. A way that fails is reported and left out. `--check` times nothing:
it compares layers and texts of a small model with float64, fused and not, and exits with status 1
if fused ones are worse.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor

from reference import fused
from reference.decoding import speculate
from reference.drafters import NoDrafter
from reference.drafters.draft_model import DraftModel
from reference.fused import LAYERS, TILES, Tiles, fusing, product
from reference.lab.dialled import random_model
from reference.lab.kernels.timer import Timer
from reference.transformer import Layer, Pass, Transformer
from specsim.architecture import Architecture, model

MODELS = ("llama-3.1-8b", "llama-3.2-1b")
ROWS = (1, 5)
ROTATED_BYTES = 320e6
ONE_ROW = [
    Tiles(*t) for t in (
        (4, 1024, 4), (2, 2048, 4), (4, 2048, 4), (2, 4096, 4), (2, 4096, 8), (1, 4096, 4),
        (2, 1024, 4), (8, 1024, 4), (4, 2048, 8), (8, 512, 2), (4, 512, 2), (8, 512, 4),
        (1, 2048, 4), (1, 4096, 8), (2, 2048, 8), (8, 1024, 8), (16, 512, 4), (2, 1024, 2),
    )
]  # fmt: skip
FEW_ROWS = [
    Tiles(*t) for t in (
        (16, 512, 4, 3), (16, 256, 4, 4), (16, 512, 4, 4), (32, 256, 4, 4), (32, 512, 8, 3),
        (16, 512, 4, 1), (32, 512, 8, 1), (16, 1024, 8, 2), (16, 512, 4, 2), (32, 512, 4, 2),
        (16, 256, 4, 6), (16, 256, 2, 4), (16, 512, 8, 3), (32, 256, 4, 1), (16, 256, 4, 1),
        (64, 256, 8, 3), (32, 512, 4, 3), (16, 1024, 8, 1),
    )
]  # fmt: skip
EIGHTH = {"name": "eighth", "num_layers": 4, "vocab_size": 1024, "max_context": 16384}


class Clock:
    """The time budget of the script."""

    def __init__(self, seconds: float):
        self.begun, self.seconds = time.monotonic(), seconds

    @property
    def spent(self) -> float:
        return time.monotonic() - self.begun

    def allows(self, share: float = 1.0) -> bool:
        return self.spent < share * self.seconds


class Product:
    """One matrix product of a model, with copies of its weight on the GPU."""

    def __init__(self, name: str, shape: Architecture, rows: int, copies: int | None = None):
        hidden, heads, width = shape.hidden_size, shape.query_size, shape.intermediate_size
        outputs, inputs = {
            "qkv": (heads + 2 * shape.kv_size, hidden), "output": (hidden, heads),
            "gate_up": (2 * width, hidden), "down": (hidden, width),
        }[name]  # fmt: skip
        self.name, self.nbytes = name, 2 * outputs * inputs
        copies = max(2, -(-int(ROTATED_BYTES) // self.nbytes)) if copies is None else copies
        options = {"device": "cuda", "dtype": torch.bfloat16}
        scale = inputs**-0.5
        self.weights = [torch.randn(outputs, inputs, **options) * scale for _ in range(copies)]
        self.x = torch.randn(rows, inputs, **options)
        self.kwargs = {}
        if name in ("qkv", "gate_up"):
            gains = 1 + 0.2 * torch.randn(inputs, **options)
            self.kwargs = {"norm": gains, "eps": 1e-5, "swiglu": name == "gate_up"}
        else:
            self.kwargs = {"residual": torch.randn(rows, outputs, **options)}

    def run(self, weight: Tensor, tiles: Tiles, overlap: bool | None = None) -> Tensor:
        return product(self.name, self.x, weight, tiles=tiles, overlap=overlap, **self.kwargs)

    def expected(self) -> Tensor:
        """What torch computes with the first weight, in fp32."""
        x, weight, kwargs = self.x.float(), self.weights[0].float(), self.kwargs
        if "norm" in kwargs:
            x = F.rms_norm(x, x.shape[-1:], kwargs["norm"].float(), kwargs["eps"])
        y = x @ weight.T
        if kwargs.get("swiglu"):
            gate, up = y.chunk(2, dim=-1)
            y = F.silu(gate) * up
        return y + kwargs["residual"].float() if "residual" in kwargs else y

    def rotated(self) -> list[Tensor]:
        return self.weights * -(-20 // len(self.weights))


def candidates(rows: int) -> list[Tiles]:
    return ONE_ROW if rows == 1 else FEW_ROWS


def compile_one(task: tuple[str, str, int, Tiles]) -> str | None:
    """Run a product once, in a worker; what failed, in words."""
    name, kind, rows, tiles = task
    try:
        torch.manual_seed(0)
        here = Product(kind, model(name), rows, copies=1)
        here.run(here.weights[0], tiles)
        torch.cuda.synchronize()
    except Exception as error:  # reported by the main process, which tries again
        return f"{type(error).__name__}: {str(error).splitlines()[0][:150]}"
    return None


def compile_all(workers: int, clock: Clock) -> None:
    """Fill Triton's cache. Must run before this process uses CUDA: the workers are forks."""
    tasks = [
        (name, kind, rows, tiles)
        for name in MODELS for rows in ROWS for kind in ("gate_up", "down", "qkv", "output")
        for tiles in candidates(rows)
    ]  # fmt: skip
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(workers, mp_context=context)
    failed, whole = 0, True
    try:
        pending = pool.map(compile_one, tasks, timeout=max(1.0, 0.5 * clock.seconds))
        for task, reason in zip(tasks, pending, strict=True):
            if reason:
                failed += 1
                print(f"does not compile or run: {task}: {reason}")
    except Exception as error:
        print(f"compiling ahead stopped: {type(error).__name__}: {error}")
        whole = False
        for worker in list(pool._processes.values()):
            worker.terminate()
    pool.shutdown(wait=whole, cancel_futures=True)
    print(f"{len(tasks)} products compiled by {workers} workers, {clock.spent:.1f} s", flush=True)


def overlap_works(timer: Timer) -> bool:
    """Whether overlapped launches can be recorded here, and compute what they should."""
    here = Product("output", model(MODELS[1]), 1)
    try:
        timer.each([lambda: here.run(here.weights[0], TILES["output", True])] * 8)
        return relative(here.run(here.weights[0], TILES["output", True]), here.expected()) < 1e-2
    except Exception as error:
        print(f"overlapped launches fail: {type(error).__name__}: {str(error)[:200]}")
        return False


def read_rate(timer: Timer) -> float:
    """Bytes per second at which torch sums 2 GB."""
    buffer = torch.ones(500_000_000, device="cuda")
    return buffer.nbytes / timer.each([buffer.sum] * 3)


def tune(timer: Timer, rate: float, clock: Clock, found: list[dict], failed: list[dict]) -> None:
    """Time every candidate of every product, and print a table for each product."""
    for name, rows, kind in ((m, r, k) for m in MODELS for r in ROWS for k, one in TILES if one):
        if not clock.allows(0.75):
            print(f"no time for {name}, {rows} rows, {kind}")
            continue
        here = Product(kind, model(name), rows)
        expected, table = here.expected(), []
        for tiles in candidates(rows):
            row = {"model": name, "product": kind, "rows": rows, "tiles": list(tiles)}
            try:
                error = relative(here.run(here.weights[0], tiles), expected)
                if not error < 1e-2:
                    raise ArithmeticError(f"the relative error is {error:.2e}")
                calls = [lambda w=w, t=tiles, h=here: h.run(w, t) for w in here.rotated()]
                row |= {"seconds": timer.each(calls), "error": error, "overlap": fused.OVERLAP}
                table.append(row)
            except Exception as reason:
                failed.append(row | {"reason": f"{type(reason).__name__}: {str(reason)[:200]}"})
        torch_s = timer.each([lambda w=w, h=here: F.linear(h.x, w) for w in here.rotated()])
        table.sort(key=lambda row: row["seconds"])
        if table and fused.OVERLAP:
            best = Tiles(*table[0]["tiles"])
            calls = [lambda w=w, t=best, h=here: h.run(w, t, False) for w in here.rotated()]
            table.append(table[0] | {"seconds": timer.each(calls), "overlap": False})
        print(f"\n{name}, {kind}, {rows} rows, {here.nbytes / 1e6:.1f} MB")
        for row in table:
            kept = "" if row["overlap"] == fused.OVERLAP else "  without overlap"
            print(line(str(tuple(row["tiles"])) + kept, row["seconds"], here.nbytes, rate))
        print(line("torch's product alone", torch_s, here.nbytes, rate), flush=True)
        found += table
        found.append({"model": name, "product": kind, "rows": rows, "torch_seconds": torch_s})
        del here, expected


def line(what: str, seconds: float, nbytes: float, rate: float) -> str:
    speed = nbytes / seconds
    return f"  {what:40} {1e6 * seconds:8.2f} us  {speed / 1e12:5.2f} TB/s  {speed / rate:6.1%}"


def relative(out: Tensor, expected: Tensor) -> float:
    return ((out.float() - expected).norm() / expected.norm()).item()


def fastest(found: list[dict]) -> dict[tuple[str, bool], Tiles]:
    """The fastest tiles of the 8B's products, in the form of `TILES`."""
    best: dict[tuple[str, bool], dict] = {}
    for row in found:
        if row["model"] == MODELS[0] and row.get("overlap") == fused.OVERLAP:
            key = row["product"], row["rows"] == 1
            if key not in best or row["seconds"] < best[key]["seconds"]:
                best[key] = row
    return TILES | {key: Tiles(*row["tiles"]) for key, row in best.items()}


def time_layers(timer: Timer, rate: float, clock: Clock, best: dict, found: list[dict]) -> None:
    """Seconds of a whole layer of the 8B, averaged over four; and of its attention alone."""
    llama = random_model(replace(model(MODELS[0]), **EIGHTH), torch.bfloat16, "cuda", 0)
    weights = sum(p.nbytes for p in llama.layers[0].parameters())
    for context, rows in ((512, 1), (512, 5), (8192, 1), (8192, 5), (512, 16)):
        cache = llama.new_cache(1, 2 * context, rows)
        positions = context + torch.arange(rows, device="cuda")[None]
        asked = Pass(cache, positions, positions, 2 * context, None)
        x = torch.randn(1, rows, llama.architecture.hidden_size, device="cuda").bfloat16()
        (plain,) = llama.views(asked)
        with fusing(LAYERS):
            (view,) = llama.views(asked)
        if view.fused != LAYERS:
            raise SystemExit("this layer does not fit the fused kernels")
        nbytes = weights + 2 * context * 2 * llama.architecture.kv_size
        print(f"\na layer of {MODELS[0]}, {rows} rows, context {context}, {nbytes / 1e6:.1f} MB")
        ways = [("torch", TILES, False, plain)]
        for label, tiles in (("present tiles", TILES), ("fastest tiles", best)):
            overlaps = (True, False) if fused.OVERLAP else (False,)
            ways += [(label, tiles, overlap, view) for overlap in overlaps]
        for label, tiles, overlap, seen in ways:
            if not clock.allows(0.97):
                return
            calls = [
                lambda i=i, layer=layer, seen=seen, x=x: one_layer(layer, x, i, seen)
                for _ in range(3) for i, layer in enumerate(llama.layers)
            ]  # fmt: skip
            label += ", overlapped" if overlap else ""
            with mock.patch.multiple(fused, TILES=tiles, OVERLAP=overlap):
                seconds = timer.each(calls)
            found.append({"layer": label, "rows": rows, "context": context, "seconds": seconds})
            print(line(label, seconds, nbytes, rate), flush=True)
        qkv = torch.randn(rows, llama.layers[0].qkv.out_features, device="cuda").bfloat16()
        for blocks in (64, 128, 256, 512):
            calls = [
                lambda i=i, layer=layer, v=view, qkv=qkv: fused.attended(layer, qkv, i, v)
                for _ in range(5) for i, layer in enumerate(llama.layers)
            ]  # fmt: skip
            with mock.patch.object(fused, "BLOCKS", blocks):
                seconds = timer.each(calls)
            found.append({"attention": blocks, "rows": rows, "context": context,
                          "seconds": seconds})  # fmt: skip
            print(f"  attention, {blocks} blocks {1e6 * seconds:8.2f} us", flush=True)


def one_layer(layer: Layer, x: Tensor, index: int, view: Pass) -> Tensor:
    """`layer` as the kernels of `view` compute it."""
    return fused.run_layer(layer, x, index, view) if view.fused else layer(x, index, view)


def check() -> bool:
    """Whether fused layers and texts of a small model are as near to float64 as torch's."""
    shape = Architecture("small", 512, 3, 8, 2, 128, 1408, 512, max_context=2048)
    small = random_model(shape, torch.bfloat16, "cuda", 0)
    exact, good = deepcopy(small).double(), True
    for batch, tokens in ((1, 1), (1, 2), (1, 5), (1, 16), (3, 1), (3, 5)):
        errors = layer_errors(small, exact, batch, tokens)
        print(f"{batch} x {tokens} tokens: {errors[0]:.2e} of torch, {errors[1]:.2e} fused")
        good &= errors[1] < 1.5 * errors[0] + 1e-3
    prompts = [[(7 * i + row) % 509 for i in range(300 - 90 * row)] for row in range(3)]
    draft = deepcopy(small)
    draft.layers = draft.layers[:2]
    for drafter in (NoDrafter(), DraftModel(draft, 4)):
        texts = {
            mode: speculate(small, drafter, prompts, 48, mode=mode).tokens
            for mode in ("eager", "cuda-graphs", "fused")
        }
        gaps = {mode: widest_gap(exact, prompts, text) for mode, text in texts.items()}
        same = sum(a == b for one, two in zip(texts["eager"], texts["fused"], strict=True)
                   for a, b in zip(one, two, strict=True))  # fmt: skip
        print(f"{type(drafter).__name__}: {same} of 144 tokens are equal; below the best: {gaps}")
        good &= max(gaps["fused"], gaps["cuda-graphs"]) < 2 * gaps["eager"] + 0.1
    print("as it should be" if good else "WRONG")
    return good


@torch.inference_mode()
def layer_errors(small: Transformer, exact: Transformer, batch: int, tokens: int) -> list[float]:
    """The relative errors of the hidden states and of what is cached, of torch and fused."""
    torch.manual_seed(tokens)
    text = torch.randint(0, 512, (batch, tokens), device="cuda")
    lengths = torch.tensor([300, 7, 129], device="cuda")[:batch, None]
    positions, found = lengths + torch.arange(tokens, device="cuda"), []
    kept = small.new_cache(batch, 512, tokens)
    kept.fill_with_noise(512)
    for each, is_fused in ((exact, False), (small, False), (small, True)):
        cache = each.new_cache(batch, 512, tokens)
        for to, source in zip(cache.tensors(), kept.tensors(), strict=True):
            to.copy_(source)
        with fusing(LAYERS if is_fused else ""):
            hidden = each.hidden(text, positions, cache, 512)
        found.append(torch.cat([x.double().flatten() for x in (hidden, *cache.tensors())]))
        if is_fused and torch.equal(found[1], found[2]):
            raise SystemExit("the fused kernels were not used")
    return [relative(other.float(), found[0].float()) for other in found[1:]]


@torch.inference_mode()
def widest_gap(exact: Transformer, prompts: list, texts: list) -> float:
    """How far below the best logit, after its own text, a token's logit is at most."""
    return max(gaps(exact, prompts, texts))


def gaps(exact: Transformer, prompts: list, texts: list) -> Iterator[float]:
    for prompt, text in zip(prompts, texts, strict=True):
        logits = exact(torch.tensor([prompt + text], device="cuda"))[0, len(prompt) - 1 : -1]
        chosen = logits.gather(1, torch.tensor(text, device="cuda")[:, None])[:, 0]
        yield (logits.amax(1) - chosen).max().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="after which it stops")
    parser.add_argument("--json", type=Path, help="a file for all numbers")
    parser.add_argument("--workers", type=int, default=14, help="processes that compile")
    parser.add_argument("--no-overlap", action="store_true", help="no dependent launch")
    parser.add_argument("--check", action="store_true", help="compare, and time nothing")
    options = parser.parse_args()
    fused.OVERLAP = not options.no_overlap
    if options.check:
        sys.exit(0 if check() else 1)
    clock = Clock(options.seconds)
    if options.workers:
        compile_all(options.workers, clock)
    timer, failed, products, layers = Timer(torch.device("cuda")), [], [], []
    fused.OVERLAP = fused.OVERLAP and overlap_works(timer)
    print("overlapped launches:", fused.OVERLAP)
    rate = read_rate(timer)
    print(f"{torch.cuda.get_device_name()}: a plain read {rate / 1e12:.2f} TB/s")
    with torch.inference_mode():
        try:
            tune(timer, rate, clock, products, failed)
            best = fastest(products)
            print("\nTILES = {")
            for (name, is_one), tiles in best.items():
                print(f'    ("{name}", {is_one}): Tiles{tuple(tiles)},')
            print("}")
            time_layers(timer, rate, clock, best, layers)
        finally:
            for row in failed:
                print(f"left out: {row}")
            numbers = {
                "device": torch.cuda.get_device_name(), "read_bytes_per_s": rate,
                "products": products, "layers": layers, "failed": failed,
            }  # fmt: skip
            if options.json:
                options.json.write_text(json.dumps(numbers, indent=1))
            print(f"{clock.spent:.1f} s")


if __name__ == "__main__":
    main()
