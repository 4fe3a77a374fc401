"""The target of a row: its label, its class weights, and the effective target t of a dense one.

A *sparse* target is a label without smoothing: t_j is w_y at the label y and 0 elsewhere.  A *dense* target has weight
on every class: t_j = w_j ((1 − ε) q_j + ε/C), where q is a distribution, or 1 at the label and 0 elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.access import access
from xent_numba.backends.cuda.row.address import address_functions
from xent_numba.backends.cuda.row.spec import ITEMSIZE, Spec


def kept_label(spec: Spec) -> Any:
    """(args, row) -> (whether the row is not ignored, its label); the label is −1 where the target has none."""
    if not spec.labels:
        return hw.device(lambda args, row: (True, hw.i64(-1)))
    read_label = address_functions(spec).read_label
    if spec.ignore == 0:
        return hw.device(lambda args, row: (True, read_label(args, row)))
    if spec.ignore == 1:

        @hw.device
        def unless_equal(args: Any, row: Any) -> Any:
            y = read_label(args, row)
            return y != args.ignore, y

        return unless_equal

    @hw.device
    def unless_listed(args: Any, row: Any) -> Any:
        y = read_label(args, row)
        kept = True
        for k in range(args.n_ignore):
            kept = kept and y != hw.load_i64(args.ignore_list + 8 * k)
        return kept, y

    return unless_listed


def label_logit(spec: Spec, real: Any, transform: Any) -> Any:
    """(args, address of class 0, y) -> z_y, −inf where the target has no label, NaN for a label out of range."""
    minus_inf, nan = real(-np.inf), real(np.nan)
    if not spec.labels:
        return hw.device(lambda args, address, y: minus_inf)
    load, stride = access(spec.dtype).load, address_functions(spec).logits_stride

    @hw.device
    def logit(args: Any, address: Any, y: Any) -> Any:
        # Out of range only where the check of the labels was deferred: such a row is NaN until it reports.
        if y < 0 or y >= args.n_classes:
            return nan
        return transform(args, real(load(address + y * stride(args))))

    return logit


def class_weight(spec: Spec, real: Any) -> Any:
    """(args, class) -> w_j, 1 where there are no class weights or the class is out of range."""
    one = real(1)
    if not spec.weight:
        return hw.device(lambda args, j: one)
    load, size = access(spec.weight).load, ITEMSIZE[spec.weight]

    @hw.device
    def weight(args: Any, j: Any) -> Any:
        return real(load(args.weight + size * j)) if 0 <= j < args.n_classes else one

    return weight


def dense_target(spec: Spec, real: Any) -> Any:
    """(args, q_j, j, y) -> t_j of a dense target."""
    zero = real(0)
    weight = class_weight(spec, real)
    if not spec.smoothing:
        return hw.device(lambda args, q, j, y: weight(args, j) * real(q))

    @hw.device
    def of_distribution(args: Any, q: Any, j: Any, y: Any) -> Any:
        return weight(args, j) * (real(args.confidence) * real(q) + real(args.smoothing_share))

    @hw.device
    def of_label(args: Any, q: Any, j: Any, y: Any) -> Any:
        return weight(args, j) * ((real(args.confidence) if j == y else zero) + real(args.smoothing_share))

    return of_distribution if spec.distribution else of_label


def target_reader(spec: Spec, real: Any, stride: Any) -> Any:
    """(args, address of class 0 of the distribution, j, y) -> t_j of any target; `stride` is (args) -> bytes."""
    weight, zero = class_weight(spec, real), real(0)
    if not spec.dense:
        return hw.device(lambda args, q, j, y: weight(args, j) if j == y else zero)
    value = dense_target(spec, real)
    if not spec.distribution:
        return hw.device(lambda args, q, j, y: value(args, zero, j, y))
    load = access(spec.distribution).load
    return hw.device(lambda args, q, j, y: value(args, load(q + j * stride(args)), j, y))
