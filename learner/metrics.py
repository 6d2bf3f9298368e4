"""What the learner reports: TensorBoard event files, and one JSON line about once a second for the live view.

Writes figures that others have computed; counts nothing itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import tensorboardX

from learner.promotion import CandidateResult


class MetricsWriter:
    """Writes RUN_DIR/learner/metrics.jsonl and RUN_DIR/tensorboard; appends to what an earlier start left."""

    def __init__(self, run_directory: Path, first_step: int) -> None:
        (run_directory / "learner").mkdir(parents=True, exist_ok=True)
        self._lines = (run_directory / "learner" / "metrics.jsonl").open("a", encoding="utf-8")
        # After a resume, events that a lost stretch had written beyond the checkpoint are purged from view.
        self._board = tensorboardX.SummaryWriter(
            str(run_directory / "tensorboard"), purge_step=first_step or None, flush_secs=5
        )

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._board.close()
        self._lines.close()

    def line(self, figures: Mapping[str, object]) -> None:
        """Appends one line; numbers that are not finite become null."""
        self._lines.write(json.dumps({name: _finite(value) for name, value in figures.items()}) + "\n")
        self._lines.flush()

    def scalars(self, figures: Mapping[str, float | None], env_steps: int) -> None:
        """Writes scalars, tagged by their names, at this number of environment steps.

        What is None or not finite is left out: a candidate that was not run has no return.
        """
        for tag, value in figures.items():
            if value is not None and math.isfinite(value):
                self._board.add_scalar(tag, value, env_steps)

    def candidate(self, result: CandidateResult, env_steps: int) -> None:
        """Writes what the gate said of a candidate."""
        if result.decided:
            self.scalars(
                {
                    "gate/approved": float(result.approved),
                    "gate/return_mean": result.return_mean,
                    "gate/violation_rate_upper_bound": result.violation_bound,
                    "gate/release_number": float(result.release_number) if result.approved else None,
                },
                env_steps,
            )


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
