"""One model over several devices: each holds a part of every layer (Megatron, arXiv:1909.08053).

`torchrun` starts a process, a *rank*, for every device, and all ranks run the same decoder on the
same tokens. A rank holds the query and KV heads and the columns of the MLP that are its own, and
the keys and values of its own heads. After the attention's `output` and the MLP's `down` the
partial sums of all ranks are added (an all-reduce), so every rank goes on with the same hidden
states.

torch's `parallelize_module` cuts the matrices and hands the parts of rank 0's copy to the ranks. It
cuts a matrix into consecutive rows, and our fused matrices hold all queries before all keys. So
their rows are regrouped first: queries, keys and values of rank 0, then those of rank 1. The
model's `architecture` becomes that of a rank, with its share of the heads, and what counts heads,
as the KV cache, follows; `whole` stays.

Embedding, norms and LM head are replicated: every rank reads the whole head (pessimistic next to
engines that share it). All ranks have the same logits and the same random numbers, so they take the
same decisions; what they read and what they wrote is compared once per run.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from reference.graphs import KeptDecoders
from reference.machine import device_named
from reference.packing import PackedLinear
from reference.quantization import QuantizedLinear
from reference.transformer import Layer, Transformer
from specsim.architecture import Architecture
from specsim.checks import SpecsimError

TIMEOUT_S = 300.0  # that a rank waits for the others; loading may take one of them minutes longer
COMMAND = "torchrun --nproc-per-node 2 -m reference generate --tensor-parallel TEXT"
FROM_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
SPLIT = {"qkv": "rows", "gate_up": "rows", "output": "columns", "down": "columns"}


@dataclass(frozen=True, slots=True)
class Group:
    """The ranks that decode together, seen from one of them."""

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh

    def agree(self, what: str, value: Any) -> None:
        """SpecsimError, on every rank, unless `value` is the same on all of them."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise SpecsimError(
                    f"rank 0 and rank {rank} have different {what}: {values[0]!r:.100} and "
                    f"{other!r:.100}"
                )

    def from_first(self, value: Any) -> Any:
        """The `value` of rank 0."""
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


@contextmanager
def joined(device: str | None, timeout_s: float = TIMEOUT_S) -> Iterator[Group]:
    """The ranks that torchrun started, over nccl on CUDA devices and gloo on CPUs. `device`: cpu or
    cuda (None: the GPUs if there are any).

    Within, rank 0 alone prints. An error on any rank ends all of them, and the first to fail says
    why: SpecsimError there, SystemExit(2) on the others, at the latest after `timeout_s` seconds.
    Raises SpecsimError where torchrun did not start this process, and for too few GPUs.
    """
    if any(name not in os.environ for name in FROM_TORCHRUN):
        raise SpecsimError(f"--tensor-parallel needs a process per device; type: {COMMAND}")
    rank, size, local = (int(os.environ[name]) for name in FROM_TORCHRUN[:3])
    wait = timedelta(seconds=timeout_s)
    try:
        store, _, _ = next(dist.rendezvous("env://", rank, size, timeout=wait))
    except (dist.DistError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise SpecsimError(f"rank {rank} of {size} does not find the others: {reason}") from None
    try:
        own = device_of(local, device)
        dist.init_process_group(
            "nccl" if own.type == "cuda" else "gloo", store=dist.PrefixStore("ranks", store),
            rank=rank, world_size=size, timeout=wait,
        )  # fmt: skip
        with ExitStack() as stack:
            if rank > 0:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(redirect_stdout(nowhere))
                stack.enter_context(redirect_stderr(nowhere))
            yield Group(rank, size, own, init_device_mesh(own.type, (size,)))
        dist.barrier()
    except KeyboardInterrupt:
        if rank > 0:
            sys.exit(130)
        raise
    except Exception as error:
        if not is_first(store):
            time.sleep(1)  # when one rank ends, torchrun ends all: the first speaks before that
            sys.exit(2)
        if not lost_another(error):
            raise
        raise SpecsimError(
            f"rank {rank} of {size} lost another rank, which ended without a word or did not "
            f"answer for {timeout_s:g} s"
        ) from error
    dist.destroy_process_group()


def device_of(local: int, name: str | None) -> torch.device:
    """The device of the process that is the `local`-th of its machine."""
    device = device_named(name)
    if str(device) not in ("cpu", "cuda"):
        raise SpecsimError(f"--tensor-parallel takes --device cpu or cuda, not {name}")
    if device.type == "cpu":
        return device
    if local >= torch.cuda.device_count():
        raise SpecsimError(
            f"there are {torch.cuda.device_count()} GPUs here and more processes; a process needs "
            "a GPU of its own: start fewer with --nproc-per-node"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def is_first(store: dist.Store) -> bool:
    """Whether no other rank has failed before; also where nobody can be asked any more."""
    try:
        return store.add("failed", 1) == 1
    except RuntimeError:
        return True


def lost_another(error: Exception) -> bool:
    """Whether an error says that another rank ended or did not answer: gloo's have no class."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def split(model: Transformer, group: Group) -> Transformer:
    """Keep this rank's part of `model`, which is changed and returned, on the rank's device.

    Every rank gives the whole model; its layers are those of rank 0 afterwards. Raises SpecsimError
    for a model that is packed, quantised or not of the Llama shape, and for what
    `require_splittable` refuses.
    """
    shape, devices = model.architecture, group.size
    if any(isinstance(module, PackedLinear | QuantizedLinear) for module in model.modules()):
        raise SpecsimError(
            f"{shape.name} is packed or quantised, and only plain weights are split over devices; "
            "load it with packed=False and without an int8 or int4 precision"
        )
    if shape != model.whole:
        raise SpecsimError(f"{shape.name} is split already")
    if model.details is not None:
        raise SpecsimError(
            f"{shape.name} departs from the Llama shape, and only models of that shape are split "
            "over devices; specsim predict --tp prices it"
        )
    require_splittable(shape, devices)
    for layer in model.layers:
        regroup(layer, shape, devices)
    styles = {"rows": ColwiseParallel, "columns": RowwiseParallel}  # of the transposed matrix
    parallelize_module(
        model, group.mesh, {f"layers.*.{name}": styles[way]() for name, way in SPLIT.items()}
    )
    for layer in model.layers:
        for name, way in SPLIT.items():
            unwrap(getattr(layer, name), sums=way == "columns")
    if model.device != group.device:
        model.to(group.device)
    model.architecture = share_of(shape, devices)
    for layer in model.layers:
        layer.shape = model.architecture
    vars(model)["kept_decoders"] = EagerOnly()
    return model


def require_splittable(shape: Architecture, devices: int) -> None:
    """SpecsimError unless every device gets whole KV heads, with their queries, and an even share
    of the MLP; and for a model with experts."""
    if shape.experts:
        raise SpecsimError(
            f"{shape.name} has experts, which this decoder does not split over devices; "
            "specsim predict --tp prices them"
        )
    parts = (shape.num_heads, shape.num_kv_heads, shape.intermediate_size)
    if any(part % devices for part in parts):
        possible = [n for n in range(1, shape.num_kv_heads + 1) if not any(p % n for p in parts)]
        raise SpecsimError(
            f"{shape.name}: {devices} devices cannot share {shape.num_heads} heads, "
            f"{shape.num_kv_heads} KV heads and an MLP of width {shape.intermediate_size} evenly; "
            f"it decodes on {', '.join(map(str, possible))}"
        )


def share_of(shape: Architecture, devices: int) -> Architecture:
    """The architecture of what one of `devices` ranks holds of every layer."""
    return replace(
        shape,
        num_heads=shape.num_heads // devices,
        num_kv_heads=shape.num_kv_heads // devices,
        intermediate_size=shape.intermediate_size // devices,
    )


@torch.no_grad()
def regroup(layer: Layer, shape: Architecture, devices: int) -> None:
    """Reorder the rows of a layer's fused matrices: all parts of rank 0, then all of rank 1, …

    The other matrices are copied, because torch does not cut tensors of inference mode."""
    fused = {
        "qkv": [shape.query_size, shape.kv_size, shape.kv_size],
        "gate_up": [shape.intermediate_size] * 2,
    }
    for matrix in SPLIT:
        linear = getattr(layer, matrix)
        for name, weight in list(linear.named_parameters()):
            parts = fused.get(matrix)
            rows = regrouped(weight, parts, devices) if parts else weight.clone()
            setattr(linear, name, nn.Parameter(rows, requires_grad=False))


def unwrap(linear: nn.Linear, sums: bool) -> None:
    """Let a matrix that torch has cut be multiplied as an ordinary tensor; `sums`: the products of
    all ranks are then added. torch's own dispatch of distributed tensors takes the host
    milliseconds for every matrix."""
    for name, parameter in list(linear.named_parameters()):
        setattr(linear, name, nn.Parameter(parameter.to_local(), requires_grad=False))
    linear._forward_pre_hooks.clear()
    linear._forward_hooks.clear()
    if sums:
        linear.register_forward_hook(summed)


def summed(linear: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """The sum of `output` over all ranks, the same numbers on each."""
    dist.all_reduce(output)
    return output


def regrouped(weight: Tensor, parts: list[int], devices: int) -> Tensor:
    """The rows of `weight` (sum of parts, …), every part divided over the devices, by device."""
    shares = zip(*(part.chunk(devices) for part in weight.split(parts)), strict=True)
    return torch.cat([piece for of_one_rank in shares for piece in of_one_rank])


class EagerOnly(KeptDecoders):
    """What a split model keeps: nothing. Only the modes that record or compile look for a kept
    decoder, and both are refused: they have not been tried with the sums between ranks."""

    def pop(self, *_: object) -> None:
        """SpecsimError: the run asks for another mode than eager."""
        raise SpecsimError(
            "a model that is split over devices decodes in the mode eager; give mode='eager'"
        )
