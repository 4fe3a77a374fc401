"""Squares of vectors from memory and to it, transposed on the way: rows of classes to classes of rows."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic

from xent_numba.backends.cpu.simd import LINE, ir_vector
from xent_numba.backends.cpu.storage import encode, first_lanes, masked_load, masked_store, raw_vector, size_of


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
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


def _row(builder: Any, base: Any, stride: Any, r: int, rows: Any, raw: ir.VectorType) -> tuple[Any, Any]:
    """The address of row r, or of row 0 when there are not so many rows, and whether there are."""
    word = ir.IntType(64)
    there = builder.icmp_signed(">", rows, word(r))
    offset = builder.select(there, builder.mul(stride, word(r)), word(0))
    return builder.bitcast(builder.gep(base, [offset]), raw.as_pointer()), there


@intrinsic
def load_transposed(typingctx: Any, p: Any, stride: Any, rows: Any, columns: Any, tile: Any, like: Any) -> Any:
    """Put p[r·stride + c], r < rows ≤ lanes, c < columns ≤ lanes, at tile[c·lanes + r].

    All lanes × lanes elements of the tile are written; those of no row are copies of row 0, those of no column 0.
    """
    raw, lanes = raw_vector(p, like), like.lanes

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        base, step, count, width, out, _ = args
        mask = first_lanes(builder, width, like)
        vectors = []
        for r in range(lanes):
            where, _ = _row(builder, base, step, r, count, raw)
            vectors.append(masked_load(builder, where, mask, p, like))
        for c, column in enumerate(_transposed(builder, vectors)):
            where = builder.gep(out, [ir.IntType(64)(c * lanes)])
            builder.store(column, builder.bitcast(where, ir_vector(like).as_pointer()), align=LINE)
        return context.get_dummy_value()

    return types.void(p, types.int64, types.int64, types.int64, tile, like), codegen


@intrinsic
def store_transposed(typingctx: Any, tile: Any, p: Any, stride: Any, rows: Any, columns: Any, like: Any) -> Any:
    """Write tile[c·lanes + r] to p[r·stride + c] for r < rows ≤ lanes, c < columns ≤ lanes, and nothing else."""
    raw, lanes = raw_vector(p, like), like.lanes

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source, base, step, count, width, _ = args
        vectors = []
        for c in range(lanes):
            where = builder.gep(source, [ir.IntType(64)(c * lanes)])
            vectors.append(builder.load(builder.bitcast(where, ir_vector(like).as_pointer()), align=LINE))
        for r, row in enumerate(_transposed(builder, vectors)):
            where, there = _row(builder, base, step, r, count, raw)
            width_here = builder.select(there, width, ir.IntType(64)(0))
            mask = first_lanes(builder, width_here, like)
            masked_store(builder, where, mask, encode(builder, row, p.dtype), size_of(p.dtype))
        return context.get_dummy_value()

    return types.void(tile, p, types.int64, types.int64, types.int64, like), codegen
