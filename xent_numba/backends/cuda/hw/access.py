"""Reading and writing one element or one 128-bit vector of each storage dtype, in the arithmetic of its kernel.

A vector stays in the registers as it was loaded (`words` of them, of type `word`): 16-bit logits take half the
registers, and nothing that was computed has to be kept between the two passes over a row.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from xent_numba.backends.cuda.hw import intrinsics as hw


class Access(NamedTuple):
    """The functions for one storage dtype."""

    size: int  # bytes of an element
    lanes: int  # elements of a 128-bit vector
    words: int  # registers of a 128-bit vector
    word: Any  # their type
    load: Any  # address -> element
    store: Any  # (address, value) -> None
    load_vector: Any  # (address, registers, at) -> None
    load_part: Any  # (address of lane 0, registers, at, first lane, end lane) -> None, lanes outside are not read
    element: Any  # (registers, at, lane) -> element
    store_vector: Any  # (address, values) -> None


@cache
def access(dtype: str) -> Access:
    """The functions for `dtype`."""
    if dtype == "float32":
        return _float32()
    if dtype == "float64":
        return _float64()
    if dtype == "float16":
        return _packed(hw.load_f16, hw.store_f16, hw.f16_low, hw.f16_high, hw.pack_f16)
    return _packed(hw.load_bf16, hw.store_bf16, hw.bf16_low, hw.bf16_high, hw.pack_bf16)


@cache
def scalar_access(dtype: str) -> Access:
    """The same for classes that do not lie side by side: vectors of one element."""
    one = access(dtype)
    load, store = one.load, one.store

    @hw.device
    def load_vector(address: Any, registers: Any, at: Any) -> None:
        registers[at] = load(address)

    @hw.device
    def element(registers: Any, at: Any, lane: Any) -> Any:
        return registers[at + lane]

    @hw.device
    def store_vector(address: Any, values: Any) -> None:
        store(address, values[0])

    real = hw.f64 if dtype == "float64" else hw.f32
    return Access(one.size, 1, 1, real, load, store, load_vector, None, element, store_vector)


LOAD_LABEL = {
    "int8": "load_i8",
    "uint8": "load_u8",
    "int16": "load_i16",
    "uint16": "load_u16",
    "int32": "load_i32",
    "uint32": "load_u32",
    "int64": "load_i64",
    "uint64": "load_i64",  # a value beyond int64 reads as negative: the caller shifts what is to be ignored alike
}


def _float32() -> Access:
    @hw.device
    def load_vector(address: Any, registers: Any, at: Any) -> None:
        registers[at], registers[at + 1], registers[at + 2], registers[at + 3] = hw.load_f32x4(address)

    @hw.device
    def load_part(address: Any, registers: Any, at: Any, first: Any, end: Any) -> None:
        for k in range(4):
            if first <= k < end:
                registers[at + k] = hw.load_f32(address + 4 * k)

    @hw.device
    def element(registers: Any, at: Any, lane: Any) -> Any:
        return registers[at + lane]

    @hw.device
    def store_vector(address: Any, values: Any) -> None:
        hw.store_f32x4(address, (values[0], values[1], values[2], values[3]))

    return Access(4, 4, 4, hw.f32, hw.load_f32, hw.store_f32, load_vector, load_part, element, store_vector)


def _float64() -> Access:
    @hw.device
    def load_vector(address: Any, registers: Any, at: Any) -> None:
        registers[at], registers[at + 1] = hw.load_f64x2(address)

    @hw.device
    def load_part(address: Any, registers: Any, at: Any, first: Any, end: Any) -> None:
        for k in range(2):
            if first <= k < end:
                registers[at + k] = hw.load_f64(address + 8 * k)

    @hw.device
    def element(registers: Any, at: Any, lane: Any) -> Any:
        return registers[at + lane]

    @hw.device
    def store_vector(address: Any, values: Any) -> None:
        hw.store_f64x2(address, (values[0], values[1]))

    return Access(8, 2, 2, hw.f64, hw.load_f64, hw.store_f64, load_vector, load_part, element, store_vector)


def _packed(load: Any, store: Any, low: Any, high: Any, pack: Any) -> Access:
    @hw.device
    def load_vector(address: Any, registers: Any, at: Any) -> None:
        registers[at], registers[at + 1], registers[at + 2], registers[at + 3] = hw.load_i32x4(address)

    @hw.device
    def load_part(address: Any, registers: Any, at: Any, first: Any, end: Any) -> None:
        for word in range(4):
            bits = hw.i32(0)
            if first <= 2 * word < end:
                bits = hw.load_u16(address + 4 * word)
            if first <= 2 * word + 1 < end:
                bits = hw.i32(bits | (hw.load_u16(address + 4 * word + 2) << 16))
            registers[at + word] = bits

    @hw.device
    def element(registers: Any, at: Any, lane: Any) -> Any:
        word = registers[at + (lane >> 1)]
        return high(word) if lane & 1 else low(word)

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

    return Access(2, 8, 4, hw.i32, load, store, load_vector, load_part, element, store_vector)
