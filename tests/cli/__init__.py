"""The command line.

- `test_cli.py`: what it prints and writes.
- `test_cli_failures.py`: one line, an exit status and no half-written file when something goes wrong.
"""
