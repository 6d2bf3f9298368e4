from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PayloadEncoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PAYLOAD_ENCODING_RAW: _ClassVar[PayloadEncoding]
    PAYLOAD_ENCODING_ZSTD: _ClassVar[PayloadEncoding]
PAYLOAD_ENCODING_RAW: PayloadEncoding
PAYLOAD_ENCODING_ZSTD: PayloadEncoding

class Column(_message.Message):
    __slots__ = ("name", "dtype", "shape", "rows_beyond_steps", "once")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    ROWS_BEYOND_STEPS_FIELD_NUMBER: _ClassVar[int]
    ONCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    rows_beyond_steps: int
    once: bool
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., rows_beyond_steps: _Optional[int] = ..., once: _Optional[bool] = ...) -> None: ...

class Schema(_message.Message):
    __slots__ = ("columns",)
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    def __init__(self, columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ...) -> None: ...

class EnvironmentIdentity(_message.Message):
    __slots__ = ("id", "version", "code_digest")
    ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CODE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    id: str
    version: str
    code_digest: bytes
    def __init__(self, id: _Optional[str] = ..., version: _Optional[str] = ..., code_digest: _Optional[bytes] = ...) -> None: ...

class Origin(_message.Message):
    __slots__ = ("actor_id", "run_id", "environment", "schema", "config_digest", "source_revision")
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    CONFIG_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SOURCE_REVISION_FIELD_NUMBER: _ClassVar[int]
    actor_id: str
    run_id: str
    environment: EnvironmentIdentity
    schema: Schema
    config_digest: bytes
    source_revision: str
    def __init__(self, actor_id: _Optional[str] = ..., run_id: _Optional[str] = ..., environment: _Optional[_Union[EnvironmentIdentity, _Mapping]] = ..., schema: _Optional[_Union[Schema, _Mapping]] = ..., config_digest: _Optional[bytes] = ..., source_revision: _Optional[str] = ...) -> None: ...

class PolicySpan(_message.Message):
    __slots__ = ("first_step", "version", "digest")
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    first_step: int
    version: int
    digest: bytes
    def __init__(self, first_step: _Optional[int] = ..., version: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class RecordHeader(_message.Message):
    __slots__ = ("sequence", "steps", "lane", "environment_seed", "episode", "episode_step", "task_id", "policies", "start_time_ns", "end_time_ns", "signals", "parents", "transformation", "payload_digest", "encoding", "episode_seeds")
    class SignalsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_SEED_FIELD_NUMBER: _ClassVar[int]
    EPISODE_FIELD_NUMBER: _ClassVar[int]
    EPISODE_STEP_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    START_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    END_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    PARENTS_FIELD_NUMBER: _ClassVar[int]
    TRANSFORMATION_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    EPISODE_SEEDS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    steps: int
    lane: int
    environment_seed: int
    episode: int
    episode_step: int
    task_id: str
    policies: _containers.RepeatedCompositeFieldContainer[PolicySpan]
    start_time_ns: int
    end_time_ns: int
    signals: _containers.ScalarMap[str, float]
    parents: _containers.RepeatedScalarFieldContainer[int]
    transformation: str
    payload_digest: bytes
    encoding: PayloadEncoding
    episode_seeds: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, sequence: _Optional[int] = ..., steps: _Optional[int] = ..., lane: _Optional[int] = ..., environment_seed: _Optional[int] = ..., episode: _Optional[int] = ..., episode_step: _Optional[int] = ..., task_id: _Optional[str] = ..., policies: _Optional[_Iterable[_Union[PolicySpan, _Mapping]]] = ..., start_time_ns: _Optional[int] = ..., end_time_ns: _Optional[int] = ..., signals: _Optional[_Mapping[str, float]] = ..., parents: _Optional[_Iterable[int]] = ..., transformation: _Optional[str] = ..., payload_digest: _Optional[bytes] = ..., encoding: _Optional[_Union[PayloadEncoding, str]] = ..., episode_seeds: _Optional[_Iterable[int]] = ...) -> None: ...

class RecordMarks(_message.Message):
    __slots__ = ("signals", "quarantine")
    class SignalsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    QUARANTINE_FIELD_NUMBER: _ClassVar[int]
    signals: _containers.ScalarMap[str, float]
    quarantine: int
    def __init__(self, signals: _Optional[_Mapping[str, float]] = ..., quarantine: _Optional[int] = ...) -> None: ...

class Record(_message.Message):
    __slots__ = ("header", "payload")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    header: RecordHeader
    payload: bytes
    def __init__(self, header: _Optional[_Union[RecordHeader, _Mapping]] = ..., payload: _Optional[bytes] = ...) -> None: ...

class SignedStatement(_message.Message):
    __slots__ = ("payload_type", "payload", "key_id", "signature", "certificates")
    PAYLOAD_TYPE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    payload_type: str
    payload: bytes
    key_id: str
    signature: bytes
    certificates: _containers.RepeatedCompositeFieldContainer[SignedStatement]
    def __init__(self, payload_type: _Optional[str] = ..., payload: _Optional[bytes] = ..., key_id: _Optional[str] = ..., signature: _Optional[bytes] = ..., certificates: _Optional[_Iterable[_Union[SignedStatement, _Mapping]]] = ...) -> None: ...
