"""The CUDA backend, without a GPU but for one file.

- `test_cuda_sim.py`: the kernels in Numba's simulator against the reference; starts the process that has the simulator.
- `test_cuda_arrays_sim.py`: calls on device arrays, in that process.
- `test_cuda_linear_sim.py`: the linear head of device arrays, in that process; `test_cuda_linear.py` needs a GPU.
- `test_cuda_top_sim.py`: row statistics, curvature, distillation and shards, in that process.
- `test_cuda_arrays.py`: reasons, laziness and the adoption of other libraries' arrays: what needs no kernel.
- `test_cuda_codegen.py`: the real compiler: registers, spills and memory accesses of each kernel.
"""
