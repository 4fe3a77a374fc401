"""The njit backend: plain `@njit` kernels, on Numba's public interface alone.

It takes the place of the cpu backend where that does not know the insides of the installed Numba, and it is the easier
one to read.  The kernels are in `njit_rows`; here is what calls them: from a `Problem` to a `Call`, when to run in
parallel, and how to keep Numba's threads out of trouble.

Large calls run in parallel, groups of rows by groups of rows.  All else runs serially, with the same bits:

- small calls, since waking the threads costs more time than they save;
- calls in a forked child whose parent had started threads, which do not exist in the child (`xent_numba.forks`);
- calls while another Python thread is in a parallel one, if the threading layer is workqueue, which would end the
  process.

Ctrl-C waits until a kernel has ended, so that no import of Numba and no number of threads is left half changed.
"""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import numba
import numpy as np

from xent_numba import forks
from xent_numba.backends import njit_rows
from xent_numba.backends.diagnosis import unusable
from xent_numba.backends.protocol import LabelScan
from xent_numba.backends.reference import Reference
from xent_numba.interrupts import uninterrupted

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Problem

    Array = NDArray[Any]
    Float64s = NDArray[np.float64]

SERIAL_LOGITS = 1 << 15  # calls with fewer logits run serially
GROUP_LOGITS = 1 << 15  # logits that one partial sum stands for, at least one row
_NOTHING = np.empty(0)

_parallel = threading.Lock()  # held by the one thread that may run in parallel, under workqueue
_compiling = threading.RLock()  # held by a thread that compiles or starts Numba's threads; a fork waits for it
_compiled: set[object] = set()
forks.outer_locks.append(_compiling)


class Njit(Reference):
    """Plain Numba kernels; the methods are those of `Backend`, and what is not here the numpy backend computes."""

    name = "njit"

    def why_not(self) -> str | None:
        """None if a small kernel, the one that every class index goes through, compiles and finds what it should."""
        try:
            found = self.scan_labels(np.array([1, 0, 2]), 2, (1,), np.array([0.5, 2.0]), None, None)
            sums = self.scan_labels(np.array([1, 0]), 2, (), np.array([0.5, 2.0]), np.array([3.0, 1.0]), None)
        except (MemoryError, RecursionError):  # of this call, not of this Numba
            raise
        except Exception as error:  # whatever a changed Numba may raise
            return unusable("compiling a kernel failed", error)
        if (found.first_bad, sums) != (2, LabelScan(-1, 6.5, 4.0)):
            return unusable(f"a kernel computes {sums} instead of {LabelScan(-1, 6.5, 4.0)}")
        return None

    def describe(self) -> dict[str, object]:
        """Versions, threads, precision."""
        return {"numba": numba.__version__, "threads": _available_threads(), "precision": "float64"}

    def explain(self, logits: Array, distribution: Array | None, grad: Array | None) -> dict[str, object]:
        """Groups of rows, whatever the shape."""
        a, b, classes = logits.shape
        group = _group(classes)
        return {
            "regime": "rows",
            "why": f"{'one row' if 2 * classes > njit_rows.TILE_LOGITS else 'a few rows'} at a time, as float64",
            "work items": f"{a * b}, summed in groups of {group}",
            "threads": _available_threads() if _is_large(a * b, classes) else 1,
        }

    def scan_labels(
        self,
        labels: Array,
        n_classes: int,
        ignore: tuple[int, ...],
        weight: Float64s | None,
        sample_weight: Float64s | None,
        n_threads: int | None,
    ) -> LabelScan:
        """See `protocol.Backend`."""
        args = (_flat(labels, np.int64), n_classes, np.array(ignore, np.int64), _flat(weight), _flat(sample_weight))
        _compile("labels", njit_rows.scan, args)
        return LabelScan(*njit_rows.scan(*args))

    def cross_entropy(self, problem: Problem, rows: Array | None, grad: Array | None) -> Float64s | None:
        """See `protocol.Backend`."""
        losses = _NOTHING if rows is None else np.empty(rows.size)
        call = _loss_call(problem, grad, losses)
        partials = _run(call, problem.n_threads)
        if rows is None:
            return partials
        with np.errstate(all="ignore"):  # a loss may be too large or too small for float32
            rows[...] = losses.reshape(rows.shape)
        return None

    def cross_entropy_grad(
        self, problem: Problem, grad: Array, lse: Array | None, grad_output: Float64s | None
    ) -> None:
        """See `protocol.Backend`."""
        call = _loss_call(problem, grad, _NOTHING)
        options = call.options._replace(has_lse=lse is not None)
        call = call._replace(options=options, lse=_flat(lse), grad_output=_flat(grad_output))
        _run(call, problem.n_threads)

    def softmax(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """See `protocol.Backend`."""
        _run(_call(logits, None, out, njit_rows.SOFTMAX), n_threads)

    def log_softmax(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """See `protocol.Backend`."""
        _run(_call(logits, None, out, njit_rows.LOG_SOFTMAX), n_threads)

    def logsumexp(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """See `protocol.Backend`."""
        losses = np.empty(out.size)
        _run(_call(logits, None, None, njit_rows.LOGSUMEXP)._replace(losses=losses), n_threads)
        with np.errstate(all="ignore"):
            out[...] = losses.reshape(out.shape)


# ------------------------------------------------------------------------------------------ what a kernel is given
def _loss_call(problem: Problem, grad: Array | None, losses: Float64s) -> njit_rows.Call:
    """The `Call` of a loss, or of its gradient."""
    epsilon, classes = problem.label_smoothing, problem.logits.shape[2]
    mode = njit_rows.LOSS if grad is None else njit_rows.GRADIENT
    call = _call(problem.logits, problem.distribution, grad, mode)
    options = call.options._replace(
        has_labels=problem.labels is not None,
        is_dense=problem.labels is None or epsilon > 0.0,
        alpha=1.0 - epsilon if problem.labels is None else 0.0,
        beta=epsilon / classes,
        confidence=1.0 - epsilon,
        logit_scale=problem.logit_scale,
        softcap=np.inf if problem.softcap is None else problem.softcap,
        z_coefficient=problem.z_coefficient,
        focal_gamma=problem.focal_gamma,
        grad_scale=problem.grad_scale,
    )
    return call._replace(
        options=options,
        labels=_flat(problem.labels, np.int64),
        ignore=np.array(problem.ignore, np.int64),
        weight=_flat(problem.weight),
        sample_weight=_flat(problem.sample_weight),
        losses=losses,
    )


def _call(logits: Array, distribution: Array | None, out: Array | None, mode: int) -> njit_rows.Call:
    """A `Call` without options."""
    a, b, classes = logits.shape
    layouts = np.zeros((3, 4), np.int64)
    x = _memory(logits, layouts[njit_rows.LOGITS])
    q = x if distribution is None else _memory(distribution, layouts[njit_rows.TARGET])
    g = x if out is None else _memory(out, layouts[njit_rows.OUT])
    nothing, no_labels = _NOTHING, np.empty(0, np.int64)
    mantissas = _mantissa(logits), 0 if distribution is None else _mantissa(distribution)
    steps = int(layouts[0, 3]), int(layouts[1, 3]), int(layouts[2, 3])
    options = njit_rows.Options(
        mode, a * b, b, classes, _group(classes), *steps, *mantissas,
        "d" in (logits.dtype.char, q.dtype.char), False, False, False, 0.0, 0.0, 1.0, 1.0, np.inf, 0.0, 0.0, 1.0,
    )  # fmt: skip
    return njit_rows.Call(options, x, q, g, layouts, no_labels, no_labels, nothing, nothing, nothing, nothing, nothing)


class _Span:
    """Some memory as NumPy's array interface describes it: writeable, so that all arrays are of one type to Numba."""

    def __init__(self, array: Array, address: int, items: int) -> None:
        """So many items from an address on, of the dtype of an array, or uint16 for one of 16 bits."""
        self.array = array  # keeps the memory
        dtype = np.dtype(np.uint16) if array.itemsize == 2 else array.dtype
        self.__array_interface__ = {"shape": (items,), "typestr": dtype.str, "data": (address, False), "version": 3}


def _memory(array: Array, layout: Array) -> Array:
    """All memory that (A, B, C) spans, as a contiguous array; writes to `layout` where its elements are in there."""
    size = array.itemsize
    reach = [(n - 1) * stride // size for n, stride in zip(array.shape, array.strides, strict=True)]
    before = -sum(step for step in reach if step < 0)
    layout[0], layout[1:] = before, np.array(array.strides) // size
    return np.asarray(_Span(array, array.ctypes.data - before * size, before + 1 + sum(s for s in reach if s > 0)))


def _flat(array: Array | None, dtype: Any = np.float64) -> Array:
    """A per-row or per-class array as a contiguous one of one dimension; of length 0 for None."""
    if array is None:
        return np.empty(0, dtype)
    flat = np.ascontiguousarray(array, dtype).reshape(-1)
    return flat if flat.flags.writeable else np.asarray(_Span(flat, flat.ctypes.data, flat.size))


def _mantissa(array: Array) -> int:
    """`Options.mantissa` for a dtype."""
    return 0 if array.itemsize > 2 else 10 if array.dtype.char == "e" else 7


# ------------------------------------------------------------------------------------------------ how it is run
def _group(classes: int) -> int:
    """How many rows make one partial sum."""
    return max(1, GROUP_LOGITS // classes)


def _is_large(rows: int, classes: int) -> bool:
    """Whether a call is worth waking the threads."""
    return rows * classes >= SERIAL_LOGITS and rows > _group(classes)


def _run(call: njit_rows.Call, n_threads: int | None) -> Float64s:
    """Run the kernels; returns the partial sums of the groups."""
    partials = np.zeros(-(-call.options.rows // call.options.group))
    parallel = _is_large(call.options.rows, call.options.classes) and n_threads != 1 and not forks.orphaned
    key = call.logits.dtype, call.distribution.dtype
    none, args = np.zeros(0), (call.options, call[1:])
    with uninterrupted():
        threads = _threads(n_threads) if parallel else 1
        exclusive = threads > 1 and numba.threading_layer() == "workqueue"
        if threads == 1 or (exclusive and not _parallel.acquire(blocking=False)):
            _compile((key, "serial"), njit_rows.groups_in_order, (*args, none, 0, 0))
            njit_rows.groups_in_order(*args, partials, 0, partials.size)
            return partials
        before = numba.get_num_threads()
        try:
            numba.set_num_threads(threads)
            _compile((key, "parallel"), njit_rows.groups_in_parallel, (*args, none))
            njit_rows.groups_in_parallel(*args, partials)
        finally:
            numba.set_num_threads(before)
            if exclusive:
                _parallel.release()
    return partials


def _threads(n_threads: int | None) -> int:
    """How many threads a parallel call uses; starts them."""
    most = int(numba.config.NUMBA_NUM_THREADS)
    with _compiling:
        current = int(numba.get_num_threads())
    return current if n_threads is None else min(n_threads, most)


def _available_threads() -> int:
    """How many threads a large call without `n_threads` uses."""
    if forks.orphaned:
        return 1
    with uninterrupted():
        return _threads(None)


def _compile(key: object, function: Any, args: tuple[Any, ...]) -> None:
    """Compile a function for such arguments, or load it from the cache, by a call that computes nothing."""
    if key in _compiled:
        return
    with uninterrupted(), _compiling, _one_process(function.stats.cache_path):
        function(*args)
        _compiled.add(key)


@contextmanager
def _one_process(folder: str | None) -> Iterator[None]:
    """Let one process at a time write to Numba's cache in a folder.

    Two that compile the same function for different dtypes at once could otherwise overwrite each other's files.
    """
    with ExitStack() as stack:
        if fcntl is not None and folder:
            with suppress(OSError):  # a folder that can only be read is in no danger
                file = stack.enter_context(open(os.path.join(folder, "xent_numba_njit.lock"), "w"))
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


BACKEND = Njit()
