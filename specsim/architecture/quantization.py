"""The `quantization_config` of a checkpoint -> a `Storage`: how each class of weights is stored.

Every method has a reader that answers, for a matrix of the model, in which `Format` it is. Bits
count scales and zeros: a scale of 16 bits for a group of 128 is an eighth of a bit on each weight.
What is not a linear layer (the embedding, and the LM head where a method leaves it out) stays in
16 bits. A method that no reader knows is not an error here: its `Storage` says so, and a named
precision prices the model all the same.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from specsim.architecture.layers import Sizes
from specsim.architecture.patterns import Patterns
from specsim.architecture.storage import PLAIN, Format, Module, Storage, by_class
from specsim.checks import SpecsimError

Fields = Mapping[str, Any]
FormatOf = Callable[[Module], Format]

BESIDE = "hf_quant_config.json"
NVFP4_BITS, MXFP4_BITS, MXFP8_BITS = 4 + 8 / 16, 4 + 8 / 32, 8 + 8 / 32
GROUP = 128  # weights to a scale, where a file does not say
# what a linear layer is in, in the words of NVIDIA's ModelOpt
ALGORITHMS = {
    "FP8": Format("fp8", 8.0, "fp8"),
    "FP8_PER_CHANNEL_PER_TOKEN": Format("fp8", 8.0, "fp8"),
    "FP8_PB_REAL": Format("fp8", 8 + 32 / 128**2, "fp8"),
    "FP8_PB_WO": Format("fp8", 8 + 32 / 128**2),
    "MXFP8": Format("fp8", MXFP8_BITS, "fp8"),
    "NVFP4": Format("fp4", NVFP4_BITS, "fp4"),
    "NVFP4_AWQ": Format("fp4", NVFP4_BITS, "fp4"),
    "NVFP4_SVDQUANT": Format("fp4", NVFP4_BITS, "fp4"),
    "W4A16_NVFP4": Format("fp4", NVFP4_BITS),
    "W4A8_NVFP4_FP8": Format("fp4", NVFP4_BITS, "fp8"),
    "W4A8_MXFP4_FP8": Format("fp4", MXFP4_BITS, "fp8"),
    "MXFP4": Format("fp4", MXFP4_BITS, "fp4"),
    "W4A16_MXFP4": Format("fp4", MXFP4_BITS),
    "W8A16": Format("int8", 8.0),
    "INT8_WO": Format("int8", 8.0),
    "INT8_SQ": Format("int8", 8.0, "int8"),
    "W8A8_SQ_PER_CHANNEL": Format("int8", 8.0, "int8"),
    "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN": Format("int8", 8.0, "int8"),
}
GROUPED = {"W4A16": "bf16", "W4A16_AWQ": "bf16", "INT4_AWQ": "bf16", "W4A8_AWQ": "fp8"}
CACHES = {"FP8": 8.0, "INT8": 8.0, "NVFP4": NVFP4_BITS, "FP4": NVFP4_BITS}


def stored_as(config: Fields, model: Sizes, beside: Fields | None = None) -> Storage | None:
    """What a config.json says about how its weights are stored; None where it says nothing.

    Arguments: `beside`, the `hf_quant_config.json` of the same folder, which counts where the
    config itself says nothing.
    """
    text = config.get("text_config")
    inner = text if isinstance(text, Mapping) else {}
    for key in ("quantization_config", "compression_config", "quantization"):
        for place in (config, inner):
            if isinstance(found := place.get(key), Mapping) and found:
                return _read(found, model, key, {**inner, **config})
    if beside is not None:
        found = beside.get("quantization", beside)
        if isinstance(found, Mapping) and found.get("quant_algo"):
            return _read(found, model, BESIDE, {**inner, **config})
    dtypes = (place.get(key) for key in ("dtype", "torch_dtype") for place in (inner, config))
    dtype = str(next((each for each in dtypes if each), "")).removeprefix("torch.")
    if dtype == "float16":
        return Storage("float16", "dtype", "fp16")
    return None


def _read(found: Fields, model: Sizes, source: str, config: Fields) -> Storage:
    method = method_of(found)
    try:
        if method not in READERS:
            known = ", ".join(sorted(READERS))
            raise SpecsimError(f"quantization method {method!r} is not known; known: {known}")
        format_of, kv_bits = READERS[method](found, config)
        formats, name = by_class(model, format_of)
    except SpecsimError as error:
        return Storage(method, source, refusal=str(error))
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        what = f"{type(error).__name__}: {error}"
        return Storage(method, source, refusal=f"{source} cannot be read as {method} ({what})")
    return Storage(method, source, name, formats, kv_bits)


def method_of(found: Fields) -> str:
    """The name of the method, from its own field or from what else there is."""
    named = str(found.get("quant_method") or found.get("quant_type_name") or "").lower()
    named = named.removeprefix("quantizationmethod.").replace("_", "-")
    named = ALIASES.get(named, named)
    if named == "fp8" and found.get("quant_algo") and "quantized_layers" not in found:
        return "modelopt"
    if named:
        return named
    if found.get("quant_algo"):
        return "modelopt"
    if found.get("config_groups"):
        return "compressed-tensors"
    if found.get("load_in_4bit") or found.get("load_in_8bit"):
        return "bitsandbytes"
    if "qformat_weight" in found:
        return "mistral"
    if "bits" in found and "group_size" in found:
        return "mlx"
    return "unnamed"


# ------------------------------------------------------------------------- what readers share


def _number(found: Fields, key: str, default: float | None = None) -> float:
    value = found.get(key, default)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e6:
        raise SpecsimError(f"its quantisation must say {key!r} as a number, not {value!r}")
    return float(value)


def _bits(found: Fields, key: str = "bits", default: float | None = None) -> float:
    bits = _number(found, key, default)
    if not 1 <= bits <= 32:
        raise SpecsimError(f"its quantisation says {key} {bits:g}; from 1 to 32 are possible")
    return bits


def _names(found: Fields, *keys: str) -> list[Any]:
    """The list under the first key that holds one."""
    for key in keys:
        value = found.get(key)
        if isinstance(value, str):
            return [value]
        if isinstance(value, Sequence):
            return list(value)
    return []


def _integer(bits: float, group: float, zeros: bool = True, scale: float = 16.0) -> Format:
    """Integers of so many bits; a scale, and a zero of as many bits as a weight, for a group. A
    scale for a whole channel (a group of -1 or 0) is too little to count."""
    around = (scale + (bits if zeros else 0.0)) / group if group > 0 else 0.0
    return Format("int8" if bits > 6 else "int4", bits + around)


def linear(stored: Format, but: Patterns, head: bool = False, table: bool = False) -> FormatOf:
    """All linear layers in one format, but those of a list; the LM head and the embedding only
    where it says so."""

    def format_of(module: Module) -> Format:
        if module.kind == "table" and not table:
            return PLAIN
        if module.kind == "head" and not head:
            return PLAIN
        return PLAIN if but.match(module) else stored

    return format_of


def _cache_bits(found: Fields) -> float | None:
    """Bits of a cached element, from the fields of compressed-tensors and ModelOpt."""
    scheme = found.get("kv_cache_scheme") or found.get("kv_cache_quant_algo")
    scheme = scheme or found.get("kv_cache_quant_config") or found.get("kv_cache_dtype")
    if isinstance(scheme, Mapping):
        if "num_bits" in scheme:
            return _bits(scheme, "num_bits")
        dtypes = [str(value) for value in scheme.values()]
        return 8.0 if any("8" in dtype for dtype in dtypes) else None
    if not isinstance(scheme, str):
        return None
    name = scheme.upper()
    named = next((bits for algorithm, bits in CACHES.items() if name.startswith(algorithm)), None)
    return named


# -------------------------------------------------------------------------------- the methods

Read = tuple[FormatOf, float | None]


def _fp8(found: Fields, config: Fields) -> Read:
    """Block-wise (DeepSeek), per-tensor or per-channel fp8; experts may be in 4 bits."""
    block = _names(found, "weight_block_size")
    scale = 8 if "ue8m0" in str(found.get("scale_fmt")).lower() else 32
    around = scale / float(block[0] * block[1]) if len(block) == 2 else 0.0
    stored = Format("fp8", 8 + around, "fp8")
    but = Patterns(_names(found, "modules_to_not_convert", "ignored_layers", "ignore"))
    mixed = found.get("quantized_layers")
    experts = None
    if str(config.get("expert_dtype")).lower() in ("fp4", "mxfp4", "float4"):
        experts = Format("fp4", MXFP4_BITS, "fp8")
    if isinstance(mixed, Mapping):  # what is not named there keeps the base format
        but, named = Patterns(()), _by_layer(mixed)
    else:
        named = None
    base = linear(stored, but)

    def format_of(module: Module) -> Format:
        if named is not None and (special := named(module)) is not None:
            return special
        return experts if experts and module.kind == "experts" else base(module)

    return format_of, _cache_bits(found)


def _modelopt(found: Fields, config: Fields) -> Read:
    algorithm = str(found.get("quant_algo") or "").upper()
    if not algorithm and "4" in str(found.get("quant_method")):
        algorithm = "NVFP4"  # SGLang's and vLLM's own names for it
    left_out = _names(found, "exclude_modules", "ignore", "modules_to_not_convert")
    mixed = found.get("quantized_layers")
    if isinstance(mixed, Mapping) and algorithm in ("MIXED_PRECISION", ""):
        named, but = _by_layer(mixed), Patterns(left_out)

        def format_of(module: Module) -> Format:
            stored = named(module)
            return PLAIN if stored is None or but.match(module) else stored

        return format_of, _cache_bits(found)
    if not algorithm and found.get("config_groups"):
        return _compressed(found, config)
    stored = _algorithm(algorithm, found)
    # ModelOpt leaves the LM head out unless it is told otherwise
    return linear(stored, Patterns(left_out or ["lm_head"]), head=bool(left_out)), _cache_bits(
        found
    )


def _algorithm(name: str, found: Fields) -> Format:
    name = name.upper()
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if name in GROUPED:
        group = _number(found, "group_size", GROUP)
        stored = _integer(4, group, zeros=bool(found.get("has_zero_point")))
        return Format(stored.name, stored.bits, GROUPED[name])
    known = ", ".join((*ALGORITHMS, *GROUPED))
    raise SpecsimError(f"quant_algo {name!r} is not known; known: {known}")


def _by_layer(layers: Fields) -> Callable[[Module], Format | None]:
    """From a table of module names, each with its algorithm; None for one that is not there."""
    named = {str(name): each for name, each in layers.items() if isinstance(each, Mapping)}
    patterns = Patterns(named)

    def format_of(module: Module) -> Format | None:
        if module.kind == "table" or (key := patterns.match(module)) is None:
            return None
        return _algorithm(str(named[key].get("quant_algo")), named[key])

    return format_of


def _compressed(found: Fields, config: Fields) -> Read:
    """compressed-tensors: groups of targets, each with a scheme of weights and activations."""
    sparse = found.get("sparsity_config")
    if isinstance(sparse, Mapping) and sparse.get("format") not in (None, "dense"):
        raise SpecsimError(
            f"sparse weights (format {sparse.get('format')!r}) are not priced; known: dense"
        )
    groups = found.get("config_groups")
    if not isinstance(groups, Mapping):
        raise SpecsimError("compressed-tensors must have config_groups")
    named: list[tuple[Patterns, Format]] = []
    everywhere: Format | None = None
    for scheme in groups.values():
        stored = _scheme(scheme, str(scheme.get("format") or found.get("format") or ""))
        targets = _names(scheme, "targets") or ["Linear"]
        if kinds := [each for each in targets if each in ("Linear", "FusedMoE", "MoE")]:
            everywhere = stored if everywhere is None or "Linear" in kinds else everywhere
        if len(kinds) < len(targets):
            named.append((Patterns(each for each in targets if each not in kinds), stored))
    but = Patterns(_names(found, "ignore", "exclude_modules"))

    def format_of(module: Module) -> Format:
        if module.kind == "table" or but.match(module):
            return PLAIN
        special = next((stored for targets, stored in named if targets.match(module)), None)
        return special or everywhere or PLAIN

    return format_of, _cache_bits(found)


def _scheme(scheme: Fields, layout: str) -> Format:
    """Weights and activations of one group, by their number of bits and their type."""
    weights = scheme.get("weights")
    if not isinstance(weights, Mapping):
        return PLAIN
    bits = _bits(weights, "num_bits")
    real = "float" in str(weights.get("type", "int")).lower()
    group = _number(weights, "group_size", 0)
    block = _names(weights, "block_structure")
    acts = scheme.get("input_activations")
    wide = _bits(acts, "num_bits", 16) if isinstance(acts, Mapping) else 16.0
    floats = "float" in str((acts or {}).get("type", "int")).lower()
    math = "bf16" if wide > 8 else "fp8" if floats else "int8"
    if real and bits == 4:
        mx = "mxfp4" in layout or (group == 32 and "nvfp4" not in layout)
        narrow = "fp4" if wide == 4 and floats else math
        return Format("fp4", MXFP4_BITS if mx else NVFP4_BITS, narrow)
    if len(block) == 2:
        around = 32 / float(block[0] * block[1])
    else:
        zeros = 0.0 if weights.get("symmetric", True) or real else bits
        scale = 8.0 if "mxfp8" in layout else 16.0
        around = (scale + zeros) / group if group > 0 else 0.0
    name = "fp8" if real else "int8" if bits > 6 else "int4"
    return Format(name, bits + around, math)


def _gptq(found: Fields, config: Fields) -> Read:
    """GPTQ, and AutoRound in its layout; `dynamic` leaves modules out or gives them other bits."""
    stored = _integer(_bits(found), _number(found, "group_size", GROUP))
    head, dynamic = bool(found.get("lm_head")), found.get("dynamic")
    dynamic = dynamic if isinstance(dynamic, Mapping) else {}
    out = [name[2:] for name in dynamic if str(name).startswith("-:")]
    out_of, names = Patterns(out, expressions=True), _names(found, "modules_to_not_convert")
    but = Patterns(names)
    other = [
        (Patterns([name.removeprefix("+:")], expressions=True), {**found, **change})
        for name, change in dynamic.items()
        if not str(name).startswith("-:") and isinstance(change, Mapping)
    ]

    def format_of(module: Module) -> Format:
        if module.kind == "table" or (module.kind == "head" and not head):
            return PLAIN
        if out_of.match(module) or but.match(module):
            return PLAIN
        for patterns, fields in other:
            if patterns.match(module):
                return _integer(_bits(fields), _number(fields, "group_size", GROUP))
        return stored

    return format_of, _cache_bits(found)


def _auto_round(found: Fields, config: Fields) -> Read:
    special = found.get("extra_config")
    layers = special if isinstance(special, Mapping) else {}
    base, kv_bits = _gptq(found, config)
    patterns = Patterns(layers)

    def format_of(module: Module) -> Format:
        if module.kind != "table" and (key := patterns.match(module)):
            fields = {**found, **layers[key]}
            bits = _bits(fields)
            return PLAIN if bits >= 16 else _integer(bits, _number(fields, "group_size", GROUP))
        return base(module)

    return format_of, kv_bits


def _awq(found: Fields, config: Fields) -> Read:
    bits = _bits(found, "bits" if "bits" in found else "w_bit", 4)
    group = _number(found, "group_size" if "group_size" in found else "q_group_size", GROUP)
    but = Patterns(_names(found, "modules_to_not_convert"))
    zeros = found.get("zero_point", True) is not False
    return linear(_integer(bits, group, zeros), but), _cache_bits(found)


def _bitsandbytes(found: Fields, config: Fields) -> Read:
    """4 bits: a 32-bit scale for 64 weights, itself in 8 bits where quantised twice. 8 bits:
    LLM.int8() multiplies in integers."""
    skipped = _names(found, "llm_int8_skip_modules", "modules_to_not_convert")
    four = found.get("load_in_4bit") or found.get("_load_in_4bit")
    if four:
        twice = bool(found.get("bnb_4bit_use_double_quant"))
        around = 8 / 64 + 32 / (64 * 256) if twice else 32 / 64
        stored = Format("int4", 4 + around)
    else:
        stored = Format("int8", 8.0, "int8")
    return linear(stored, Patterns(skipped)), None


def _mxfp4(found: Fields, config: Fields) -> Read:
    """gpt-oss: the experts alone."""
    but = Patterns(_names(found, "modules_to_not_convert"))
    stored = Format("mxfp4-moe", MXFP4_BITS)

    def format_of(module: Module) -> Format:
        return stored if module.kind == "experts" and not but.match(module) else PLAIN

    return format_of, None


def _torchao(found: Fields, config: Fields) -> Read:
    kind = found.get("quant_type")
    options: Fields = found
    if isinstance(kind, Mapping):  # {"default": {"_type": "Int4WeightOnlyConfig", "_data": {…}}}
        inner = kind.get("default", kind)
        kind, options = inner.get("_type"), inner.get("_data") or {}
    name = str(kind).lower().replace("_", "")
    group = _number(options, "group_size", GROUP if "int4" in name else 0)
    fp8 = "float8" in name or "fp8" in name
    activations = "dynamicactivation" in name or "static" in name or name.endswith(("dq", "a8"))
    if "int4" in name or "uint4" in name or name.startswith("hqq"):
        stored = _integer(4, group, scale=32.0, zeros=False)  # a scale and a zero of 16 bits
        math = "fp8" if fp8 else "int8" if activations else "bf16"
    elif fp8:
        stored, math = Format("fp8", 8.0), "fp8" if activations else "bf16"
    elif "int8" in name:
        stored = _integer(8, group, zeros=False)
        math = "int8" if activations else "bf16"
    elif "nvfp4" in name:
        stored, math = Format("fp4", NVFP4_BITS), "fp4"
    elif "mxfp4" in name or "mxfp8" in name:
        four = "mxfp4" in name
        stored = Format("fp4" if four else "fp8", MXFP4_BITS if four else MXFP8_BITS)
        math = "fp4" if four else "fp8"
    else:
        raise SpecsimError(f"torchao's {kind!r} is not known; known: int4, int8, float8, nvfp4, mx")
    but = Patterns(_names(found, "modules_to_not_convert"))
    whole = bool(found.get("include_input_output_embeddings"))
    return linear(Format(stored.name, stored.bits, math), but, head=whole, table=whole), None


def _fbgemm(found: Fields, config: Fields) -> Read:
    but = Patterns(_names(found, "modules_to_not_convert"))
    return linear(Format("fp8", 8.0, "fp8"), but), None


def _quark(found: Fields, config: Fields) -> Read:
    whole = found.get("global_quant_config")
    if not isinstance(whole, Mapping):
        raise SpecsimError("quark must have a global_quant_config")
    stored = _quark_format(whole)
    special = found.get("layer_quant_config")
    layers = {
        str(name): _quark_format(each)
        for name, each in (special if isinstance(special, Mapping) else {}).items()
        if isinstance(each, Mapping)
    }
    patterns, but = Patterns(layers), Patterns(_names(found, "exclude"))

    def format_of(module: Module) -> Format:
        if module.kind == "table" or but.match(module):
            return PLAIN
        key = patterns.match(module)
        return stored if key is None else layers[key]

    caches = found.get("kv_cache_quant_config") or whole.get("output_tensors")
    return format_of, 8.0 if caches and "8" in str(caches) else _cache_bits(found)


def _quark_format(scheme: Fields) -> Format:
    weights, acts = scheme.get("weight"), scheme.get("input_tensors")
    if isinstance(weights, Sequence) and not isinstance(weights, str):
        weights = weights[0]
    if not isinstance(weights, Mapping):
        return PLAIN
    dtype, group = str(weights.get("dtype")).lower(), _number(weights, "group_size", 0)
    narrow = str((acts or {}).get("dtype")).lower() if isinstance(acts, Mapping) else ""
    math = "fp8" if "fp8" in narrow or "fp6" in narrow else "int8" if "int8" in narrow else "bf16"
    if "fp4" in dtype or "mx" in dtype:
        return Format("fp4", MXFP4_BITS, "fp4" if "4" in narrow else math)
    if "fp8" in dtype:
        return Format("fp8", 8.0, math)
    if "int8" in dtype:
        return Format("int8", 8.0, math)
    if "int4" in dtype:
        stored = _integer(4, group)
        return Format(stored.name, stored.bits, math)
    raise SpecsimError(f"quark's weights in {dtype!r} are not known; known: fp8, int8, int4, fp4")


def _hqq(found: Fields, config: Fields) -> Read:
    fields = found.get("quant_config", found)
    if isinstance(fields.get("weight_quant_params"), Mapping):
        fields = fields["weight_quant_params"]
    bits = _bits(fields, "nbits" if "nbits" in fields else "bits", 4)
    group = _number(fields, "group_size", 64)
    stored = _integer(bits, group, zeros=False, scale=32.0)
    return linear(stored, Patterns(_names(found, "skip_modules"))), None


def _aqlm(found: Fields, config: Fields) -> Read:
    """Codes of `nbits_per_codebook` for each group of weights; codebooks are too small to count."""
    codes = _number(found, "num_codebooks") * _bits(found, "nbits_per_codebook")
    across = _number(found, "in_group_size", 8) * _number(found, "out_group_size", 1)
    but = Patterns(_names(found, "linear_weights_not_to_quantize"))
    return linear(Format("int4", codes / across), but), None


def _higgs(found: Fields, config: Fields) -> Read:
    bits, group = _bits(found, "bits", 4), _number(found, "group_size", 256)
    but = Patterns(_names(found, "modules_to_not_convert"))
    return linear(Format("int4", bits + 16 / group), but), None


def _exl(found: Fields, config: Fields) -> Read:
    """ExLlama's files say their mean bits, and those of the LM head."""
    bits, head = _bits(found), _bits(found, "head_bits", 6)

    def format_of(module: Module) -> Format:
        if module.kind == "table":
            return PLAIN
        each = head if module.kind == "head" else bits
        return Format("int8" if each > 6 else "int4", each)

    return format_of, None


def _eight_bits(found: Fields, config: Fields) -> Read:
    """Integers of 8 bits, the products in 16 (EETQ)."""
    return linear(Format("int8", 8.0), Patterns(_names(found, "modules_to_not_convert"))), None


def _quanto(found: Fields, config: Fields) -> Read:
    weights, acts = str(found.get("weights")), str(found.get("activations"))
    known = {"int8": 8.0, "float8": 8.0, "int4": 4 + 32 / 128, "int2": 2 + 32 / 128}
    if weights not in known:
        raise SpecsimError(f"quanto's {weights!r} is not known; known: {', '.join(known)}")
    math = {"int8": "int8", "float8": "fp8"}.get(acts, "bf16")
    name = {"int8": "int8", "float8": "fp8"}.get(weights, "int4")
    but = Patterns(_names(found, "modules_to_not_convert"))
    return linear(Format(name, known[weights], math), but), None


def _bitnet(found: Fields, config: Fields) -> Read:
    """Three values, packed into 2 bits; activations of 8 bits."""
    but = Patterns(_names(found, "modules_to_not_convert"))
    return linear(Format("int4", 2.0, "int8"), but), None


def _fp_quant(found: Fields, config: Fields) -> Read:
    nv = "nv" in str(found.get("forward_dtype")).lower()
    but = Patterns(_names(found, "modules_to_not_convert"))
    return linear(Format("fp4", NVFP4_BITS if nv else MXFP4_BITS, "fp4"), but), None


def _mxfp8(found: Fields, config: Fields) -> Read:
    but = Patterns(_names(found, "modules_to_not_convert", "ignored_layers", "ignore"))
    return linear(Format("fp8", MXFP8_BITS, "fp8"), but), _cache_bits(found)


def _mistral(found: Fields, config: Fields) -> Read:
    """Mistral's own params.json."""
    if "fp8" not in str(found.get("qformat_weight")):
        raise SpecsimError(f"qformat_weight {found.get('qformat_weight')!r} is not known: fp8 is")
    return linear(Format("fp8", 8.0, "fp8"), Patterns(())), None


def _mlx(found: Fields, config: Fields) -> Read:
    """MLX: every linear layer and the embedding; a table or `false` for single modules."""
    layers = {str(k): v for k, v in found.items() if isinstance(v, Mapping) or v is False}
    patterns = Patterns(layers)
    stored = _mlx_format(found)

    def format_of(module: Module) -> Format:
        key = patterns.match(module)
        if key is None:
            return stored
        special = layers[key]
        return _mlx_format({**found, **special}) if isinstance(special, Mapping) else PLAIN

    return format_of, None


def _mlx_format(found: Fields) -> Format:
    mode = str(found.get("mode") or "affine")
    bits = {"mxfp4": MXFP4_BITS, "nvfp4": NVFP4_BITS, "mxfp8": MXFP8_BITS}.get(mode)
    if bits is not None:
        return Format("fp8" if bits > 6 else "fp4", bits)
    return _integer(_bits(found), _number(found, "group_size", 64), zeros=False, scale=32.0)


ALIASES = {
    "compressed-tensors": "compressed-tensors", "sparseml": "compressed-tensors",
    "gptq-marlin": "gptq", "marlin": "gptq", "gptqmodel": "gptq", "awq-marlin": "awq",
    "auto-awq": "awq", "autoawq": "awq", "intel/auto-round": "auto-round",
    "autoround": "auto-round", "auto-round": "auto-round", "bitsandbytes-8bit": "bitsandbytes",
    "bitsandbytes-4bit": "bitsandbytes", "fbgemm-fp8": "fbgemm-fp8", "gpt-oss-mxfp4": "mxfp4",
    "modelopt-fp4": "modelopt", "modelopt-fp8": "modelopt", "modelopt-mixed": "modelopt",
    "nvfp4": "modelopt", "fp-quant": "fp-quant", "w8a8-fp8": "fbgemm-fp8",
    "finegrained-fp8": "fp8", "deepseek-fp8": "fp8", "torch-ao": "torchao",
}  # fmt: skip

READERS: dict[str, Callable[[Fields, Fields], Read]] = {
    "fp8": _fp8,
    "modelopt": _modelopt,
    "compressed-tensors": _compressed,
    "gptq": _gptq,
    "auto-round": _auto_round,
    "awq": _awq,
    "bitsandbytes": _bitsandbytes,
    "mxfp4": _mxfp4,
    "mxfp8": _mxfp8,
    "torchao": _torchao,
    "fbgemm-fp8": _fbgemm,
    "quark": _quark,
    "hqq": _hqq,
    "aqlm": _aqlm,
    "higgs": _higgs,
    "exl2": _exl,
    "exl3": _exl,
    "eetq": _eight_bits,
    "quanto": _quanto,
    "bitnet": _bitnet,
    "fp-quant": _fp_quant,
    "mistral": _mistral,
    "mlx": _mlx,
}
