from protos.common.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AppendRequest(_message.Message):
    __slots__ = ("open", "batch")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    open: _common_pb2.Origin
    batch: RecordBatch
    def __init__(self, open: _Optional[_Union[_common_pb2.Origin, _Mapping]] = ..., batch: _Optional[_Union[RecordBatch, _Mapping]] = ...) -> None: ...

class RecordBatch(_message.Message):
    __slots__ = ("records",)
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[_common_pb2.Record]
    def __init__(self, records: _Optional[_Iterable[_Union[_common_pb2.Record, _Mapping]]] = ...) -> None: ...

class AppendResponse(_message.Message):
    __slots__ = ("opened", "acknowledged")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    opened: AppendOpened
    acknowledged: AppendAcknowledged
    def __init__(self, opened: _Optional[_Union[AppendOpened, _Mapping]] = ..., acknowledged: _Optional[_Union[AppendAcknowledged, _Mapping]] = ...) -> None: ...

class AppendOpened(_message.Message):
    __slots__ = ("window_records", "window_bytes", "next_sequence")
    WINDOW_RECORDS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_BYTES_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    window_records: int
    window_bytes: int
    next_sequence: int
    def __init__(self, window_records: _Optional[int] = ..., window_bytes: _Optional[int] = ..., next_sequence: _Optional[int] = ...) -> None: ...

class AppendAcknowledged(_message.Message):
    __slots__ = ("sequences", "duplicates")
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    sequences: _containers.RepeatedScalarFieldContainer[int]
    duplicates: int
    def __init__(self, sequences: _Optional[_Iterable[int]] = ..., duplicates: _Optional[int] = ...) -> None: ...

class SampleRequest(_message.Message):
    __slots__ = ("table", "batch_size")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    table: str
    batch_size: int
    def __init__(self, table: _Optional[str] = ..., batch_size: _Optional[int] = ...) -> None: ...

class SampleResponse(_message.Message):
    __slots__ = ("records", "origins", "end_of_batch")
    class OriginsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: _common_pb2.Origin
        def __init__(self, key: _Optional[int] = ..., value: _Optional[_Union[_common_pb2.Origin, _Mapping]] = ...) -> None: ...
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    ORIGINS_FIELD_NUMBER: _ClassVar[int]
    END_OF_BATCH_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[SampledRecord]
    origins: _containers.MessageMap[int, _common_pb2.Origin]
    end_of_batch: bool
    def __init__(self, records: _Optional[_Iterable[_Union[SampledRecord, _Mapping]]] = ..., origins: _Optional[_Mapping[int, _common_pb2.Origin]] = ..., end_of_batch: _Optional[bool] = ...) -> None: ...

class SampledRecord(_message.Message):
    __slots__ = ("position", "origin_id", "header", "payload", "probability")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_ID_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    position: int
    origin_id: int
    header: _common_pb2.RecordHeader
    payload: bytes
    probability: float
    def __init__(self, position: _Optional[int] = ..., origin_id: _Optional[int] = ..., header: _Optional[_Union[_common_pb2.RecordHeader, _Mapping]] = ..., payload: _Optional[bytes] = ..., probability: _Optional[float] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("from_position", "limit", "with_payload")
    FROM_POSITION_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    WITH_PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    from_position: int
    limit: int
    with_payload: bool
    def __init__(self, from_position: _Optional[int] = ..., limit: _Optional[int] = ..., with_payload: _Optional[bool] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("records", "origins")
    class OriginsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: _common_pb2.Origin
        def __init__(self, key: _Optional[int] = ..., value: _Optional[_Union[_common_pb2.Origin, _Mapping]] = ...) -> None: ...
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    ORIGINS_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[SampledRecord]
    origins: _containers.MessageMap[int, _common_pb2.Origin]
    def __init__(self, records: _Optional[_Iterable[_Union[SampledRecord, _Mapping]]] = ..., origins: _Optional[_Mapping[int, _common_pb2.Origin]] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatsResponse(_message.Message):
    __slots__ = ("records", "payload_bytes", "appended_records", "appended_steps", "evicted_records", "duplicate_records", "refused_records", "file_bytes", "live_bytes", "commits", "commit_ms_mean", "append_streams", "tables", "signal_totals", "chain_head")
    class SignalTotalsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    APPENDED_RECORDS_FIELD_NUMBER: _ClassVar[int]
    APPENDED_STEPS_FIELD_NUMBER: _ClassVar[int]
    EVICTED_RECORDS_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_RECORDS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_RECORDS_FIELD_NUMBER: _ClassVar[int]
    FILE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LIVE_BYTES_FIELD_NUMBER: _ClassVar[int]
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_MS_MEAN_FIELD_NUMBER: _ClassVar[int]
    APPEND_STREAMS_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_TOTALS_FIELD_NUMBER: _ClassVar[int]
    CHAIN_HEAD_FIELD_NUMBER: _ClassVar[int]
    records: int
    payload_bytes: int
    appended_records: int
    appended_steps: int
    evicted_records: int
    duplicate_records: int
    refused_records: int
    file_bytes: int
    live_bytes: int
    commits: int
    commit_ms_mean: float
    append_streams: int
    tables: _containers.RepeatedCompositeFieldContainer[TableStats]
    signal_totals: _containers.ScalarMap[str, float]
    chain_head: bytes
    def __init__(self, records: _Optional[int] = ..., payload_bytes: _Optional[int] = ..., appended_records: _Optional[int] = ..., appended_steps: _Optional[int] = ..., evicted_records: _Optional[int] = ..., duplicate_records: _Optional[int] = ..., refused_records: _Optional[int] = ..., file_bytes: _Optional[int] = ..., live_bytes: _Optional[int] = ..., commits: _Optional[int] = ..., commit_ms_mean: _Optional[float] = ..., append_streams: _Optional[int] = ..., tables: _Optional[_Iterable[_Union[TableStats, _Mapping]]] = ..., signal_totals: _Optional[_Mapping[str, float]] = ..., chain_head: _Optional[bytes] = ...) -> None: ...

class TableStats(_message.Message):
    __slots__ = ("name", "kind", "available", "inserts", "samples", "samples_per_insert", "min_size", "min_diff", "max_diff", "insert_wait_s", "sample_wait_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    INSERTS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_PER_INSERT_FIELD_NUMBER: _ClassVar[int]
    MIN_SIZE_FIELD_NUMBER: _ClassVar[int]
    MIN_DIFF_FIELD_NUMBER: _ClassVar[int]
    MAX_DIFF_FIELD_NUMBER: _ClassVar[int]
    INSERT_WAIT_S_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_WAIT_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    available: int
    inserts: int
    samples: int
    samples_per_insert: float
    min_size: int
    min_diff: float
    max_diff: float
    insert_wait_s: float
    sample_wait_s: float
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., available: _Optional[int] = ..., inserts: _Optional[int] = ..., samples: _Optional[int] = ..., samples_per_insert: _Optional[float] = ..., min_size: _Optional[int] = ..., min_diff: _Optional[float] = ..., max_diff: _Optional[float] = ..., insert_wait_s: _Optional[float] = ..., sample_wait_s: _Optional[float] = ...) -> None: ...
