"""The backends that can run here."""

from __future__ import annotations

import xent_numba as xn

BACKENDS = [name for name, answer in xn.available_backends().items() if answer]
