"""The process around a call.

- `test_threads.py`: threads, forks, spawned processes and Ctrl-C, under every threading layer, by these programs:
- `threading_program.py`: calls from every kind of thread and process, against the reference;
- `forking_program.py`: forks, at every bad moment;
- `foreign_threads.py`: threads that something else has started.
- `test_cache.py`: compiled functions on disk, whatever state the disk is in.
- `test_results.py`: memory of large results, and who gets it next.
- `test_guard_pages.py`: no kernel touches memory outside the arrays.
- `test_processors.py`: processors without some instructions, by `processor_program.py` and `tests/tools/smoke.py`.
- `test_njit.py`: the njit backend: public names of Numba alone, few compilations, vectorised loops.
- `test_codegen_cpu.py`: the machine code: whole vectors, no calls, stores past the caches.
"""
