"""`temper safety rotate`: puts new signing keys in the place of a run's old ones, while no safety service runs.

--json prints one object: purpose, lease_key, verdict_key (ids of those that sign from here on), trust (the public key
that believes nothing earlier; null where the verdict key stays).
"""

from __future__ import annotations

from launch.arguments import SafetyRotate
from launch.errors import BadInput
from launch.json_output import json_line
from launch.releases import has_ledger, require_trust
from launch.run_directory import holder_of
from launch.run_paths import key_directory, require_run_directory
from safety.key_rotation import rotate
from safety.ledger import LedgerInUse


def run(arguments: SafetyRotate) -> int:
    """Rotates, and says what the actors need."""
    paths = require_run_directory(arguments.run_dir)
    holder = holder_of(paths)
    if holder is not None:
        raise BadInput(
            f"the run in {paths.root} is running, supervised by process {holder}, and keys are replaced only while "
            f"nobody signs with them: stop it (kill {holder}), rotate, and go on with temper train RECIPE --resume "
            f"--run-dir {paths.root}; nothing was changed"
        )
    trust = require_trust(paths)
    if not has_ledger(paths):
        raise BadInput(f"{paths.safety} has no ledger to be read here: only where the safety service ran are its keys")
    keys = key_directory(paths.safety, trust.run_id, arguments.keys)
    try:
        rotation = rotate(paths.safety, trust.run_id, arguments.purpose, arguments.why, keys=keys)
    except LedgerInUse as error:
        raise BadInput(
            f"{error}: keys are replaced only while nobody signs with them; where it runs, stop temper safety serve, "
            "rotate, and start it again as before: meanwhile actors go on with the last release; nothing was changed"
        ) from error
    newest = paths.safety / f"verify_key.{rotation.verdict_keys}.pem" if arguments.purpose == "verdict" else None
    if arguments.json:
        found = {
            "purpose": arguments.purpose,
            "lease_key": rotation.lease_key.key_id,
            "verdict_key": rotation.verdict_key.key_id,
            "trust": None if newest is None else str(newest),
        }
        print(json_line(found))
        return 0
    print(f"leases are signed by key {rotation.lease_key.key_id} from here on")
    if newest is not None:
        print(
            f"verdicts are signed by key {rotation.verdict_key.key_id} from here on\n"
            f"who trusts {paths.verify_key} still believes all earlier keys, too: if one may have been stolen, start "
            f"the actors with\n  --trust {newest}"
        )
    return 0
