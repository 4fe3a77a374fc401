"""`python -m xent_numba`, the same program as the installed command `xent-numba`."""

import sys

from xent_numba.cli import main

sys.exit(main())
