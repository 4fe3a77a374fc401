"""A sweep over the classes of a row, one element at a time, for what has no regime of its own.

Neighbouring threads read neighbouring elements, so that the accesses to rows whose classes lie side by side are
coalesced, although each is a scalar; nothing depends on how a row is aligned.
"""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.access import scalar_access
from xent_numba.backends.cuda.row.address import address_functions
from xent_numba.backends.cuda.row.functions import row_functions
from xent_numba.backends.cuda.row.spec import Spec


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
