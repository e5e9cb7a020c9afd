"""The config of a trained draft head -> a `DraftHead`: its method, its layers, what it reads.

A head is recognised by what its `config.json` says: its class, its type, or fields that no ordinary
model has. It is read for one target, whose sizes fill what the file leaves out, and refused for any
other: it reads the target's hidden states and drafts the target's tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from specsim import catalog
from specsim.architecture.config import from_config, language_model
from specsim.architecture.families import FAMILIES
from specsim.architecture.layers import layers_of
from specsim.architecture.parts import Attention
from specsim.architecture.paths import file_of, named_by, path_of, read_config
from specsim.architecture.shape import Architecture
from specsim.architecture.tokenizers import PADDING
from specsim.checks import SpecsimError, require_size

Fields = Mapping[str, Any]

LOOKED_AT = 3  # hidden states that EAGLE-3 fuses, where a config does not name the layers
MOST_LAYERS = 8  # of a file that is a head because somebody says so
SHALLOW = 0.75  # the last state that a head reads lies deeper in its own target than this share
# what a head's class or type says -> its method; the first that is found holds
NAMES = {
    "medusa": "medusa", "dflash": "dflash", "dspark": "dflash", "peagle": "p-eagle",
    "eagle3": "eagle-3", "mtp": "mtp", "nextn": "mtp", "eagle": "eagle",
}  # fmt: skip
UNPRICED = ("mlpspeculator", "hydra", "assistant", "arctic", "tokenlatentfeedback")
MASKS = ("ptd_token_id", "pard_token", "mask_token_id", "dspark_noise_token_id")
# an ordinary draft model with a mask token drafts in one pass (PARD, arXiv:2504.18583)
PARALLEL_MODEL = "draft-model"
SPOKEN = {
    "medusa": "Medusa", "dflash": "DFlash", "p-eagle": "P-EAGLE", "eagle-3": "EAGLE-3",
    "mtp": "MTP", "eagle": "EAGLE", "draft-model": "PARD",
}  # fmt: skip
# methods of the catalog that a head of another name can serve
SERVES = {
    "eagle": ("eagle", "eagle-2"),
    "eagle-3": ("eagle-3", "eagle-2", "tree"),
    "mtp": ("mtp",),
    "p-eagle": ("p-eagle",),
    "dflash": ("dflash",),
    "medusa": ("medusa",),
    PARALLEL_MODEL: (PARALLEL_MODEL,),
}
HEAD_METHODS = ("eagle", "eagle-2", "eagle-3", "mtp", "p-eagle", "dflash", "medusa")


@dataclass(frozen=True, slots=True)
class DraftHead:
    """A trained head, read for one target.

    Arguments: `method`, a row of methods.toml; `body`, its own layers, with the vocabulary that it
    drafts from (of Medusa, the target's: it has none); `features`, hidden states of the target that
    it fuses; `every_pass` and `first_pass`, parameters of its matrices around the layers that each
    pass reads, and the first of a cycle alone; `own_head`, whether its LM head is its own;
    `drafts`, the most tokens of a cycle (None: no limit); `heads`, Medusa's, with
    `head_layers` each; `notes`, sentences about the file.
    """

    method: str
    body: Architecture
    features: int = 0
    every_pass: int = 0
    first_pass: int = 0
    own_head: bool = False
    drafts: int | None = None
    heads: int = 0
    head_layers: int = 1
    notes: tuple[str, ...] = ()

    @property
    def in_one_pass(self) -> bool:
        """Whether all drafts of a cycle come from one pass."""
        return self.method in ("dflash", "p-eagle", PARALLEL_MODEL)


def draft_head(
    name: str | Path, target: Architecture, method: str | None = None
) -> DraftHead | None:
    """The draft head in a `config.json`, or in a checkpoint's folder; None for a model of the
    catalog and for an ordinary model, unless `method` says that the file is a head.

    Raises SpecsimError for a head of a kind that is not priced, for one of another target,
    and for what no file can be called.
    """
    path = path_of(name)
    if path is None or (file := file_of(path)).suffix.lower() == ".gguf":
        return None
    return head_from_config(read_config(file), target, named_by(file), method)


def head_from_config(
    config: Fields, target: Architecture, name: str, method: str | None = None
) -> DraftHead | None:
    """As `draft_head`, of a config that was read already."""
    said = kind_of(config, name)
    kind = said or ("eagle" if method == "eagle-2" else method)
    if kind is None or kind not in SERVES:
        return None
    if method is not None and method not in SERVES[kind]:
        raise SpecsimError(
            f"{name} is {_article(SPOKEN[kind])} head, not one for the method {method}: leave out "
            f"--method, or give one of {', '.join(SERVES[kind])}"
        )
    notes = _require_target(config, target, name)
    if kind == "medusa":
        return _medusa(config, target, name, notes)
    body = _body(config, target, name, kind)
    if said is None and body.num_layers > MOST_LAYERS:
        raise SpecsimError(
            f"{name} has {body.num_layers} layers and no field of a draft head: as an ordinary "
            "draft model it needs --method draft-model"
        )
    notes += _require_sizes(config, body, target, name)
    reads = {
        "eagle": _eagle, "mtp": _eagle, "eagle-3": _eagle_3, "p-eagle": _eagle_3,
        "dflash": _block, PARALLEL_MODEL: _parallel_model,
    }  # fmt: skip
    if small := config.get("draft_vocab_size"):
        body = replace(body, vocab_size=small)
    found = reads[kind](config, body, target, name)
    told = _told(found, body, target, name)
    return replace(found, method=kind, notes=(told, *found.notes, *notes))


def kind_of(config: Fields, name: str) -> str | None:
    """The method of a head, by its config; None for an ordinary model. SpecsimError for a kind of
    head that is known and not priced."""
    kind = _said_kind(config, name)
    if kind is None and config.get("block_size") and _masked(config):
        kind = "dflash"
    if kind == "eagle-3" and (_masked(config) or config.get("parallel_drafting")):
        kind = "p-eagle"
    if kind is None and config.get("num_hidden_layers") == 1 and "bias" in config:
        kind = "eagle"
    if kind is None and _masked(config) and config.get("model_type") in FAMILIES:
        kind = PARALLEL_MODEL if "pard_token" in config else None
    return kind


def refuse_head(config: Fields, name: str) -> None:
    """SpecsimError for the config of a draft head, which is no model of its own. Its class, type or
    fields must say so: what else `kind_of` goes by, an ordinary model may have too."""
    if config.get("model_type") == "arctic":  # a mixture of experts; heads have its name in theirs
        return
    kind, multimodal = _said_kind(config, name), language_model(config)[1]
    if kind is not None and not multimodal:  # Eagle 2.5 sees
        raise SpecsimError(
            f"{name} is {_article(SPOKEN[kind])} draft head, which reads the hidden states of "
            "another model: give it as --draft, and that model as --target"
        )


def _said_kind(config: Fields, name: str) -> str | None:
    """The method of a head whose class, type or fields are no ordinary model's. SpecsimError for a
    kind of head that is known and not priced."""
    inner = config.get("speculators_config")
    said = [config.get("model_type"), config.get("speculators_model_type"), config.get("method")]
    said += _list(config.get("architectures"))
    said += [inner.get("algorithm")] if isinstance(inner, Mapping) else []
    words = " ".join(str(each) for each in said if each)
    plain = words.lower().replace("_", "").replace("-", "")
    for part in UNPRICED:
        if part in plain:
            raise SpecsimError(
                f"{name} is a draft head of a kind that is not priced ({words}); priced: "
                f"{', '.join(dict.fromkeys(NAMES.values()))}"
            )
    kind = next((method for part, method in NAMES.items() if part in plain), None)
    small, block = config.get("draft_vocab_size"), config.get("block_size")
    reads_layers = any(key in config for key in ("target_layer_ids", "num_target_layers"))
    # EAGLE's first heads have the class of a Llama of one layer, and say whether the projection in
    # front of it has a bias, which no Llama does
    one_layer = config.get("num_hidden_layers") == 1 and config.get("model_type") == "llama"
    fields = (
        ("medusa", "medusa_num_heads" in config),
        ("dflash", "dflash_config" in config),
        ("eagle-3", config.get("eagle_config")),
        ("dflash", block and (reads_layers or (small and _masked(config)))),
        ("eagle-3", small),
        ("eagle", one_layer and "bias" in config),
    )
    return kind or next((method for method, there in fields if there), None)


def _masked(config: Fields) -> bool:
    return any(config.get(key) is not None for key in MASKS)


# ------------------------------------------------------------------------------ kinds of heads


def _eagle(config: Fields, body: Architecture, target: Architecture, name: str) -> DraftHead:
    """Embedding and feature side by side, projected onto one, before every pass."""
    return DraftHead("eagle", body, 1, every_pass=2 * body.hidden_size**2)


def _eagle_3(config: Fields, body: Architecture, target: Architecture, name: str) -> DraftHead:
    """Several states of the target are fused once a cycle; the first layer reads the embedding and
    the feature side by side, so its query, key and value matrices have twice the rows."""
    states = _states(config)
    fused = states * target.hidden_size * body.hidden_size
    first = layers_of(body)[0].mixer
    if not isinstance(first, Attention):
        raise SpecsimError(f"{name}: an EAGLE-3 head whose layer is not attention is not priced")
    queries = first.query_size + first.gate_columns
    if first.latent is not None and first.latent.query_rank:
        queries = first.latent.query_rank
    wide = body.hidden_size * (queries + first.cached)
    return DraftHead("eagle-3", body, states, every_pass=wide, first_pass=fused, own_head=True)


def _block(config: Fields, body: Architecture, target: Architecture, name: str) -> DraftHead:
    """A block of masked tokens in one pass of a few layers (DFlash, arXiv:2602.06036): its first
    token is the pending one, except in DSpark's, which drafts at every position."""
    inner = config.get("dflash_config")
    inner = inner if isinstance(inner, Mapping) else {}
    states = _states({**config, **inner}, fallback=0)
    block = config.get("block_size", inner.get("block_size"))
    if block is not None:
        require_size(f"{name}: block_size", block, least=2)
    spark = "dspark" in str(config.get("architectures")).lower() + str(
        config.get("speculators_model_type")
    )
    note = "DSpark's small Markov head, which corrects the block, is not counted (optimistic)."
    return DraftHead(
        "dflash",
        body,
        states,
        first_pass=states * target.hidden_size * body.hidden_size,
        own_head=bool(config.get("draft_vocab_size")) or spark,
        drafts=None if block is None else block if spark else block - 1,
        notes=(note,) if spark else (),
    )


def _parallel_model(
    config: Fields, body: Architecture, target: Architecture, name: str
) -> DraftHead:
    return DraftHead(PARALLEL_MODEL, body, own_head=True)


def _medusa(config: Fields, target: Architecture, name: str, notes: tuple[str, ...]) -> DraftHead:
    fields = {**config}
    hidden, vocab = config.get("hidden_size"), config.get("vocab_size")
    if hidden is not None and hidden != target.hidden_size:
        raise _other_states(name, hidden, target)
    if vocab is not None:
        _require_vocabulary(vocab, target, name)
    heads = next((fields[k] for k in ("medusa_num_heads", "num_heads") if fields.get(k)), 5)
    layers = next(
        (fields[k] for k in ("medusa_num_layers", "num_hidden_layers") if fields.get(k)), 1
    )
    require_size(f"{name}: medusa_num_heads", heads)
    require_size(f"{name}: medusa_num_layers", layers)
    small = config.get("truncated_vocab_size") or config.get("draft_vocab_size")
    body = replace(target, name=name, stored=None)
    if small:
        body = replace(body, vocab_size=_draft_vocabulary(small, target, name))
    told = f"{name} is read as {heads} Medusa heads of {_layers(layers)} each."
    return DraftHead(
        "medusa", body, 1, own_head=True, drafts=heads, heads=heads, head_layers=layers,
        notes=(told, *notes),
    )  # fmt: skip


def _states(config: Fields, fallback: int = LOOKED_AT) -> int:
    """How many hidden states of the target a head fuses."""
    inner = config.get("eagle_config")
    inner = inner if isinstance(inner, Mapping) else {}
    if inner.get("use_aux_hidden_state") is False:
        return 1
    for place in (inner, config):
        for key in LAYER_LISTS:
            if found := _list(place.get(key)):
                return len(found)
    return fallback


LAYER_LISTS = (
    "eagle_aux_hidden_state_layer_ids", "aux_hidden_state_layer_ids", "target_layer_ids",
    "target_layers", "layer_ids",
)  # fmt: skip


def _told(head: DraftHead, body: Architecture, target: Architecture, name: str) -> str:
    """What the head was read as, in a sentence."""
    said = f"{name} is read as {_article(SPOKEN[head.method])} head of {_layers(body.num_layers)}"
    if head.features > 1:
        said += f" on {head.features} hidden states of {target.name}"
    if body.vocab_size < (1 - PADDING) * target.vocab_size:
        said += f", with {body.vocab_size:,} of {target.vocab_size:,} tokens"
    if head.in_one_pass:
        said += "; all drafts of a cycle come from one pass"
    return f"{said}."


# ----------------------------------------------------------------------- sizes, and the target


def _body(config: Fields, target: Architecture, name: str, kind: str) -> Architecture:
    """The head's own layers; what the file does not say is the target's."""
    inner: Fields = next(
        (
            config[key]
            for key in ("transformer_layer_config", "model", "text_config")
            if isinstance(config.get(key), Mapping)
        ),
        {},
    )
    fields = {**inner} if inner else {**config}
    if config.get("quantization_config"):
        fields.setdefault("quantization_config", config["quantization_config"])
    model_type = str(fields.get("model_type"))
    model_type = {"deepseek_mtp": "deepseek_v3"}.get(model_type, model_type)
    if kind == "mtp" and model_type.removesuffix("_mtp") not in FAMILIES:
        return replace(target.mtp_module, name=name, stored=None)
    bare = model_type.removesuffix("_mtp")
    fields["model_type"] = model_type if model_type in FAMILIES else bare
    if fields["model_type"] not in FAMILIES:
        fields["model_type"] = "qwen3" if kind == "dflash" else "llama"
    usual = {
        "hidden_size": target.hidden_size,
        "intermediate_size": target.intermediate_size,
        "vocab_size": target.vocab_size,
        "num_hidden_layers": 1,
        "max_position_embeddings": target.max_context,
    }
    if fields.get("num_attention_heads") is None:
        usual |= {
            "num_attention_heads": target.num_heads,
            "num_key_value_heads": target.num_kv_heads,
            "head_dim": target.head_dim,
        }
    for key, value in usual.items():
        if fields.get(key) is None:
            fields[key] = value
    if fields.get("use_sliding_window") is False:
        fields.pop("sliding_window", None)
    # one layer of a model: what counts the target's layers does not count these
    if len(_list(fields.get("layer_types"))) not in (0, fields["num_hidden_layers"]):
        fields.pop("layer_types", None)
    fields.pop("max_window_layers", None)
    body = from_config(fields, name)
    return replace(body.mtp_module, name=name) if kind == "mtp" else body


def _require_sizes(
    config: Fields, body: Architecture, target: Architecture, name: str
) -> tuple[str, ...]:
    """SpecsimError unless the head reads states and drafts tokens of this target; a sentence where
    the layers that it reads are those of a shallower one."""
    shallow: tuple[str, ...] = ()
    inner = config.get("eagle_config")
    inner = inner if isinstance(inner, Mapping) else {}
    read = config.get("target_hidden_size") or inner.get("target_hidden_size") or body.hidden_size
    if read != target.hidden_size and kind_of(config, name) != PARALLEL_MODEL:
        raise _other_states(name, read, target)
    _require_vocabulary(body.vocab_size, target, name)
    if (small := config.get("draft_vocab_size")) is not None:
        _draft_vocabulary(small, target, name)
    block = config.get("dflash_config")
    layers = config.get("num_target_layers")
    if layers is not None and layers != target.num_layers:
        raise SpecsimError(
            f"{name} is a head for a target of {layers} layers; {target.name} has "
            f"{target.num_layers}"
        )
    for place in (config, inner, block if isinstance(block, Mapping) else {}):
        for key in LAYER_LISTS:
            ids = [each for each in _list(place.get(key)) if isinstance(each, int)]
            if ids and max(ids) > target.num_layers:
                raise SpecsimError(
                    f"{name} reads the states after layer {max(ids)}; {target.name} has "
                    f"{target.num_layers} layers: it is a head for another target"
                )
            if ids and max(ids) < SHALLOW * target.num_layers:
                shallow = (
                    f"{name} reads no state after layer {max(ids)} of {target.num_layers}: it may "
                    "be a head for a shallower target of the same width.",
                )
    return shallow


def _require_target(config: Fields, target: Architecture, name: str) -> tuple[str, ...]:
    """SpecsimError where the file names another target that the catalog knows; a sentence where it
    names one that nobody knows here."""
    named = _verifier(config)
    if named is None or catalog.slug(named) == catalog.slug(target.name):
        return ()
    rows = catalog.load("models")
    row = rows.spellings().get(catalog.slug(named))
    if row is None:
        return (f"{name} was trained for {named}: whether that is {target.name} is unknown.",)
    if target.name in rows:
        same = row == target.name
    else:
        written = from_config(rows[row]["config"], row)
        ours = (target.hidden_size, target.num_layers, target.vocab_size)
        same = ours == (written.hidden_size, written.num_layers, written.vocab_size)
    if not same:
        raise SpecsimError(
            f"{name} was trained for {named} ({row}), not for {target.name}: a head serves no "
            "other target"
        )
    return ()


def _verifier(config: Fields) -> str | None:
    """The name of the target, where the file says it."""
    inner = config.get("speculators_config")
    verifier = inner.get("verifier") if isinstance(inner, Mapping) else None
    found = verifier.get("name_or_path") if isinstance(verifier, Mapping) else None
    found = (
        found or config.get("base_model_name_or_path") or config.get("target_model_name_or_path")
    )
    # a path of the machine that it was trained on says nothing
    return found if isinstance(found, str) and found and not found.startswith(("/", ".")) else None


def _require_vocabulary(size: int, target: Architecture, name: str) -> None:
    require_size(f"{name}: vocab_size", size)
    if abs(size - target.vocab_size) > PADDING * target.vocab_size:
        raise SpecsimError(
            f"{name} is a head for a vocabulary of {size:,} tokens; {target.name} has "
            f"{target.vocab_size:,}: it is a head for another target"
        )


def _draft_vocabulary(size: Any, target: Architecture, name: str) -> int:
    require_size(f"{name}: draft_vocab_size", size)
    if size > (1 + PADDING) * target.vocab_size:
        raise SpecsimError(
            f"{name}: draft_vocab_size {size:,} is more than the {target.vocab_size:,} tokens of "
            f"{target.name}"
        )
    return int(size)


def _other_states(name: str, read: object, target: Architecture) -> SpecsimError:
    return SpecsimError(
        f"{name} reads hidden states of {read} elements; those of {target.name} have "
        f"{target.hidden_size}: it is a head for another target"
    )


def _list(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [value]
    return list(value) if isinstance(value, Sequence) else []


def _layers(count: int) -> str:
    return "one layer" if count == 1 else f"{count} layers"


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "AEIOM" and word not in ("Medusa",) else f"a {word}"
