"""Hugging Face checkpoints, read and written: config.json, model.safetensors, tokenizer.json. No
remote code, no pickles.

A source is a folder, a hub id (`owner/name`, fetched by huggingface_hub into its own cache), or
`bundled`, the pair that ships with this package.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as RawTokenizer

from reference.details import Details
from reference.families import converted, details_of
from reference.layers import model_of
from reference.machine import DTYPES
from reference.memory import memory_for
from reference.packing import PackedLinear, pack
from reference.quantization import GROUPS, QuantizedLinear, quantized
from reference.refusals import block_of, require_no_head, require_weights_to_run
from reference.rotary import rotary_table
from reference.transformer import Transformer
from reference.weights import (
    Safetensors,
    in_one_line,
    is_table,
    matched,
    require_layers,
    save_tensors,
    their_weights,
)
from specsim.architecture import Architecture, from_config, language_model, read_config, to_config
from specsim.checks import SpecsimError
from specsim.checks.files import read_bytes, read_json, write_text

PAIR = Path(__file__).parent / "pair"
# what is fetched of a repository; other files hold the same weights again in other formats
FILES = ["config.json", "generation_config.json", "tokenizer.json", "model*.safetensors"]
FILES += ["model.safetensors.index.json", "tokenizer_config.json", "chat_template.jinja"]
PROMPTS = ("calibration", "timed")


class Tokenizer:
    """Converts text to token ids and back. Raises SpecsimError for a file that it cannot read."""

    def __init__(self, file: Path):
        self.file, content = file, read_bytes(file)
        with one_line_for(f"cannot read the tokenizer {file}"):
            self._raw = RawTokenizer.from_buffer(content)
            self._raw.no_padding()  # a file may ask for either, of any length
            self._raw.no_truncation()

    def encode(self, text: str) -> list[int]:
        """The token ids of `text`, without special tokens."""
        with one_line_for(f"the tokenizer {self.file} cannot encode this text"):
            return self._raw.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: list[int]) -> str:
        """The text of `tokens`, without special tokens."""
        with one_line_for(f"the tokenizer {self.file} cannot decode these tokens"):
            return self._raw.decode(tokens, skip_special_tokens=True)

    @property
    def vocabulary(self) -> dict[str, int]:
        """Every token and its id."""
        return self._raw.get_vocab()


@contextmanager
def one_line_for(what: str) -> Iterator[None]:
    """Whatever the tokenizers library raises in this block becomes one SpecsimError.

    It raises bare Exception for every malformed file, and a BaseException where its Rust code
    panics."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        raise SpecsimError(f"{what}: {in_one_line(error)}") from None


def load_pair(
    source: str | Path = "bundled",
    draft: str | Path | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    target_precision: str | None = None,
    draft_precision: str | None = None,
    packed: bool = True,
) -> tuple[Transformer, Transformer, Tokenizer]:
    """Load a target, a draft and their common tokenizer.

    Arguments: `source` is "bundled" or a folder that holds `target` and `draft`; or it is the
    target alone, and `draft` is given. Both may be hub ids. The precisions, and `packed`, are those
    of `load_checkpoint`. If two models with the same tokenizer are padded to vocabularies of
    different sizes, both are cut to the real vocabulary, so that neither can draw a token that the
    other does not have.

    Raises SpecsimError if a part is missing or broken, or if the two do not share a vocabulary.
    """
    if draft is None:
        root = PAIR if str(source) == "bundled" else Path(source)
        if not is_pair(source):
            raise SpecsimError(
                f"{source}: not a pair; give 'bundled', a folder holding target/ and draft/, or a "
                "target and a draft"
            )
        source, draft = root / "target", root / "draft"
    folders = resolve(source), resolve(draft)
    target_tokenizer, draft_tokenizer = (Tokenizer(tokenizer_file(folder)) for folder in folders)
    if target_tokenizer.vocabulary != draft_tokenizer.vocabulary:
        raise SpecsimError(
            f"{source} and {draft} have different vocabularies: a draft must use the "
            "target's tokens"
        )
    sizes = [from_config(read_config(folder), folder.name).vocab_size for folder in folders]
    real = max(target_tokenizer.vocabulary.values(), default=-1) + 1
    if sizes[0] != sizes[1] and real > min(sizes):
        raise SpecsimError(
            f"{source} has {sizes[0]} tokens and {draft} has {sizes[1]}: the vocabularies differ, "
            f"and not in their padding alone, as their tokenizer has {real}"
        )
    target, drafting = (
        load_checkpoint(
            folder,
            dtype=dtype,
            device=device,
            precision=precision,
            packed=packed,
            vocab_size=None if sizes[0] == sizes[1] else real,
        )
        for folder, precision in zip(folders, (target_precision, draft_precision), strict=True)
    )
    return target, drafting, target_tokenizer


def is_pair(source: str | Path) -> bool:
    """Whether `source` names a target and a draft at once: "bundled", or a folder with both."""
    root = Path(source)
    return str(source) == "bundled" or ((root / "target").is_dir() and (root / "draft").is_dir())


def resolve(source: str | Path) -> Path:
    """The folder of a checkpoint: `source` itself, that of `bundled-target` or `bundled-draft`, or
    a download from the hub."""
    text = str(source)
    if text in ("bundled-target", "bundled-draft"):
        return PAIR / text.removeprefix("bundled-")
    path = Path(source)
    if path.exists():
        if not path.is_dir():
            raise SpecsimError(
                f"{path} is a file; give the folder that holds config.json and model.safetensors"
            )
        return path
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise SpecsimError(f"no such folder: {path} (and a hub id looks like owner/name)")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise SpecsimError(
            f"{text} is not a folder; to fetch it from the hub: pip install 'specsim-llm[hub]'"
        ) from None
    try:
        return Path(snapshot_download(text, allow_patterns=FILES))
    except Exception as error:  # network, permission, no such repository: one line each
        raise SpecsimError(f"cannot fetch {text} from the hub: {in_one_line(error)}") from None


def tokenizer_file(folder: Path) -> Path:
    """The tokenizer of a checkpoint's folder; SpecsimError if there is none."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise SpecsimError(f"no such file: {file}")
    return file


def load_checkpoint(
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    precision: str | None = None,
    packed: bool = True,
    vocab_size: int | None = None,
) -> Transformer:
    """Load a model from a folder, ready for inference: in evaluation mode, and packed where the
    device has kernels for it.

    Arguments: `precision` is fp32, bf16 or fp16 in place of `dtype`; or int8, int4 or int4-g32,
    where the weights are stored in fewer bits and everything else is in bf16 (see `quantization`).
    `vocab_size` keeps only the first rows of embedding and head, without the padding after them.
    Weights in 8-bit floats are dequantised, which `notes` of the model say; of a multimodal model
    the language model is loaded.

    Raises SpecsimError for a family that the decoder does not run (see `families`), a checkpoint
    quantised in another way, or a draft head; for a missing or truncated file; for a weight that
    is missing, is not finite in `dtype`, or has a shape that contradicts config.json; and if the
    weights do not fit into memory.
    """
    folder = Path(folder)
    if precision in DTYPES:
        dtype = DTYPES[precision]
    elif precision in GROUPS:
        dtype = torch.bfloat16
    elif precision is not None:
        known = ", ".join((*DTYPES, *GROUPS))
        raise SpecsimError(f"unknown precision {precision!r}; known: {known}")
    config = read_config(folder)
    name = f"bundled-{folder.name}" if folder.parent == PAIR else folder.resolve().name
    require_no_head(folder, config)
    stored = from_config(config, name)
    require_weights_to_run(folder, config, stored)
    details = details_of(config, stored)
    architecture = replace(stored, vocab_size=vocab_size or stored.vocab_size)
    theirs = Safetensors(folder, block_of(config))
    if language_model(config)[1]:
        theirs.keep_text()
    require_layers(theirs, architecture.num_layers)
    model = without_weights(architecture, details)
    parts = matched(theirs, model, stored.vocab_size)
    stops = stop_ids(folder, config)
    rotary = rotary_table(architecture, details.ropes if details else ())
    if not rotary.isfinite().all():
        raise SpecsimError(f"{folder}: config.json's rope scaling gives angles that are not finite")
    nbytes = architecture.parameters * dtype.itemsize
    with memory_for(f"the weights of {name}", nbytes, torch.device(device)):
        weights = {}
        for key, groups in parts.items():
            weight = converted(key, theirs.joined(groups), architecture, details)
            if is_table(key):
                weight = weight[: architecture.vocab_size]
            weights[key] = weight.to(device, dtype)
            if not weights[key].sum(dtype=torch.float32).isfinite():
                raise SpecsimError(
                    f"{folder}: {key} holds numbers that are not finite in {dtype}: the file is "
                    "corrupt, or its weights are too large for that dtype"
                )
        model.load_state_dict(weights, assign=True)
        model.tie()
        model.rotary = rotary.to(device, dtype)
        model.stop_ids = stops
        if theirs.scales:
            model.notes += (
                f"{name}: {len(theirs.scales)} matrices in 8-bit floats were dequantised to "
                f"{dtype}",
            )
        model.eval().requires_grad_(False)
        if precision in GROUPS:
            model = quantized(model, precision)
        return pack(model) if packed else model


def without_weights(architecture: Architecture, details: Details | None = None) -> Transformer:
    """The model with shapes and no values; SpecsimError if its sizes are beyond what can be
    counted."""
    try:
        with torch.device("meta"):
            return model_of(architecture, details)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise SpecsimError(f"{architecture.name} is too large: {in_one_line(error)}") from None


def stop_ids(folder: Path, config: Mapping[str, Any]) -> frozenset[int]:
    """The end-of-text ids: generation_config.json's, or else config.json's."""
    file, source = folder / "generation_config.json", folder / "config.json"
    generation = read_json(file) if file.exists() else {}
    if "eos_token_id" in generation:
        source, config = file, generation
    eos = config.get("eos_token_id")
    ids = [] if eos is None else eos if isinstance(eos, list) else [eos]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise SpecsimError(f"{source}: eos_token_id must be a token id or a list, not {eos!r:.100}")
    return frozenset(ids)


def save_checkpoint(
    model: Transformer,
    folder: str | Path,
    *,
    tokenizer: RawTokenizer | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write `model` as a Hugging Face checkpoint: config.json, generation_config.json,
    model.safetensors and, if it is given, the tokenizer.

    Raises SpecsimError for a model that is packed or quantised, or not of the Llama shape.
    """
    if model.details is not None:
        raise SpecsimError(
            f"{model.architecture.name} departs from the Llama shape: it is loaded, but not written"
        )
    if any(isinstance(module, PackedLinear | QuantizedLinear) for module in model.modules()):
        raise SpecsimError(
            f"{model.architecture.name} is packed or quantised; save a model loaded with "
            "packed=False"
        )
    config = to_config(model.architecture)
    tensors = their_weights(model, config["model_type"], dtype)
    folder = Path(folder)
    stops = sorted(model.stop_ids)
    ends = (
        {"bos_token_id": stops[0], "eos_token_id": stops if stops[1:] else stops[0]}
        if stops
        else {}
    )
    config |= ends | {"torch_dtype": str(dtype).removeprefix("torch.")}
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    write_text(folder / "generation_config.json", json.dumps(ends, indent=2) + "\n")
    save_tensors(tensors, folder / "model.safetensors")
    if tokenizer is not None:
        write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True))


def prompt_texts(folder: Path = PAIR) -> dict[str, list[str]]:
    """The prompts of a pair, "calibration" and "timed": parts of files that it was not trained on.
    By default those of the bundled pair. Raises SpecsimError for a file of another form."""
    file = folder / "prompts.json"
    written = read_json(file)
    try:
        texts = {which: [each["text"] for each in written[which]] for which in PROMPTS}
    except (KeyError, TypeError):
        texts = {}
    if not texts or not all(
        kind and all(isinstance(t, str) for t in kind) for kind in texts.values()
    ):
        raise SpecsimError(
            f"{file} must hold lists called {' and '.join(PROMPTS)} of prompts, each with its text"
        )
    return texts


def prompts(which: str, length: int = 96) -> list[list[int]]:
    """The first `length` token ids of the bundled prompts called `which`: "calibration" or
    "timed". Raises SpecsimError for another name."""
    texts = prompt_texts()
    if which not in texts:
        raise SpecsimError(f"no prompts are called {which!r}; there are: {', '.join(texts)}")
    tokenizer = Tokenizer(PAIR / "target" / "tokenizer.json")
    return [tokenizer.encode(text)[:length] for text in texts[which]]
