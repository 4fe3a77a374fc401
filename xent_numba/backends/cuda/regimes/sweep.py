"""A sweep over the classes of a row, one element at a time, for what has no regime of its own.

Neighbouring threads read neighbouring elements, so that the accesses to rows whose classes lie side by side are
coalesced, although each is a scalar; nothing depends on how a row is aligned.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.access import scalar_access
from xent_numba.backends.cuda.hw.reduce import compensated_add
from xent_numba.backends.cuda.row.address import address_functions
from xent_numba.backends.cuda.row.functions import row_functions
from xent_numba.backends.cuda.row.spec import Spec


class Sum(NamedTuple):
    """A compensated sum."""

    value: Any
    compensation: Any


@hw.device
def add_to(total: Any, term: Any) -> Any:
    """The `Sum` with one more term."""
    return Sum(*compensated_add(total.value, total.compensation, term))


def block_per_row(compute_row: Any) -> Any:
    """Kernel (args) of any number of blocks: block b calls `compute_row(args, row, thread)` for b, b + blocks, ..."""

    def kernel(args: Any) -> None:
        thread = hw.thread_index()
        for row in range(hw.i64(hw.block_index()), args.n_rows, hw.grid_width()):
            compute_row(args, row, thread)

    return kernel


def thread_per_row(compute_row: Any, threads: int) -> Any:
    """Kernel (args) of ceil(rows / threads) blocks, each thread of which calls `compute_row(args, row, 0)`."""

    def kernel(args: Any) -> None:
        row = hw.i64(hw.block_index()) * threads + hw.thread_index()
        if row < args.n_rows:
            compute_row(args, row, 0)

    return kernel


def sweep(spec: Spec, threads: int, batch: int, visit: Any) -> Any:
    """A device function (args, x, second, fixed, state, thread) -> state after this thread's share of a row.

    `x` and `second` are the addresses of class 0 of the logits and of the second array, where the spec has one.
    `visit(args, fixed, state, j, x_j, v_j)` returns the next state; of the same type.  A thread loads `batch` elements
    before it visits them, in the order of the classes.
    """
    maths, memory = row_functions(spec), address_functions(spec)
    own, other = scalar_access(spec.dtype), scalar_access(spec.second or spec.dtype)
    load, load_second, word_type, second_type = own.load, other.load, own.word_type, other.word_type
    stride, second_stride, real = memory.logits_stride, memory.second_stride, maths.real
    has_second, step, zero = bool(spec.second), threads * batch, maths.real(0)

    @hw.device
    def over_row(args: Any, x: Any, second: Any, fixed: Any, state: Any, thread: Any) -> Any:
        elements = hw.cuda.local.array(batch, word_type)
        second_elements = hw.cuda.local.array(batch, second_type)
        for start in range(hw.i64(thread), args.n_classes, step):
            for i in range(batch):
                j = start + i * threads
                if j < args.n_classes:
                    elements[i] = load(x + j * stride(args))
                    if has_second:
                        second_elements[i] = load_second(second + j * second_stride(args))
            for i in range(batch):
                j = start + i * threads
                if j < args.n_classes:
                    v = real(second_elements[i]) if has_second else zero
                    state = visit(args, fixed, state, j, real(elements[i]), v)
        return state

    return over_row
