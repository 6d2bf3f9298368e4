from protos.common.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchRequest(_message.Message):
    __slots__ = ("actor_id", "run_id")
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    actor_id: str
    run_id: str
    def __init__(self, actor_id: _Optional[str] = ..., run_id: _Optional[str] = ...) -> None: ...

class PolicyOffer(_message.Message):
    __slots__ = ("kind", "version", "digest", "authority", "artifact")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[PolicyOffer.Kind]
        KIND_SNAPSHOT: _ClassVar[PolicyOffer.Kind]
        KIND_RELEASE: _ClassVar[PolicyOffer.Kind]
        KIND_LEASE: _ClassVar[PolicyOffer.Kind]
        KIND_REVOCATION: _ClassVar[PolicyOffer.Kind]
        KIND_PROMOTION: _ClassVar[PolicyOffer.Kind]
    KIND_UNSPECIFIED: PolicyOffer.Kind
    KIND_SNAPSHOT: PolicyOffer.Kind
    KIND_RELEASE: PolicyOffer.Kind
    KIND_LEASE: PolicyOffer.Kind
    KIND_REVOCATION: PolicyOffer.Kind
    KIND_PROMOTION: PolicyOffer.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    kind: PolicyOffer.Kind
    version: int
    digest: bytes
    authority: _common_pb2.SignedStatement
    artifact: bytes
    def __init__(self, kind: _Optional[_Union[PolicyOffer.Kind, str]] = ..., version: _Optional[int] = ..., digest: _Optional[bytes] = ..., authority: _Optional[_Union[_common_pb2.SignedStatement, _Mapping]] = ..., artifact: _Optional[bytes] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    def __init__(self, digest: _Optional[bytes] = ...) -> None: ...

class ArtifactChunk(_message.Message):
    __slots__ = ("data", "total_bytes")
    DATA_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    total_bytes: int
    def __init__(self, data: _Optional[bytes] = ..., total_bytes: _Optional[int] = ...) -> None: ...

class RevokeRequest(_message.Message):
    __slots__ = ("revocation",)
    REVOCATION_FIELD_NUMBER: _ClassVar[int]
    revocation: _common_pb2.SignedStatement
    def __init__(self, revocation: _Optional[_Union[_common_pb2.SignedStatement, _Mapping]] = ...) -> None: ...

class RevokeResponse(_message.Message):
    __slots__ = ("release_number", "watchers")
    RELEASE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    WATCHERS_FIELD_NUMBER: _ClassVar[int]
    release_number: int
    watchers: int
    def __init__(self, release_number: _Optional[int] = ..., watchers: _Optional[int] = ...) -> None: ...

class ActRequest(_message.Message):
    __slots__ = ("request_id", "count", "observation", "state")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    count: int
    observation: bytes
    state: bytes
    def __init__(self, request_id: _Optional[int] = ..., count: _Optional[int] = ..., observation: _Optional[bytes] = ..., state: _Optional[bytes] = ...) -> None: ...

class ActResponse(_message.Message):
    __slots__ = ("request_id", "action", "log_prob", "logits", "version", "digest", "state")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    LOG_PROB_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    action: bytes
    log_prob: bytes
    logits: bytes
    version: int
    digest: bytes
    state: bytes
    def __init__(self, request_id: _Optional[int] = ..., action: _Optional[bytes] = ..., log_prob: _Optional[bytes] = ..., logits: _Optional[bytes] = ..., version: _Optional[int] = ..., digest: _Optional[bytes] = ..., state: _Optional[bytes] = ...) -> None: ...
