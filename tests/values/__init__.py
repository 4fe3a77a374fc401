"""What comes out, on every backend.

- `test_reference.py`: values by hand, by 200 digits and by finite differences.
- `test_edges.py`: every edge of the semantics, in every dtype and at several widths.
- `test_accuracy.py`: the accuracy law on adversarial rows of every length.
- `test_curvature.py`: second derivatives: Hessian-vector products, and the diagonal of the Hessian.
- `test_lost_digits.py`: tiny gradients, long sums of equal terms, confident one-hot rows, broadcast logits.
- `test_bits.py`: what must hold to the bit, and the identities that a loss must satisfy.
- `test_properties.py`: anything thrown at the functions gives what the reference gives, or the documented error.
- `test_distillation.py`: the distillation losses, against 100 digits and PyTorch.
- `test_evaluate.py`: the means of an evaluation.
- `test_linear.py`: the linear head, against the logits that it does not make.
- `test_linear_arrays.py`: its arrays in every layout, and its memory.
- `test_linear_torch.py`: it against PyTorch, where that is installed.
- `test_outside_suites.py`: the cases of ONNX and SciPy.
- `test_torch_parity.py`: random combinations of the options against PyTorch, where it is installed.
- `test_digits.py`: a model of real images ends where scikit-learn's does.
"""
