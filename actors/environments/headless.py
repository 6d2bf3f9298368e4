"""Imports a package without the plotting libraries that it would load to draw, which nothing here ever does.

MinAtar loads matplotlib, seaborn and through them pandas when it is imported: 120 MB and a second in every process
that makes a game. Without them it goes on, after a warning, and only its `display_state` cannot be used.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

_DRAWING = ("matplotlib", "seaborn")


@contextlib.contextmanager
def without_drawing() -> Iterator[None]:
    """Inside the block the plotting libraries cannot be imported, and nobody warns of it."""
    held = {name: sys.modules[name] for name in _DRAWING if name in sys.modules}
    level = logging.root.manager.disable
    sys.modules.update(dict.fromkeys(_DRAWING))  # type: ignore[arg-type]  # None is how Python marks "not to be found"
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
        for name in _DRAWING:
            del sys.modules[name]
        sys.modules.update(held)
