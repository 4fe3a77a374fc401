"""The tests, in folders by subject; each folder's `__init__.py` is the map of it, one line a file.

- `values/`: what comes out, on every backend: by hand, by 200 digits, by other libraries, to the bit.
- `interface/`: what goes in: arguments, arrays, options, backends, and the errors about them.
- `runtime/`: the process around a call: threads, forks, caches, memory, machine code.
- `cuda/`: the CUDA backend, in Numba's simulator and through the real compiler.
- `cli/`: the command line.
- `project/`: the README, the docstrings, the packaging, what an import costs.
- `notebooks/`: the notebooks as files, and how much of a wrong library escapes them.
- `support/`: what tests of several folders share; no tests.
- `tools/`: programs for those who change the code; no tests.
- `conftest.py`: the fixtures `backend` and `rng`.

`notebooks/` of the checkout is run as tests by nbval; `benchmarks/` has its own.
"""
