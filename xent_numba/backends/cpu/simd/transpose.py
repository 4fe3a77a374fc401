"""Squares of vectors from memory and to it, transposed on the way: rows of classes to classes of rows."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from xent_numba.backends.cpu.compile.numba_private import ir
from xent_numba.backends.cpu.plan import CACHE_LINE
from xent_numba.backends.cpu.simd.storage import (
    decode,
    encode,
    first_n_mask,
    masked_load,
    masked_store,
    size_of,
    stored_vector,
)
from xent_numba.backends.cpu.simd.vector import ir_vector


def _transpose_square(builder: Any, rows: list[Any]) -> list[Any]:
    """Square of vectors to its transpose: log2(lanes) rounds of pairwise exchanges."""
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
    """The address of row r, or of row 0 when there are not so many rows, and whether there are."""
    word = ir.IntType(64)
    there = builder.icmp_signed(">", rows, word(r))
    offset = builder.select(there, builder.mul(stride, word(r)), word(0))
    return builder.bitcast(builder.gep(base, [offset]), raw.as_pointer()), there


@intrinsic
def load_transposed(typingctx: Any, p: Any, stride: Any, rows: Any, columns: Any, tile: Any, vtype: Any) -> Any:
    """Put p[r·stride + c], r < rows ≤ lanes, c < columns ≤ lanes, at tile[c·lanes + r].

    All lanes × lanes elements of the tile are written; those of no row are copies of row 0, those of no column 0.
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
            where = builder.gep(out, [ir.IntType(64)(c * lanes)])
            builder.store(column, builder.bitcast(where, ir_vector(vtype).as_pointer()), align=CACHE_LINE)
        return context.get_dummy_value()

    return types.void(p, types.int64, types.int64, types.int64, tile, vtype), codegen


@intrinsic
def store_transposed(typingctx: Any, tile: Any, p: Any, stride: Any, rows: Any, columns: Any, vtype: Any) -> Any:
    """Write tile[c·lanes + r] to p[r·stride + c] for r < rows ≤ lanes, c < columns ≤ lanes, and nothing else."""
    raw, lanes = stored_vector(p, vtype), vtype.lanes

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source, base, step, count, width, _ = args
        vectors = []
        for c in range(lanes):
            where = builder.gep(source, [ir.IntType(64)(c * lanes)])
            vectors.append(builder.load(builder.bitcast(where, ir_vector(vtype).as_pointer()), align=CACHE_LINE))
        for r, row in enumerate(_transpose_square(builder, vectors)):
            where, there = _row_pointer(builder, base, step, r, count, raw)
            width_here = builder.select(there, width, ir.IntType(64)(0))
            mask = first_n_mask(builder, width_here, vtype)
            masked_store(builder, where, mask, encode(builder, row, p.dtype), size_of(p.dtype))
        return context.get_dummy_value()

    return types.void(tile, p, types.int64, types.int64, types.int64, vtype), codegen


# ------------------------------------------------------------------------------------------------ four columns
def _transpose_fours(builder: Any, vectors: list[Any]) -> list[Any]:
    """Squares of four lanes transposed, those at the same place of four vectors: without crossing 128 bits."""
    lanes = vectors[0].type.count
    index = ir.VectorType(ir.IntType(32), lanes)

    def pick(a: Any, b: Any, places: tuple[int, int, int, int]) -> Any:
        chosen = [4 * g + k % 4 + (lanes if k > 3 else 0) for g in range(lanes // 4) for k in places]
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
    """Put p[r·stride + c], c < 4, at tile[c·lanes + r], for as many rows as there are lanes.

    Half the shuffles of a larger square: loads bring four columns of a row to where they are wanted in a vector.
    """
    raw, lanes = stored_vector(p, vtype), vtype.lanes
    four = ir.VectorType(raw.element, 4)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        base, step, out, _ = args
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [k % 4 for k in range(lanes)])
        vectors = []
        for i in range(4):
            value = ir.Constant(raw, ir.Undefined)
            for g in range(lanes // 4):
                where = builder.gep(base, [builder.mul(step, ir.IntType(64)(i + 4 * g))])
                part = builder.load(builder.bitcast(where, four.as_pointer()), align=size_of(p.dtype))
                here = ir.Constant(ir.VectorType(ir.IntType(1), lanes), [k // 4 == g for k in range(lanes)])
                value = builder.select(here, builder.shuffle_vector(part, part, everywhere), value)
            vectors.append(decode(builder, value, p.dtype, vtype))
        for c, column in enumerate(_transpose_fours(builder, vectors)):
            where = builder.gep(out, [ir.IntType(64)(c * lanes)])
            builder.store(column, builder.bitcast(where, ir_vector(vtype).as_pointer()), align=CACHE_LINE)
        return context.get_dummy_value()

    return types.void(p, types.int64, tile, vtype), codegen


@intrinsic
def store_four_columns(typingctx: Any, tile: Any, p: Any, stride: Any, vtype: Any) -> Any:
    """Write tile[c·lanes + r] to p[r·stride + c] for c < 4, in as many rows as there are lanes."""
    raw, lanes = stored_vector(p, vtype), vtype.lanes
    four = ir.VectorType(raw.element, 4)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source, base, step, _ = args
        columns = []
        for c in range(4):
            where = builder.gep(source, [ir.IntType(64)(c * lanes)])
            columns.append(builder.load(builder.bitcast(where, ir_vector(vtype).as_pointer()), align=CACHE_LINE))
        for i, value in enumerate(_transpose_fours(builder, columns)):
            stored = encode(builder, value, p.dtype)
            for g in range(lanes // 4):
                places = ir.Constant(ir.VectorType(ir.IntType(32), 4), list(range(4 * g, 4 * g + 4)))
                where = builder.gep(base, [builder.mul(step, ir.IntType(64)(i + 4 * g))])
                part = builder.shuffle_vector(stored, stored, places)
                builder.store(part, builder.bitcast(where, four.as_pointer()), align=size_of(p.dtype))
        return context.get_dummy_value()

    return types.void(tile, p, types.int64, vtype), codegen
