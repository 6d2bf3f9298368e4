from protos.common.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EvaluateRequest(_message.Message):
    __slots__ = ("offer", "data")
    OFFER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offer: CandidateOffer
    data: bytes
    def __init__(self, offer: _Optional[_Union[CandidateOffer, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class CandidateOffer(_message.Message):
    __slots__ = ("run_id", "version", "digest", "total_bytes")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    version: int
    digest: bytes
    total_bytes: int
    def __init__(self, run_id: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[bytes] = ..., total_bytes: _Optional[int] = ...) -> None: ...

class EvaluateResponse(_message.Message):
    __slots__ = ("progress", "verdict")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    progress: EvaluateProgress
    verdict: _common_pb2.SignedStatement
    def __init__(self, progress: _Optional[_Union[EvaluateProgress, _Mapping]] = ..., verdict: _Optional[_Union[_common_pb2.SignedStatement, _Mapping]] = ...) -> None: ...

class EvaluateProgress(_message.Message):
    __slots__ = ("episodes_done", "episodes_total")
    EPISODES_DONE_FIELD_NUMBER: _ClassVar[int]
    EPISODES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    episodes_done: int
    episodes_total: int
    def __init__(self, episodes_done: _Optional[int] = ..., episodes_total: _Optional[int] = ...) -> None: ...

class CriterionResult(_message.Message):
    __slots__ = ("name", "passed", "statistic", "limit", "estimate", "episodes", "explanation")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    STATISTIC_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    EPISODES_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    passed: bool
    statistic: float
    limit: float
    estimate: float
    episodes: int
    explanation: str
    def __init__(self, name: _Optional[str] = ..., passed: _Optional[bool] = ..., statistic: _Optional[float] = ..., limit: _Optional[float] = ..., estimate: _Optional[float] = ..., episodes: _Optional[int] = ..., explanation: _Optional[str] = ...) -> None: ...

class VerdictStatement(_message.Message):
    __slots__ = ("verdict_id", "run_id", "version", "artifact_digest", "approved", "reason", "release_number", "criteria", "criteria_digest", "suite_digest", "seed_manifest_digest", "episodes", "violating_episodes", "return_mean", "return_ci95_low", "return_ci95_high", "issue_time_ns", "expiry_time_ns", "previous_entry_digest", "incumbent_digest", "seed_key", "next_seed_commitment")
    VERDICT_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    APPROVED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RELEASE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    CRITERIA_FIELD_NUMBER: _ClassVar[int]
    CRITERIA_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SUITE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SEED_MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    EPISODES_FIELD_NUMBER: _ClassVar[int]
    VIOLATING_EPISODES_FIELD_NUMBER: _ClassVar[int]
    RETURN_MEAN_FIELD_NUMBER: _ClassVar[int]
    RETURN_CI95_LOW_FIELD_NUMBER: _ClassVar[int]
    RETURN_CI95_HIGH_FIELD_NUMBER: _ClassVar[int]
    ISSUE_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    EXPIRY_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_ENTRY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SEED_KEY_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEED_COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    verdict_id: str
    run_id: str
    version: int
    artifact_digest: bytes
    approved: bool
    reason: str
    release_number: int
    criteria: _containers.RepeatedCompositeFieldContainer[CriterionResult]
    criteria_digest: bytes
    suite_digest: bytes
    seed_manifest_digest: bytes
    episodes: int
    violating_episodes: int
    return_mean: float
    return_ci95_low: float
    return_ci95_high: float
    issue_time_ns: int
    expiry_time_ns: int
    previous_entry_digest: bytes
    incumbent_digest: bytes
    seed_key: bytes
    next_seed_commitment: bytes
    def __init__(self, verdict_id: _Optional[str] = ..., run_id: _Optional[str] = ..., version: _Optional[int] = ..., artifact_digest: _Optional[bytes] = ..., approved: _Optional[bool] = ..., reason: _Optional[str] = ..., release_number: _Optional[int] = ..., criteria: _Optional[_Iterable[_Union[CriterionResult, _Mapping]]] = ..., criteria_digest: _Optional[bytes] = ..., suite_digest: _Optional[bytes] = ..., seed_manifest_digest: _Optional[bytes] = ..., episodes: _Optional[int] = ..., violating_episodes: _Optional[int] = ..., return_mean: _Optional[float] = ..., return_ci95_low: _Optional[float] = ..., return_ci95_high: _Optional[float] = ..., issue_time_ns: _Optional[int] = ..., expiry_time_ns: _Optional[int] = ..., previous_entry_digest: _Optional[bytes] = ..., incumbent_digest: _Optional[bytes] = ..., seed_key: _Optional[bytes] = ..., next_seed_commitment: _Optional[bytes] = ...) -> None: ...

class LeaseStatement(_message.Message):
    __slots__ = ("run_id", "lease_number", "issue_time_ns", "expiry_time_ns")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ISSUE_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    EXPIRY_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    lease_number: int
    issue_time_ns: int
    expiry_time_ns: int
    def __init__(self, run_id: _Optional[str] = ..., lease_number: _Optional[int] = ..., issue_time_ns: _Optional[int] = ..., expiry_time_ns: _Optional[int] = ...) -> None: ...

class RevocationStatement(_message.Message):
    __slots__ = ("run_id", "revocation_number", "release_number", "artifact_digest", "why", "issue_time_ns", "previous_entry_digest")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    REVOCATION_NUMBER_FIELD_NUMBER: _ClassVar[int]
    RELEASE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    ISSUE_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_ENTRY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    revocation_number: int
    release_number: int
    artifact_digest: bytes
    why: str
    issue_time_ns: int
    previous_entry_digest: bytes
    def __init__(self, run_id: _Optional[str] = ..., revocation_number: _Optional[int] = ..., release_number: _Optional[int] = ..., artifact_digest: _Optional[bytes] = ..., why: _Optional[str] = ..., issue_time_ns: _Optional[int] = ..., previous_entry_digest: _Optional[bytes] = ...) -> None: ...

class RevokeRequest(_message.Message):
    __slots__ = ("run_id", "release_number", "why")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    RELEASE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    release_number: int
    why: str
    def __init__(self, run_id: _Optional[str] = ..., release_number: _Optional[int] = ..., why: _Optional[str] = ...) -> None: ...

class RevokeResponse(_message.Message):
    __slots__ = ("revocation",)
    REVOCATION_FIELD_NUMBER: _ClassVar[int]
    revocation: _common_pb2.SignedStatement
    def __init__(self, revocation: _Optional[_Union[_common_pb2.SignedStatement, _Mapping]] = ...) -> None: ...

class ListRevocationsRequest(_message.Message):
    __slots__ = ("run_id", "after_number", "limit")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_NUMBER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    after_number: int
    limit: int
    def __init__(self, run_id: _Optional[str] = ..., after_number: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class ListRevocationsResponse(_message.Message):
    __slots__ = ("revocations", "newest_number")
    REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    NEWEST_NUMBER_FIELD_NUMBER: _ClassVar[int]
    revocations: _containers.RepeatedCompositeFieldContainer[_common_pb2.SignedStatement]
    newest_number: int
    def __init__(self, revocations: _Optional[_Iterable[_Union[_common_pb2.SignedStatement, _Mapping]]] = ..., newest_number: _Optional[int] = ...) -> None: ...

class RenewLeaseRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class RenewLeaseResponse(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: _common_pb2.SignedStatement
    def __init__(self, lease: _Optional[_Union[_common_pb2.SignedStatement, _Mapping]] = ...) -> None: ...

class GetTrustRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetTrustResponse(_message.Message):
    __slots__ = ("public_key", "key_id", "approved", "rejected")
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    APPROVED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    public_key: bytes
    key_id: str
    approved: int
    rejected: int
    def __init__(self, public_key: _Optional[bytes] = ..., key_id: _Optional[str] = ..., approved: _Optional[int] = ..., rejected: _Optional[int] = ...) -> None: ...

class ListVerdictsRequest(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    def __init__(self, limit: _Optional[int] = ...) -> None: ...

class ListVerdictsResponse(_message.Message):
    __slots__ = ("verdicts",)
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    verdicts: _containers.RepeatedCompositeFieldContainer[_common_pb2.SignedStatement]
    def __init__(self, verdicts: _Optional[_Iterable[_Union[_common_pb2.SignedStatement, _Mapping]]] = ...) -> None: ...
