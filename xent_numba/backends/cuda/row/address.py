"""Where the rows of one spec lie in memory, and how vectors of them are loaded and stored.

A thread holds vectors of `vector_width` consecutive classes.  Aligned rows (they start on 16 bytes and are a multiple
of 16 bytes long) consist of whole vectors.  The vectors of other rows start on 16 bytes too: the first one may begin
before class 0 and the last one may end after the last class, and exactly these two are loaded and stored element by
element.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.access import LOAD_LABEL, Access, access, scalar_access
from xent_numba.backends.cuda.row.spec import ITEMSIZE, Spec


class AddressFunctions(NamedTuple):
    """The memory of one spec as device functions.

    `args` is the named tuple of the kernel's arguments.  Rows, classes and addresses are integers, strides are in
    bytes, and `first` is the class of element 0 of a vector, which may be negative.
    """

    access: Access  # of the logits and of the output
    distribution_access: Access
    distribution_words: int  # registers for as many classes of the distribution as a vector of logits has
    logits_row: Any  # (args, row) -> address of class 0
    out_row: Any  # likewise, of the output
    distribution_row: Any  # likewise, of the distribution
    second_row: Any  # likewise, of the second array
    second_out_row: Any  # likewise, of the second output
    read_label: Any  # (args, row) -> class index
    elements_before: Any  # (address of class 0) -> elements of the row's first vector that lie before class 0
    logits_stride: Any  # (args) -> bytes from class to class, a constant where it can be
    out_stride: Any  # likewise, of the output
    distribution_stride: Any  # likewise, of the distribution
    second_stride: Any  # likewise, of the second array
    second_out_stride: Any  # likewise, of the second output
    load_vector: Any  # (args, address of element 0, first, registers, word) -> None; only what is in the row
    load_distribution: Any  # (args, address of class 0, first, registers) -> None; as many classes as a vector has
    store_vector: Any  # (args, address of element 0, first, values, whether it is aligned as the logits are) -> None
    fill_row: Any  # (args, address of class 0, value, first class, step) -> None: this thread's share of the row
    fill_second: Any  # likewise, of the second output
    second_load: Any  # (address) -> element of the second array


@cache
def address_functions(spec: Spec) -> AddressFunctions:
    """The device functions for `spec`."""
    own = access(spec.dtype, spec.sm_80) if spec.unit_stride else scalar_access(spec.dtype, spec.sm_80)
    # A distribution of another dtype or alignment is read element by element, which the L1 cache makes up for.
    by_vectors = spec.unit_stride and spec.aligned and spec.distribution == spec.dtype
    distribution = own if by_vectors else scalar_access(spec.distribution or spec.dtype)
    logits_stride, out_stride, distribution_stride, second_stride, second_out_stride = _class_strides(spec)
    has_out, has_distribution, two = bool(spec.output), bool(spec.distribution), spec.two_row_strides
    return AddressFunctions(
        access=own,
        distribution_access=distribution,
        distribution_words=own.words if by_vectors else own.vector_width,
        logits_row=hw.device(_ROW["logits", two]),
        out_row=hw.device(_ROW["out", two]) if has_out else None,
        distribution_row=hw.device(_ROW["distribution", two]) if has_distribution else None,
        second_row=hw.device(_ROW["second", two]) if spec.second else None,
        second_out_row=hw.device(_ROW["second_out", two]) if spec.second_out else None,
        read_label=_read_label(spec) if spec.labels else None,
        elements_before=_elements_before(own, spec.ragged),
        logits_stride=logits_stride,
        out_stride=out_stride,
        distribution_stride=distribution_stride,
        second_stride=second_stride,
        second_out_stride=second_out_stride,
        load_vector=_load_vector(own, spec.ragged),
        load_distribution=_load_distribution(spec, own.vector_width, distribution, distribution_stride),
        store_vector=_store_vector(own, spec.ragged, out_stride) if has_out else None,
        fill_row=_fill_row(own, out_stride) if has_out else None,
        fill_second=_fill_row(own, second_out_stride) if spec.second_out else None,
        second_load=access(spec.second).load if spec.second else None,
    )


def _class_strides(spec: Spec) -> tuple[Any, Any, Any, Any, Any]:
    """(args) -> bytes from class to class: logits, output, distribution, second array, second output."""
    size = ITEMSIZE[spec.dtype]
    distribution_size = ITEMSIZE[spec.distribution] if spec.distribution else size
    if not spec.unit_stride:
        return (
            hw.device(lambda args: args.logits_class),
            hw.device(lambda args: args.out_class),
            hw.device(lambda args: args.distribution_class),
            hw.device(lambda args: args.second_class),
            hw.device(lambda args: args.second_out_class),
        )
    constant = hw.device(lambda args: size)
    return constant, constant, hw.device(lambda args: distribution_size), None, None


# (array, whether its rows have two strides) -> (args, row) -> the address of class 0
_ROW: dict[tuple[str, bool], Any] = {
    ("logits", False): lambda args, row: args.logits + row * args.logits_row,
    ("logits", True): lambda args, row: (
        args.logits + row // args.inner_rows * args.logits_outer + row % args.inner_rows * args.logits_row
    ),
    ("out", False): lambda args, row: args.out + row * args.out_row,
    ("out", True): lambda args, row: (
        args.out + row // args.inner_rows * args.out_outer + row % args.inner_rows * args.out_row
    ),
    ("distribution", False): lambda args, row: args.distribution + row * args.distribution_row,
    ("distribution", True): lambda args, row: (
        args.distribution
        + row // args.inner_rows * args.distribution_outer
        + row % args.inner_rows * args.distribution_row
    ),
    ("second", False): lambda args, row: args.second + row * args.second_row,
    ("second", True): lambda args, row: (
        args.second + row // args.inner_rows * args.second_outer + row % args.inner_rows * args.second_row
    ),
    ("second_out", False): lambda args, row: args.second_out + row * args.second_out_row,
    ("second_out", True): lambda args, row: (
        args.second_out + row // args.inner_rows * args.second_out_outer + row % args.inner_rows * args.second_out_row
    ),
    ("labels", False): lambda args, row: args.labels + row * args.labels_row,
    ("labels", True): lambda args, row: (
        args.labels + row // args.inner_rows * args.labels_outer + row % args.inner_rows * args.labels_row
    ),
}


def _read_label(spec: Spec) -> Any:
    """(args, row) -> the label of a row as int64."""
    load, address = LOAD_LABEL[spec.labels], hw.device(_ROW["labels", spec.two_row_strides])
    return hw.device(lambda args, row: hw.i64(load(address(args, row))))


def _elements_before(own: Access, ragged: bool) -> Any:
    """(address of class 0) -> elements between the 16-byte boundary at or before it and itself."""
    size, mask = own.itemsize, own.vector_width - 1
    if not ragged:
        return hw.device(lambda address: 0)
    return hw.device(lambda address: (address // size) & mask)


def _load_vector(own: Access, ragged: bool) -> Any:
    """Load a vector of logits; of a ragged row's first and last vector only what lies in the row."""
    vector_width, load_vector, load_elements = own.vector_width, own.load_vector, own.load_elements

    @hw.device
    def load_whole(args: Any, address: Any, first: Any, registers: Any, word: Any) -> None:
        load_vector(address, registers, word)

    @hw.device
    def load(args: Any, address: Any, first: Any, registers: Any, word: Any) -> None:
        if first >= 0 and first + vector_width <= args.n_classes:
            load_vector(address, registers, word)
        else:
            load_elements(address, registers, word, -first, args.n_classes - first)

    return load if ragged else load_whole


def _load_distribution(spec: Spec, vector_width: int, own: Access, stride: Any) -> Any:
    """Load the classes of the distribution that stand beside a vector of logits."""
    if not spec.distribution:
        return None
    ragged, load_element, load_vector = spec.ragged, own.load, own.load_vector

    @hw.device
    def load_whole(args: Any, row_address: Any, first: Any, registers: Any) -> None:
        load_vector(row_address + first * stride(args), registers, 0)

    @hw.device
    def load_each(args: Any, row_address: Any, first: Any, registers: Any) -> None:
        for k in range(vector_width):
            if not ragged or 0 <= first + k < args.n_classes:
                registers[k] = load_element(row_address + (first + k) * stride(args))

    return load_whole if own.vector_width == vector_width else load_each


def _store_vector(own: Access, ragged: bool, stride: Any) -> Any:
    """Store a vector of the output; element by element where it is not aligned as the logits are, or leaves the row."""
    vector_width, store_element, store_vector = own.vector_width, own.store, own.store_vector

    @hw.device
    def store_whole(args: Any, address: Any, first: Any, values: Any, same_alignment: Any) -> None:
        store_vector(address, values)

    @hw.device
    def store(args: Any, address: Any, first: Any, values: Any, same_alignment: Any) -> None:
        if same_alignment and first >= 0 and first + vector_width <= args.n_classes:
            store_vector(address, values)
        else:
            for k in range(vector_width):
                if 0 <= first + k < args.n_classes:
                    store_element(address + k * stride(args), values[k])

    return store if ragged else store_whole


def _fill_row(own: Access, stride: Any) -> Any:
    """Store one value to the classes first, first + step, ... of an output row."""
    store = own.store

    @hw.device
    def fill_row(args: Any, row_address: Any, value: Any, first: Any, step: Any) -> None:
        for j in range(first, args.n_classes, step):
            store(row_address + j * stride(args), value)

    return fill_row
