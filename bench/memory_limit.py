"""How close a pass of one row comes to the memory's limit on a CPU, and what huge pages change.

    python bench/memory_limit.py [--rounds 2] [--rows 1,2,3,5,8,16,32]

A decode step has to read its weights once. So its least time is their bytes over the fastest read
of this machine, here a sum over 256 MB. For every size and dtype a line has what the matrix
products of a pass reach of that speed, and how the time of the pass is split into products and the
rest (norms, attention, small kernels); and what the products of compiled stages reach, the loops of
`reference/loops.py`. Every round runs two processes in turn, one with pages of 4 kB and one that
asks Linux for huge pages (see `reference/huge_pages.py`).

The second table has the seconds of the products of a 160M model by rows: fp32 and bf16 packed, int8
with torch's kernel, int8 converted to bf16 before the product, and the loops. The last line is all
of it as JSON. Compiling the loops takes minutes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from reference import quantization
from reference.huge_pages import VARIABLE, held_bytes
from reference.lab.dialled import random_model
from reference.loops import ROWS, kept, lay_in_lanes, product
from reference.packing import PackedLinear, can_pack, pack
from reference.quantization import QuantizedLinear, quantized
from reference.tracing import fused_sums
from reference.transformer import Transformer
from specsim.architecture import Architecture

# hidden size, layers, vocabulary
SIZES = {"14M": (384, 6, 8192), "160M": (768, 16, 32_000), "1B": (2048, 16, 128_256)}
DTYPES = ("fp32", "bf16", "int8")
# What the decoder multiplies with outside of compiled stages, and from how many rows int8 weights
# are converted to bf16 before.
WAYS = {
    "fp32": {"fp32, packed": 0},
    "bf16": {"bf16, packed": 0},
    "int8": {"int8, torch's kernel": 1 << 30, "int8, converted": 1},
}
PAGES = {"4 kB": "0", "huge": "1"}


def model_of(size: str, dtype: str) -> Transformer:
    """A random model, laid out as the decoder would."""
    hidden, layers, vocab_size = SIZES[size]
    shape = Architecture(
        name=size, hidden_size=hidden, num_layers=layers, num_heads=hidden // 64,
        num_kv_heads=hidden // 64, head_dim=64, intermediate_size=3 * hidden,
        vocab_size=vocab_size, max_context=4096,
    )  # fmt: skip
    kept = torch.float32 if dtype == "fp32" else torch.bfloat16
    model = random_model(shape, kept, "cpu", 0)
    return quantized(model, "int8") if dtype == "int8" else pack(model)


def linears(model: Transformer) -> list[torch.nn.Module]:
    """The matrices of a pass, in order."""
    kinds = (PackedLinear, QuantizedLinear, torch.nn.Linear)
    return [module for module in model.modules() if isinstance(module, kinds)]


def seconds_of(run: Callable[[], object], times: int = 9) -> float:
    """The median of some runs, after one that is not timed."""
    run()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def products(matrices: list[torch.nn.Module], rows: int, dtype: torch.dtype) -> Callable[[], None]:
    """One multiplication by every matrix."""
    inputs = {m.in_features: torch.randn(rows, m.in_features, dtype=dtype) for m in matrices}

    def run() -> None:
        for matrix in matrices:
            matrix(inputs[matrix.in_features])

    return run


def loops(matrices: list[torch.nn.Module], rows: int, dtype: torch.dtype) -> Callable[[], None]:
    """The same as compiled stages multiply: the loops of four matrices, as many as a layer has,
    are one compiled function."""
    lay_in_lanes(matrices)
    inputs = {m.in_features: torch.randn(rows, m.in_features, dtype=dtype) for m in matrices}
    layers = [matrices[at : at + 4] for at in range(0, len(matrices), 4)]
    called = [
        [(inputs[m.in_features], m.lanes, m.out_features, getattr(m, "scales", None)) for m in some]
        for some in layers
    ]

    def layer(calls: list[tuple]) -> list[torch.Tensor]:
        return [product(*each, None) for each in calls]

    compiled = torch.compile(layer, dynamic=False)

    def run() -> None:
        for calls in called:
            compiled(calls)

    return run


@torch.inference_mode()
def measured() -> dict:
    """What one process finds."""
    memory = torch.ones(64 << 20)
    read_s = seconds_of(memory.sum)
    found: dict = {"best_read_bytes_per_s": memory.nbytes / read_s, "passes": {}}
    del memory
    for size in SIZES:
        for dtype in DTYPES:
            model = model_of(size, dtype)
            matrices = linears(model)
            each = {"fp32": 4, "bf16": 2, "int8": 1}[dtype]
            nbytes = sum(each * m.in_features * m.out_features for m in matrices)
            cache = model.new_cache(1, 256, 1)
            token, place = torch.ones((1, 1), dtype=torch.long), torch.full((1, 1), 200)
            found["passes"][f"{size} {dtype}"] = {
                "weight_bytes": nbytes,
                "products_s": seconds_of(products(matrices, 1, model.dtype)),
                "pass_s": seconds_of(lambda m=model, c=cache: m(token, place, c, 256)),  # noqa: B023
                "loops_s": seconds_of(loops(matrices, 1, model.dtype)),
            }
    found["huge_page_bytes"] = held_bytes()
    return found


@torch.inference_mode()
def by_rows(rows: list[int]) -> dict[str, dict[int, float]]:
    """The seconds of a 160M model's products by kind of product and rows."""
    found: dict[str, dict[int, float]] = {}
    for dtype in DTYPES:
        model = model_of("160M", dtype)
        matrices, limit = linears(model), ROWS[kept(linears(model)[0]).dtype]
        for name, converted_from in WAYS[dtype].items():
            quantization.CONVERTED_FROM = converted_from
            found[name] = {n: seconds_of(products(matrices, n, model.dtype), 5) for n in rows}
        found[f"{dtype}, loops"] = {
            n: seconds_of(loops(matrices, n, model.dtype), 5) for n in rows if n <= limit
        }
    return found


def child(variable: str) -> dict:
    """The same from another process."""
    environment = os.environ | {VARIABLE: variable}
    command = [sys.executable, __file__, "--child"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", default="1,2,3,5,8,16,32")
    parser.add_argument("--child", action="store_true", help="one process of a round")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measured()))
        return
    print(f"bf16 is packed here: {can_pack(torch.empty(1, dtype=torch.bfloat16))}")
    rounds: dict[str, list[dict]] = {pages: [] for pages in PAGES}
    for _ in range(options.rounds):
        for pages, variable in PAGES.items():
            rounds[pages].append(child(variable))
    best = max(each["best_read_bytes_per_s"] for seen in rounds.values() for each in seen)
    table = []
    for pages, seen in rounds.items():
        reads = [each["best_read_bytes_per_s"] for each in seen]
        huge = statistics.median(each["huge_page_bytes"] for each in seen)
        print(f"\n{pages} pages: sum reads {max(reads) / 1e9:.1f} GB/s; "
              f"{huge / 1e6:,.0f} MB in huge pages at the end")  # fmt: skip
        print("model          weights   of best read   products       rest       pass"
              "      loops  of best read")  # fmt: skip
        for name in seen[0]["passes"]:
            row = {
                key: statistics.median(each["passes"][name][key] for each in seen)
                for key in ("weight_bytes", "products_s", "pass_s", "loops_s")
            }
            share = row["weight_bytes"] / row["products_s"] / best
            rest_s = row["pass_s"] - row["products_s"]
            print(
                f"{name:12} {row['weight_bytes'] / 1e6:6.0f} MB   {share:10.0%}   "
                f"{1e3 * row['products_s']:8.2f} ms {1e3 * rest_s:7.2f} ms "
                f"{1e3 * row['pass_s']:7.2f} ms {1e3 * row['loops_s']:7.2f} ms  "
                f"{row['weight_bytes'] / row['loops_s'] / best:7.0%}"
            )
            table.append({"pages": pages, "model": name, "share_of_best": share} | row)
    rows = list(map(int, options.rows.split(",")))
    seconds = by_rows(rows)
    print("\nproducts of 160M, ms   " + "".join(f"{n:>9} rows" for n in rows))
    for name, each in seconds.items():
        times = (f"{1e3 * each[n]:.1f}" if n in each else "" for n in rows)
        print(f"{name:20}   " + "".join(f"{time:>14}" for time in times))
    print(json.dumps({"best_read_bytes_per_s": best, "passes": table, "rows": seconds}))


if __name__ == "__main__":
    often = torch._dynamo.config.patch(recompile_limit=1 << 10, accumulated_recompile_limit=1 << 12)
    with fused_sums(), often:
        main()
