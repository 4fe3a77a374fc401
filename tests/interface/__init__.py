"""What goes in, and the errors about it.

- `test_problem.py`: conversions, layouts, memory and messages, before a backend computes anything.
- `test_inputs.py`: every dtype, layout and kind of memory of logits, targets and results, with no copy made.
- `test_second_order.py`: the vector and the results of the functions of second derivatives.
- `test_options.py`: numbers and names as options, and what each error says.
- `test_distillation.py`: the arguments of the distillation losses.
- `test_linear.py`: those of the functions of a linear head: shapes, sparse matrices, and arrays to write to.
- `test_evaluate.py`: the same for what only `evaluate` takes.
- `test_registry.py`: which backend a call gets, and what is said when it cannot run.
- `test_selftest.py`: a Numba that has changed inside, or is too old or too new: what is found, and what is said.
"""
