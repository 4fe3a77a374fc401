"""The njit backend: public names of Numba alone, few compilations, loops that are vectorised, a cache or none."""

from __future__ import annotations

import ast
import platform
import re
from pathlib import Path

import numpy as np
import pytest

import xent_numba as xn
from xent_numba import forks
from xent_numba.backends import diagnosis, njit, njit_blocks, njit_rows, registry

# All in Numba's manual.
PUBLIC = {"njit", "prange", "get_num_threads", "set_num_threads", "threading_layer", "config", "__version__"}


@pytest.mark.parametrize("module", [njit, njit_rows, njit_blocks])
def test_only_public_names_of_numba(module):
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not [name.name for name in node.names if name.name.startswith(("numba.", "llvmlite"))]
        elif isinstance(node, ast.ImportFrom):
            assert not node.module.startswith(("numba.", "llvmlite"))
            if node.module == "numba":
                assert {name.name for name in node.names} <= PUBLIC
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "numba":
            assert node.attr in PUBLIC


def test_it_is_what_auto_takes_where_cpu_cannot_run(monkeypatch):
    monkeypatch.setattr(registry, "_ready", {})
    implementation = registry.Implementation("xent_numba.backends.absent", "install it")
    monkeypatch.setitem(registry.IMPLEMENTATIONS, "cpu", implementation)
    monkeypatch.setattr(diagnosis, "_warned", {})
    with pytest.warns(RuntimeWarning, match="'njit', up to seven times slower"):
        assert registry.select("auto").name == "njit"


def test_one_kernel_for_all_options_and_layouts(rng):
    x = rng.normal(size=(6, 8)).astype(np.float32)
    xn.cross_entropy(x, [0] * 6, backend="njit")
    before = len(njit_rows.groups_in_order.signatures)
    frozen = x.copy()
    frozen.flags.writeable = False
    for logits in (
        x,
        frozen,
        x[::2],
        x[:, ::-2],
        x.T.copy().T,
        x.reshape(2, 3, 8)[:, ::2],
        np.broadcast_to(x[0], x.shape),
    ):
        y = np.zeros(logits.shape[:-1], np.int32)
        weights = {"weight": np.ones(logits.shape[-1]), "sample_weight": np.ones(y.shape)}
        for target, options in (
            (y, {}),
            (y, {"label_smoothing": 0.1, "softcap": 3.0, "z_loss": 0.1, **weights}),
            (logits, {"logit_scale": 2.0, "reduction": "none", "sample_weight": np.ones(y.shape)}),
        ):
            loss, grad = xn.cross_entropy_and_grad(logits, target, backend="njit", **options)
            right, right_grad = xn.cross_entropy_and_grad(logits, target, backend="numpy", **options)
            np.testing.assert_allclose(loss, right, rtol=1e-6)
            np.testing.assert_allclose(grad, right_grad, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(xn.softmax(logits, backend="njit"), xn.softmax(logits, backend="numpy"), rtol=1e-6)
    assert len(njit_rows.groups_in_order.signatures) == before


def test_sixteen_bits_by_integer_arithmetic():
    """Every value of both formats is read right, and every one that lies between two of them is rounded to nearest."""
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    bits = np.arange(1 << 16, dtype=np.uint16)
    for dtype, mantissa in ((np.float16, 10), (bfloat16, 7)):
        with np.errstate(invalid="ignore"):
            values = bits.view(dtype).astype(np.float64)
        found = np.empty(bits.size)
        njit_blocks.load(bits, 0, 1, mantissa, found, bits.size)
        np.testing.assert_array_equal(found, values)
        again = np.zeros(bits.size, np.uint16)
        njit_blocks.store(again, 0, 1, mantissa, values, 0, 1.0, bits.size)
        np.testing.assert_array_equal(
            np.where(np.isnan(values), bits, again)[1:], np.where(bits == 0x8000, 0, bits)[1:]
        )
        assert np.isnan(again.view(dtype)[np.isnan(values)]).all()
        positive = np.arange((0x7FFF >> mantissa << mantissa) - 1, dtype=np.uint16)
        low, high = (
            positive.view(dtype).astype(np.float64),
            (positive + 1).astype(np.uint16).view(dtype).astype(np.float64),
        )
        middle = (low + high) / 2
        even = np.where(positive % 2 == 0, positive, positive + 1)
        for between, right in (
            (middle, even),
            (np.nextafter(middle, 0), positive),
            (np.nextafter(middle, np.inf), positive + 1),
        ):
            njit_blocks.store(again, 0, 1, mantissa, between, 0, 1.0, positive.size)
            np.testing.assert_array_equal(again[: positive.size], right)
        njit_blocks.store(again, 0, 1, mantissa, np.array([1e300, -1e300, 1e-300]), 0, 1.0, 3)
        np.testing.assert_array_equal(again[:3].view(dtype).astype(float), [np.inf, -np.inf, 0.0])


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="looks for instructions of x86-64")
def test_the_exponentials_are_vectorised():
    e, e_float32, lost = np.zeros(64), np.zeros(64), np.zeros(64)
    njit_blocks.exp_differences(e, lost, 0.0, 0.0)
    njit_blocks.exp_for_float32(e_float32, 0.0)
    np.testing.assert_array_equal(e, 2.0**njit_blocks.HEADROOM)
    np.testing.assert_array_equal(e_float32, 2.0**njit_blocks.HEADROOM)
    for function in (njit_blocks.exp_differences, njit_blocks.exp_for_float32):
        (code,) = function.inspect_asm().values()
        assert len(re.findall(r"\tv?(?:fn?m\w+|mul|add)pd\t", code)) >= 8
        assert not re.search(r"\b_*exp2?\b", code)


def test_no_place_for_a_cache(monkeypatch):
    def refuse(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: (function, options)

    monkeypatch.setattr(njit_rows, "njit", refuse)
    monkeypatch.delenv("XENT_NUMBA_CACHE_DIR", raising=False)
    function, options = njit_rows.compiled(njit_rows.scan_labels)
    assert function is njit_rows.scan_labels
    assert "cache" not in options


def test_auto_passes_over_a_numba_that_does_not_compile_or_computes_nonsense(monkeypatch):
    class Broken:
        stats = njit_rows.scan.stats

        def __init__(self, answer):
            self.answer = answer

        def __call__(self, *args):
            if self.answer is None:
                raise AttributeError("'Function' object has no attribute 'args'")
            return self.answer

    assert njit.BACKEND.why_not() is None
    implementation = registry.Implementation("xent_numba.backends.absent", "install it")
    monkeypatch.setitem(registry.IMPLEMENTATIONS, "cpu", implementation)
    for answer, words in ((None, "has no attribute 'args'"), ((-1, 1.0, 2.0), "instead of")):
        monkeypatch.setattr(registry, "_ready", {})
        monkeypatch.setattr(njit_rows, "scan", Broken(answer))
        monkeypatch.setattr(diagnosis, "_warned", {})
        assert words in njit.BACKEND.why_not()
        assert "xent_numba was tested with" in njit.BACKEND.why_not()
        with pytest.warns(RuntimeWarning):
            assert registry.select("auto").name == "numpy"


def test_an_error_while_compiling_stays_what_it_was(tmp_path):
    for error in (OSError("disk full"), ImportError("no tbb")):
        with pytest.raises(type(error), match=str(error)), njit._one_process(str(tmp_path)):
            raise error


def test_a_fork_takes_locks_in_the_order_of_a_thread_that_compiles(monkeypatch):
    """That is, the lock of this package before those of Numba, whichever backend was imported first."""
    assert forks.outer_locks == [njit._compiling]
    order = []

    class Lock:
        def __init__(self, name):
            self.name = name

        def acquire(self):
            order.append(self.name)

        def release(self):
            order.append(f"-{self.name}")

    monkeypatch.setattr(forks, "inner_locks", [Lock("compiler"), Lock("start")])
    monkeypatch.setattr(forks, "outer_locks", [Lock("njit")])
    monkeypatch.setattr(forks, "_held", ())
    forks._before_fork()
    forks._after_fork()
    assert order == ["njit", "compiler", "start", "-start", "-compiler", "-njit"]
