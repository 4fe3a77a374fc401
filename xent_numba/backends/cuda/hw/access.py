"""Reading and writing one element or one 128-bit vector of each storage dtype.

A vector stays in registers as it was loaded, in `words` of type `word_type`: 16-bit logits take half the registers, and
nothing that was computed has to be kept between the passes over a row.  Elements are converted to float32 (float64
logits: float64) where they are used.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from xent_numba.backends.cuda.hw import intrinsics as hw


class Access(NamedTuple):
    """The device functions for one storage dtype.  `registers` is a local array, `word` the index of a vector in it."""

    itemsize: int  # bytes of an element
    vector_width: int  # its elements
    words: int  # registers of a vector
    word_type: Any  # their type
    load: Any  # (address) -> element
    store: Any  # (address, value) -> None
    load_vector: Any  # (address, registers, word) -> None
    load_elements: Any  # (address of element 0, registers, word, first, end) -> None; reads only these elements
    element: Any  # (registers, word, k) -> element k
    store_vector: Any  # (address, values) -> None


LOAD_LABEL = {  # integer dtype of labels -> (address) -> integer
    "int8": hw.load_i8,
    "uint8": hw.load_u8,
    "int16": hw.load_i16,
    "uint16": hw.load_u16,
    "int32": hw.load_i32,
    "uint32": hw.load_u32,
    "int64": hw.load_i64,
    "uint64": hw.load_i64,  # a value beyond int64 reads as negative, and so are such values in the list to ignore
}


@cache
def access(dtype: str, sm_80: bool = True) -> Access:
    """128-bit vectors of `dtype`; without `sm_80`, by instructions that devices before compute capability 8.0 have."""
    if dtype == "float32":
        return _float32()
    if dtype == "float64":
        return _float64()
    if dtype == "float16":
        pack = hw.pack_f16 if sm_80 else hw.pack_f16_before_sm_80
        return _half_pairs(hw.load_f16, hw.store_f16, hw.f16_low, hw.f16_high, pack)
    store, pack = (hw.store_bf16, hw.pack_bf16) if sm_80 else (hw.store_bf16_before_sm_80, hw.pack_bf16_before_sm_80)
    return _half_pairs(hw.load_bf16, store, hw.bf16_low, hw.bf16_high, pack)


@cache
def scalar_access(dtype: str, sm_80: bool = True) -> Access:
    """Vectors of one element of `dtype`, for classes that are apart in memory."""
    one = access(dtype, sm_80)
    load, store = one.load, one.store

    @hw.device
    def load_vector(address: Any, registers: Any, word: Any) -> None:
        registers[word] = load(address)

    @hw.device
    def store_vector(address: Any, values: Any) -> None:
        store(address, values[0])

    real = hw.f64 if dtype == "float64" else hw.f32
    return Access(one.itemsize, 1, 1, real, load, store, load_vector, None, _element, store_vector)


@hw.device
def _element(registers: Any, word: Any, k: Any) -> Any:
    """Element k of a vector that has a register for each."""
    return registers[word + k]


def _float32() -> Access:
    """Four elements, a register each."""

    @hw.device
    def load_vector(address: Any, registers: Any, word: Any) -> None:
        registers[word], registers[word + 1], registers[word + 2], registers[word + 3] = hw.load_f32x4(address)

    @hw.device
    def load_elements(address: Any, registers: Any, word: Any, first: Any, end: Any) -> None:
        for k in range(4):
            if first <= k < end:
                registers[word + k] = hw.load_f32(address + 4 * k)

    @hw.device
    def store_vector(address: Any, values: Any) -> None:
        hw.store_f32x4(address, (values[0], values[1], values[2], values[3]))

    return Access(4, 4, 4, hw.f32, hw.load_f32, hw.store_f32, load_vector, load_elements, _element, store_vector)


def _float64() -> Access:
    """Two elements, a register each."""

    @hw.device
    def load_vector(address: Any, registers: Any, word: Any) -> None:
        registers[word], registers[word + 1] = hw.load_f64x2(address)

    @hw.device
    def load_elements(address: Any, registers: Any, word: Any, first: Any, end: Any) -> None:
        for k in range(2):
            if first <= k < end:
                registers[word + k] = hw.load_f64(address + 8 * k)

    @hw.device
    def store_vector(address: Any, values: Any) -> None:
        hw.store_f64x2(address, (values[0], values[1]))

    return Access(8, 2, 2, hw.f64, hw.load_f64, hw.store_f64, load_vector, load_elements, _element, store_vector)


def _half_pairs(load: Any, store: Any, low: Any, high: Any, pack: Any) -> Access:
    """Eight elements of 16 bits, two to a register; `low` and `high` unpack a word, `pack` makes one of two floats."""

    @hw.device
    def load_vector(address: Any, registers: Any, word: Any) -> None:
        registers[word], registers[word + 1], registers[word + 2], registers[word + 3] = hw.load_i32x4(address)

    @hw.device
    def load_elements(address: Any, registers: Any, word: Any, first: Any, end: Any) -> None:
        for pair in range(4):
            bits = hw.i32(0)
            if first <= 2 * pair < end:
                bits = hw.load_u16(address + 4 * pair)
            if first <= 2 * pair + 1 < end:
                bits = hw.i32(bits | (hw.load_u16(address + 4 * pair + 2) << 16))
            registers[word + pair] = bits

    @hw.device
    def element(registers: Any, word: Any, k: Any) -> Any:
        bits = registers[word + (k >> 1)]
        return high(bits) if k & 1 else low(bits)

    @hw.device
    def store_vector(address: Any, values: Any) -> None:
        hw.store_i32x4(
            address,
            (
                pack(values[0], values[1]),
                pack(values[2], values[3]),
                pack(values[4], values[5]),
                pack(values[6], values[7]),
            ),
        )

    return Access(2, 8, 4, hw.i32, load, store, load_vector, load_elements, element, store_vector)
