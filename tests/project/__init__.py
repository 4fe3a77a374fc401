"""What the project says of itself.

- `test_packaging.py`: the README's commands, examples, tables and links; the package's metadata.
- `test_versions.py`: the versions that were tested, wherever they are named.
- `test_readme_edges.py`: the README's table of edges.
- `test_language_model.py`: the program that trains a language model, `benchmarks/language_model.py`.
- `test_doctests.py`: the examples in the docstrings.
- `test_docstrings.py`: the form of the docstrings, and that they describe an option alike.
- `test_typing.py`, `typing_program.py`: the types that mypy and pyright find in a user's program.
- `test_import.py`: what `import xent_numba` brings along, and which names it shows.
"""
