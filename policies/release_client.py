"""Hands a revocation to whoever distributes the policies of a run, so that the actors drop the release at once.

Exceptions: DistributionUnavailable, RevocationNotTaken.
"""

from __future__ import annotations

import grpc

from protos import transport
from protos.common.v1 import common_pb2
from protos.policy.v1 import policy_pb2, policy_pb2_grpc

_PERMANENT = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
)


class DistributionUnavailable(Exception):
    """Nobody answered in time, or what was answered could not be stored: try again."""


class RevocationNotTaken(ValueError):
    """The distribution does not believe the statement, or takes none: trying again is of no use."""


def hand_over_revocation(
    address: str, signed: common_pb2.SignedStatement, timeout_s: float
) -> policy_pb2.RevokeResponse:
    """What the PolicyDistribution service at `address` answers; it may be called again with the same statement.

    Raises:
      DistributionUnavailable, RevocationNotTaken: see there.
    """
    request = policy_pb2.RevokeRequest(revocation=signed)
    with transport.channel(address) as channel:
        try:
            stub = policy_pb2_grpc.PolicyDistributionStub(channel)
            return stub.Revoke(request, timeout=timeout_s, wait_for_ready=True)
        except grpc.RpcError as error:
            said = f"policy distribution at {address}: {error.code().name}: {error.details()}"
            if error.code() in _PERMANENT:
                raise RevocationNotTaken(said) from error
            raise DistributionUnavailable(said) from error
