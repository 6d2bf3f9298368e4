from protos.common.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AppendRequest(_message.Message):
    __slots__ = ("open", "batch", "acknowledged_below")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_BELOW_FIELD_NUMBER: _ClassVar[int]
    open: _common_pb2.Origin
    batch: RecordBatch
    acknowledged_below: int
    def __init__(self, open: _Optional[_Union[_common_pb2.Origin, _Mapping]] = ..., batch: _Optional[_Union[RecordBatch, _Mapping]] = ..., acknowledged_below: _Optional[int] = ...) -> None: ...

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
    __slots__ = ("table", "batch_size", "keys_only", "batches", "again_from")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    KEYS_ONLY_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    AGAIN_FROM_FIELD_NUMBER: _ClassVar[int]
    table: str
    batch_size: int
    keys_only: bool
    batches: int
    again_from: int
    def __init__(self, table: _Optional[str] = ..., batch_size: _Optional[int] = ..., keys_only: _Optional[bool] = ..., batches: _Optional[int] = ..., again_from: _Optional[int] = ...) -> None: ...

class PackedRecords(_message.Message):
    __slots__ = ("positions", "origin_ids", "headers", "header_sizes", "payloads", "payload_sizes", "marks")
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_IDS_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    HEADER_SIZES_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_SIZES_FIELD_NUMBER: _ClassVar[int]
    MARKS_FIELD_NUMBER: _ClassVar[int]
    positions: _containers.RepeatedScalarFieldContainer[int]
    origin_ids: _containers.RepeatedScalarFieldContainer[int]
    headers: bytes
    header_sizes: _containers.RepeatedScalarFieldContainer[int]
    payloads: bytes
    payload_sizes: _containers.RepeatedScalarFieldContainer[int]
    marks: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, positions: _Optional[_Iterable[int]] = ..., origin_ids: _Optional[_Iterable[int]] = ..., headers: _Optional[bytes] = ..., header_sizes: _Optional[_Iterable[int]] = ..., payloads: _Optional[bytes] = ..., payload_sizes: _Optional[_Iterable[int]] = ..., marks: _Optional[_Iterable[bytes]] = ...) -> None: ...

class SampleResponse(_message.Message):
    __slots__ = ("records", "origins", "end_of_batch", "probabilities", "available")
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
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    records: PackedRecords
    origins: _containers.MessageMap[int, _common_pb2.Origin]
    end_of_batch: bool
    probabilities: _containers.RepeatedScalarFieldContainer[float]
    available: int
    def __init__(self, records: _Optional[_Union[PackedRecords, _Mapping]] = ..., origins: _Optional[_Mapping[int, _common_pb2.Origin]] = ..., end_of_batch: _Optional[bool] = ..., probabilities: _Optional[_Iterable[float]] = ..., available: _Optional[int] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("from_position", "limit", "with_payload", "filter", "positions")
    FROM_POSITION_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    WITH_PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    from_position: int
    limit: int
    with_payload: bool
    filter: str
    positions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, from_position: _Optional[int] = ..., limit: _Optional[int] = ..., with_payload: _Optional[bool] = ..., filter: _Optional[str] = ..., positions: _Optional[_Iterable[int]] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("records", "origins", "next_position")
    class OriginsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: _common_pb2.Origin
        def __init__(self, key: _Optional[int] = ..., value: _Optional[_Union[_common_pb2.Origin, _Mapping]] = ...) -> None: ...
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    ORIGINS_FIELD_NUMBER: _ClassVar[int]
    NEXT_POSITION_FIELD_NUMBER: _ClassVar[int]
    records: PackedRecords
    origins: _containers.MessageMap[int, _common_pb2.Origin]
    next_position: int
    def __init__(self, records: _Optional[_Union[PackedRecords, _Mapping]] = ..., origins: _Optional[_Mapping[int, _common_pb2.Origin]] = ..., next_position: _Optional[int] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatsResponse(_message.Message):
    __slots__ = ("records", "payload_bytes", "appended_records", "appended_steps", "evicted_records", "duplicate_records", "refused_records", "file_bytes", "live_bytes", "commits", "commit_ms_mean", "append_streams", "tables", "signal_totals", "chain_head", "quarantined_records", "damaged_records", "segments", "durability", "disk_wait_s", "pending_bytes")
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
    QUARANTINED_RECORDS_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_RECORDS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    DISK_WAIT_S_FIELD_NUMBER: _ClassVar[int]
    PENDING_BYTES_FIELD_NUMBER: _ClassVar[int]
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
    quarantined_records: int
    damaged_records: int
    segments: int
    durability: str
    disk_wait_s: float
    pending_bytes: int
    def __init__(self, records: _Optional[int] = ..., payload_bytes: _Optional[int] = ..., appended_records: _Optional[int] = ..., appended_steps: _Optional[int] = ..., evicted_records: _Optional[int] = ..., duplicate_records: _Optional[int] = ..., refused_records: _Optional[int] = ..., file_bytes: _Optional[int] = ..., live_bytes: _Optional[int] = ..., commits: _Optional[int] = ..., commit_ms_mean: _Optional[float] = ..., append_streams: _Optional[int] = ..., tables: _Optional[_Iterable[_Union[TableStats, _Mapping]]] = ..., signal_totals: _Optional[_Mapping[str, float]] = ..., chain_head: _Optional[bytes] = ..., quarantined_records: _Optional[int] = ..., damaged_records: _Optional[int] = ..., segments: _Optional[int] = ..., durability: _Optional[str] = ..., disk_wait_s: _Optional[float] = ..., pending_bytes: _Optional[int] = ...) -> None: ...

class TableSpec(_message.Message):
    __slots__ = ("name", "kind", "samples_per_insert", "min_size", "error_buffer", "records_max", "payload_bytes_max", "age_s_max", "priority_exponent", "priority_signal", "stratify_by", "filter")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_PER_INSERT_FIELD_NUMBER: _ClassVar[int]
    MIN_SIZE_FIELD_NUMBER: _ClassVar[int]
    ERROR_BUFFER_FIELD_NUMBER: _ClassVar[int]
    RECORDS_MAX_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    AGE_S_MAX_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_EXPONENT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_SIGNAL_FIELD_NUMBER: _ClassVar[int]
    STRATIFY_BY_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    samples_per_insert: float
    min_size: int
    error_buffer: float
    records_max: int
    payload_bytes_max: int
    age_s_max: float
    priority_exponent: float
    priority_signal: str
    stratify_by: str
    filter: str
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., samples_per_insert: _Optional[float] = ..., min_size: _Optional[int] = ..., error_buffer: _Optional[float] = ..., records_max: _Optional[int] = ..., payload_bytes_max: _Optional[int] = ..., age_s_max: _Optional[float] = ..., priority_exponent: _Optional[float] = ..., priority_signal: _Optional[str] = ..., stratify_by: _Optional[str] = ..., filter: _Optional[str] = ...) -> None: ...

class TableState(_message.Message):
    __slots__ = ("cursor", "samples", "inserts", "spec", "configured")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    INSERTS_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    CONFIGURED_FIELD_NUMBER: _ClassVar[int]
    cursor: int
    samples: int
    inserts: int
    spec: TableSpec
    configured: TableSpec
    def __init__(self, cursor: _Optional[int] = ..., samples: _Optional[int] = ..., inserts: _Optional[int] = ..., spec: _Optional[_Union[TableSpec, _Mapping]] = ..., configured: _Optional[_Union[TableSpec, _Mapping]] = ...) -> None: ...

class TableStats(_message.Message):
    __slots__ = ("name", "kind", "available", "inserts", "samples", "samples_per_insert", "min_size", "min_diff", "max_diff", "insert_wait_s", "sample_wait_s", "spec", "first_position", "strata", "cursor")
    class StrataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
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
    SPEC_FIELD_NUMBER: _ClassVar[int]
    FIRST_POSITION_FIELD_NUMBER: _ClassVar[int]
    STRATA_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
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
    spec: TableSpec
    first_position: int
    strata: _containers.ScalarMap[str, int]
    cursor: int
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., available: _Optional[int] = ..., inserts: _Optional[int] = ..., samples: _Optional[int] = ..., samples_per_insert: _Optional[float] = ..., min_size: _Optional[int] = ..., min_diff: _Optional[float] = ..., max_diff: _Optional[float] = ..., insert_wait_s: _Optional[float] = ..., sample_wait_s: _Optional[float] = ..., spec: _Optional[_Union[TableSpec, _Mapping]] = ..., first_position: _Optional[int] = ..., strata: _Optional[_Mapping[str, int]] = ..., cursor: _Optional[int] = ...) -> None: ...

class LocateRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LocateResponse(_message.Message):
    __slots__ = ("directory", "store_id", "takes_batches")
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    TAKES_BATCHES_FIELD_NUMBER: _ClassVar[int]
    directory: str
    store_id: bytes
    takes_batches: bool
    def __init__(self, directory: _Optional[str] = ..., store_id: _Optional[bytes] = ..., takes_batches: _Optional[bool] = ...) -> None: ...

class UpdatePrioritiesRequest(_message.Message):
    __slots__ = ("table", "positions", "priorities")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    PRIORITIES_FIELD_NUMBER: _ClassVar[int]
    table: str
    positions: _containers.RepeatedScalarFieldContainer[int]
    priorities: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, table: _Optional[str] = ..., positions: _Optional[_Iterable[int]] = ..., priorities: _Optional[_Iterable[float]] = ...) -> None: ...

class UpdatePrioritiesResponse(_message.Message):
    __slots__ = ("updated",)
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    updated: int
    def __init__(self, updated: _Optional[int] = ...) -> None: ...

class Annotation(_message.Message):
    __slots__ = ("position", "signals")
    class SignalsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    position: int
    signals: _containers.ScalarMap[str, float]
    def __init__(self, position: _Optional[int] = ..., signals: _Optional[_Mapping[str, float]] = ...) -> None: ...

class AnnotateRequest(_message.Message):
    __slots__ = ("annotations",)
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    annotations: _containers.RepeatedCompositeFieldContainer[Annotation]
    def __init__(self, annotations: _Optional[_Iterable[_Union[Annotation, _Mapping]]] = ...) -> None: ...

class AnnotateResponse(_message.Message):
    __slots__ = ("annotated",)
    ANNOTATED_FIELD_NUMBER: _ClassVar[int]
    annotated: int
    def __init__(self, annotated: _Optional[int] = ...) -> None: ...

class QuarantineRequest(_message.Message):
    __slots__ = ("filter", "why", "lift", "dry_run")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    LIFT_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    filter: str
    why: str
    lift: int
    dry_run: bool
    def __init__(self, filter: _Optional[str] = ..., why: _Optional[str] = ..., lift: _Optional[int] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class QuarantineEntry(_message.Message):
    __slots__ = ("id", "filter", "why", "time_ns", "records", "lifted_time_ns", "lifted_why")
    ID_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    LIFTED_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    LIFTED_WHY_FIELD_NUMBER: _ClassVar[int]
    id: int
    filter: str
    why: str
    time_ns: int
    records: int
    lifted_time_ns: int
    lifted_why: str
    def __init__(self, id: _Optional[int] = ..., filter: _Optional[str] = ..., why: _Optional[str] = ..., time_ns: _Optional[int] = ..., records: _Optional[int] = ..., lifted_time_ns: _Optional[int] = ..., lifted_why: _Optional[str] = ...) -> None: ...

class QuarantineResponse(_message.Message):
    __slots__ = ("entry", "positions")
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    entry: QuarantineEntry
    positions: bytes
    def __init__(self, entry: _Optional[_Union[QuarantineEntry, _Mapping]] = ..., positions: _Optional[bytes] = ...) -> None: ...

class ListQuarantinesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListQuarantinesResponse(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[QuarantineEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[QuarantineEntry, _Mapping]]] = ...) -> None: ...

class SetTableRequest(_message.Message):
    __slots__ = ("spec",)
    SPEC_FIELD_NUMBER: _ClassVar[int]
    spec: TableSpec
    def __init__(self, spec: _Optional[_Union[TableSpec, _Mapping]] = ...) -> None: ...

class SetTableResponse(_message.Message):
    __slots__ = ("stats",)
    STATS_FIELD_NUMBER: _ClassVar[int]
    stats: TableStats
    def __init__(self, stats: _Optional[_Union[TableStats, _Mapping]] = ...) -> None: ...
