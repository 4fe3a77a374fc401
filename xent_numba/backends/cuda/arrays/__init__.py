"""The public functions for arrays that are on a CUDA device already: zero-copy, on the caller's stream, in its library.

api           the functions that the public ones call for such arrays; shards of classes are refused
inputs        one call validated, by the same functions and in the same words as for NumPy arrays
label_scan    labels and weights checked by a kernel, at once or later, and the denominators
slabs         arrays of any shape as operands of calls on (A, B, C) views
adopt         arrays of other libraries as stand-ins with their shape, strides and address; results in the same library
dlpack        reading a DLPack capsule
host          copies on the host, for what a function computes there

Arrays of a library that `adopt` does not know work too, if they have `__cuda_array_interface__` or DLPack.  They are
taken to be on the current device and ready on the default stream, unless their interface names a stream; results come
back as Numba device arrays (bfloat16 as uint16).  To give a library its own streams and results, teach `adopt`:

library_of        the package that its array type is defined in, and the name to use for it
device_of         the attribute of `array.device` with the number of the GPU
adopt             only where neither interface can describe every array (PyTorch: tensors that require gradients, which
                  are accepted within torch.no_grad()), or where an array must first be waited for (JAX)
current_stream    the handle of the stream that the library works on
empty             a new array of its own, with its name for the dtype, on the device of the prototype
to_host           in `host`: how the library copies an array of its own
release           only where the library does not order its work by that stream (JAX): wait until the result is ready

A dtype that NumPy lacks needs an entry in `adopt.STAND_INS`.  `devices.on_device` needs no change: it recognises both
interfaces.  Test it as tests/cuda/test_cuda_arrays.py and test_cuda_arrays_sim.py test PyTorch.
"""
