"""The catalog's tables: every row has a source, sane units, dense rates and the right weights.

Parameter counts are taken again here, one family at a time, as naively as can be written (a matrix
is rows x columns), and must equal the published count to the last digit.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from specsim import catalog
from specsim.architecture import model
from specsim.checks import SpecsimError
from specsim.planning.cautions import KINDS

ACCELERATORS = catalog.load("accelerators")
MODELS = catalog.load("models")


# --- loading and looking up ----------------------------------------------------------------------


def complaints(rows: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the rows of a table, a sentence each."""
    names = {name: name for name in rows}
    for name, row in rows.items():
        if not isinstance(row, Mapping):
            yield f"{name!r} is not a row; every top-level key must be a table"
            continue
        missing = [
            key
            for key in ("source", "confidence")
            if not (isinstance(row.get(key), str) and row[key].strip())
        ]
        if missing:
            yield f"row {name!r} lacks {' and '.join(missing)}"
        if name != catalog.slug(name):
            yield f"row {name!r} must be called {catalog.slug(name)!r}"
        for alias in row.get("aliases", ()):
            if alias != catalog.slug(alias):
                yield f"alias {alias!r} of row {name!r}: write {catalog.slug(alias)!r}"
            if names.setdefault(alias, name) != name:
                yield f"alias {alias!r} of row {name!r}: already means {names[alias]!r}"


TABLES = ["accelerators", "engines", "heads", "methods", "models", "tokenizers"]


@pytest.mark.parametrize("table", TABLES)
def test_rows_that_are_parsed_one_by_one_are_those_of_the_file(table: str) -> None:
    text = (Path(catalog.__file__).parent / f"{table}.toml").read_text(encoding="utf-8")

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(inner) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, tuple) else value

    assert plain(catalog.load(table)) == tomllib.loads(text)


GOOD = 'source = "a datasheet"\nconfidence = "datasheet"\n'


@pytest.mark.parametrize("table", TABLES)
def test_every_row_has_a_source_a_name_as_it_is_spelled_and_aliases_of_its_own(table: str) -> None:
    assert list(complaints(catalog.load(table))) == []


@pytest.mark.parametrize("spelling", ["h100-sxm", "H100-SXM", "H100 SXM", "h100_sxm", "H100"])
def test_a_name_is_found_in_any_case_and_by_alias(spelling: str) -> None:
    assert catalog.resolve("accelerators", spelling) == "h100-sxm"
    assert catalog.lookup("accelerators", spelling)["memory_bytes"] == 80e9


@pytest.mark.parametrize(
    ("spelling", "row"),
    [
        ("meta-llama/Llama-3.1-8B", "llama-3.1-8b"),
        ("Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("Llama-1/2 7B", "llama-2-7b"),  # a slash, but no hub id
        ("Qwen/Qwen3-0.6B", "qwen3-0.6b"),
    ],
)
def test_a_hub_id_is_found_without_its_owner(spelling: str, row: str) -> None:
    assert catalog.resolve("models", spelling) == row


@pytest.mark.parametrize(
    ("table", "wrong", "right"),
    [
        ("accelerators", "h10-sxm", "h100-sxm"),
        ("accelerators", "rtx-4900", "rtx-4090"),
        ("models", "llama-3.1-9b", "llama-3.1-8b"),
        ("models", "qwen3-8", "qwen3-8b"),
        ("models", "llama3", "llama-3-8b, llama-3-70b, llama-3.1-8b"),
    ],
)
def test_an_unknown_name_is_an_error_that_names_the_nearest(
    table: str, wrong: str, right: str
) -> None:
    with pytest.raises(SpecsimError, match=f"{wrong!r}; nearest: .*{right}"):
        catalog.lookup(table, wrong)


def test_a_name_like_no_other_still_says_where_to_look() -> None:
    with pytest.raises(SpecsimError, match=rf"'xyzzy'; specsim models lists all {len(MODELS)}$"):
        catalog.lookup("models", "xyzzy")
    with pytest.raises(SpecsimError, match=r"no head is called 'xyzzy'; see the \d+ in heads.toml"):
        catalog.lookup("heads", "xyzzy")


def test_of_a_short_table_every_name_is_named() -> None:
    with pytest.raises(SpecsimError, match=r"'xyzzy'; there are: .*medusa"):
        catalog.resolve("methods", "xyzzy")


def test_an_unknown_table_names_those_there_are() -> None:
    with pytest.raises(SpecsimError, match=r"'gpus'; there are: .*accelerators.*models"):
        catalog.load("gpus")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[a]\nconfidence = "x"', "row 'a' lacks source"),
        ('[a]\nsource = "x"', "row 'a' lacks confidence"),
        ('[a]\nsource = " "\nconfidence = 1', "row 'a' lacks source and confidence"),
        (f"[a]\n{GOOD}[a.b]\nc = 1\n[d]\n", "row 'd' lacks source and confidence"),
        ("[llama-3.1-8b]\n" + GOOD, "row 'llama-3' lacks source and confidence"),  # wants quotes
        ("a = 1", "'a' is not a row; every top-level key must be a table"),
        ("[A-b]\n" + GOOD, "row 'A-b' must be called 'a-b'"),
        (f'[a]\n{GOOD}aliases = ["b"]\n[b]\n{GOOD}', "alias 'b' of row 'a': already means 'b'"),
        (f'[a]\n{GOOD}aliases = ["B C"]', "alias 'B C' of row 'a': write 'b-c'"),
    ],
)
def test_a_bad_row_is_found(text: str, complaint: str) -> None:
    assert list(complaints(tomllib.loads(text))) == [complaint]


def test_a_good_row_passes() -> None:
    good = f'[a]\n{GOOD}aliases = ["b"]\nsizes = [1, 2]\n[a.inner]\nx = 1.0'
    assert list(complaints(tomllib.loads(good))) == []


def test_tables_are_read_once_and_read_only() -> None:
    assert catalog.load("models") is MODELS
    row = MODELS["gpt-oss-20b"]
    with pytest.raises(TypeError):
        row["config"]["hidden_size"] = 1  # type: ignore[index]
    assert isinstance(row["config"]["layer_types"], tuple)


def test_the_error_is_a_value_error() -> None:
    assert issubclass(SpecsimError, ValueError)


# --- accelerators --------------------------------------------------------------------------------

COLUMNS = {
    "name", "family", "kind", "memory_bytes", "bandwidth_bytes_per_s", "l2_bytes",
    "link_bytes_per_s", "link_devices", "link_latency_s", "tdp_w",
    "source", "confidence", "datasheet", "aliases", "notes",
    "flops_per_s",
}  # fmt: skip
PRECISIONS = {"fp32", "bf16", "fp16", "fp8", "int8", "fp4"}
PROMISED = {
    "a100-sxm-80gb", "h100-sxm", "h200-sxm", "b200", "rtx-3090", "rtx-4090", "mi250x-gcd",
    "dgx-spark", "v100-sxm2-32gb", "t4", "l4", "l40s", "h100-pcie", "h100-nvl", "gh200",
    "mi300x", "tpu-v5e", "m1", "m2-ultra",
    "rtx-5050", "rtx-5060", "rtx-5060-ti", "rtx-5070", "rtx-5070-ti", "rtx-5080", "rtx-5090",
    "rtx-5050-laptop", "rtx-5060-laptop", "rtx-5070-laptop", "rtx-5070-ti-laptop",
    "rtx-5080-laptop", "rtx-5090-laptop", "m3", "m3-pro-14c", "m3-pro", "m3-max-30c", "m3-max",
    "m3-ultra-60c", "m3-ultra", "m4-8c", "m4", "m4-pro-16c", "m4-pro", "m4-max-32c", "m4-max",
    "m5-8c", "m5", "m5-pro-16c", "m5-pro", "m5-max-32c", "m5-max", "mi300a", "mi325x", "mi350x",
    "mi355x", "b300", "gb300", "rtx-pro-6000-blackwell", "rtx-pro-6000-blackwell-max-q",
    "rtx-pro-6000-blackwell-se", "gaudi-2", "gaudi-3", "snapdragon-8-elite",
    "snapdragon-8-elite-gen-5", "dimensity-9400", "dimensity-9500", "a18-pro", "a19-pro",
    "arc-b580", "arc-pro-b60", "ryzen-ai-max-395", "rx-7900-xtx", "rx-9070-xt", "rtx-2080-ti",
}  # fmt: skip


def test_there_are_many_accelerators_and_those_the_contract_names() -> None:
    assert len(ACCELERATORS) >= 150
    assert ACCELERATORS.keys() >= PROMISED


@pytest.mark.parametrize("name", ACCELERATORS)
def test_an_accelerators_columns_are_known_and_in_range(name: str) -> None:
    row = ACCELERATORS[name]
    flops = row.get("flops_per_s", {})
    assert row.keys() <= COLUMNS
    assert row["confidence"] in {"datasheet", "third-party", "unverified"}
    assert row["kind"] in KINDS  # which cautions put into words
    assert row["family"] == catalog.slug(row["family"])
    assert 10e9 <= row["bandwidth_bytes_per_s"] <= 20e12
    assert 1e6 <= row.get("l2_bytes", 1e6) <= 1e9
    assert 10e9 <= row.get("link_bytes_per_s", 10e9) <= 2e12
    assert 1e-6 <= row.get("link_latency_s", 1e-6) <= 1e-4
    assert 5 <= row.get("tdp_w", 5) <= 2000
    # decimal: 80e9, not 80 * 2**30
    assert row.get("memory_bytes", 1e9) % 1e9 == 0
    assert 4e9 <= row.get("memory_bytes", 4e9) <= 1e12
    assert flops.keys() <= PRECISIONS
    assert all(1e11 <= rate <= 15e15 for rate in flops.values())
    assert ("link_devices" in row) <= ("link_bytes_per_s" in row)
    assert ("link_bytes_per_s" in row) <= ("link_devices" in row or row["kind"] == "tpu")
    assert 2 <= row.get("link_devices", 2) <= 72
    assert set(row.get("datasheet", ())) <= row.keys() | flops.keys()


@pytest.mark.parametrize("name", ACCELERATORS)
def test_confidence_is_of_bandwidth_and_of_the_16_bit_rate(name: str) -> None:
    row = ACCELERATORS[name]
    sixteen_bit = {"bf16", "fp16"} & row.get("flops_per_s", {}).keys()
    vouched = set(row.get("datasheet", ()))
    both = "bandwidth_bytes_per_s" in vouched and (not sixteen_bit or bool(sixteen_bit & vouched))
    assert (row["confidence"] == "datasheet") == both


@pytest.mark.parametrize("name", ACCELERATORS)
def test_rates_stand_in_the_ratios_of_the_hardware(name: str) -> None:
    flops = ACCELERATORS[name].get("flops_per_s", {})
    sixteen_bit = flops.get("bf16", flops.get("fp16"))
    if {"bf16", "fp16"} <= flops.keys():
        assert flops["bf16"] == flops["fp16"]
    if sixteen_bit and "fp32" in flops:
        assert flops["fp32"] < sixteen_bit  # plain fp32, on vector units
    if sixteen_bit and "fp8" in flops:
        times = 1 if name == "gaudi-3" else 2  # 4 would be a sparse rate
        assert flops["fp8"] == pytest.approx(times * sixteen_bit, rel=0.02)
    if sixteen_bit and "int8" in flops:
        most = 4 if ACCELERATORS[name]["kind"] == "consumer-gpu" else 2  # GeForce: 16 bits at half
        assert 0.45 * sixteen_bit <= flops["int8"] <= 1.02 * most * sixteen_bit
    if "fp4" in flops and "fp8" in flops:
        assert flops["fp4"] >= 1.99 * flops["fp8"]


@pytest.mark.parametrize(
    ("name", "precision", "dense", "sparse"),
    [
        ("h100-sxm", "bf16", 989e12, 1979e12),
        ("h100-sxm", "fp8", 1979e12, 3958e12),
        ("a100-sxm-80gb", "bf16", 312e12, 624e12),
        ("b200", "bf16", 2250e12, 4500e12),
        ("l40s", "bf16", 362e12, 733e12),
        ("rtx-4090", "bf16", 165e12, 330e12),  # here the larger is fp16 accumulation
        ("rtx-3090", "bf16", 71e12, 142e12),
    ],
)
def test_rates_are_dense_and_accumulate_in_fp32(
    name: str, precision: str, dense: float, sparse: float
) -> None:
    rate = ACCELERATORS[name]["flops_per_s"][precision]
    assert rate == pytest.approx(dense, rel=1e-3)
    assert rate != pytest.approx(sparse, rel=0.3)


@pytest.mark.parametrize(
    ("name", "precision", "bytes_per_weight", "ridge"),
    [
        ("a100-sxm-80gb", "bf16", 2.0, 153.02),
        ("h100-sxm", "bf16", 2.0, 295.22),
        ("h200-sxm", "bf16", 2.0, 206.04),
        ("b200", "bf16", 2.0, 281.25),
        ("h100-sxm", "bf16", 0.5, 73.81),  # 4-bit weights, 16-bit math
        ("h200-sxm", "bf16", 0.5, 51.51),
        ("h100-sxm", "fp8", 1.0, 295.37),
        ("h100-sxm", "bf16", 0.625, 92.26),  # groups of 32 with scale and zero
    ],
)
def test_the_token_ridge_of_known_devices(
    name: str, precision: str, bytes_per_weight: float, ridge: float
) -> None:
    row = ACCELERATORS[name]
    tokens = row["flops_per_s"][precision] * bytes_per_weight / (2 * row["bandwidth_bytes_per_s"])
    assert tokens == pytest.approx(ridge, abs=0.005)


def test_one_gcd_is_half_an_mi250x() -> None:
    whole, one = ACCELERATORS["mi250x"], ACCELERATORS["mi250x-gcd"]
    for column in ("memory_bytes", "bandwidth_bytes_per_s", "l2_bytes"):
        assert one[column] == pytest.approx(whole[column] / 2, rel=1e-3)
    assert one["flops_per_s"]["fp16"] == whole["flops_per_s"]["fp16"] / 2


def test_compute_that_is_unknown_is_absent() -> None:
    unknown = {name for name, row in ACCELERATORS.items() if "flops_per_s" not in row}
    assert {ACCELERATORS[name]["kind"] for name in unknown} == {"phone"}  # nobody publishes it
    assert all("Compute unknown" in ACCELERATORS[name]["notes"] for name in unknown)
    assert not any(
        "ompute unknown" in row.get("notes", "")
        for name, row in ACCELERATORS.items()
        if name not in unknown
    )
    assert "bf16" not in ACCELERATORS["v100-sxm2-32gb"]["flops_per_s"]


# A derivation in the notes, the rates that it gives in operations per unit and clock, and how many
# rows have it at least.
DERIVATIONS = [
    (r"(?P<units>\d+) cores at (?P<ghz>[\d.]+) GHz", {"fp32": 2}, 25),  # NVIDIA
    (r"GPU cores: (?P<units>\d+)\..* at (?P<ghz>[\d.]+) GHz; there is no", {"fp32": 256}, 8),
    (
        r"GPU cores: (?P<units>\d+)\. Its cores have matrix units.* At (?P<ghz>[\d.]+) GHz",
        {"fp32": 256, "bf16": 1024, "int8": 2048},
        6,
    ),
    (r"(?P<units>\d+) compute units at (?P<ghz>[\d.]+) GHz; fp32 with dual", {"fp32": 256}, 8),
    (r"(?P<units>\d+) XMX engines at (?P<ghz>[\d.]+) GHz, 512 int8", {"int8": 512, "fp16": 256}, 5),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "per_clock", "least"), DERIVATIONS)
def test_rates_follow_from_the_units_and_the_clock_that_the_notes_state(
    pattern: str, per_clock: Mapping[str, int], least: int
) -> None:
    rows = 0
    for name, row in ACCELERATORS.items():
        if not (found := re.search(pattern, row.get("notes", ""))):
            continue
        rows += 1
        for math, operations in per_clock.items():
            rate = int(found["units"]) * float(found["ghz"]) * 1e9 * operations
            assert row["flops_per_s"][math] == pytest.approx(rate, rel=0.015), (name, math)
    assert rows >= least


def test_geforce_rates_are_the_generations_multiples_of_fp32() -> None:
    multiples = {
        "turing": {"fp16": 4, "int8": 16},
        "ampere": {"bf16": 2, "int8": 8},
        "ada": {"bf16": 2, "fp8": 4, "int8": 8},
        "blackwell": {"bf16": 2, "fp8": 4, "int8": 8, "fp4": 16},
    }
    cards = [row for name, row in ACCELERATORS.items() if "GeForce" in row["name"]]
    assert len(cards) >= 38
    for row in cards:
        for math, times in multiples[row["family"]].items():
            expected = times * row["flops_per_s"]["fp32"]
            assert row["flops_per_s"][math] == pytest.approx(expected, rel=0.01), row["name"]


@pytest.mark.parametrize(("name", "tops"), [("rtx-5060", 614), ("rtx-5060-ti", 759),
    ("rtx-5070", 988), ("rtx-5070-ti", 1406), ("rtx-5080", 1801), ("rtx-5090", 3352),
    ("rtx-5090-laptop", 1824), ("rtx-pro-6000-blackwell", 4000),
    ("rtx-pro-6000-blackwell-max-q", 3511), ("rtx-pro-5000-blackwell", 2064)])  # fmt: skip
def test_the_headlines_of_blackwell_are_twice_the_dense_fp4_rate(name: str, tops: float) -> None:
    assert 2 * ACCELERATORS[name]["flops_per_s"]["fp4"] / 1e12 == pytest.approx(tops, rel=0.005)


@pytest.mark.parametrize(
    ("larger", "smaller", "cores"),
    [("m3-max", "m3-max-30c", 40 / 30), ("m3-ultra", "m3-max", 2), ("m4-max", "m4-pro", 2),
     ("m4-pro", "m4", 2), ("m5-max", "m5-pro", 2), ("m5-pro", "m5", 2), ("a19-pro", "a19", 1.2)],
)  # fmt: skip
def test_apples_chips_of_one_generation_differ_by_their_cores(
    larger: str, smaller: str, cores: float
) -> None:
    for math, rate in ACCELERATORS[smaller]["flops_per_s"].items():
        assert ACCELERATORS[larger]["flops_per_s"][math] == pytest.approx(cores * rate, rel=0.02)


@pytest.mark.parametrize(
    ("published", "row"),
    [
        ("A100-80GB SXM (330W power cap)", "a100-sxm-80gb"),
        ("A100 PCIe", "a100-pcie-80gb"),
        ("H100-SXM (variant not stated)", "h100-sxm"),
        ("GH200 (144GB HBM3e)", "gh200"),
        ("3080Ti", "rtx-3080-ti"),
        ("4070Ti", "rtx-4070-ti"),
        ("6000 Ada", "rtx-6000-ada"),
        ("RTX PRO 6000 Blackwell SE", "rtx-pro-6000-blackwell-se"),
        ("DGX Spark GB10 (LPDDR5x 273 GB/s)", "dgx-spark"),
        ("Jetson AGX Orin", "jetson-agx-orin"),
        ("MI250X (whole, 2 GCD)", "mi250x"),
        ("TPU-v4", "tpu-v4"),
        ("M1 (7-core GPU)", "m1"),
        ("M2ultra 192GB", "m2-ultra"),
        ("M3max 64GB", "m3-max"),
        ("M3 Max (30-core GPU)", "m3-max-30c"),
        ("M3 Pro (14-core GPU)", "m3-pro-14c"),
        ("M3 Pro (18-core GPU)", "m3-pro"),
        ("RTX 5070 Ti", "rtx-5070-ti"),
        ("RX 7900 XTX", "rx-7900-xtx"),
        ("M5 Max (MTL,BLAS + Neural Accelerators, Jun 2026)", "m5-max"),
    ],
)
def test_the_spellings_of_published_tables_are_found(published: str, row: str) -> None:
    assert catalog.resolve("accelerators", published) == row


def test_a_device_that_is_not_stated_is_not_found() -> None:
    with pytest.raises(SpecsimError):
        catalog.resolve("accelerators", "not stated (H100 class)")


# --- models --------------------------------------------------------------------------------------

PRESETS = {
    "llama-2-7b", "llama-2-13b", "llama-2-70b", "llama-3-8b", "llama-3-70b", "llama-3.1-8b",
    "llama-3.1-70b", "llama-3.1-405b", "llama-3.2-1b", "llama-3.2-3b", "llama-3.3-70b",
    "tinyllama-1.1b", "codellama-34b", "vicuna-7b", "vicuna-13b", "vicuna-33b", "mistral-7b",
    "mixtral-8x7b", "mixtral-8x22b", "qwen2-7b", "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b",
    "qwen2.5-7b", "qwen2.5-14b", "qwen2.5-32b", "qwen2.5-72b", "qwen3-0.6b", "qwen3-1.7b",
    "qwen3-4b", "qwen3-8b", "qwen3-14b", "qwen3-32b", "qwen3-30b-a3b", "qwen3-235b-a22b",
    "gemma-2-2b", "gemma-2-9b", "gemma-2-27b", "gemma-3-1b", "gemma-3-4b", "gemma-3-12b",
    "gemma-3-27b", "phi-2", "phi-3-mini", "phi-4", "gpt-oss-20b", "gpt-oss-120b", "deepseek-v2",
    "deepseek-v2-lite", "deepseek-v3", "deepseek-r1", "opt-125m", "opt-1.3b", "opt-6.7b",
    "opt-13b", "opt-30b", "opt-66b", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl",
    "smollm2-135m", "smollm2-360m", "smollm2-1.7b"
}  # fmt: skip


def tables(c: catalog.Row) -> int:
    """Embedding and LM head: one matrix if tied."""
    return c["vocab_size"] * c["hidden_size"] * (1 if c["tie_word_embeddings"] else 2)


def grouped_query_attention(c: catalog.Row, *, qkv_bias: bool = False) -> int:
    hidden, heads = c["hidden_size"], c["num_attention_heads"]
    size = c.get("head_dim", hidden // heads)
    queries, keys = heads * size, c.get("num_key_value_heads", heads) * size
    weights = hidden * queries + 2 * hidden * keys + queries * hidden
    return weights + (queries + 2 * keys if qkv_bias else 0)


def gated_mlp(hidden: int, intermediate: int) -> int:
    return 3 * hidden * intermediate  # gate, up, down


def llama(c: catalog.Row) -> tuple[int, int]:
    """Also Mistral, SmolLM3 and Phi-3, whose fused matrices hold the same numbers."""
    hidden = c["hidden_size"]
    layer = grouped_query_attention(c) + gated_mlp(hidden, c["intermediate_size"]) + 2 * hidden
    total = tables(c) + c["num_hidden_layers"] * layer + hidden
    return total, total


def qwen2(c: catalog.Row) -> tuple[int, int]:
    hidden = c["hidden_size"]
    attention = grouped_query_attention(c, qkv_bias=True)
    layer = attention + gated_mlp(hidden, c["intermediate_size"]) + 2 * hidden
    total = tables(c) + c["num_hidden_layers"] * layer + hidden
    return total, total


def qwen3(c: catalog.Row) -> tuple[int, int]:
    hidden = c["hidden_size"]
    attention = grouped_query_attention(c) + 2 * c["head_dim"]  # norms of queries and keys
    layer = attention + gated_mlp(hidden, c["intermediate_size"]) + 2 * hidden
    total = tables(c) + c["num_hidden_layers"] * layer + hidden
    return total, total


def mixtral(c: catalog.Row) -> tuple[int, int]:
    hidden = c["hidden_size"]
    expert = gated_mlp(hidden, c["intermediate_size"])

    def with_experts(n: int) -> int:
        router = hidden * c["num_local_experts"]
        layer = grouped_query_attention(c) + router + n * expert + 2 * hidden
        return tables(c) + c["num_hidden_layers"] * layer + hidden

    return with_experts(c["num_local_experts"]), with_experts(c["num_experts_per_tok"])


def qwen2_moe(c: catalog.Row) -> tuple[int, int]:
    hidden = c["hidden_size"]
    shared = gated_mlp(hidden, c["shared_expert_intermediate_size"]) + hidden  # and its gate
    expert = gated_mlp(hidden, c["moe_intermediate_size"])

    def with_experts(n: int) -> int:
        attention = grouped_query_attention(c, qkv_bias=True)
        router = hidden * c["num_experts"]
        layer = attention + router + shared + n * expert + 2 * hidden
        return tables(c) + c["num_hidden_layers"] * layer + hidden

    return with_experts(c["num_experts"]), with_experts(c["num_experts_per_tok"])


def qwen3_moe(c: catalog.Row) -> tuple[int, int]:
    hidden = c["hidden_size"]
    expert = gated_mlp(hidden, c["moe_intermediate_size"])

    def with_experts(n: int) -> int:
        attention = grouped_query_attention(c) + 2 * c["head_dim"]
        layer = attention + hidden * c["num_experts"] + n * expert + 2 * hidden
        return tables(c) + c["num_hidden_layers"] * layer + hidden

    return with_experts(c["num_experts"]), with_experts(c["num_experts_per_tok"])


def minimax(c: catalog.Row) -> tuple[int, int]:
    """One norm over the queries of all heads, and one over the keys."""
    hidden, heads = c["hidden_size"], c["num_attention_heads"] + c["num_key_value_heads"]
    expert = gated_mlp(hidden, c["intermediate_size"])

    def with_experts(n: int) -> int:
        attention = grouped_query_attention(c) + heads * c["head_dim"]
        router = hidden * c["num_local_experts"]
        layer = attention + router + n * expert + 2 * hidden
        return tables(c) + c["num_hidden_layers"] * layer + hidden

    return with_experts(c["num_local_experts"]), with_experts(c["num_experts_per_tok"])


def olmo(c: catalog.Row) -> tuple[int, int]:
    """As Llama, with norms over all queries and over all keys."""
    hidden, heads = c["hidden_size"], c["num_attention_heads"]
    norms = (heads + c["num_key_value_heads"]) * (hidden // heads)
    total = llama(c)[0] + c["num_hidden_layers"] * norms
    return total, total


def gemma2(c: catalog.Row) -> tuple[int, int]:
    hidden = c["hidden_size"]
    norms = 4 * hidden  # before and after both blocks
    layer = grouped_query_attention(c) + gated_mlp(hidden, c["intermediate_size"]) + norms
    total = tables(c) + c["num_hidden_layers"] * layer + hidden
    return total, total


def gemma3(c: catalog.Row) -> tuple[int, int]:
    total = gemma2(c)[0] + c["num_hidden_layers"] * 2 * c["head_dim"]  # norms of queries and keys
    return total, total


def phi(c: catalog.Row) -> tuple[int, int]:
    """Every linear layer has a bias, the LM head too; one LayerNorm for both parallel blocks."""
    hidden, intermediate = c["hidden_size"], c["intermediate_size"]
    attention = 4 * (hidden * hidden + hidden)
    mlp = hidden * intermediate + intermediate + intermediate * hidden + hidden
    layer = attention + mlp + 2 * hidden
    total = tables(c) + c["vocab_size"] + c["num_hidden_layers"] * layer + 2 * hidden
    return total, total


def gpt_oss(c: catalog.Row) -> tuple[int, int]:
    """Biases everywhere but in the LM head, and one learned sink per head."""
    hidden, intermediate = c["hidden_size"], c["intermediate_size"]
    expert = gated_mlp(hidden, intermediate) + 2 * intermediate + hidden
    output_bias, sinks = hidden, c["num_attention_heads"]

    def with_experts(n: int) -> int:
        attention = grouped_query_attention(c, qkv_bias=True) + output_bias + sinks
        router = (hidden + 1) * c["num_local_experts"]
        layer = attention + router + n * expert + 2 * hidden
        return tables(c) + c["num_hidden_layers"] * layer + hidden

    return with_experts(c["num_local_experts"]), with_experts(c["num_experts_per_tok"])


def latent_attention(c: catalog.Row) -> int:
    """MLA: queries through a low rank (or directly), keys and values through another."""
    hidden, heads = c["hidden_size"], c["num_attention_heads"]
    query = heads * (c["qk_nope_head_dim"] + c["qk_rope_head_dim"])
    if "q_lora_rank" in c:
        rank = c["q_lora_rank"]
        queries = hidden * rank + rank + rank * query  # down, norm, up
    else:
        queries = hidden * query
    rank = c["kv_lora_rank"]
    latent = hidden * (rank + c["qk_rope_head_dim"]) + rank
    up = rank * heads * (c["qk_nope_head_dim"] + c["v_head_dim"])
    return queries + latent + up + heads * c["v_head_dim"] * hidden


def deepseek_moe_layer(c: catalog.Row, experts: int) -> int:
    hidden = c["hidden_size"]
    # V3 and Kimi add a learned correction to the scores of its experts.
    router = (hidden + (c["model_type"] != "deepseek_v2")) * c["n_routed_experts"]
    expert = gated_mlp(hidden, c["moe_intermediate_size"])
    experts_read = (experts + c["n_shared_experts"]) * expert
    return latent_attention(c) + router + experts_read + 2 * hidden


def deepseek(c: catalog.Row) -> tuple[int, int]:
    hidden, dense_layers = c["hidden_size"], c["first_k_dense_replace"]
    dense = latent_attention(c) + gated_mlp(hidden, c["intermediate_size"]) + 2 * hidden

    def with_experts(n: int) -> int:
        sparse = (c["num_hidden_layers"] - dense_layers) * deepseek_moe_layer(c, n)
        return tables(c) + dense_layers * dense + sparse + hidden

    return with_experts(c["n_routed_experts"]), with_experts(c["num_experts_per_tok"])


def gpt_layer(hidden: int, intermediate: int) -> int:
    """Four attention matrices and two of the MLP, all with biases; two LayerNorms."""
    attention = 4 * (hidden * hidden + hidden)
    mlp = hidden * intermediate + intermediate + intermediate * hidden + hidden
    return attention + mlp + 4 * hidden


def opt(c: catalog.Row) -> tuple[int, int]:
    hidden = c["hidden_size"]
    positions = (c["max_position_embeddings"] + 2) * hidden  # two rows of padding
    layers = c["num_hidden_layers"] * gpt_layer(hidden, c["ffn_dim"])
    total = tables(c) + positions + layers + 2 * hidden
    return total, total


def gpt2(c: catalog.Row) -> tuple[int, int]:
    hidden = c["n_embd"]
    embeddings = (c["vocab_size"] + c["n_positions"]) * hidden
    total = embeddings + c["n_layer"] * gpt_layer(hidden, 4 * hidden) + 2 * hidden
    return total, total


COUNTERS = {
    "llama": llama, "mistral": llama, "phi3": llama, "qwen2": qwen2, "qwen3": qwen3,
    "mixtral": mixtral, "qwen2_moe": qwen2_moe, "qwen3_moe": qwen3_moe, "gemma2": gemma2,
    "gemma3_text": gemma3, "phi": phi, "gpt_oss": gpt_oss, "deepseek_v2": deepseek,
    "deepseek_v3": deepseek, "kimi_k2": deepseek, "opt": opt, "gpt2": gpt2, "smollm3": llama,
    "granite": llama, "seed_oss": qwen2, "mimo": qwen2, "minimax_m2": minimax, "olmo3": olmo,
}  # fmt: skip


def test_every_promised_preset_is_there() -> None:
    assert MODELS.keys() >= PRESETS


NAIVE = [name for name, row in MODELS.items() if row["config"]["model_type"] in COUNTERS]
PUBLISHED = [name for name, row in MODELS.items() if "published_billions" in row]


@pytest.mark.parametrize("name", NAIVE)
def test_the_parameters_of_every_model_count_up_exactly(name: str) -> None:
    row = MODELS[name]
    total, active = COUNTERS[row["config"]["model_type"]](row["config"])
    assert total == row["parameters"]
    assert active == row.get("active_parameters", total)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_row_is_what_the_program_counts_and_within_1_percent_of_what_is_published(
    name: str,
) -> None:
    row, shape = MODELS[name], model(name)
    assert shape.parameters == row["parameters"]
    assert shape.active_parameters == row.get("active_parameters", row["parameters"])
    assert shape.parameters / 1e9 == pytest.approx(row["published_billions"], rel=0.01)


def test_every_model_is_counted_naively_or_has_a_published_size() -> None:
    assert [name for name in MODELS if name not in NAIVE and name not in PUBLISHED] == []


LAYER_TYPES = {"sliding_attention", "full_attention", "linear_attention", "attention", "mamba"}


@pytest.mark.parametrize("name", MODELS)
def test_a_models_row_is_well_formed(name: str) -> None:
    row = MODELS[name]
    config = row["config"]
    assert row["confidence"] in {"published", "counted"}
    assert row["source"].split(",")[0].endswith(" config.json")
    assert row["parameters_source"]
    assert set(row.get("defaults", ())) <= config.keys()
    assert catalog.load("tokenizers")[row["tokenizer"]]["tokens"] <= config["vocab_size"]
    if "layer_types" in config:
        assert len(config["layer_types"]) == config["num_hidden_layers"]
        assert set(config["layer_types"]) <= LAYER_TYPES
    heads = config.get("num_attention_heads", config.get("n_head"))
    assert heads % config.get("num_key_value_heads", heads) == 0


@pytest.mark.parametrize(
    ("name", "billions"),
    [("mixtral-8x7b", 12.9), ("mixtral-8x22b", 39), ("qwen3-30b-a3b", 3.3), ("deepseek-v2", 21),
     ("qwen3-235b-a22b", 22), ("qwen2-57b-a14b", 14), ("deepseek-v3", 37)],
)  # fmt: skip
def test_active_parameters_agree_with_the_model_cards(name: str, billions: float) -> None:
    assert MODELS[name]["active_parameters"] / 1e9 == pytest.approx(billions, rel=0.03)


@pytest.mark.parametrize(("name", "billions"), [("gpt-oss-20b", 3.61), ("gpt-oss-120b", 5.13)])
def test_the_cards_of_gpt_oss_leave_the_embedding_out(name: str, billions: float) -> None:
    config = MODELS[name]["config"]
    embedding = config["vocab_size"] * config["hidden_size"]
    active = MODELS[name]["active_parameters"] - embedding
    assert active / 1e9 == pytest.approx(billions, abs=0.005)


def test_deepseek_v3_with_its_mtp_module_is_the_whole_checkpoint() -> None:
    """The 62nd layer, two norms, the projection of both and the head's norm, beside stored copies
    of both tables: 684 489 845 504, the safetensors total of the bf16 checkpoint."""
    config = MODELS["deepseek-v3"]["config"]
    hidden = config["hidden_size"]
    layer = deepseek_moe_layer(config, config["n_routed_experts"])
    module = layer + 2 * hidden * hidden + 3 * hidden + tables(config)
    assert MODELS["deepseek-v3"]["parameters"] + module == 684_489_845_504
    assert (module - tables(config)) / 1e9 == pytest.approx(11.5, rel=0.01)  # the weights' README


def test_bytes_that_the_literature_derives_from_these_shapes() -> None:
    def kv_bytes_per_token(name: str) -> int:
        c = MODELS[name]["config"]
        size = c.get("head_dim", c["hidden_size"] // c["num_attention_heads"])
        return 2 * c["num_hidden_layers"] * c["num_key_value_heads"] * size * 2

    assert kv_bytes_per_token("llama-3-8b") == 131_072
    assert kv_bytes_per_token("llama-3-70b") == 327_680
    assert kv_bytes_per_token("llama-2-7b") == 524_288
    v3 = MODELS["deepseek-v3"]["config"]
    assert v3["num_hidden_layers"] * (v3["kv_lora_rank"] + v3["qk_rope_head_dim"]) * 2 == 70_272

    def streamed_gb(name: str) -> float:  # bf16, the embedding gathered and not read
        c = MODELS[name]["config"]
        return 2 * (MODELS[name]["parameters"] - c["vocab_size"] * c["hidden_size"]) / 1e9

    assert streamed_gb("llama-3-8b") == pytest.approx(15.01, abs=0.005)
    assert streamed_gb("llama-3-70b") == pytest.approx(139.01, abs=0.005)
    assert 2 * MODELS["llama-3-70b"]["parameters"] / 1e9 == pytest.approx(141.1, abs=0.05)


@pytest.mark.parametrize(
    ("name", "percent"),
    [("llama-3-70b", 1.5), ("llama-3-8b", 7.0), ("llama-3.2-1b", 21), ("qwen3-0.6b", 26)],
)
def test_the_lm_heads_share_of_the_bytes_read(name: str, percent: float) -> None:
    c = MODELS[name]["config"]
    head = c["vocab_size"] * c["hidden_size"]
    read = MODELS[name]["parameters"] - (0 if c["tie_word_embeddings"] else head)
    assert 100 * head / read == pytest.approx(percent, abs=0.5)
