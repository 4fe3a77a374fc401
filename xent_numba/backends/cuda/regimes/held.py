"""A thread's share of a row in its registers: loading it, its maximum, and storing its output.

`registers` holds a whole row this way, `online` one batch of it after the other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.row.address import address_functions
from xent_numba.backends.cuda.row.functions import row_functions
from xent_numba.backends.cuda.row.spec import Spec


class Share(NamedTuple):
    """The classes that a thread holds: vector i of V begins at class start + i · threads · vector_width.

    `limit` and `label` are relative to `start`: unrolled loops then compare constants with one 32-bit register each.
    """

    start: Any  # class of element 0 of the first vector, before class 0 where a ragged row begins
    limit: Any  # int32; vectors that begin here or later are not held
    label: Any  # int32; where the label is, which may be outside of this share


class HeldVectors(NamedTuple):
    """Device functions on the vectors of a `Share`; `registers` has the words of V vectors, as they were loaded."""

    load: Any  # (args, address of the first vector, share, registers) -> None
    raise_max: Any  # (args, row_max, share, registers, row_begin, row_end) -> max(row_max, z_j), as `held_vectors` says
    # (args, address of class 0 of the distribution, y, share, registers, OutputFactors, address of the output of the
    # first vector, whether that is aligned as the logits are) -> None; None where there is no output
    store_output: Any


def held_vectors(spec: Spec, threads: int, vectors: int) -> HeldVectors:
    """The functions for V = `vectors` vectors per thread, each `threads` vectors after the one before it.

    `raise_max` takes the maximum over the classes from `row_begin` to `row_end`, relative to the share's start, where
    the row is ragged, and over all that are held where it is not; a sparse target's label is left out.  `store_output`
    needs the registers as `load` left them.
    """
    maths, memory = row_functions(spec), address_functions(spec)
    access, q_access = memory.access, memory.distribution_access
    vector_width, words, element = access.vector_width, access.words, access.element
    q_element, q_word_type, q_words = q_access.element, q_access.word_type, memory.distribution_words
    load_vector, store_vector, load_distribution = memory.load_vector, memory.store_vector, memory.load_distribution
    logits_stride, out_stride = memory.logits_stride, memory.out_stride
    real, stored, transform = maths.real, maths.stored, maths.transform
    dense_target, output_element = maths.dense_target, maths.output_element
    dense, has_distribution, ragged = spec.dense, bool(spec.distribution), spec.ragged
    sparse_label = bool(spec.labels) and not dense
    step, zero, minus_inf = threads * vector_width, real(0), real(-np.inf)

    @hw.device
    def load(args: Any, first_vector: Any, share: Any, registers: Any) -> None:
        for i in range(vectors):
            if i * step < share.limit:
                # One address; the vectors lie at constant distances from it.
                vector = first_vector + i * step * logits_stride(args)
                load_vector(args, vector, share.start + i * step, registers, i * words)

    @hw.device
    def raise_max(args: Any, row_max: Any, share: Any, registers: Any, row_begin: Any, row_end: Any) -> Any:
        for i in range(vectors):
            if i * step < share.limit:
                for k in range(vector_width):
                    j = i * step + k
                    z = transform(args, real(element(registers, i * words, k)))
                    if (ragged and (j < row_begin or j >= row_end)) or (sparse_label and j == share.label):
                        z = minus_inf
                    row_max = hw.fmax(row_max, z)
        return row_max

    @hw.device
    def store_output(
        args: Any, q: Any, y: Any, share: Any, registers: Any, factors: Any, first_out: Any, same_alignment: Any
    ) -> None:
        q_registers = hw.cuda.local.array(q_words, q_word_type)
        values = hw.cuda.local.array(vector_width, stored)
        for i in range(vectors):
            if i * step < share.limit:
                if has_distribution:
                    load_distribution(args, q, share.start + i * step, q_registers)
                for k in range(vector_width):
                    j = i * step + k
                    t_j = dense_target(args, q_element(q_registers, 0, k), share.start + j, y) if dense else zero
                    logit = real(element(registers, i * words, k))
                    values[k] = output_element(args, logit, factors, t_j, sparse_label and j == share.label)
                vector = first_out + i * step * out_stride(args)
                store_vector(args, vector, share.start + i * step, values, same_alignment)

    return HeldVectors(load, raise_max, store_output if spec.output else None)
