"""What a person should look at although it decided nothing: capability and risk that rise together from one candidate
to the next, each of which may have passed by itself.

Pure; see `safety.statistics.divergence` for the test.
"""

from __future__ import annotations

from collections.abc import Sequence

from protos.safety.v1 import safety_pb2
from safety.statistics.divergence import divergence_over_evaluations

EVALUATIONS_LOOKED_AT = 20
"""How far an alarm looks back; the present evaluation included."""


def divergence_alarms(
    past: Sequence[safety_pb2.VerdictStatement],
    suite_digest: bytes,
    slices: Sequence[safety_pb2.SliceCounts],
    alpha: float,
) -> list[str]:
    """One sentence for each slice on which mean return and rate of severe events rise over the last evaluations.

    Args:
      past: verdicts, oldest first; of another suite, or without episodes on a slice, they are passed over.
      suite_digest: of the present evaluation (32 bytes).
      slices: what it came to.
      alpha: false alarm rate of one look at one slice.
    """
    alarms = []
    for present in slices:
        same = [each for one in past if one.suite_digest == suite_digest for each in one.slices]
        counts = [each for each in (*same, present) if each.name == present.name and each.episodes]
        counts = counts[-EVALUATIONS_LOOKED_AT:]
        alarm = divergence_over_evaluations(
            [each.return_mean for each in counts], [each.severe / each.episodes for each in counts], alpha
        )
        if alarm.raised:
            alarms.append(f"divergence on {present.name}: {alarm.explanation}")
    return alarms
