"""The notebooks; what they say is checked by running them: python -m pytest --nbval notebooks

- `test_notebooks.py`: as files: executed, described, free of traces of a machine, true to their own style.
- `mutations.py`: a program that breaks the library on purpose, and sees that they notice.
"""
