"""The corpus of the bundled pair: the source of the Python standard library, split by file."""

import hashlib
import platform
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

END_OF_TEXT = "<|endoftext|>"  # before and after every file; both BOS and EOS
VOCAB_SIZE = 2048


@dataclass(frozen=True, slots=True)
class Corpus:
    """Source files as text. `sha256` identifies the exact content and the split by file."""

    train: list[str]
    held_out: list[tuple[str, str]]  # (path relative to the library, text)
    sha256: str
    python: str


def standard_library(held_out_share: float = 0.05) -> Corpus:
    """Every readable `.py` file of the standard library of the Python that runs this, without
    installed packages.

    The hash of its path decides whether a file is held out.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    train, held_out, digest = [], [], hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        path = file.relative_to(root).as_posix()
        if "site-packages" in path:
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue  # test data in other encodings
        if not text.strip():
            continue
        digest.update(path.encode() + b"\0" + text.encode() + b"\0")
        bucket = int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big") / 2**32
        if bucket < held_out_share:
            held_out.append((path, text))
        else:
            train.append(text)
    version = platform.python_version()
    return Corpus(train, held_out, digest.hexdigest(), version)


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Train a byte-level BPE tokenizer, which encodes and decodes any text without loss."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def token_stream(tokenizer: Tokenizer, texts: list[str]) -> Tensor:
    """All texts as one row of token ids (int16), each followed by the end-of-text token."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    ids = [end]
    for encoding in tokenizer.encode_batch(texts):
        ids += encoding.ids
        ids.append(end)
    return torch.tensor(ids, dtype=torch.int16)


def choose_prompts(
    corpus: Corpus, count: int = 25, characters: int = 480
) -> dict[str, list[dict[str, str]]]:
    """Whole lines from held-out files, for calibration and for timing, one piece from each file.

    Tables of data are left out: they look like the tables in the training text, so the acceptance
    rate on them is too high.
    """
    pieces = []
    for path, text in corpus.held_out:
        if path.startswith(("encodings/", "pydoc_data/")):
            continue
        middle = text.find("\n", len(text) // 3) + 1
        piece = text[middle : middle + characters]
        if len(piece) == characters and piece.isascii():
            pieces.append({"file": path, "text": piece[: piece.rfind("\n") + 1]})
    return {"calibration": pieces[0 : 2 * count : 2], "timed": pieces[1 : 2 * count : 2]}
