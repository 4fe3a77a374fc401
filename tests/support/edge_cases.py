"""The edges of the semantics, each stated once: what is asked, and the loss and gradient that are right.

`benchmarks/edges.py` makes the README's table of those in TABLE, from runs here and in PyTorch; test_readme_edges
holds what the README says to what is said here; test_edges runs all of them on every backend and in every dtype.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

INF, NAN = math.inf, math.nan
LN2 = math.log(2)
F32 = np.float32


@dataclass(frozen=True)
class Edge:
    """One call of cross_entropy_and_grad, on one row unless its name says otherwise, and what it gives."""

    name: str
    logits: Any
    target: Any
    loss: float = NAN
    grad: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    error: type[Exception] | None = None  # instead of a result
    exact: bool = False  # whether loss and gradient are the nearest numbers to those here


# Where one class leads by so much: the loss, and the probability of another class.
_AFTER_20 = math.log1p(2 * math.exp(-20))
_OTHER_AFTER_20 = math.exp(-20) / (1 + 2 * math.exp(-20))
_AFTER_40, _AFTER_100 = math.log1p(math.exp(-40)), math.exp(-100)
_SIGMOID = 1 / (1 + math.e)

TABLE = [
    Edge("−inf at a class that is not the target", [[0.0, -INF, 0.0]], [0], LN2, [[-0.5, 0, 0.5]]),
    Edge("−inf at the target", [[0.0, -INF, 0.0]], [1], INF, [[0.5, -1, 0.5]]),
    Edge("−inf, class index as a distribution", [[0.0, -INF, 0.0]], [[1.0, 0.0, 0.0]], LN2, [[-0.5, 0, 0.5]]),
    Edge(
        "−inf, smoothing, no weight on that class",
        [[0.0, -INF]], [0], 0, [[0, 0]], {"label_smoothing": 0.1, "weight": [1.0, 0.0]},
    ),
    Edge("−inf, smoothing", [[0.0, -INF]], [0], INF, [[0.05, -0.05]], {"label_smoothing": 0.1}),
    Edge(
        "−inf at a target of weight 0, sum",
        [[0.0, -INF]], [1], 0, [[0, 0]], {"weight": [1.0, 0.0], "reduction": "sum"},
    ),
    Edge("−inf everywhere", [[-INF, -INF]], [0], NAN, [[NAN, NAN]]),
    Edge("+inf at the target", [[INF, 0.0]], [0], NAN, [[NAN, NAN]]),
    Edge("NaN anywhere", [[NAN, 0.0]], [1], NAN, [[NAN, NAN]]),
    Edge("NaN in an ignored row of two", [[NAN, 0.0], [0.0, 0.0]], [-100, 1], LN2, [[0, 0], [0.5, -0.5]]),
    Edge("all rows ignored, mean", [[1.0, 2.0]], [-100], NAN, [[0, 0]]),
    Edge("all rows ignored, sum", [[1.0, 2.0]], [-100], 0, [[0, 0]], {"reduction": "sum"}),
    Edge("all weights 0, mean", [[1.0, 2.0]], [0], NAN, [[0, 0]], {"weight": [0.0, 0.0]}),
    Edge("no rows, mean", np.zeros((0, 2)), np.zeros(0, int), NAN, np.zeros((0, 2))),
    Edge("no rows, sum", np.zeros((0, 2)), np.zeros(0, int), 0, np.zeros((0, 2)), {"reduction": "sum"}),
    Edge("one class", [[3.0]], [0], 0, [[0]]),
    Edge(
        "[20, 0, 0] in float32",
        F32([[20, 0, 0]]), [0], _AFTER_20, [[-2 * _OTHER_AFTER_20, _OTHER_AFTER_20, _OTHER_AFTER_20]],
    ),
    Edge("[40, 0] in float64", [[40.0, 0.0]], [0], _AFTER_40, [[-_AFTER_40, _AFTER_40]]),
    Edge("[1e8, 1e8] in float32", F32([[1e8, 1e8]]), [0], LN2, [[-0.5, 0.5]], exact=True),
    Edge("[-200, -300] in float32", F32([[-200, -300]]), [1], 100, [[1, -1]], exact=True),
    Edge("a label beyond the classes", [[1.0, 2.0]], [2], error=IndexError),
    Edge("a negative label", [[1.0, 2.0]], [-1], error=IndexError),
    Edge("a distribution of integers", [[1.0, 2.0]], [[0, 1]], math.log1p(math.exp(-1)), [[_SIGMOID, -_SIGMOID]]),
    Edge("a distribution that sums to 2", [[0.0, 0.0]], [[1.0, 1.0]], 2 * LN2, [[0, 0]]),
    Edge("int32 labels", [[0.0, 0.0]], np.array([1], np.int32), LN2, [[0.5, -0.5]]),
    Edge("a negative class weight", [[0.0, 0.0]], [0], options={"weight": [-1.0, 1.0]}, error=ValueError),
    Edge("smoothing above 1", [[0.0, 0.0]], [0], options={"label_smoothing": 1.5}, error=ValueError),
    Edge("no classes", np.zeros((2, 0)), [0, 0], error=ValueError),
]  # fmt: skip

# More of the same kinds, which would tell a reader of the table nothing new.
MORE = [
    Edge("−inf, a distribution on the others", [[1.0, -INF, 1.0]], [[0.5, 0.0, 0.5]], LN2, [[0, 0, 0]]),
    Edge(
        "−inf at a row of weight 0, sum",
        [[1.0, -INF, 1.0]], [1], 0, [[0, 0, 0]], {"sample_weight": [0.0], "reduction": "sum"},
    ),
    Edge(
        "−inf, smoothing, no weight on that class of three",
        [[1.0, -INF, 1.0]], [0], 0.9 * LN2, [[-0.35, 0, 0.35]], {"label_smoothing": 0.3, "weight": [1.0, 0.0, 1.0]},
    ),
    Edge("+inf at another class", [[0.0, INF]], [0], NAN, [[NAN, NAN]]),
    Edge("NaN and +inf", [[NAN, INF]], [0], NAN, [[NAN, NAN]]),
    Edge("NaN and −inf", [[NAN, -INF]], [0], NAN, [[NAN, NAN]]),
    Edge("[20, 0, 0]", [[20.0, 0.0, 0.0]], [0], _AFTER_20, [[-2 * _OTHER_AFTER_20, _OTHER_AFTER_20, _OTHER_AFTER_20]]),
    Edge("[1e8, 1e8]", [[1e8, 1e8]], [0], LN2, [[-0.5, 0.5]], exact=True),
    Edge("[6e4, 6e4]", [[6e4, 6e4]], [0], LN2, [[-0.5, 0.5]], exact=True),
    Edge("[-200, -300]", [[-200.0, -300.0]], [1], 100, [[1, -1]], exact=True),
    Edge(
        "[1e30, -1e30, 0], and three of -1e30",
        [[1e30, -1e30, 0.0], [-1e30, -1e30, -1e30]], [0, 2], math.log(3) / 2, [[0, 0, 0], [1 / 6, 1 / 6, -1 / 3]],
    ),
    Edge("[-200, -300], the other class", [[-200.0, -300.0]], [0], _AFTER_100, [[-_AFTER_100, _AFTER_100]]),
]  # fmt: skip

EDGES = [*TABLE, *MORE]
