"""One engine in an environment of its own; it answers `bench/versus_engines.py` line by line.

    PYTHON bench/engines/peer.py ENGINE FOLDER --dtype fp32 --threads 2

FOLDER holds `target` and `draft`, Hugging Face checkpoints with the same tokenizer. They are
converted here, by the engine's own converter, and loaded once for each kind of row. The first line
of stdout says {"version": …}. Then every line of stdin, {"drafter", "gamma", "weights", "batch",
"prompts", "tokens"}, is answered by {"seconds", "tokens", "dtype"}, or by {"refused": why} for what
the engine does not have. Prompts are token ids of one length; `batch` of them are decoded at a
time. Decoding is greedy, and goes on after an end token. What a library prints goes to stderr.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import version
from pathlib import Path

Prompts = list[list[int]]
Decode = Callable[[Prompts, int], Prompts]  # some prompts, how many tokens -> new tokens
LONGEST = 3  # of an n-gram that prompt lookup matches


class Refused(Exception):
    """The engine does not have what a row asks for."""


class Ours:
    """The decoder of this repository."""

    mode = "eager"
    int8 = "int8 weights, all else bf16"

    def __init__(self, folder: Path, dtype: str, threads: int):
        import torch

        torch.set_num_threads(threads)
        self.version = f"torch {torch.__version__}"
        self.folder, self.dtype = folder, dtype

    def model(self, role: str, weights: str):
        """A model of its own for every kind of row, as other engines have: a target keeps the
        decoders of two kinds only, and makes those of others anew."""
        import reference

        model = reference.load_checkpoint(self.folder / role, precision=weights)
        model.stop_ids = frozenset()
        return model

    def load(self, drafter: str, gamma: int, weights: str, batch: int) -> Decode:
        import reference

        target = self.model("target", weights)
        proposes = {
            "": reference.NoDrafter,
            "draft": lambda: reference.DraftModel(self.model("draft", self.dtype), gamma),
            "n-gram": lambda: reference.NGram(gamma, LONGEST),
        }[drafter]()

        def decode(prompts: Prompts, tokens: int) -> Prompts:
            found = reference.speculate(target, proposes, prompts, tokens, mode=self.mode)
            if self.mode == "compiled" and not found.statistics.compiled_cycles:
                raise Refused(f"it was not compiled: {'; '.join(found.statistics.notes)}")
            return found.tokens

        return decode


class Compiled(Ours):
    """The same, with its stages compiled, and kept on disk for the next run."""

    mode = "compiled"


class Transformers:
    """`generate` as it is (nothing compiled), assisted generation and prompt lookup."""

    int8 = "none"

    def __init__(self, folder: Path, dtype: str, threads: int):
        import torch
        import transformers

        torch.set_num_threads(threads)
        transformers.logging.set_verbosity_error()
        self.version = f"transformers {transformers.__version__}, torch {torch.__version__}"
        self.folder = folder
        self.dtype = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[dtype]

    @cache  # noqa: B019
    def model(self, role: str):
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(self.folder / role, dtype=self.dtype).eval()
        model.generation_config.eos_token_id = None
        return model

    def load(self, drafter: str, gamma: int, weights: str, batch: int) -> Decode:
        import torch

        if weights == "int8":
            raise Refused("its int8 weights for a CPU come from another library")
        target, settings = self.model("target"), {"do_sample": False}
        if drafter == "n-gram":
            settings |= {"prompt_lookup_num_tokens": gamma, "max_matching_ngram_size": LONGEST}
        if drafter == "draft":
            settings["assistant_model"] = assistant = self.model("draft")
            assistant.generation_config.num_assistant_tokens = gamma
            assistant.generation_config.num_assistant_tokens_schedule = "constant"
            assistant.generation_config.assistant_confidence_threshold = 0.0

        def decode(prompts: Prompts, tokens: int) -> Prompts:
            ids = torch.tensor(prompts)
            with torch.inference_mode():
                found = target.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens,
                    min_new_tokens=tokens, **settings,
                )  # fmt: skip
            return found[:, ids.shape[1] :].tolist()

        return decode


class OpenVINO:
    """OpenVINO GenAI, on models that optimum-intel exports."""

    int8 = "int8 weights, all else {}; the engine may convert inputs of matrices"

    def __init__(self, folder: Path, dtype: str, threads: int):
        import openvino_genai

        self.version = f"openvino-genai {openvino_genai.__version__}"
        self.folder, self.dtype = folder, dtype
        short = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}[dtype]
        self.settings = {
            "INFERENCE_PRECISION_HINT": short, "KV_CACHE_PRECISION": short,
            "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY",
        }  # fmt: skip

    @cache  # noqa: B019
    def exported(self, role: str, weights: str) -> str:
        out = self.folder / "openvino" / f"{role}-{weights}"
        command = [
            str(Path(sys.executable).with_name("optimum-cli")), "export", "openvino",
            "--model", str(self.folder / role), "--task", "text-generation-with-past",
            "--weight-format", weights,
        ]  # fmt: skip
        convert(command, out)
        return str(out)

    def load(self, drafter: str, gamma: int, weights: str, batch: int) -> Decode:
        import numpy
        import openvino
        import openvino_genai as genai

        speculates = {}
        if drafter:
            cache_of_it = genai.SchedulerConfig()
            cache_of_it.enable_prefix_caching = False
            cache_of_it.cache_size = 1  # GB
            speculates["scheduler_config"] = cache_of_it
        else:
            speculates["ATTENTION_BACKEND"] = "SDPA"
        if drafter == "draft":
            draft = self.exported("draft", "fp32")
            speculates["draft_model"] = genai.draft_model(draft, "CPU", **self.settings)
        if drafter == "n-gram":
            speculates["prompt_lookup"] = True
        stored = "int8" if weights == "int8" else "fp32"
        settings = self.settings | speculates
        pipeline = genai.LLMPipeline(self.exported("target", stored), "CPU", **settings)
        asked = genai.GenerationConfig(do_sample=False, ignore_eos=True)
        if drafter:
            asked.num_assistant_tokens = gamma
        if drafter == "n-gram":
            asked.max_ngram_size = LONGEST

        def decode(prompts: Prompts, tokens: int) -> Prompts:
            asked.max_new_tokens = tokens
            ids = openvino.Tensor(numpy.array(prompts, dtype=numpy.int64))
            return [list(row) for row in pipeline.generate(ids, asked).tokens]

        return decode


class CTranslate2:
    """CTranslate2's generator, on models that its converter for transformers writes."""

    int8 = "int8 weights and inputs of matrices, all else {}"

    def __init__(self, folder: Path, dtype: str, threads: int):
        import ctranslate2
        from tokenizers import Tokenizer

        self.version = f"ctranslate2 {ctranslate2.__version__}"
        self.folder, self.threads = folder, threads
        self.dtype = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[dtype]
        self.tokenizer = Tokenizer.from_file(str(folder / "target" / "tokenizer.json"))

    @cache  # noqa: B019
    def converted(self) -> str:
        out = self.folder / "ctranslate2"
        command = [
            str(Path(sys.executable).with_name("ct2-transformers-converter")), "--model",
            str(self.folder / "target"), "--output_dir",
        ]  # fmt: skip
        convert(command, out)
        return str(out)

    def load(self, drafter: str, gamma: int, weights: str, batch: int) -> Decode:
        import ctranslate2

        if drafter:
            raise Refused("it has no speculative decoding")
        kind = f"int8_{self.dtype}" if weights == "int8" else self.dtype
        generator = ctranslate2.Generator(
            self.converted(), device="cpu", compute_type=kind, intra_threads=self.threads,
            inter_threads=1,
        )  # fmt: skip
        names = self.tokenizer.id_to_token

        def decode(prompts: Prompts, tokens: int) -> Prompts:
            found = generator.generate_batch(
                [[names(token) for token in prompt] for prompt in prompts], max_length=tokens,
                sampling_topk=1, end_token=[], include_prompt_in_result=False,
            )  # fmt: skip
            return [row.sequences_ids[0] for row in found]

        return decode


class LlamaCpp:
    """llama.cpp's server, in this process; its files are written by `gguf`.

    It is asked over HTTP: only that answer has token ids.
    """

    int8 = "Q8_0 weights and inputs of matrices, all else {}"

    def __init__(self, folder: Path, dtype: str, threads: int):
        self.version = f"llama.cpp of xllamacpp {version('xllamacpp')}"
        self.folder, self.dtype, self.threads = folder, dtype, threads
        self.cache = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}[dtype]

    @cache  # noqa: B019
    def written(self, role: str, weights: str) -> str:
        out = self.folder / f"{role}-{weights}.gguf"
        write_gguf(self.folder / role, out, "Q8_0" if weights == "int8" else self.cache)
        return str(out)

    def load(self, drafter: str, gamma: int, weights: str, batch: int) -> Decode:
        import xllamacpp

        kinds = xllamacpp.common_speculative_type
        kept = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{self.cache}")
        params = xllamacpp.CommonParams()
        params.model.path = self.written("target", weights)
        params.n_ctx, params.n_parallel = 512 * batch, batch
        params.cache_type_k = params.cache_type_v = kept
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self.threads
        params.cache_prompt, params.cache_ram_mib, params.verbosity = False, 0, 0
        if drafter == "draft":
            draft = params.speculative.draft
            draft.mparams.path = self.written("draft", self.dtype)
            draft.cache_type_k = draft.cache_type_v = kept
            draft.cpuparams.n_threads = draft.cpuparams_batch.n_threads = self.threads
            draft.n_max, draft.p_min = gamma, 0.0
            params.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        if drafter == "n-gram":
            lookup = params.speculative.ngram_simple
            lookup.size_n, lookup.size_m = LONGEST, gamma
            params.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
        server, streams = xllamacpp.Server(params), ThreadPoolExecutor(batch)

        def one(prompt: list[int], tokens: int) -> list[int]:
            body = {
                "prompt": prompt, "n_predict": tokens, "temperature": 0.0, "ignore_eos": True,
                "return_tokens": True, "cache_prompt": False,
            }  # fmt: skip
            url = f"{server.listening_address}/completion"
            with urllib.request.urlopen(url, json.dumps(body).encode()) as answer:
                return json.load(answer)["tokens"]

        def decode(prompts: Prompts, tokens: int) -> Prompts:
            return list(streams.map(one, prompts, [tokens] * len(prompts)))

        return decode


def write_gguf(folder: Path, out: Path, kind: str) -> None:
    """A Llama checkpoint as GGUF, its matrices in `kind`."""
    import gguf
    from safetensors import safe_open

    config = json.loads((folder / "config.json").read_text())
    heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    add_tokenizer(writer, folder, config["vocab_size"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    with safe_open(folder / "model.safetensors", framework="numpy") as stored:
        for name in stored.keys():  # noqa: SIM118
            weight, to = stored.get_tensor(name), names.get_name(name, (".weight",))
            if name.endswith(("q_proj.weight", "k_proj.weight")):  # llama.cpp turns pairs of rows
                count = heads if "q_proj" in name else key_heads
                halves = weight.reshape(count, 2, -1, weight.shape[1]).swapaxes(1, 2)
                weight = halves.reshape(weight.shape)
            stored_as = gguf.GGMLQuantizationType["F32" if weight.ndim == 1 else kind]
            data = gguf.quants.quantize(weight, stored_as)
            writer.add_tensor(to, data, raw_dtype=stored_as)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer, folder: Path, vocab_size: int) -> None:
    """The byte-level tokenizer of a folder, filled up to the vocabulary with unused tokens."""
    import gguf

    raw = json.loads((folder / "tokenizer.json").read_text())
    named = {number: token for token, number in raw["model"]["vocab"].items()}
    special = {each["id"] for each in raw["added_tokens"] if each["special"]}
    named |= {each["id"]: each["content"] for each in raw["added_tokens"]}
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([named.get(n, f"<unused{n}>") for n in range(vocab_size)])
    writer.add_token_types([
        kinds.CONTROL if n in special else kinds.NORMAL if n in named else kinds.UNUSED
        for n in range(vocab_size)
    ])  # fmt: skip
    merges = raw["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_add_bos_token(False)


ENGINES = {
    "ours": Ours, "compiled": Compiled, "openvino": OpenVINO, "ctranslate2": CTranslate2,
    "llama.cpp": LlamaCpp, "transformers": Transformers,
}  # fmt: skip


def convert(command: list[str], out: Path) -> None:
    """Run a converter that writes the folder `out`, its last argument, unless an earlier run has.

    Raises RuntimeError with the converter's last lines if it fails.
    """
    if out.exists():
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    run = subprocess.run([*command, str(partial)], capture_output=True, text=True, errors="replace")
    if run.returncode:
        last = " | ".join((run.stderr or run.stdout).strip().splitlines()[-3:])
        raise RuntimeError(f"{Path(command[0]).name} failed: {last[-600:]}")
    partial.rename(out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print

    def say(**answer: object) -> None:
        answers.write(json.dumps(answer) + "\n")

    engine = ENGINES[options.engine](options.folder, options.dtype, options.threads)
    loaded = cache(engine.load)
    say(version=engine.version)
    for line in sys.stdin:
        asked = json.loads(line)
        prompts, batch, tokens = asked["prompts"], asked["batch"], asked["tokens"]
        try:
            decode = loaded(asked["drafter"], asked["gamma"], asked["weights"], batch)
            found, begun = [], time.perf_counter()
            for first in range(0, len(prompts), batch):
                found += decode(prompts[first : first + batch], tokens)
            seconds = time.perf_counter() - begun
            is_int8 = asked["weights"] == "int8"
            dtype = engine.int8.format(options.dtype) if is_int8 else asked["weights"]
            say(seconds=seconds, tokens=found, dtype=dtype)
        except Refused as reason:
            say(refused=str(reason))
        except Exception as error:  # of any library: this row cannot be measured here
            say(refused=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
