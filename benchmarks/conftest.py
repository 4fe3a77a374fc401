"""Benchmarks measure only where that is asked for; else each case runs once."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """`--benchmark-disable`, unless another choice was made on the command line."""
    option = config.option
    if hasattr(option, "benchmark_disable") and not (option.benchmark_enable or option.benchmark_only):
        option.benchmark_disable = True
