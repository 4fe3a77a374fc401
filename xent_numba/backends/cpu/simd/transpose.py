"""Transposing loads and stores: rows of classes in memory, and a tile that holds one vector for each class.

In a tile, lane r of vector c is class c of row r: element (r, c) is at tile[c·lanes + r].  A tile is aligned to cache
lines; the rows in memory have any alignment, stride and storage dtype.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from xent_numba.backends.cpu.compile.numba_private import ir
from xent_numba.backends.cpu.plan import CACHE_LINE
from xent_numba.backends.cpu.simd.storage import (
    buffer_vector,
    decode,
    encode,
    first_n_mask,
    masked_load,
    masked_store,
    size_of,
    stored_vector,
)


def _transpose_square(builder: Any, rows: list[Any]) -> list[Any]:
    """Transpose a square of vectors in registers, by log2(lanes) rounds of pairwise exchanges."""
    lanes = len(rows)
    index = ir.VectorType(ir.IntType(32), lanes)
    step = lanes // 2
    while step:
        low = [c if not c & step else lanes + (c ^ step) for c in range(lanes)]
        high = [(c | step) if not c & step else lanes + c for c in range(lanes)]
        swapped = list(rows)
        for r in range(lanes):
            if not r & step:
                a, b = rows[r], rows[r | step]
                swapped[r] = builder.shuffle_vector(a, b, ir.Constant(index, low))
                swapped[r | step] = builder.shuffle_vector(a, b, ir.Constant(index, high))
        rows, step = swapped, step // 2
    return rows


def _row_pointer(builder: Any, base: Any, stride: Any, r: int, rows: Any, raw: ir.VectorType) -> tuple[Any, Any]:
    """The address of row r and True; where there are not that many rows, the address of row 0 and False."""
    word = ir.IntType(64)
    exists = builder.icmp_signed(">", rows, word(r))
    offset = builder.select(exists, builder.mul(stride, word(r)), word(0))
    return builder.bitcast(builder.gep(base, [offset]), raw.as_pointer()), exists


@intrinsic
def load_transposed(typingctx: Any, p: Any, stride: Any, rows: Any, columns: Any, tile: Any, vtype: Any) -> Any:
    """Load p[r·stride + c], for r < rows ≤ lanes and c < columns ≤ lanes, to tile[c·lanes + r].

    All lanes × lanes elements of the tile are written: lanes without a row are copies of row 0, and vectors without a
    column are 0.
    """
    raw, lanes = stored_vector(p, vtype), vtype.lanes

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        base, step, count, width, out, _ = args
        mask = first_n_mask(builder, width, vtype)
        vectors = []
        for r in range(lanes):
            where, _ = _row_pointer(builder, base, step, r, count, raw)
            vectors.append(masked_load(builder, where, mask, p, vtype))
        for c, column in enumerate(_transpose_square(builder, vectors)):
            builder.store(column, buffer_vector(builder, out, c, vtype), align=CACHE_LINE)
        return context.get_dummy_value()

    return types.void(p, types.int64, types.int64, types.int64, tile, vtype), codegen


@intrinsic
def store_transposed(typingctx: Any, tile: Any, p: Any, stride: Any, rows: Any, columns: Any, vtype: Any) -> Any:
    """Store tile[c·lanes + r] to p[r·stride + c], for r < rows ≤ lanes and c < columns ≤ lanes, and nothing else."""
    raw, lanes = stored_vector(p, vtype), vtype.lanes

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source, base, step, count, width, _ = args
        vectors = [builder.load(buffer_vector(builder, source, c, vtype), align=CACHE_LINE) for c in range(lanes)]
        for r, row in enumerate(_transpose_square(builder, vectors)):
            where, exists = _row_pointer(builder, base, step, r, count, raw)
            row_width = builder.select(exists, width, ir.IntType(64)(0))
            mask = first_n_mask(builder, row_width, vtype)
            masked_store(builder, where, mask, encode(builder, row, p.dtype), size_of(p.dtype))
        return context.get_dummy_value()

    return types.void(tile, p, types.int64, types.int64, types.int64, vtype), codegen


# ------------------------------------------------------------------------------------------------ four columns
def _transpose_fours(builder: Any, vectors: list[Any]) -> list[Any]:
    """Transpose the 4 × 4 squares at the same place of four vectors; no shuffle crosses a boundary of 128 bits."""
    lanes = vectors[0].type.count
    index = ir.VectorType(ir.IntType(32), lanes)

    def pick(a: Any, b: Any, lanes_of_group: tuple[int, int, int, int]) -> Any:
        chosen = [4 * g + k % 4 + (lanes if k > 3 else 0) for g in range(lanes // 4) for k in lanes_of_group]
        return builder.shuffle_vector(a, b, ir.Constant(index, chosen))

    v0, v1, v2, v3 = vectors
    low01, low23 = pick(v0, v1, (0, 4, 1, 5)), pick(v2, v3, (0, 4, 1, 5))
    high01, high23 = pick(v0, v1, (2, 6, 3, 7)), pick(v2, v3, (2, 6, 3, 7))
    return [
        pick(low01, low23, (0, 1, 4, 5)),
        pick(low01, low23, (2, 3, 6, 7)),
        pick(high01, high23, (0, 1, 4, 5)),
        pick(high01, high23, (2, 3, 6, 7)),
    ]


@intrinsic
def load_four_columns(typingctx: Any, p: Any, stride: Any, tile: Any, vtype: Any) -> Any:
    """Load p[r·stride + c], for c < 4 and as many rows as there are lanes, to tile[c·lanes + r].

    This takes half the shuffles of a full square, since each load of four columns goes to its final 128 bits at once.
    """
    raw, lanes = stored_vector(p, vtype), vtype.lanes
    four = ir.VectorType(raw.element, 4)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        base, step, out, _ = args
        repeated = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [k % 4 for k in range(lanes)])
        vectors = []
        for i in range(4):
            value = ir.Constant(raw, ir.Undefined)
            for g in range(lanes // 4):
                where = builder.gep(base, [builder.mul(step, ir.IntType(64)(i + 4 * g))])
                part = builder.load(builder.bitcast(where, four.as_pointer()), align=size_of(p.dtype))
                here = ir.Constant(ir.VectorType(ir.IntType(1), lanes), [k // 4 == g for k in range(lanes)])
                value = builder.select(here, builder.shuffle_vector(part, part, repeated), value)
            vectors.append(decode(builder, value, p.dtype, vtype))
        for c, column in enumerate(_transpose_fours(builder, vectors)):
            builder.store(column, buffer_vector(builder, out, c, vtype), align=CACHE_LINE)
        return context.get_dummy_value()

    return types.void(p, types.int64, tile, vtype), codegen


@intrinsic
def store_four_columns(typingctx: Any, tile: Any, p: Any, stride: Any, vtype: Any) -> Any:
    """Store tile[c·lanes + r] to p[r·stride + c], for c < 4 and as many rows as there are lanes."""
    raw, lanes = stored_vector(p, vtype), vtype.lanes
    four = ir.VectorType(raw.element, 4)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source, base, step, _ = args
        columns = [builder.load(buffer_vector(builder, source, c, vtype), align=CACHE_LINE) for c in range(4)]
        for i, value in enumerate(_transpose_fours(builder, columns)):
            stored = encode(builder, value, p.dtype)
            for g in range(lanes // 4):
                places = ir.Constant(ir.VectorType(ir.IntType(32), 4), list(range(4 * g, 4 * g + 4)))
                where = builder.gep(base, [builder.mul(step, ir.IntType(64)(i + 4 * g))])
                part = builder.shuffle_vector(stored, stored, places)
                builder.store(part, builder.bitcast(where, four.as_pointer()), align=size_of(p.dtype))
        return context.get_dummy_value()

    return types.void(tile, p, types.int64, vtype), codegen
