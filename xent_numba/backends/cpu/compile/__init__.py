"""How kernels are compiled and kept.

kernel         `@kernel`: a function that Python calls, compiled at the first call for each signature
inline         `@inline`, `@specialize`, `@optional`: functions that exist only to be inlined into kernels
cache          the compiled kernels on disk
processor      what the processor that Numba compiles for can do
numba_private  every private name of Numba that the backend uses
"""
