"""What the processor that Numba compiles for can do.

Usually that is the processor at hand, but NUMBA_CPU_NAME, NUMBA_CPU_FEATURES and NUMBA_ENABLE_AVX may say otherwise.
The list of features alone does not tell: a name implies features that are not in the list, and each architecture has
words of its own.  So LLVM is asked: it compiles one small function, and the assembly shows what it could use.

The answers depend on nothing but what the compile cache has in its keys: the triple, name and features of the
processor, and the version of LLVM.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from xent_numba.backends.cpu.compile.numba_private import Target, parse_assembly, target_processor

_PROBE = """
define void @probe(ptr %p, ptr %q) {
  %a = load <16 x float>, ptr %p
  %sum = fadd <16 x float> %a, %a
  store <16 x float> %sum, ptr %p
  %half = load <4 x half>, ptr %q
  %b = fpext <4 x half> %half to <4 x float>
  %fused = call <4 x float> @llvm.fma.v4f32(<4 x float> %b, <4 x float> %b, <4 x float> %b)
  %narrower = fptrunc <4 x float> %fused to <4 x half>
  store <4 x half> %narrower, ptr %q
  ret void
}
declare <4 x float> @llvm.fma.v4f32(<4 x float>, <4 x float>, <4 x float>)
"""
# The functions that LLVM calls where there is no instruction.
_CONVERSION_OF_HALF = re.compile(r"extendhf|trunc[sdx]fhf|[hf]2[hf]_ieee|aeabi_[hf]2[hf]")
_FUSED_MULTIPLY_ADD = re.compile(r"\b_?fmaf\b")


class Processor(NamedTuple):
    """The processor that Numba compiles for."""

    name: str
    vector_bits: int  # of the widest registers: 512 with AVX-512, 256 with AVX, else 128
    converts_half: bool  # whether it has instructions that convert between half and single precision
    fuses: bool  # whether it has a fused multiply-add


@cache
def processor() -> Processor:
    """The processor that Numba compiles for.  Takes a few milliseconds at the first call."""
    triple, name, features = target_processor()
    machine = Target.from_triple(triple).create_target_machine(cpu=name, features=features)
    assembly = machine.emit_assembly(parse_assembly(_PROBE))
    registers = ((512, "zmm"), (256, "ymm"))
    vector_bits = next((bits for bits, register in registers if register in assembly), 128)
    converts_half, fuses = (not calls.search(assembly) for calls in (_CONVERSION_OF_HALF, _FUSED_MULTIPLY_ADD))
    return Processor(name, vector_bits, converts_half, fuses)
