"""What tests of several folders share; no tests.

- `backends.py`: the names of the backends that can run here.
- `cli.py`: processes that run the command line of this checkout, and arrays in files.
- `cudasim.py`: Numba's simulator made able to run the CUDA kernels (and for notebook 05, by its path).
- `device_arrays.py`: arrays "on a GPU" whose memory is the host's.
- `edge_cases.py`: every edge of the semantics, with the loss and gradient that are right.
- `exact.py`: loss and gradient by 200 digits, from the definition, and the accuracy law.
- `linear.py`: random calls of the functions of a linear head, and the same by way of the logits.
- `logits.py`: random logits with what makes softmax hard.
- `palette.py`: exact results of long rows that have few distinct values.
"""
