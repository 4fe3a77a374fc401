"""Arguments that only `evaluate` has, or must have: `top_k`, and a target."""

from __future__ import annotations

from xent_numba.prepare.options import as_integers


def check_target(target: object) -> None:
    """ValueError where there is no target."""
    if target is None:
        raise ValueError("an evaluation needs a target, and none is given; pass class indices as the second argument")


def as_top_k(value: object) -> tuple[int, ...]:
    """The numbers as a tuple; TypeError unless all are integers."""
    found = as_integers("top_k", value, " (or several integers)")
    return found if isinstance(found, tuple) else (found,)


def check_top_k(top_k: tuple[int, ...], n_classes: int) -> None:
    """ValueError for a number that is below 1 or above the number of classes."""
    possible = tuple(k for k in top_k if 1 <= k <= n_classes)
    for i, k in enumerate(top_k):
        if k not in possible:
            place = "top_k" if len(top_k) == 1 else f"top_k[{i}]"
            wrong = "below 1" if k < 1 else f"above the number of classes, {n_classes}"
            raise ValueError(f"{place} = {k} is {wrong}" + (f"; write top_k={possible}" if possible else ""))
