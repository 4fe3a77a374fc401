"""Everything the kernels ask of the hardware, and the only module that touches numba.cuda internals.

Memory is addressed by plain 64-bit integers: a kernel then takes a few integers instead of array structures (whose
unpacking dominates launch time), and one function reads any dtype.  A 128-bit access is an LLVM vector load or store
with its alignment stated; scalar loads side by side are never merged by the compiler.  What Numba has no function for
is one line of PTX.  The simulator runs none of this: the tests put a Python module with the same names in its place.

Not here: lg2.approx.  A row takes one logarithm, so the accurate one of libdevice costs nothing.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Any, TypeVar

import numba.cuda
import numba.cuda.extending
from llvmlite import ir
from numba.core.errors import NumbaPerformanceWarning

Function = TypeVar("Function")
cuda: Any = numba.cuda  # as Any: Numba's annotations differ between its releases
types: Any = numba.cuda.types
extending: Any = numba.cuda.extending
intrinsic = extending.intrinsic


def device(function: Function) -> Function:
    """Mark a function that kernels call; it is compiled with the kernel, never on its own."""
    marked: Function = extending.register_jitable(function)
    return marked


f32, f64, i32, i64 = types.float32, types.float64, types.int32, types.int64
log, log1p, expm1, tanh, exp = math.log, math.log1p, math.expm1, math.tanh, math.exp

_F32, _F64, _I16, _I32, _I64 = ir.FloatType(), ir.DoubleType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_HALF = ir.HalfType()
_GLOBAL = 1  # address space: makes ld.global of what would be a generic load


@device
def thread() -> Any:
    return cuda.threadIdx.x


@device
def block() -> Any:
    return cuda.blockIdx.x


@device
def block_y() -> Any:
    return cuda.blockIdx.y


@device
def blocks() -> Any:
    return cuda.gridDim.x


@device
def barrier() -> None:
    cuda.syncthreads()


@device
def shfl_xor(value: Any, mask: Any) -> Any:
    return cuda.shfl_xor_sync(0xFFFFFFFF, value, mask)


def compiled(kernel: Any, threads: int) -> Any:
    """A kernel for launches of at most `threads` threads a block; compiled at its first launch."""
    # Without link-time optimisation the machine code is that of the PTX which the tests look at.
    return cuda.jit(kernel, launch_bounds=threads, lto=False)


@lru_cache(maxsize=1024)
def configured(kernel: Any, grid: int | tuple[int, int], threads: int, stream: Any = 0, shared: int = 0) -> Any:
    """A kernel ready to be called; looked up where it was launched in the same shape before."""
    with warnings.catch_warnings():  # that a small problem leaves most of the device idle is no news to its owner
        warnings.simplefilter("ignore", NumbaPerformanceWarning)
        return kernel[grid, threads, stream, shared]


def address(array: Any) -> int:
    """Where a device array lies."""
    return int(array.__cuda_array_interface__["data"][0])


def _pointer(builder: Any, address: Any, element: Any) -> Any:
    return builder.inttoptr(address, ir.PointerType(element, addrspace=_GLOBAL))


def _index(k: int) -> Any:
    return ir.Constant(_I32, k)


def _loader(element: Any, result: Any, finish: Any = None) -> Any:
    """An intrinsic: address -> one element."""

    def load(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = builder.load(_pointer(builder, args[0], element))
            return finish(builder, value) if finish else value

        return result(i64), generate

    return intrinsic(load)


def _storer(element: Any, argument: Any, prepare: Any = None) -> Any:
    """An intrinsic: (address, value) -> None."""

    def store(typing_context: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = prepare(builder, args[1]) if prepare else args[1]
            builder.store(value, _pointer(builder, args[0], element))
            return context.get_dummy_value()

        return types.void(i64, argument), generate

    return intrinsic(store)


def _vector_loader(element: Any, result: Any, count: int) -> Any:
    """An intrinsic: 16-byte aligned address -> tuple, one 128-bit load."""

    def load(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            vector = builder.load(_pointer(builder, args[0], ir.VectorType(element, count)))
            vector.align = 16
            parts = [builder.extract_element(vector, _index(k)) for k in range(count)]
            return context.make_tuple(builder, signature.return_type, parts)

        return types.UniTuple(result, count)(i64), generate

    return intrinsic(load)


def _vector_storer(element: Any, argument: Any, count: int) -> Any:
    """An intrinsic: (16-byte aligned address, tuple) -> None, one 128-bit store."""

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


def _assembly(line: str, constraint: str, result: Any, *arguments: Any) -> Any:
    """An intrinsic from one side-effect-free line of PTX."""

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


def _from_half(builder: Any, bits: Any) -> Any:
    return builder.fpext(builder.bitcast(bits, _HALF), _F32)


def _from_bfloat(builder: Any, bits: Any) -> Any:
    return builder.bitcast(builder.shl(builder.zext(bits, _I32), ir.Constant(_I32, 16)), _F32)


def _to_half(builder: Any, value: Any) -> Any:
    return builder.bitcast(builder.fptrunc(value, _HALF), _I16)


def _to_bfloat(builder: Any, value: Any) -> Any:
    kind = ir.FunctionType(_I16, [_F32])
    return builder.asm(kind, "cvt.rn.bf16.f32 $0, $1;", "=h,f", [value], False)


def _word(convert: Any, high: bool) -> Any:
    """An intrinsic: one half of a 32-bit word, as float32."""

    def unpack(typing_context: Any, word: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            bits = builder.lshr(args[0], ir.Constant(_I32, 16)) if high else args[0]
            return convert(builder, builder.trunc(bits, _I16))

        return f32(i32), generate

    return intrinsic(unpack)


def _fmax(typing_context: Any, x: Any, y: Any) -> Any:

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        name = "llvm.maxnum.f32" if kind == _F32 else "llvm.maxnum.f64"
        function = builder.module.declare_intrinsic(name, (), ir.FunctionType(kind, [kind, kind]))
        return builder.call(function, args)

    return x(x, x), generate


fmax = intrinsic(_fmax)  # the larger one; the number where the other is NaN (a NaN is found again in the sum)
ex2 = _assembly("ex2.approx.ftz.f32 $0, $1;", "=f,f", f32, f32)  # relative error below 2^-22, 0 below 2^-126

load_f32, store_f32 = _loader(_F32, f32), _storer(_F32, f32)
load_f64, store_f64 = _loader(_F64, f64), _storer(_F64, f64)
load_f16, store_f16 = _loader(_I16, f32, _from_half), _storer(_I16, f32, _to_half)
load_bf16, store_bf16 = _loader(_I16, f32, _from_bfloat), _storer(_I16, f32, _to_bfloat)
load_u16 = _loader(_I16, i32, lambda builder, bits: builder.zext(bits, _I32))
load_i8, load_u8 = (
    _loader(ir.IntType(8), i64, lambda builder, bits: builder.sext(bits, _I64)),
    _loader(ir.IntType(8), i64, lambda builder, bits: builder.zext(bits, _I64)),
)
load_i16 = _loader(_I16, i64, lambda builder, bits: builder.sext(bits, _I64))
load_i32 = _loader(_I32, i64, lambda builder, bits: builder.sext(bits, _I64))
load_u32 = _loader(_I32, i64, lambda builder, bits: builder.zext(bits, _I64))
load_i64, store_i64 = _loader(_I64, i64), _storer(_I64, i64)

load_f32x4, store_f32x4 = _vector_loader(_F32, f32, 4), _vector_storer(_F32, f32, 4)
load_f64x2, store_f64x2 = _vector_loader(_F64, f64, 2), _vector_storer(_F64, f64, 2)
load_i32x4, store_i32x4 = _vector_loader(_I32, i32, 4), _vector_storer(_I32, i32, 4)

f16_low, f16_high = _word(_from_half, False), _word(_from_half, True)
bf16_low, bf16_high = _word(_from_bfloat, False), _word(_from_bfloat, True)
pack_f16 = _assembly("cvt.rn.f16x2.f32 $0, $2, $1;", "=r,f,f", i32, f32, f32)  # (low, high) -> word
pack_bf16 = _assembly("cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,f,f", i32, f32, f32)
