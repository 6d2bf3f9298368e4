"""The way back after a breach: train states of releases, kept on disk, and which one training goes on from.

RUN_DIR/learner/releases/N holds the whole train state of release N, of the newest few. They are taken when a
candidate is offered, because the update that follows consumes the arrays, and written once it has been approved; a
learner that dies in between has the release's artifact only. A state is gone back to only if its parameters are
the release's artifact, byte for byte.

Which one: the release that the safety service names; where neither its state nor its artifact is there, the newest
before it that stands; where there is none, the first parameters of the run. An artifact goes with a fresh optimizer.

The count of updates goes on ascending, and is one more after a rollback: no two policies of a run have the same
version. Schedules of step size and entropy follow the count. What the policy has learnt from is what the release had.

Exceptions: none of its own; what cannot be read is logged, and the next best taken. Errors while writing surface at the
next release, or at close.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp

from learner.checkpoint import state_layout, sweep_unfinished
from learner.lineage import ConsumedRecords, LineageError
from learner.lineage_archive import lineage_paths
from learner.lineage_file import read_lineage, read_lineage_head
from learner.lineage_provenance import ConsumedProvenance
from learner.progress import Progress
from learner.publisher import artifact_bytes
from learner.train_state import TrainState, state_of_artifact
from policies.artifact import Artifact, ArtifactError, artifact_digest
from policies.registry import PolicyRegistry, RegistryError, Release
from policies.spec import PolicySpec
from safety.client import LeaseBreached

DIRECTORY = "learner/releases"
"""Its name in a run directory."""

RELEASES_KEPT = 3

_log = logging.getLogger(__name__)


class ReleaseStates:
    """The train states of the newest releases, and that of the candidate under way. For one thread.

    Args:
      directory: made if it is not there; swept of what an earlier process left unfinished.
      spec: of the run's policies.
    """

    def __init__(self, directory: Path, spec: PolicySpec) -> None:
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        options = ocp.CheckpointManagerOptions(max_to_keep=RELEASES_KEPT, create=True, enable_async_checkpointing=True)
        sweep_unfinished(directory)
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)
        self._spec = spec
        self._candidate: tuple[bytes, TrainState] | None = None

    def offered(self, digest: bytes, state: TrainState) -> None:
        """Keeps a copy of the state of a candidate with this artifact digest, in place of the one before."""
        self._candidate = digest, jax.tree.map(jnp.copy, state)

    def released(self, number: int, digest: bytes) -> None:
        """Writes the candidate's state as that of a release, in the background; does nothing for another artifact."""
        self._manager.check_for_errors()
        if self._candidate is None or self._candidate[0] != digest:
            return
        state, self._candidate = self._candidate[1], None
        if number in self._manager.all_steps():
            return
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state._asdict()),
            layout=ocp.args.JsonSave(state_layout(state)),
        )
        self._manager.save(number, args=arguments)

    def restore(self, number: int, digest: bytes, like: TrainState) -> TrainState | None:
        """The state of a release; None where it is not held, or is not the one with this artifact digest."""
        self._manager.wait_until_finished()
        if number not in self._manager.all_steps():
            return None
        try:
            beside = self._manager.restore(number, args=ocp.args.Composite(layout=ocp.args.JsonRestore()))
            if beside.layout != state_layout(like):
                return None
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
            arrays = self._manager.restore(number, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))
        except Exception as error:  # noqa: BLE001  a storage library's: whatever it is, there is a next best
            _log.warning("the train state of release %d cannot be read: %s", number, error)
            return None
        state = TrainState(**arrays.state)
        return state if artifact_digest(artifact_bytes(self._spec, state)) == digest else None

    def close(self) -> None:
        """Ends the background writer, after the write under way."""
        self._manager.close()


class Rollback:
    """Finds what to go back to, and goes back.

    Args:
      states: of the releases.
      registry: artifacts of the releases, and which were revoked.
      lineages: the archive's directory.
      first: makes the first state of the run.
      revoked: digests of artifacts that are revoked besides.
    """

    def __init__(
        self,
        states: ReleaseStates,
        registry: PolicyRegistry,
        lineages: Path,
        first: Callable[[], TrainState],
        revoked: Callable[[], set[bytes]] = set,
    ) -> None:
        self.states = states
        self._registry, self._lineages, self._first, self._revoked = registry, lineages, first, revoked

    def to(self, breach: LeaseBreached, progress: Progress) -> TrainState:
        """The state to go on from; brings `progress`, which is as of the breach, to where it then stands."""
        number, digest, state = self._target(breach)
        consumed, provenance = (ConsumedRecords(), ConsumedProvenance())
        if number:
            consumed, provenance = self._learnt_from(digest) or (progress.consumed, progress.provenance)
        _log.warning(
            "epoch %d of the leases is over: %s; rolled back from update %d to %s",
            *(breach.epoch, breach.reason, progress.updates),
            f"release {number} (update {int(state.updates)})" if number else "the first parameters",
        )
        progress.roll_back(breach.epoch, int(state.updates))
        progress.consumed, progress.provenance = consumed, provenance
        return _continued(state, progress.updates)

    def _target(self, breach: LeaseBreached) -> tuple[int, bytes, TrainState]:
        first = self._first()
        for number, digest, version in self._standing(breach):
            state = self.states.restore(number, digest, first) or self._from_artifact(digest, version, first)
            if state is not None:
                return number, digest, state
        return 0, b"", first

    def _standing(self, breach: LeaseBreached) -> list[tuple[int, bytes, int]]:
        """Number, digest and version of the releases to go back to, the best first."""
        if not breach.release_number:
            return []
        releases: list[Release] = []
        try:
            releases = self._registry.releases()
        except RegistryError as error:
            _log.warning("the registry does not tell which releases there were: %s", error)
        revoked = {release.digest for release in releases if release.revocation is not None} | self._revoked()
        versions = {release.digest: release.version for release in releases}
        older = [(each.number, each.digest) for each in reversed(releases) if each.number < breach.release_number]
        named = [(breach.release_number, breach.release_digest)]
        return [(*each, versions.get(each[1], 0)) for each in named + older if each[1] not in revoked]

    def _from_artifact(self, digest: bytes, version: int, first: TrainState) -> TrainState | None:
        """The release's parameters, with all else as it was in the beginning."""
        try:
            artifact = Artifact.from_bytes(self._registry.artifact(digest), digest)
        except (RegistryError, ArtifactError) as error:
            _log.warning("the release cannot be gone back to: %s", error)
            return None
        parameters = {name: jnp.asarray(array) for name, array in artifact.parameters.items()}
        state = state_of_artifact(parameters, version, first)
        return state if state_layout(state) == state_layout(first) else None

    def _learnt_from(self, digest: bytes) -> tuple[ConsumedRecords, ConsumedProvenance] | None:
        """What the release with this artifact learnt from; None where that is not on record."""
        for path in reversed(lineage_paths(self._lineages)):
            try:
                if read_lineage_head(path).artifact_digest == digest:
                    lineage = read_lineage(path)
                    return lineage.consumed, lineage.provenance
            except LineageError as error:
                _log.warning("a lineage cannot be read: %s", error)
        return None


def _continued(state: TrainState, updates: int) -> TrainState:
    """The state as that after so many updates: the step size follows their count, the optimizer's averages do not."""

    def moved(node: Any) -> Any:
        # An array of its own each time: the update consumes them one by one.
        is_schedule = isinstance(node, optax.ScaleByScheduleState)
        return node._replace(count=jnp.asarray(updates, jnp.int32)) if is_schedule else node

    optimizer_state = jax.tree.map(
        moved, state.optimizer_state, is_leaf=lambda node: isinstance(node, optax.ScaleByScheduleState)
    )
    return state._replace(optimizer_state=optimizer_state, updates=jnp.asarray(updates, jnp.int32))
