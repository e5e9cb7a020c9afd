"""Damages small checkpoints at random. Each must be loaded right or be refused in one line.

    python bench/loader_fuzz.py [--count 2000] [--seed 7] [--json]
    python bench/loader_fuzz.py --seed 7 --only 413      one case again, with its traceback

A case copies a valid folder (a model of some family, a sharded one, a pair or a head), damages one
or two of its files, and loads it. `Right` is told by a reader of its own: a safetensors file parsed
byte by byte. If a damaged folder loads, its weights are those that the file spells as
floating-point numbers; if they and the config are still the original's, so are the logits. Every
other end is a fault: another exception, an error of several lines, 20 seconds, 2 GB, or a process
that dies. Seed and number repeat a case.
"""

import argparse
import json
import math
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers

from reference.checkpoints import Tokenizer, load_checkpoint, load_pair, save_checkpoint
from reference.heads import load_head, save_head, untrained_head
from reference.transformer import Transformer
from reference.weights import their_weights
from specsim.architecture import Architecture, Experts, Llama3RopeScaling
from specsim.checks import SpecsimError

SECONDS, GIGABYTES = 20, 2.0
SHAPE = Architecture("tiny", 16, 2, 4, 2, 4, 24, 61, max_context=64)
FAMILIES = {
    "llama": {},
    "llama, tied": {"tied_head": True},
    "llama-3.1": {"rope_scaling": Llama3RopeScaling(8.0, 1.0, 4.0, 32)},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True, "head_dim": 8},
    "mixtral": {"experts": Experts(3, 2, 24)},
    "qwen2-moe": {
        "qkv_bias": True,
        "experts": Experts(3, 2, 12, shared_size=8, shared_gate=True),
    },
    "qwen3-moe": {"qk_norm": True, "experts": Experts(3, 2, 12, dense_layers=(0,))},
}
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
TEXT = "w3 w1 w4 unseen é"
DEEP = json.loads('{"a":[' * 40 + "1" + "]}" * 40)
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 5, 7, 16, 1.5, -0.5, 1e308, 1e-320, math.nan, math.inf,
    10**6, 10**9, 10**12, 2**31, 2**62, 2**63, 2**64 - 1, 10**30, 10**400, "", "8", "gelu", "silu",
    "llama3", "yarn", "../x", "a\0b", "\ud800", "two\nlines", "x" * 100_000, [], [1], [0, 1],
    ["full_attention"] * 2, [[]], {}, {"a": 1}, DEEP, [None] * 1000,
]  # fmt: skip
FIELDS = (
    "quantization_config", "sliding_window", "text_config", "layer_types", "rope_scaling",
    "rope_type", "attention_bias", "mlp_bias", "use_sliding_window", "num_experts",
    "tie_word_embeddings", "eos_token_id", "padding", "truncation",
)  # fmt: skip
DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16,
}  # fmt: skip
OTHERS = ("I8", "U8", "I16", "I32", "I64", "BOOL", "F8_E4M3", "F8_E5M2", "C64", "X", "", 3, None)


class Fault(Exception):
    """What a loader must not do."""


class TooLong(BaseException):
    """A case that took its time. Not an Exception, so that no `except` of a library keeps it."""


# ------------------------------------------------------------------------------- what is valid


def random_model(seed: int, **changes: Any) -> Transformer:
    model = Transformer(replace(SHAPE, **changes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 1 + noise)
    model.stop_ids = frozenset({7})
    return model.eval().requires_grad_(False)


def make_originals(root: Path) -> dict[str, Path]:
    """A valid folder of every kind under `root`."""
    words = models.WordLevel({f"w{index}": index for index in range(61)}, unk_token="w0")
    tokenizer = RawTokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folders = {}
    for number, (family, changes) in enumerate(FAMILIES.items()):
        folder = folders[family] = root / family
        dtype = (torch.float32, torch.bfloat16, torch.float16)[number % 3]
        save_checkpoint(random_model(number, **changes), folder, tokenizer=tokenizer, dtype=dtype)
    folders["shards"] = root / "shards"
    shutil.copytree(folders["llama"], folders["shards"])
    split(folders["shards"])
    folders["mistral"] = root / "mistral"
    shutil.copytree(folders["llama"], folders["mistral"])
    config = json.loads((folders["mistral"] / "config.json").read_text())
    config |= {"model_type": "mistral", "sliding_window": 32}
    (folders["mistral"] / "config.json").write_text(json.dumps(config))
    target = load_checkpoint(folders["qwen2"], packed=False)
    folders["head"] = root / "head"
    save_head(untrained_head(target), target, folders["head"])
    folders["pair"] = root / "pair"
    shutil.copytree(folders["llama"], folders["pair"])
    return folders


def split(folder: Path) -> None:
    """Replace one file of weights by two shards and their index."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    file.unlink()
    names = sorted(tensors)
    shards = {f"model-0000{n}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / shard)
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


# ------------------------------------------------------------------------------- what damages


def damage(rng: random.Random, folder: Path) -> str:
    """Damage one file of a folder; returns what was done."""
    jsons = sorted(folder.glob("*.json"))
    tensors = sorted(folder.glob("*.safetensors"))
    roll = rng.random()
    if roll < 0.4:
        file = rng.choice(tensors)
        done = rng.choice(TENSOR_DAMAGES)(rng, file)
    elif roll < 0.9:
        file = rng.choice(jsons)
        done = damage_tree(rng, file)
    else:
        file = rng.choice([*jsons, *tensors])
        done = damage_bytes(rng, file)
    return f"{file.name}: {done}"


def damage_bytes(rng: random.Random, file: Path) -> str:
    content = file.read_bytes()
    place = rng.randrange(max(1, len(content)))
    kind = rng.choice(["cut", "empty", "more", "missing", "folder", "utf-16", "noise", "deep"])
    if kind == "cut":
        content = content[:place]
    elif kind == "empty":
        content = b""
    elif kind == "more":
        content += rng.randbytes(rng.choice([1, 8, 1000]))
    elif kind in ("missing", "folder"):
        file.unlink()
        if kind == "folder":
            file.mkdir()
        return kind
    elif kind == "utf-16":
        content = content.decode("latin-1").encode("utf-16")
    elif kind == "noise":
        content = rng.randbytes(200)
    else:
        content = b"[" * 200_000
    file.write_bytes(content)
    return kind


def damage_tree(rng: random.Random, file: Path) -> str:
    """Change one value somewhere in a JSON file, or one character of its text."""
    if rng.random() < 0.1:
        text = bytearray(file.read_bytes())
        place = rng.randrange(len(text))
        text[place] = rng.randrange(256)
        file.write_bytes(bytes(text))
        return f"byte {place} is {text[place]}"
    tree = json.loads(file.read_text(encoding="utf-8"))
    at, key, path = tree, None, ""
    while True:  # walk down, to stop at any depth
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            break
        key = rng.choice(keys)
        path += f"/{key}"
        if not isinstance(at[key], dict | list) or not at[key] or rng.random() < 0.3:
            break
        at = at[key]
    if key is None:
        return "nothing"
    kind = rng.choice(["value", "value", "value", "delete", "rename", "wrap", "swap", "add"])
    value: Any = None
    if kind == "value":
        value = at[key] = rng.choice(VALUES)
    elif kind == "delete":
        del at[key]
    elif kind == "wrap":
        at[key] = [at[key]]
    elif kind == "swap":
        other = rng.choice(list(at) if isinstance(at, dict) else range(len(at)))
        at[key], at[other] = at[other], at[key]
        value = other
    elif isinstance(at, dict):
        name = rng.choice(FIELDS)
        value = at[name] = at.pop(key) if kind == "rename" else rng.choice(VALUES)
        path += f" as {name}"
    file.write_text(json.dumps(tree), encoding="utf-8")
    return f"{kind} {path} {value!r:.60}"


def header_of(file: Path) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and the bytes of the numbers after it."""
    content = file.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def write_header(file: Path, header: dict[str, Any] | bytes, data: bytes, more: int = 0) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = min(max(len(text) + more, 0), 2**64 - 1)
    file.write_bytes(struct.pack("<Q", size) + text + data)


def damage_entry(rng: random.Random, file: Path) -> str:
    """Another dtype, shape or place of one tensor in the header."""
    header, data = header_of(file)
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry = header[name]
    kind = rng.choice(["dtype", "shape", "data_offsets", "delete", "value"])
    if kind == "dtype":
        entry[kind] = rng.choice([*DTYPES, *OTHERS])
    elif kind == "shape":
        shape = entry[kind]
        changed = [
            [], [*shape, 1], shape[::-1], [math.prod(shape)], [-n for n in shape], [0, *shape],
            [n + 1 for n in shape], [n - 1 for n in shape], [2**62, 4], [2**64 - 1], [2**32, 2**32],
            [*shape[:-1], float(shape[-1])], list(map(str, shape)), None, {"a": 1}, [1] * 5000,
            [shape[0] * 2, *(n // 2 for n in shape[1:])],
        ]  # fmt: skip
        entry[kind] = rng.choice(changed)
    elif kind == "data_offsets":
        start, end = entry[kind]
        step = rng.choice([1, 2, 4, end - start])
        changed = [
            [start, end - step], [start + step, end], [start + step, end + step], [end, start],
            [0, end - start], [start, 2**63], [-1, end], [2**64 - 1, 0], [start, start], [start],
            [float(start), end], None, [str(start), str(end)],
        ]  # fmt: skip
        entry[kind] = rng.choice(changed)
    elif kind == "delete":
        del entry[rng.choice(list(entry))]
    else:
        header[name] = rng.choice(VALUES[:30])
    write_header(file, header, data)
    return f"{kind} of {name} is {header[name]!r:.80}"


def damage_names(rng: random.Random, file: Path) -> str:
    header, data = header_of(file)
    names = [name for name in header if name != "__metadata__"]
    name, other = rng.choice(names), rng.choice(names)
    kind = rng.choice(["swap", "rename", "twice", "metadata", "empty", "extra", "lower"])
    if kind == "swap":
        header[name], header[other] = header[other], header[name]
    elif kind == "rename":
        new = rng.choice(["", "x", f"{name}_scale", name.replace(".0.", ".7."), "\0", "a" * 9999])
        header[new] = header.pop(name)
    elif kind == "twice":
        pairs = [*header.items(), (name, header[other])]
        text = ",".join(f"{json.dumps(key)}:{json.dumps(value)}" for key, value in pairs)
        write_header(file, f"{{{text}}}".encode(), data)
        return f"{name} {kind}, as {other}"
    elif kind == "metadata":
        header["__metadata__"] = rng.choice(VALUES)
    elif kind == "empty":
        header = {}
    elif kind == "extra":
        header[rng.choice(["x", "lm_head.weight", name + ".scales"])] = header[other]
    else:
        header = {key.upper(): value for key, value in header.items()}
    write_header(file, header, data)
    return f"{kind} {name}"


def damage_length(rng: random.Random, file: Path) -> str:
    header, data = header_of(file)
    more = rng.choice([-1, 1, 8, -10, 2**20, 2**31, 2**40, 2**63, 2**64])
    write_header(file, header, data, more)
    return f"length {more:+}"


def damage_bit(rng: random.Random, file: Path) -> str:
    """One bit of the length or the header."""
    content = bytearray(file.read_bytes())
    (size,) = struct.unpack("<Q", content[:8])
    place, bit = rng.randrange(8 + size), rng.randrange(8)
    content[place] ^= 1 << bit
    file.write_bytes(bytes(content))
    return f"bit {bit} of byte {place}"


def rewrite_tensor(rng: random.Random, file: Path) -> str:
    """A sound file, in which one tensor has another dtype, shape or value, is gone or is new."""
    tensors = load_file(file)
    name = rng.choice(sorted(tensors))
    weight = tensors[name]
    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8,
              torch.int32, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2]  # fmt: skip
    kind = rng.choice(["dtype"] * 4 + ["rows", "columns", "flat", "scalar", "none", "nan", "inf",
                                       "gone", "new", "bias", "huge"])  # fmt: skip
    if kind == "dtype":
        tensors[name] = weight.to(rng.choice(dtypes))
    elif kind == "rows":
        tensors[name] = torch.cat((weight, weight[:1]))
    elif kind == "columns":
        tensors[name] = weight[..., :-1].contiguous()
    elif kind == "flat":
        tensors[name] = weight.flatten()
    elif kind == "scalar":
        tensors[name] = weight.sum()
    elif kind == "none":
        tensors[name] = weight[:0]
    elif kind in ("nan", "inf", "huge"):
        value = {"nan": math.nan, "inf": -math.inf, "huge": 6e4}[kind]
        tensors[name] = weight.clone().flatten().index_fill_(0, torch.tensor(0), value)
        tensors[name] = tensors[name].view(weight.shape)
    elif kind == "gone":
        del tensors[name]
    else:
        new = name.replace("weight", "bias") if kind == "bias" else f"{name}_scale"
        tensors[new] = weight[:1].clone()
    save_file(tensors, file)
    return f"{kind} of {name}: {tensors.get(name, weight).dtype}"


TENSOR_DAMAGES: list[Callable[[random.Random, Path], str]] = [
    damage_entry, damage_entry, damage_names, damage_length, damage_bit, rewrite_tensor,
    rewrite_tensor, rewrite_tensor,
]  # fmt: skip


# ------------------------------------------------------------------- a reader of its own


def spelled(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a folder as float32, read byte by byte; Fault for one that is no float."""
    index, files = folder / "model.safetensors.index.json", [folder / "model.safetensors"]
    if index.exists():
        files = sorted(
            {folder / name for name in json.loads(index.read_bytes())["weight_map"].values()}
        )
        if any(file.parent != folder for file in files):
            raise Fault("a file outside the folder was read")
    found: dict[str, np.ndarray] = {}
    for file in files:
        header, data = header_of(file)
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] not in DTYPES:
                raise Fault(f"{name} is in {entry['dtype']}, and was loaded")
            if name in found:
                raise Fault(f"{name} is in two files, and was loaded")
            start, end = entry["data_offsets"]
            raw = np.frombuffer(data[start:end], DTYPES[entry["dtype"]])
            if entry["dtype"] == "BF16":
                raw = (raw.astype(np.uint32) << 16).view(np.float32)
            found[name] = raw.astype(np.float32).reshape(entry["shape"])
    return found


def require_weights(folder: Path, model: Transformer) -> dict[str, np.ndarray]:
    """Fault unless the model's weights are those that the folder spells; returns them."""
    wanted = spelled(folder)
    mixtral = any("block_sparse_moe" in name for name in wanted)
    held = their_weights(model, "mixtral" if mixtral else "", torch.float32)
    for name, weight in held.items():
        if name not in wanted:
            raise Fault(f"{name} is not in the folder, and was loaded")
        if not np.array_equal(weight.numpy(), wanted[name]):
            raise Fault(f"{name} was loaded with other numbers than the file's")
    for name in wanted.keys() - held.keys():
        tied = name == "lm_head.weight" and model.architecture.tied_head
        if not tied and not name.endswith("rotary_emb.inv_freq"):
            raise Fault(f"{name} was left out")
    return wanted


# ------------------------------------------------------------------------------------ a case


@dataclass(frozen=True)
class Case:
    """One damaged folder and what came of it: "loaded", "refused" or a fault."""

    index: int
    kind: str
    damages: str
    outcome: str
    message: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0


class Fuzz:
    """The originals, loaded once, and the cases that are made of them."""

    def __init__(self, seed: int, root: Path):
        self.seed, self.scratch = seed, root / "case"
        self.folders = make_originals(root / "originals")
        self.target = load_checkpoint(self.folders["qwen2"])
        self.known = {}
        for kind, folder in self.folders.items():
            if kind != "head":
                model = load_checkpoint(folder)
                self.known[kind] = model.architecture, spelled(folder), self.logits(model)

    def run(self, index: int) -> Case:
        """Make and load one case. Faults are in the result; an unknown exception is one, too."""
        rng = random.Random(f"{self.seed}-{index}")
        kind = sorted(self.folders)[index % len(self.folders)]
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.copytree(self.folders[kind], self.scratch)
        damages = [damage(rng, self.scratch)]
        if rng.random() < 0.2:
            try:
                damages.append(damage(rng, self.scratch))
            except Exception:  # the first left nothing to read
                damages.append("nothing")
        begun = time.monotonic()
        before = signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(SECONDS)
        message = ""
        try:
            outcome = self.load(kind)
        except SpecsimError as error:
            outcome, message = "refused", str(error)
            if "\n" in message or not message.isprintable() or len(message) > 1000:
                outcome = "fault: the message is not one line of at most 1,000 characters"
        except TooLong:
            outcome = f"fault: not done after {SECONDS} s"
        except Fault as error:
            outcome = f"fault: {error}"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            outcome, message = f"fault: {type(error).__name__}: {error}", traceback.format_exc()
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        seconds, megabytes = time.monotonic() - begun, peak_megabytes()
        if megabytes > 1000 * GIGABYTES and not outcome.startswith("fault"):
            outcome = f"fault: {megabytes:.0f} MB"
        return Case(index, kind, "; ".join(damages), outcome, message, seconds, megabytes)

    def load(self, kind: str) -> str:
        folder = self.scratch
        if kind == "head":
            head = load_head(folder, self.target)
            with torch.inference_mode():
                states = self.target.hidden(TOKENS)
                head.states(TOKENS, states, torch.arange(TOKENS.shape[1])[None])
            spelled(folder)
            return "loaded"
        if kind == "pair":
            model, draft, tokenizer = load_pair(folder, self.folders["llama"])
            if model.architecture.vocab_size != draft.architecture.vocab_size:
                raise Fault("two vocabularies")
        else:
            model = load_checkpoint(folder)
            tokenizer = Tokenizer(folder / "tokenizer.json")
        tokenizer.decode(tokenizer.encode(TEXT))
        cut = model.architecture.vocab_size != self.known[kind][0].vocab_size
        if not cut:
            self.compare(kind, model)
        return "loaded"

    def compare(self, kind: str, model: Transformer) -> None:
        """Fault unless the model is what the folder says; a harmless damage changes no logit."""
        architecture, weights, logits = self.known[kind]
        unpacked = load_checkpoint(self.scratch, packed=False)
        found = require_weights(self.scratch, unpacked)
        seen = self.logits(model)
        same = weights.keys() == found.keys() and all(
            np.array_equal(weights[name], found[name]) for name in weights
        )
        same &= replace(model.architecture, name=architecture.name) == architecture
        if same and not torch.equal(seen, logits):
            raise Fault("the same config and weights have other logits")

    @staticmethod
    def logits(model: Transformer) -> torch.Tensor:
        with torch.inference_mode():
            context = model.architecture.max_context
            return model(TOKENS[:, :context] % model.architecture.vocab_size)


def _too_long(*_: object) -> None:
    raise TooLong


def peak_megabytes() -> float:
    """The most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1e6 if sys.platform == "darwin" else 1e3
    )


# ----------------------------------------------------------------------------------- the run


def cases(seed: int, first: int, count: int) -> Iterator[Case]:
    """The cases of a run, in processes of their own: one that dies is a fault, and a new one goes
    on after it."""
    done = first
    while done < first + count:
        command = [sys.executable, __file__, "--child", "--seed", str(seed), "--first", str(done)]
        command += ["--count", str(first + count - done)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as child:
            for line in child.stdout or ():
                yield Case(**json.loads(line))
                done += 1
            _, said = child.communicate()
        if done < first + count:
            yield Case(done, "?", "?", f"fault: the process ended with {child.returncode}", said)
            done += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int, help="one case, with its traceback")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    if options.child or options.only is not None:
        first, count = (options.first, options.count) if options.child else (options.only, 1)
        with tempfile.TemporaryDirectory() as root:
            fuzz = Fuzz(seed, Path(root))
            for index in range(first, first + count):
                case = fuzz.run(index)
                print(json.dumps(vars(case)), flush=True)
                if options.only is not None:
                    print(case.message)
        return 0
    print(f"seed {seed}: {options.count} cases", flush=True)
    outcomes: Counter[tuple[str, str]] = Counter()
    faults, slowest, largest = [], 0.0, 0.0
    for case in cases(seed, options.first, options.count):
        outcomes[case.kind, case.outcome.split(":")[0]] += 1
        slowest, largest = max(slowest, case.seconds), max(largest, case.megabytes)
        if case.outcome.startswith("fault"):
            faults.append(case)
            print(f"{case.index}: {case.kind}: {case.damages}: {case.outcome}", flush=True)
            print(f"    python {sys.argv[0]} --seed {seed} --only {case.index}", flush=True)
    print(f"{'kind':<12} {'loaded':>7} {'refused':>8} {'fault':>6}")
    for kind in sorted({kind for kind, _ in outcomes}):
        row = [outcomes[kind, outcome] for outcome in ("loaded", "refused", "fault")]
        print(f"{kind:<12} {row[0]:>7} {row[1]:>8} {row[2]:>6}")
    print(f"slowest {slowest:.2f} s; most memory {largest:.0f} MB; faults {len(faults)}")
    if options.json:
        numbers = [case.index for case in faults]
        print(json.dumps({"seed": seed, "count": options.count, "faults": numbers}))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
