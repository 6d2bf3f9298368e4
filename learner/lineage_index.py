"""Lineage in both directions: what a policy learnt from, and which policies learnt from a record.

Reads the archive of a run, and says with each lineage what became of the policy: releases made of it, revoked or not,
the gate's verdict, whether its checkpoint is still there. It changes nothing, and needs neither the learner nor jax.

Exceptions: LineageError where asked for what is not there. Damaged files are left out; `damaged` names them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from pyroaring import BitMap64

from learner.lineage import ConsumedRecords, LineageError
from learner.lineage_archive import lineage_paths
from learner.lineage_file import Lineage, LineageHead, lineage_digest, read_lineage
from learner.lineage_provenance import ConsumedProvenance
from policies.registry import Release
from protos.safety.v1 import safety_pb2


@dataclasses.dataclass(frozen=True)
class LearntPolicy:
    """A policy, what it learnt from, and what became of it.

    Attributes:
      lineage: what was kept.
      releases: those made of it, usually one at most.
      verdict: the gate's, where it was a candidate and one is known.
      checkpoint_there: whether the checkpoint is still on disk.
    """

    lineage: Lineage
    releases: Sequence[Release] = ()
    verdict: safety_pb2.VerdictStatement | None = None
    checkpoint_there: bool = False

    @property
    def head(self) -> LineageHead:
        """What it is about."""
        return self.lineage.head

    @property
    def bound(self) -> bool | None:
        """Whether every verdict on it that binds a lineage binds this one; None where none does, or none is known."""
        verdicts = [safety_pb2.VerdictStatement.FromString(each.signed_verdict.payload) for each in self.releases]
        verdicts += [] if self.verdict is None else [self.verdict]
        bound = {verdict.lineage_digest for verdict in verdicts if verdict.lineage_digest}
        return bound == {lineage_digest(self.lineage)} if bound else None

    @property
    def consumed(self) -> ConsumedRecords:
        """The records."""
        return self.lineage.consumed

    @property
    def provenance(self) -> ConsumedProvenance:
        """Where they came from."""
        return self.lineage.provenance


class LineageIndex:
    """Every lineage that is kept of a run, ascending by version.

    Args:
      directory: of the archive; need not be there.
      releases: all releases of the run, revoked ones included.
      verdicts: by artifact digest.
      checkpoints: update counts of the checkpoints that are on disk.
    """

    def __init__(
        self,
        directory: Path,
        releases: Iterable[Release] = (),
        verdicts: Mapping[bytes, safety_pb2.VerdictStatement] | None = None,
        checkpoints: Collection[int] = (),
    ) -> None:
        self._directory = directory
        self._releases: dict[bytes, list[Release]] = {}
        for release in releases:
            self._releases.setdefault(release.digest, []).append(release)
        self._verdicts = verdicts or {}
        self._checkpoints = checkpoints
        self.damaged: list[str] = []
        self.policies: list[LearntPolicy] = []
        for path in lineage_paths(directory):
            try:
                self.policies.append(self._policy(read_lineage(path)))
            except LineageError as error:
                self.damaged.append(str(error))
        self._find_checkpoints()

    @property
    def releases_unknown(self) -> list[Release]:
        """Releases of which no lineage is kept: nobody can say what they learnt from."""
        known = {policy.head.artifact_digest for policy in self.policies}
        unknown = (each for digest, releases in self._releases.items() if digest not in known for each in releases)
        return sorted(unknown, key=lambda release: release.number)

    def touched_by(self, position: int) -> list[LearntPolicy]:
        """The policies that learnt from a record (its position in the log), ascending."""
        return [policy for policy in self.policies if position in policy.consumed]

    def last_without(self, position: int) -> LearntPolicy | None:
        """The newest policy before all of those that learnt from a record: it learnt from it after that one."""
        touched = self.touched_by(position)
        if not touched:
            return None
        first = touched[0]
        before = [policy for policy in self.ancestors(first) if position not in policy.consumed]
        return before[-1] if before else None

    def overlapping(self, positions: BitMap64) -> list[tuple[LearntPolicy, int]]:
        """The policies that learnt from any of these records, ascending, and from how many of them."""
        counted = ((policy, policy.consumed.overlap(positions)) for policy in self.policies)
        return [(policy, count) for policy, count in counted if count]

    def of_version(self, version: int) -> LearntPolicy:
        """The policy of this update count, or else the newest kept before it.

        Where the learner reached the count more than once, the last time counts. Raises LineageError.
        """
        before = [policy for policy in self.policies if policy.head.version <= version]
        if not before:
            kept = f"the first kept is of update {self.policies[0].head.version}" if self.policies else "none is kept"
            raise LineageError(f"no lineage of update {version} or before it in {self._directory}: {kept}")
        return before[-1]

    def of_release(self, number: int) -> LearntPolicy:
        """The policy that a release was made of. Raises LineageError."""
        for policy in self.policies:
            if any(release.number == number for release in policy.releases):
                return policy
        known = sorted(release.number for policy in self.policies for release in policy.releases)
        raise LineageError(
            f"no lineage of release {number} in {self._directory}; releases there are lineages of: "
            f"{', '.join(map(str, known)) or 'none'}"
        )

    def ancestors(self, policy: LearntPolicy) -> list[LearntPolicy]:
        """The policies that it grew out of, ascending: earlier ones that had learnt from nothing else."""
        return [
            each
            for each in self.policies
            if each.head.version < policy.head.version and each.consumed.issubset(policy.consumed)
        ]

    def _policy(self, lineage: Lineage) -> LearntPolicy:
        digest = lineage.head.artifact_digest
        return LearntPolicy(
            lineage,
            tuple(self._releases.get(digest, ())) if digest else (),
            self._verdicts.get(digest) if digest else None,
        )

    def _find_checkpoints(self) -> None:
        """Of several policies of one update count the checkpoint that is there is the last one's."""
        found: dict[int, int] = {}
        for index, policy in enumerate(self.policies):
            if policy.head.checkpoint and policy.head.version in self._checkpoints:
                found[policy.head.version] = index
        for index in found.values():
            self.policies[index] = dataclasses.replace(self.policies[index], checkpoint_there=True)
