"""The command line.

- `conftest.py`: the files that the commands read.
- `test_cli.py`: what it prints and writes.
- `test_cli_failures.py`: one line, an exit status and no half-written file when something goes wrong.
- `test_evaluate.py`: the command `evaluate`, its numbers, files and mistakes.
- `test_streams.py`: standard output and error that are closed or full.
"""
