"""What a recurrent state costs a verification: bytes by the cost model, and seconds on this CPU.

    python bench/hybrid_state.py [--layers 6] [--repeats 15]

A row of a verification leaves a state of its own, because any row may be the last that is accepted.
The cost model charges a layer one read of the state and one write a row. The decoder also reads the
state of each row again from its place in the ring, and its steps are several kernels, so it moves
more. Sizes are those of Qwen3.5-0.8B's recurrent layers: 16 heads with states of 128 x 128 in 32
bits, a convolution over 4 tokens of 6,144 channels.

Three numbers for each batch and number of rows, of all layers together: megabytes by the cost
model, milliseconds by the memory's speed (a copy is timed first), and milliseconds measured. The
last line is one JSON document of the same data.
"""

import argparse
import json
import statistics
import time

import torch

import specsim
from reference.delta_net import DeltaNet, StateCache, Tokens, few_scan
from reference.families import details_of
from specsim.architecture import from_config
from specsim.operators import PRECISIONS, Workload, forward_work

CONFIG = {
    "model_type": "qwen3_5_text", "hidden_size": 1024, "intermediate_size": 3584, "head_dim": 256,
    "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1024,
    "full_attention_interval": 100, "max_position_embeddings": 4096, "linear_num_key_heads": 16,
    "linear_num_value_heads": 16, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4, "num_hidden_layers": 6,
}  # fmt: skip


def main() -> int:
    """Time the scans, and print them next to the bytes that are predicted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=6, help="recurrent layers (default 6)")
    parser.add_argument("--repeats", type=int, default=15, help="of each timing (default 15)")
    options = parser.parse_args()
    config = CONFIG | {"num_hidden_layers": options.layers}
    model = from_config(config, "hybrid")
    bandwidth = bytes_per_second()
    print(
        f"{options.layers} recurrent layers; a copy moves {bandwidth / 1e9:.1f} GB/s (in and out)"
    )
    print("batch  rows  predicted MB  predicted ms  measured ms  measured / predicted")
    found = []
    for batch in (1, 4):
        for rows in (1, 2, 3, 5, 9):
            nbytes = state_bytes(model, batch, rows)
            predicted, measured = nbytes / bandwidth, seconds(config, batch, rows, options.repeats)
            print(
                f"{batch:5}{rows:6}{nbytes / 1e6:14.1f}{predicted * 1e3:14.2f}"
                f"{measured * 1e3:13.2f}"
                f"{measured / predicted:22.1f}"
            )
            found.append({
                "batch": batch, "rows": rows, "predicted_bytes": nbytes, "predicted_s": predicted,
                "measured_s": measured,
            })  # fmt: skip
    print(json.dumps({"copy_bytes_per_s": bandwidth, "points": found}))
    return 0


def bytes_per_second(size: int = 1 << 26) -> float:
    """What a large copy reads and writes per second."""
    source, times = torch.ones(size), []
    target = torch.empty_like(source)
    for _ in range(7):
        start = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - start)
    return 2 * source.nbytes / statistics.median(times)


def state_bytes(model: specsim.Architecture, batch: int, rows: int) -> float:
    """Bytes of all recurrent states that one pass reads and writes, by the cost model."""
    work = forward_work(model, Workload(batch=batch, rows=rows, context=64), PRECISIONS["fp32"])
    return float(sum(each.kv_bytes for each in work.operators if each.name.endswith(" state")))


@torch.inference_mode()
def seconds(config, batch: int, rows: int, repeats: int) -> float:
    """The median time of the scans and convolutions of one pass of so many rows."""
    shape = from_config(config, "hybrid")
    details = details_of(config, shape)
    assert details is not None
    assert details.delta is not None
    sizes = details.delta
    cache = StateCache(shape, details, batch, 64, rows - 1, torch.float32)
    mixer = DeltaNet(shape, sizes)
    heads = batch, rows, sizes.value_heads
    tokens = Tokens(
        torch.randn(*heads, sizes.key_size), torch.randn(*heads, sizes.key_size) / 11,
        torch.randn(*heads, sizes.value_size), -torch.rand(heads), torch.rand(heads),
    )  # fmt: skip
    inputs = torch.randn(batch, rows, sizes.channels)
    times = []
    for repeat in range(repeats + 2):
        positions = 40 + repeat + torch.arange(rows).expand(batch, -1)
        start = time.perf_counter()
        for layer, recurrent in enumerate(details.recurrent):
            if recurrent:
                mixer.few_inputs(inputs, layer, positions, cache)
                few_scan(tokens, layer, positions, cache)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


if __name__ == "__main__":
    raise SystemExit(main())
