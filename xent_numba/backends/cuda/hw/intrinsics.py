"""The operations of the hardware that the kernels are written in.

Memory is addressed by plain 64-bit integers: a kernel then takes a few integers instead of array structures (whose
unpacking dominates launch time), and one function reads any dtype.  A 128-bit access is an LLVM vector load or store
with its alignment stated; the compiler never merges adjacent scalar loads.  What Numba has no function for is one line
of PTX.  The simulator runs none of this: the tests put a Python module with the same names in its place.

Not here: lg2.approx.  A row takes one logarithm, so the accurate one of libdevice costs nothing.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Any, TypeVar

import numba.cuda

from xent_numba.backends.cuda.hw.numba_private import NumbaPerformanceWarning, intrinsic, ir, register_jitable, types
from xent_numba.interrupts import uninterrupted

Function = TypeVar("Function")
cuda: Any = numba.cuda  # as Any: Numba's annotations differ between its releases


def device(function: Function) -> Function:
    """Mark a function that kernels call; it is compiled with the kernel, never on its own."""
    marked: Function = register_jitable(function)
    return marked


f32, f64, i32, i64 = types.float32, types.float64, types.int32, types.int64
log, log1p, expm1, tanh, exp = math.log, math.log1p, math.expm1, math.tanh, math.exp

_F32, _F64, _I8, _I16, _I32, _I64 = ir.FloatType(), ir.DoubleType(), *(ir.IntType(bits) for bits in (8, 16, 32, 64))
_HALF = ir.HalfType()
_GLOBAL = 1  # address space: makes ld.global of what would be a generic load


@device
def thread_index() -> Any:
    """Index of the thread in its block."""
    return cuda.threadIdx.x


@device
def block_index() -> Any:
    """First index of the block in the grid."""
    return cuda.blockIdx.x


@device
def block_index_y() -> Any:
    """Second index of the block in the grid."""
    return cuda.blockIdx.y


@device
def grid_width() -> Any:
    """Number of blocks along the first axis of the grid."""
    return cuda.gridDim.x


@device
def barrier() -> None:
    """Wait until every thread of the block is here."""
    cuda.syncthreads()


@device
def shfl_xor(value: Any, lane_mask: Any) -> Any:
    """The value of the lane whose index differs in the bits of `lane_mask`; all 32 lanes of a warp must call it."""
    return cuda.shfl_xor_sync(0xFFFFFFFF, value, lane_mask)


def jit_kernel(kernel: Any, threads: int) -> Any:
    """A kernel for launches of at most `threads` threads a block; compiled at its first launch."""
    # Without link-time optimisation the machine code is that of the PTX which the tests look at.
    return cuda.jit(kernel, launch_bounds=threads, lto=False)


class Launch:
    """A kernel with its launch shape, ready to be called."""

    __slots__ = ("_configured", "_launched")

    def __init__(self, configured: Any) -> None:
        """Hold what Numba makes of kernel and launch shape."""
        self._configured, self._launched = configured, False

    def __call__(self, *args: Any) -> None:
        """Launch the kernel, and do not wait until it has run.

        The first time, when the kernel may have to be compiled, Ctrl-C waits until that is done.
        """
        if self._launched:
            self._configured(*args)
        else:
            with uninterrupted():
                self._configured(*args)
                self._launched = True


@lru_cache(maxsize=1024)
def configure(kernel: Any, grid: int | tuple[int, int], threads: int, stream: Any = 0, shared: int = 0) -> Launch:
    """The kernel with its launch shape; cached, so that a repeated launch costs one look-up."""
    with warnings.catch_warnings():  # a grid of few blocks is no mistake here: the problem is small
        warnings.simplefilter("ignore", NumbaPerformanceWarning)
        return Launch(kernel[grid, threads, stream, shared])


def address(array: Any) -> int:
    """The address of the first byte of a device array."""
    return int(array.__cuda_array_interface__["data"][0])


def _pointer(builder: Any, address: Any, element: Any) -> Any:
    """An integer address as an LLVM pointer to global memory."""
    return builder.inttoptr(address, ir.PointerType(element, addrspace=_GLOBAL))


def _index(k: int) -> Any:
    """An element number as an LLVM constant."""
    return ir.Constant(_I32, k)


def _loader(element: Any, result: Any, convert: Any = None) -> Any:
    """An intrinsic (address) -> one element, converted by `convert(builder, value)` where given."""

    def load(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = builder.load(_pointer(builder, args[0], element))
            return convert(builder, value) if convert else value

        return result(i64), generate

    return intrinsic(load)


def _storer(element: Any, argument: Any, convert: Any = None) -> Any:
    """An intrinsic (address, value) -> None, which stores `convert(builder, value)` where given."""

    def store(typing_context: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = convert(builder, args[1]) if convert else args[1]
            builder.store(value, _pointer(builder, args[0], element))
            return context.get_dummy_value()

        return types.void(i64, argument), generate

    return intrinsic(store)


def _vector_loader(element: Any, result: Any, count: int) -> Any:
    """An intrinsic (16-byte aligned address) -> tuple of `count` elements, one 128-bit load."""

    def load(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            vector = builder.load(_pointer(builder, args[0], ir.VectorType(element, count)))
            vector.align = 16
            parts = [builder.extract_element(vector, _index(k)) for k in range(count)]
            return context.make_tuple(builder, signature.return_type, parts)

        return types.UniTuple(result, count)(i64), generate

    return intrinsic(load)


def _vector_storer(element: Any, argument: Any, count: int) -> Any:
    """An intrinsic (16-byte aligned address, tuple of `count` elements) -> None, one 128-bit store."""

    def store(typing_context: Any, address: Any, values: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = ir.VectorType(element, count)
            vector = ir.Constant(kind, ir.Undefined)
            for k in range(count):
                vector = builder.insert_element(vector, builder.extract_value(args[1], k), _index(k))
            builder.store(vector, _pointer(builder, args[0], kind)).align = 16
            return context.get_dummy_value()

        return types.void(i64, types.UniTuple(argument, count)), generate

    return intrinsic(store)


def _ptx(line: str, constraint: str, result: Any, *arguments: Any) -> Any:
    """An intrinsic of one or two arguments from one side-effect-free line of PTX."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(
            context.get_value_type(signature.return_type), [context.get_value_type(a) for a in signature.args]
        )
        return builder.asm(kind, line, constraint, args, False)

    if len(arguments) == 1:

        def one(typing_context: Any, x: Any) -> Any:
            return result(*arguments), generate

        return intrinsic(one)

    def two(typing_context: Any, x: Any, y: Any) -> Any:
        return result(*arguments), generate

    return intrinsic(two)


def _sign_extend(builder: Any, bits: Any) -> Any:
    """A signed integer as int64."""
    return builder.sext(bits, _I64)


def _zero_extend(builder: Any, bits: Any) -> Any:
    """An unsigned integer as int64."""
    return builder.zext(bits, _I64)


def _from_half(builder: Any, bits: Any) -> Any:
    """float16 bits as float32."""
    return builder.fpext(builder.bitcast(bits, _HALF), _F32)


def _from_bfloat(builder: Any, bits: Any) -> Any:
    """bfloat16 bits as float32: they are its upper half."""
    return builder.bitcast(builder.shl(builder.zext(bits, _I32), ir.Constant(_I32, 16)), _F32)


def _to_half(builder: Any, value: Any) -> Any:
    """float32 rounded to float16 bits."""
    return builder.bitcast(builder.fptrunc(value, _HALF), _I16)


def _to_bfloat(builder: Any, value: Any) -> Any:
    """float32 rounded to bfloat16 bits."""
    kind = ir.FunctionType(_I16, [_F32])
    return builder.asm(kind, "cvt.rn.bf16.f32 $0, $1;", "=h,f", [value], False)


def _to_bfloat_by_bits(builder: Any, value: Any) -> Any:
    """What `_to_bfloat` computes, in integer arithmetic: rounded to nearest, ties to even, and every NaN is 0x7FFF."""
    bits = builder.bitcast(value, _I32)
    odd = builder.and_(builder.lshr(bits, ir.Constant(_I32, 16)), ir.Constant(_I32, 1))
    rounded = builder.add(bits, builder.add(odd, ir.Constant(_I32, 0x7FFF)))  # a carry rightly reaches the exponent
    is_nan = builder.fcmp_unordered("uno", value, value)
    rounded = builder.select(is_nan, ir.Constant(_I32, 0x7FFF0000), rounded)
    return builder.trunc(builder.lshr(rounded, ir.Constant(_I32, 16)), _I16)


def _packer(convert: Any) -> Any:
    """An intrinsic (low, high) -> 32-bit word of two floats, each converted to 16 bits by `convert(builder, value)`."""

    def pack(typing_context: Any, low: Any, high: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            low, high = (builder.zext(convert(builder, value), _I32) for value in args)
            return builder.or_(low, builder.shl(high, ir.Constant(_I32, 16)))

        return i32(f32, f32), generate

    return intrinsic(pack)


def _half_word(convert: Any, high: bool) -> Any:
    """An intrinsic (32-bit word) -> its upper or lower 16 bits as float32."""

    def unpack(typing_context: Any, word: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            bits = builder.lshr(args[0], ir.Constant(_I32, 16)) if high else args[0]
            return convert(builder, builder.trunc(bits, _I16))

        return f32(i32), generate

    return intrinsic(unpack)


def _fmax(typing_context: Any, x: Any, y: Any) -> Any:
    """(x, y) -> the larger; the number where the other is NaN."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        name = "llvm.maxnum.f32" if kind == _F32 else "llvm.maxnum.f64"
        function = builder.module.declare_intrinsic(name, (), ir.FunctionType(kind, [kind, kind]))
        return builder.call(function, args)

    return x(x, x), generate


fmax = intrinsic(_fmax)  # it drops a NaN, which the sum then finds
ex2 = _ptx("ex2.approx.ftz.f32 $0, $1;", "=f,f", f32, f32)  # relative error below 2^-22, 0 below 2^-126

load_f32, store_f32 = _loader(_F32, f32), _storer(_F32, f32)
load_f64, store_f64 = _loader(_F64, f64), _storer(_F64, f64)
load_f16, store_f16 = _loader(_I16, f32, _from_half), _storer(_I16, f32, _to_half)
load_bf16, store_bf16 = _loader(_I16, f32, _from_bfloat), _storer(_I16, f32, _to_bfloat)
load_u16 = _loader(_I16, i32, lambda builder, bits: builder.zext(bits, _I32))
load_i8, load_i16, load_i32 = (_loader(bits, i64, _sign_extend) for bits in (_I8, _I16, _I32))
load_u8, load_u32 = (_loader(bits, i64, _zero_extend) for bits in (_I8, _I32))
load_i64, store_i64 = _loader(_I64, i64), _storer(_I64, i64)

load_f32x4, store_f32x4 = _vector_loader(_F32, f32, 4), _vector_storer(_F32, f32, 4)
load_f64x2, store_f64x2 = _vector_loader(_F64, f64, 2), _vector_storer(_F64, f64, 2)
load_i32x4, store_i32x4 = _vector_loader(_I32, i32, 4), _vector_storer(_I32, i32, 4)

f16_low, f16_high = _half_word(_from_half, False), _half_word(_from_half, True)
bf16_low, bf16_high = _half_word(_from_bfloat, False), _half_word(_from_bfloat, True)
pack_f16 = _ptx("cvt.rn.f16x2.f32 $0, $2, $1;", "=r,f,f", i32, f32, f32)  # (low, high) -> word
pack_bf16 = _ptx("cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,f,f", i32, f32, f32)

# The same without what compute capability 8.0 added: conversions to bfloat16, and of two floats at once.
store_bf16_before_sm_80 = _storer(_I16, f32, _to_bfloat_by_bits)
pack_f16_before_sm_80, pack_bf16_before_sm_80 = _packer(_to_half), _packer(_to_bfloat_by_bits)
