"""Scalar options: what is accepted, what each error says, and that the cache never mixes types up."""

from __future__ import annotations

import numpy as np
import pytest

from xent_numba.prepare.options import make_options


def test_defaults():
    options = make_options()
    assert options.axis == -1
    assert options.ignore == (-100,)
    assert options.reduction == "mean"
    assert (options.label_smoothing, options.logit_scale, options.softcap, options.z_loss) == (0.0, 1.0, None, 0.0)
    assert options.focal_gamma == 0.0
    assert options.n_threads is None


def test_a_repeated_call_finds_the_same_object():
    assert make_options(axis=1, label_smoothing=0.1) is make_options(axis=1, label_smoothing=0.1)


@pytest.mark.parametrize(
    ("given", "ignored", "beyond"),
    [
        (-100, (-100,), ()),
        (None, (), ()),
        ((), (), ()),
        ([3, -1, 3], (3, -1), ()),
        (np.array([0, 255], np.uint8), (0, 255), ()),
        (np.array(7), (7,), ()),
        (np.int32(5), (5,), ()),
        ({4}, (4,), ()),
        (range(2), (0, 1), ()),
        (2**64 - 1, (), (2**64 - 1,)),
        ((2**70, -(2**63)), (-(2**63),), ()),
    ],
)
def test_ignore_index(given, ignored, beyond):
    options = make_options(ignore_index=given)
    assert (options.ignore, options.ignore_beyond) == (ignored, beyond)


@pytest.mark.parametrize(
    ("option", "value", "error", "text"),
    [
        ("axis", 1.0, TypeError, "axis = 1.0 must be an integer"),
        ("axis", True, TypeError, "axis = True must be an integer"),
        ("axis", None, TypeError, "axis = None"),
        ("axis", [0], TypeError, r"axis = \[0\] must be an integer"),
        ("ignore_index", 1.0, TypeError, "ignore_index = 1.0 must be an integer"),
        ("ignore_index", "a", TypeError, "ignore_index = 'a'"),
        ("ignore_index", True, TypeError, "ignore_index = True"),
        ("ignore_index", (1, True), TypeError, "ignore_index = True"),
        ("ignore_index", (1, 2.0), TypeError, "ignore_index = 2.0"),
        ("label_smoothing", -0.1, ValueError, "label_smoothing = -0.1 must lie between 0 and 1"),
        ("label_smoothing", 1.1, ValueError, "label_smoothing = 1.1"),
        ("label_smoothing", float("nan"), ValueError, "label_smoothing = nan"),
        ("label_smoothing", True, TypeError, "label_smoothing = True must be a real number"),
        ("label_smoothing", "0.1", TypeError, "label_smoothing = '0.1'"),
        ("label_smoothing", [0.1], TypeError, "label_smoothing"),
        ("label_smoothing", np.array([0.1]), TypeError, "label_smoothing"),
        ("label_smoothing", 1j, TypeError, "label_smoothing"),
        ("label_smoothing", np.complex64(1), TypeError, "label_smoothing"),
        ("label_smoothing", None, TypeError, "label_smoothing = None"),
        ("reduction", "avg", ValueError, "reduction = 'avg' is unknown; choose one of 'mean', 'sum' or 'none'"),
        ("reduction", None, ValueError, "choose one of 'mean', 'sum' or 'none'"),
        ("reduction", ["mean"], ValueError, "choose one of"),
        ("logit_scale", float("inf"), ValueError, "logit_scale = inf must be finite"),
        ("logit_scale", 10**400, ValueError, "must be finite"),
        ("softcap", 0.0, ValueError, "softcap = 0.0 must be greater than 0"),
        ("softcap", -1, ValueError, "softcap = -1"),
        ("softcap", float("nan"), ValueError, "softcap = nan"),
        ("z_loss", -1e-9, ValueError, "z_loss = -1e-09 must be finite and not negative"),
        ("z_loss", float("inf"), ValueError, "z_loss = inf"),
        ("focal_gamma", -0.5, ValueError, "focal_gamma = -0.5 must be finite and not negative"),
        ("focal_gamma", float("nan"), ValueError, "focal_gamma = nan must be finite"),
        ("focal_gamma", float("inf"), ValueError, "focal_gamma = inf must be finite"),
        ("focal_gamma", None, TypeError, "focal_gamma = None must be a real number"),
        ("n_threads", 0, ValueError, "n_threads = 0 must be at least 1"),
        ("n_threads", 1.5, TypeError, "n_threads = 1.5 must be an integer"),
        ("n_threads", True, TypeError, "n_threads = True"),
    ],
)
def test_errors_name_the_option_and_its_value(option, value, error, text):
    for _ in range(2):  # the second time, whatever the first one left in the cache
        with pytest.raises(error, match=text):
            make_options(**{option: value})


def test_a_focal_factor_needs_one_class_per_row():
    text = "focal_gamma = 2.0 cannot be combined with label_smoothing = 0.1: .* p is the probability of one class"
    with pytest.raises(ValueError, match=text):
        make_options(focal_gamma=2.0, label_smoothing=0.1)
    assert make_options(focal_gamma=0.0, label_smoothing=0.1).is_plain is False
    assert make_options(focal_gamma=2).is_plain is False
    assert make_options(focal_gamma=0).is_plain is True


def test_equal_values_of_other_types_are_not_found_in_the_cache():
    make_options(axis=1, label_smoothing=1.0, ignore_index=(1, 1), n_threads=1)
    for wrong in ({"axis": True}, {"axis": 1.0}, {"ignore_index": (1, True)}, {"n_threads": 1.0}):
        with pytest.raises(TypeError):
            make_options(**{"axis": 1, "label_smoothing": 1.0, "ignore_index": (1, 1), "n_threads": 1, **wrong})


def test_numbers_of_numpy_are_numbers():
    options = make_options(
        axis=np.int8(0), label_smoothing=np.float32(0.5), logit_scale=np.array(2.0), softcap=30, n_threads=np.uint8(2)
    )
    assert (options.axis, options.label_smoothing, options.logit_scale, options.softcap) == (0, 0.5, 2.0, 30.0)
    assert type(options.label_smoothing) is type(options.softcap) is float
    assert type(options.axis) is type(options.n_threads) is int


def test_an_infinite_cap_is_no_cap():
    assert make_options(softcap=float("inf")).softcap is None


def test_values_that_can_change_are_not_remembered():
    """A tensor of PyTorch is hashable, by its identity, and yet its number may change in place."""

    class Tensor:
        ndim = 0
        number = 1.0

        def __float__(self):
            return self.number

    scale = Tensor()
    assert make_options(logit_scale=scale).logit_scale == 1.0
    scale.number = 2.0
    assert make_options(logit_scale=scale).logit_scale == 2.0
