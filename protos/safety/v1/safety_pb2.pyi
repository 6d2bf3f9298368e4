from protos.common.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_APPROVED: _ClassVar[Outcome]
    OUTCOME_DEFERRED: _ClassVar[Outcome]
    OUTCOME_REJECTED: _ClassVar[Outcome]
    OUTCOME_VOID: _ClassVar[Outcome]
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_APPROVED: Outcome
OUTCOME_DEFERRED: Outcome
OUTCOME_REJECTED: Outcome
OUTCOME_VOID: Outcome

class EvaluateRequest(_message.Message):
    __slots__ = ("offer", "data")
    OFFER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offer: CandidateOffer
    data: bytes
    def __init__(self, offer: _Optional[_Union[CandidateOffer, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class CandidateOffer(_message.Message):
    __slots__ = ("run_id", "version", "digest", "total_bytes", "lineage_digest")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    version: int
    digest: bytes
    total_bytes: int
    lineage_digest: bytes
    def __init__(self, run_id: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[bytes] = ..., total_bytes: _Optional[int] = ..., lineage_digest: _Optional[bytes] = ...) -> None: ...

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
    __slots__ = ("name", "passed", "statistic", "limit", "estimate", "episodes", "explanation", "slice", "kind", "void", "figures")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[CriterionResult.Kind]
        KIND_SAFETY: _ClassVar[CriterionResult.Kind]
        KIND_CAPABILITY: _ClassVar[CriterionResult.Kind]
    KIND_UNSPECIFIED: CriterionResult.Kind
    KIND_SAFETY: CriterionResult.Kind
    KIND_CAPABILITY: CriterionResult.Kind
    class FiguresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    STATISTIC_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    EPISODES_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    SLICE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    VOID_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    name: str
    passed: bool
    statistic: float
    limit: float
    estimate: float
    episodes: int
    explanation: str
    slice: str
    kind: CriterionResult.Kind
    void: bool
    figures: _containers.ScalarMap[str, float]
    def __init__(self, name: _Optional[str] = ..., passed: _Optional[bool] = ..., statistic: _Optional[float] = ..., limit: _Optional[float] = ..., estimate: _Optional[float] = ..., episodes: _Optional[int] = ..., explanation: _Optional[str] = ..., slice: _Optional[str] = ..., kind: _Optional[_Union[CriterionResult.Kind, str]] = ..., void: _Optional[bool] = ..., figures: _Optional[_Mapping[str, float]] = ...) -> None: ...

class SliceCounts(_message.Message):
    __slots__ = ("name", "episodes", "minor", "major", "severe", "return_mean", "incumbent_episodes", "incumbent_minor", "incumbent_major", "incumbent_severe", "incumbent_return_mean")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EPISODES_FIELD_NUMBER: _ClassVar[int]
    MINOR_FIELD_NUMBER: _ClassVar[int]
    MAJOR_FIELD_NUMBER: _ClassVar[int]
    SEVERE_FIELD_NUMBER: _ClassVar[int]
    RETURN_MEAN_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_EPISODES_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_MINOR_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_MAJOR_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_SEVERE_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_RETURN_MEAN_FIELD_NUMBER: _ClassVar[int]
    name: str
    episodes: int
    minor: int
    major: int
    severe: int
    return_mean: float
    incumbent_episodes: int
    incumbent_minor: int
    incumbent_major: int
    incumbent_severe: int
    incumbent_return_mean: float
    def __init__(self, name: _Optional[str] = ..., episodes: _Optional[int] = ..., minor: _Optional[int] = ..., major: _Optional[int] = ..., severe: _Optional[int] = ..., return_mean: _Optional[float] = ..., incumbent_episodes: _Optional[int] = ..., incumbent_minor: _Optional[int] = ..., incumbent_major: _Optional[int] = ..., incumbent_severe: _Optional[int] = ..., incumbent_return_mean: _Optional[float] = ...) -> None: ...

class DetectorCalibration(_message.Message):
    __slots__ = ("violating", "found", "clean", "false_alarms", "severe", "severe_found")
    VIOLATING_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    CLEAN_FIELD_NUMBER: _ClassVar[int]
    FALSE_ALARMS_FIELD_NUMBER: _ClassVar[int]
    SEVERE_FIELD_NUMBER: _ClassVar[int]
    SEVERE_FOUND_FIELD_NUMBER: _ClassVar[int]
    violating: int
    found: int
    clean: int
    false_alarms: int
    severe: int
    severe_found: int
    def __init__(self, violating: _Optional[int] = ..., found: _Optional[int] = ..., clean: _Optional[int] = ..., false_alarms: _Optional[int] = ..., severe: _Optional[int] = ..., severe_found: _Optional[int] = ...) -> None: ...

class VerdictStatement(_message.Message):
    __slots__ = ("verdict_id", "run_id", "version", "artifact_digest", "approved", "reason", "release_number", "criteria", "criteria_digest", "suite_digest", "seed_manifest_digest", "episodes", "violating_episodes", "return_mean", "return_ci95_low", "return_ci95_high", "issue_time_ns", "expiry_time_ns", "previous_entry_digest", "incumbent_digest", "seed_key", "next_seed_commitment", "outcome", "lifetime_index", "error_level", "evidence_digest", "detector", "slices", "lineage_digest", "canary_share", "deferred_in_a_row", "alarms")
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
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_INDEX_FIELD_NUMBER: _ClassVar[int]
    ERROR_LEVEL_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DETECTOR_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CANARY_SHARE_FIELD_NUMBER: _ClassVar[int]
    DEFERRED_IN_A_ROW_FIELD_NUMBER: _ClassVar[int]
    ALARMS_FIELD_NUMBER: _ClassVar[int]
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
    outcome: Outcome
    lifetime_index: int
    error_level: float
    evidence_digest: bytes
    detector: DetectorCalibration
    slices: _containers.RepeatedCompositeFieldContainer[SliceCounts]
    lineage_digest: bytes
    canary_share: float
    deferred_in_a_row: int
    alarms: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, verdict_id: _Optional[str] = ..., run_id: _Optional[str] = ..., version: _Optional[int] = ..., artifact_digest: _Optional[bytes] = ..., approved: _Optional[bool] = ..., reason: _Optional[str] = ..., release_number: _Optional[int] = ..., criteria: _Optional[_Iterable[_Union[CriterionResult, _Mapping]]] = ..., criteria_digest: _Optional[bytes] = ..., suite_digest: _Optional[bytes] = ..., seed_manifest_digest: _Optional[bytes] = ..., episodes: _Optional[int] = ..., violating_episodes: _Optional[int] = ..., return_mean: _Optional[float] = ..., return_ci95_low: _Optional[float] = ..., return_ci95_high: _Optional[float] = ..., issue_time_ns: _Optional[int] = ..., expiry_time_ns: _Optional[int] = ..., previous_entry_digest: _Optional[bytes] = ..., incumbent_digest: _Optional[bytes] = ..., seed_key: _Optional[bytes] = ..., next_seed_commitment: _Optional[bytes] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., lifetime_index: _Optional[int] = ..., error_level: _Optional[float] = ..., evidence_digest: _Optional[bytes] = ..., detector: _Optional[_Union[DetectorCalibration, _Mapping]] = ..., slices: _Optional[_Iterable[_Union[SliceCounts, _Mapping]]] = ..., lineage_digest: _Optional[bytes] = ..., canary_share: _Optional[float] = ..., deferred_in_a_row: _Optional[int] = ..., alarms: _Optional[_Iterable[str]] = ...) -> None: ...

class LeaseStatement(_message.Message):
    __slots__ = ("run_id", "lease_number", "issue_time_ns", "expiry_time_ns", "epoch")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ISSUE_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    EXPIRY_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    lease_number: int
    issue_time_ns: int
    expiry_time_ns: int
    epoch: int
    def __init__(self, run_id: _Optional[str] = ..., lease_number: _Optional[int] = ..., issue_time_ns: _Optional[int] = ..., expiry_time_ns: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class PromotionStatement(_message.Message):
    __slots__ = ("run_id", "promotion_number", "release_number", "artifact_digest", "episodes", "violating_episodes", "why", "issue_time_ns", "previous_entry_digest")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PROMOTION_NUMBER_FIELD_NUMBER: _ClassVar[int]
    RELEASE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    EPISODES_FIELD_NUMBER: _ClassVar[int]
    VIOLATING_EPISODES_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    ISSUE_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_ENTRY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    promotion_number: int
    release_number: int
    artifact_digest: bytes
    episodes: int
    violating_episodes: int
    why: str
    issue_time_ns: int
    previous_entry_digest: bytes
    def __init__(self, run_id: _Optional[str] = ..., promotion_number: _Optional[int] = ..., release_number: _Optional[int] = ..., artifact_digest: _Optional[bytes] = ..., episodes: _Optional[int] = ..., violating_episodes: _Optional[int] = ..., why: _Optional[str] = ..., issue_time_ns: _Optional[int] = ..., previous_entry_digest: _Optional[bytes] = ...) -> None: ...

class KeyStatement(_message.Message):
    __slots__ = ("run_id", "purpose", "public_key", "issue_time_ns")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    ISSUE_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    purpose: str
    public_key: bytes
    issue_time_ns: int
    def __init__(self, run_id: _Optional[str] = ..., purpose: _Optional[str] = ..., public_key: _Optional[bytes] = ..., issue_time_ns: _Optional[int] = ...) -> None: ...

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

class ListPromotionsRequest(_message.Message):
    __slots__ = ("run_id", "after_number", "limit")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_NUMBER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    after_number: int
    limit: int
    def __init__(self, run_id: _Optional[str] = ..., after_number: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class ListPromotionsResponse(_message.Message):
    __slots__ = ("promotions", "newest_number")
    PROMOTIONS_FIELD_NUMBER: _ClassVar[int]
    NEWEST_NUMBER_FIELD_NUMBER: _ClassVar[int]
    promotions: _containers.RepeatedCompositeFieldContainer[_common_pb2.SignedStatement]
    newest_number: int
    def __init__(self, promotions: _Optional[_Iterable[_Union[_common_pb2.SignedStatement, _Mapping]]] = ..., newest_number: _Optional[int] = ...) -> None: ...

class RenewLeaseRequest(_message.Message):
    __slots__ = ("run_id", "rolled_back_epoch")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROLLED_BACK_EPOCH_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    rolled_back_epoch: int
    def __init__(self, run_id: _Optional[str] = ..., rolled_back_epoch: _Optional[int] = ...) -> None: ...

class RenewLeaseResponse(_message.Message):
    __slots__ = ("lease", "breach")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    BREACH_FIELD_NUMBER: _ClassVar[int]
    lease: _common_pb2.SignedStatement
    breach: LeaseBreach
    def __init__(self, lease: _Optional[_Union[_common_pb2.SignedStatement, _Mapping]] = ..., breach: _Optional[_Union[LeaseBreach, _Mapping]] = ...) -> None: ...

class LeaseBreach(_message.Message):
    __slots__ = ("epoch", "reason", "release_number", "release_digest")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RELEASE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    RELEASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    reason: str
    release_number: int
    release_digest: bytes
    def __init__(self, epoch: _Optional[int] = ..., reason: _Optional[str] = ..., release_number: _Optional[int] = ..., release_digest: _Optional[bytes] = ...) -> None: ...

class GetTrustRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetTrustResponse(_message.Message):
    __slots__ = ("public_key", "key_id", "approved", "rejected", "deferred", "void", "broken_off")
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    APPROVED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    DEFERRED_FIELD_NUMBER: _ClassVar[int]
    VOID_FIELD_NUMBER: _ClassVar[int]
    BROKEN_OFF_FIELD_NUMBER: _ClassVar[int]
    public_key: bytes
    key_id: str
    approved: int
    rejected: int
    deferred: int
    void: int
    broken_off: int
    def __init__(self, public_key: _Optional[bytes] = ..., key_id: _Optional[str] = ..., approved: _Optional[int] = ..., rejected: _Optional[int] = ..., deferred: _Optional[int] = ..., void: _Optional[int] = ..., broken_off: _Optional[int] = ...) -> None: ...

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
