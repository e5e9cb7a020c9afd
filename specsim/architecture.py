"""The shape of a model: what a `config.json` says, parsed once for cost model and decoder.

An `Architecture` holds sizes only, no weights. Everything that is counted elsewhere (bytes, FLOPs,
kernels) is counted from these numbers, and the decoder builds its layers from the same object, so
the two cannot disagree.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from specsim import catalog
from specsim.catalog import SpecsimError

# model_type -> (bias on the q, k and v projections, RMSNorm on the heads of q and k)
_LLAMA_FAMILY = {
    "llama": (False, False),
    "mistral": (False, False),
    "qwen2": (True, False),
    "qwen3": (False, True),
}
_SUPPORTED_TORCH_NAMES = "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"


@dataclass(frozen=True, slots=True)
class Llama3RopeScaling:
    """Frequency-dependent stretching of the rotary angles (Llama 3.1, `rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder of the Llama shape: RMSNorm, RoPE, grouped-query attention, SwiGLU.

    All sizes are element counts. `head_dim` is a field of its own because
    `hidden_size / num_heads` is wrong for Qwen3 and others. `max_context` is the number of
    positions the model was made for.
    """

    name: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tied_head: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    max_context: int = 4096
    rope_theta: float = 10_000.0
    rope_scaling: Llama3RopeScaling | None = None
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        sizes = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim")
        for field in (*sizes, "intermediate_size", "vocab_size", "max_context"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise SpecsimError(
                    f"{self.name}: {field} must be a positive integer, not {value!r}"
                )
        if self.num_heads % self.num_kv_heads:
            raise SpecsimError(
                f"{self.name}: {self.num_heads} query heads cannot share "
                f"{self.num_kv_heads} KV heads evenly"
            )
        if self.head_dim % 2:
            raise SpecsimError(
                f"{self.name}: head_dim {self.head_dim} must be even for rotary embedding"
            )

    @property
    def query_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Elements of K (and as many of V) that one layer caches per token."""
        return self.num_kv_heads * self.head_dim

    @property
    def kv_elements_per_token(self) -> int:
        """K and V over all layers; times the bytes of an element it is kappa of the theory."""
        return 2 * self.num_layers * self.kv_size

    @property
    def layer_parameters(self) -> int:
        qkv_out = self.query_size + 2 * self.kv_size
        attention = self.hidden_size * qkv_out + self.query_size * self.hidden_size
        mlp = 3 * self.hidden_size * self.intermediate_size
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)
        return attention + (qkv_out if self.qkv_bias else 0) + mlp + norms

    @property
    def embedding_parameters(self) -> int:
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """Every stored parameter; a tied head is counted once."""
        tables = 1 if self.tied_head else 2
        layers = self.num_layers * self.layer_parameters
        return tables * self.embedding_parameters + layers + self.hidden_size

    def first_layers(self, num_layers: int) -> "Architecture":
        """The same model cut after its first `num_layers` layers (early exit, dialled drafts)."""
        if not 1 <= num_layers <= self.num_layers:
            raise SpecsimError(
                f"{self.name} has {self.num_layers} layers; cannot keep the first {num_layers}"
            )
        return replace(self, name=f"{self.name}-first-{num_layers}", num_layers=num_layers)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], name: str) -> "Architecture":
        """Read a Hugging Face `config.json`, as transformers 5 spells it or as older ones did.

        Raises SpecsimError for an unsupported `model_type`, and for a field that is missing or of
        the wrong kind, naming it.
        """
        model_type = config.get("model_type")
        if model_type not in _LLAMA_FAMILY:
            raise SpecsimError(
                f"{name}: model_type {model_type!r} is not supported; known: "
                f"{', '.join(_LLAMA_FAMILY)} ({_SUPPORTED_TORCH_NAMES}). "
                "For another shape build specsim.Architecture(...) by hand"
            )
        if config.get("hidden_act", "silu") not in ("silu", "swish"):
            raise SpecsimError(
                f"{name}: hidden_act {config['hidden_act']!r} is not supported; known: silu"
            )
        if config.get("use_sliding_window"):
            raise SpecsimError(f"{name}: sliding-window attention is not supported")
        if config.get("mlp_bias"):
            raise SpecsimError(f"{name}: mlp_bias is not supported")
        qkv_bias, qk_norm = _LLAMA_FAMILY[model_type]
        if config.get("attention_bias") and not qkv_bias:
            raise SpecsimError(
                f"{name}: attention_bias puts one on the output projection too: not supported"
            )

        def field(key: str) -> int:
            value = config.get(key)
            if value is None:
                raise SpecsimError(f"{name}: config.json lacks the field {key!r}")
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise SpecsimError(f"{name}: {key} must be a positive integer, not {value!r}")
            return value

        def number(table: Mapping[str, Any], key: str, default: float) -> float:
            value = default if table.get(key) is None else table[key]
            if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
                raise SpecsimError(f"{name}: {key} must be a number above 0, not {value!r}")
            return float(value)

        num_heads = field("num_attention_heads")
        hidden_size = field("hidden_size")
        rope = config.get("rope_parameters") or {}
        return cls(
            name=name,
            hidden_size=hidden_size,
            num_layers=field("num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=config.get("num_key_value_heads") or num_heads,
            head_dim=config.get("head_dim") or hidden_size // num_heads,
            intermediate_size=field("intermediate_size"),
            vocab_size=field("vocab_size"),
            tied_head=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=qkv_bias,
            qk_norm=qk_norm,
            max_context=config.get("max_position_embeddings", 4096),
            rope_theta=number(rope, "rope_theta", number(config, "rope_theta", 10_000.0)),
            rope_scaling=_rope_scaling(rope or config.get("rope_scaling") or {}, name),
            norm_eps=number(config, "rms_norm_eps", 1e-5),
        )

    def to_config(self) -> dict[str, Any]:
        """The `config.json` fields that `from_config` reads back (Llama and Qwen spellings)."""
        model_type = "qwen3" if self.qk_norm else "qwen2" if self.qkv_bias else "llama"
        names = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": self.rope_theta}
        if self.rope_scaling:
            scaling = self.rope_scaling
            rope |= {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_context,
            }
        return {
            "architectures": [f"{names[model_type]}ForCausalLM"],
            "model_type": model_type,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "tie_word_embeddings": self.tied_head,
            "max_position_embeddings": self.max_context,
            "rms_norm_eps": self.norm_eps,
            # both spellings, so that readers older and newer than transformers 5 agree
            "rope_theta": self.rope_theta,
            "rope_scaling": rope if self.rope_scaling else None,
            "rope_parameters": rope,
        }


def _rope_scaling(rope: Mapping[str, Any], name: str) -> Llama3RopeScaling | None:
    rope_type = rope.get("rope_type") or rope.get("type") or "default"
    if rope_type == "default":
        return None
    if rope_type != "llama3":
        raise SpecsimError(
            f"{name}: rope_type {rope_type!r} is not supported; known: default, llama3"
        )
    try:
        return Llama3RopeScaling(
            factor=float(rope["factor"]),
            low_freq_factor=float(rope["low_freq_factor"]),
            high_freq_factor=float(rope["high_freq_factor"]),
            original_context=int(rope["original_max_position_embeddings"]),
        )
    except KeyError as missing:
        raise SpecsimError(f"{name}: rope scaling lacks the field {missing}") from None
    except (TypeError, ValueError) as error:
        raise SpecsimError(f"{name}: rope scaling holds no number where it must: {error}") from None


def read_config(path: Path) -> dict[str, Any]:
    """A `config.json`, or that of a folder, as a dict; SpecsimError if it is absent or not JSON."""
    file = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecsimError(f"no such file: {file}") from None
    except OSError as error:
        raise SpecsimError(f"cannot read {file}: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SpecsimError(f"{file} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise SpecsimError(f"{file} must hold a JSON object, not a {type(config).__name__}")
    return config


def model(name: str | Path) -> Architecture:
    """The architecture called `name`: a preset, a `config.json`, or the folder of a checkpoint.

    A hub id (`Qwen/Qwen3-8B`) means the preset, unless there is such a folder here. Raises
    SpecsimError with the nearest preset names when there is none such.
    """
    path = Path(name).expanduser()
    if _is_path(path):
        folder = path if path.is_dir() else path.parent
        named_by_folder = path.is_dir() or path.name == "config.json"
        stem = folder.resolve().name if named_by_folder else path.stem
        return Architecture.from_config(read_config(path), stem)
    row = catalog.resolve("models", str(name))
    return Architecture.from_config(catalog.lookup("models", row)["config"], row)


def _is_path(path: Path) -> bool:
    """Whether a file is meant: a name without a folder, or with one (a hub id), may be a preset."""
    if path.suffix == ".json" or path.is_absolute() or (path / "config.json").is_file():
        return True
    parts = len(path.parts)
    return parts > 2 or (parts == 2 and path.is_dir()) or path.parts[:1] == ("..",)
