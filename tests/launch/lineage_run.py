"""A run directory with records, releases and lineages, as the real processes would have left them; also as it looks
while the run is running. Not a test.

Records 0 to 39 are of actor-a, 40 to 59 of actor-b. Update 2 learnt from 0 to 19 (a checkpoint), update 4 from 0 to 39
(release 1), update 5 from 0 to 49 (rejected), update 6 from 0 to 59 (release 2, and a checkpoint).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from launch.process_list import write_process_list
from launch.recipes import make_recipe
from launch.run_directory import RunDirectory
from launch.run_paths import RunPaths
from launch.topology import Addresses
from learner.lineage_archive import DIRECTORY, LineageArchive
from learner.lineage_file import Lineage, LineageHead, lineage_digest, read_lineage
from learner.progress import Progress
from policies.artifact import artifact_digest
from policies.distribution import DistributionServer, PolicyBoard
from policies.registry import PolicyRegistry
from policies.release_keeper import ReleaseKeeper
from policies.signing import VerifyKey
from policies.testing import make_artifact
from policies.trust import TrustPolicy
from protos.common.v1 import common_pb2
from replay.config import ReplayConfig
from replay.lmdb_store import LmdbStore
from replay.store import StoreSettings
from replay.testing import make_append, make_header, make_origin, serving
from safety.docket import Docket
from safety.statistics.combination import Outcome
from safety.testing import enter_made_up, made_up_assessment
from safety.verdicts import Offer
from tests.safety.safety_process import CARTPOLE, CONFIG, RUN, ServiceThread, parameters_of

DATA = {version: make_artifact(seed=version).to_bytes() for version in (4, 5, 6)}
DIGESTS = {version: artifact_digest(data) for version, data in DATA.items()}

_LEARNT = {2: 20, 4: 40, 5: 50, 6: 60}


def begin(root: Path) -> RunPaths:
    """The whole of it."""
    with RunDirectory(root) as directory:
        directory.begin(make_recipe("catch"))
    paths = RunPaths(root)
    paths.run_id.write_text(RUN + "\n")
    _append(paths)
    _learn(paths)
    (paths.root / "learner" / "checkpoints" / "6").mkdir(parents=True)
    _release(paths)
    return paths


def _append(paths: RunPaths) -> None:
    store = LmdbStore(paths.replay, StoreSettings())
    appends = [make_append(_origin(position), [position % 40], policy_version=position // 10) for position in range(60)]
    store.commit(appends, {})
    store.close()


def _origin(position: int) -> common_pb2.Origin:
    return make_origin("actor-a" if position < 40 else "actor-b", "run-a")


def _learn(paths: RunPaths) -> None:
    archive, progress = LineageArchive(paths.root / DIRECTORY), Progress(seed=0)
    for version, end in _LEARNT.items():
        first = len(progress.consumed)
        positions = range(first, end)
        headers = [make_header(policy_version=position // 10) for position in positions]
        progress.add_records(positions, headers, [_origin(position) for position in positions])
        head = LineageHead(version, RUN, 2 * end, 1_000 + version, version in (2, 6), DIGESTS.get(version, b""))
        archive.write(Lineage(head, progress.consumed, progress.provenance))


def _release(paths: RunPaths) -> None:
    paths.safety.mkdir()
    docket = Docket(paths.safety, RUN)
    registry = registry_of(paths)
    for version, data in DATA.items():
        outcome = Outcome.REJECTED if version == 5 else Outcome.APPROVED
        lineage = lineage_digest(read_lineage(paths.root / DIRECTORY / f"{version:012d}.lineage"))
        offer = Offer(RUN, version, DIGESTS[version], len(data), lineage)
        signed = enter_made_up(docket, offer, data, made_up_assessment(docket, outcome))
        if outcome is Outcome.APPROVED:
            registry.promote(data, signed)
    docket.close()


def registry_of(paths: RunPaths) -> PolicyRegistry:
    """Its releases."""
    return PolicyRegistry(paths.policies, TrustPolicy(VerifyKey.load(paths.verify_key), RUN))


@contextlib.contextmanager
def running(paths: RunPaths, sockets: Path, *, with_learner: bool = True) -> Iterator[PolicyBoard]:
    """The run as it looks while it runs: its lock is held, replay, gate and policy distribution answer."""
    parameters = parameters_of(sockets, CONFIG, CARTPOLE, None) | {"directory": str(paths.safety)}
    board = PolicyBoard()
    keeper = ReleaseKeeper(registry_of(paths), board)
    keeper.start()
    with contextlib.ExitStack() as stack:
        stack.enter_context(RunDirectory(paths.root))
        safety = ServiceThread(parameters)
        stack.callback(safety.stop)
        addresses = Addresses.in_directory(sockets)
        stack.enter_context(serving(ReplayConfig(), paths.replay, addresses.replay))
        if with_learner:
            server = DistributionServer(board, addresses.policy, keeper)
            stack.callback(server.stop)
            server.start()
        write_process_list(paths, RUN, 5, addresses, [])
        stack.callback(paths.processes.unlink)
        yield board
