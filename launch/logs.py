"""What a process of a run writes to its log: our own packages from INFO up, everybody else from WARNING up."""

from __future__ import annotations

import logging

from launch.ownership import PACKAGES


def configure_logging() -> None:
    """Sends log records to stderr, which the supervisor appends to RUN_DIR/logs/NAME.log. Call once, in a service."""
    # Forced: a library may have put up a handler of its own when it was imported.
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.INFO)
