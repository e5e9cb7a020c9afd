"""Run by `test_fused` in a process of its own: compiles the kernels of fused layers for sm_90a, and
reads what the assembler says of registers and of the order of instructions."""

import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from reference import fused_kernels
from reference.fused import ACTIVATED, MOST_PARTS, SLOTS_OF_A_BLOCK, TILES

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
BF16, FP32 = "*bf16", "*fp32"
PRODUCT = dict.fromkeys(("x", "weight", "norm", "residual", "out"), BF16)
PRODUCT |= {"eps": "fp32", "rows": "i32"}
NAMES = ("capacity", "slot_stride", "slot_batch", "end_stride", "end_batch", "known", "blocks",
         "T", "H", "KV", "PARTS")  # fmt: skip
INTEGERS = dict.fromkeys(NAMES, "i32") | dict.fromkeys(("slots", "ends"), "*i64")
QKV = dict.fromkeys(("qkv", "keys", "values"), BF16) | INTEGERS
ROTATE = QKV | dict.fromkeys(("cos", "sin", "query_norm", "key_norm"), BF16)
ROTATE |= {"eps": "fp32", "angle_stride": "i32", "angle_batch": "i32"}
ATTEND = QKV | {"parts": FP32, "sums": FP32, "out": BF16, "scale": "fp32", "nodes": "*i64"}
MATRICES = {"qkv": (6144, 4096), "output": (4096, 4096), "gate_up": (14336, 4096),
            "down": (4096, 14336)}  # fmt: skip


def look_at(kernel, types: dict[str, str], constants: dict, warps: int, before: bool) -> None:
    """Compile, and complain of spills, or if weights are (not) asked for `before` the wait."""
    constants = constants | {"PDL": True}
    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={
            (index,): [["tt.divisibility", 16]]
            for index, name in enumerate(names)
            if types.get(name, "").startswith("*")
        },
    )
    options = {"num_warps": warps, "num_stages": 2, "launch_pdl": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        ptx, binary = Path(folder, "kernel.ptx"), Path(folder, "kernel.o")
        ptx.write_text(compiled.asm["ptx"])
        command = [TOOLS / "ptxas", "-v", "-arch=sm_90a", ptx, "-o", binary]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        command = [TOOLS / "cuobjdump", "--dump-sass", binary]
        code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"(\d+) bytes spill", said)) == {"0"}, said
    registers = re.search(r"Used (\d+) registers", said)[1]
    start, wait, _ = code.partition("ACQBULK")
    assert wait, "no wait"
    assert bool(re.search(r"LDG|CCTL", start)) == before, start
    assert not re.search(r"STG|LDGSTS", start), start
    loads = re.findall(r"LDG\S+", start)
    assert all(".EF" in load for load in loads), loads  # weights alone are evicted first
    print(f"no spills in {registers} registers: {kernel.__name__}, {warps} warps, {constants}")


def main() -> None:
    for (name, one), tiles in TILES.items():
        outputs, inputs = MATRICES[name]
        constants = {
            "N": outputs, "K": inputs, "NORM": name in ("qkv", "gate_up"),
            "SWIGLU": name == "gate_up", "RESIDUAL": name in ("output", "down"),
            "ROWS": 1 if one else 8, "BLOCK_N": tiles.outputs, "BLOCK_K": tiles.inputs,
            "WARPS": tiles.warps, "STAGES": tiles.stages,
        }  # fmt: skip
        kernel = fused_kernels.product_of_one if one else fused_kernels.product_of_few
        look_at(kernel, PRODUCT, constants, tiles.warps, True)
    for norm in (False, True):
        look_at(fused_kernels.rotate_and_write, ROTATE, {"D": 128, "NORM": norm}, 1, False)
    attend = {"D": 128, "BLOCK": SLOTS_OF_A_BLOCK}
    for queries, warps, whole in ((16, 4, True), (16, 4, False), (64, 4, False), (128, 8, False)):
        for tree in (False, True):
            of_these = attend | {"R": queries, "WHOLE": whole, "TREE": tree}
            look_at(fused_kernels.attend_part, ATTEND, of_these, warps, False)
    together = {"T": "i32", "H": "i32", "KV": "i32", "R": "i32"}
    together |= {"parts": FP32, "sums": FP32, "out": BF16}
    sizes = {"D": 128, "PARTS": MOST_PARTS}
    look_at(fused_kernels.put_together, together, sizes, 4, False)
    adding = dict.fromkeys(("x", "change", "weight", "sums", "out"), BF16)
    adding |= {"eps": "fp32", "size": "i32"}
    look_at(fused_kernels.add_and_normalise, adding, {"C": 8192, "ADD": True}, 8, False)
    activate = {"gate_up": BF16, "out": BF16, "size": "i32"}
    look_at(fused_kernels.swiglu, activate, {"BLOCK": ACTIVATED}, 4, False)


if __name__ == "__main__":
    main()
