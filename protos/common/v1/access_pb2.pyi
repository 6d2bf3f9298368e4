from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class CallersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CallersResponse(_message.Message):
    __slots__ = ("denied_calls", "unauthenticated_calls", "connections", "unauthenticated_connections")
    DENIED_CALLS_FIELD_NUMBER: _ClassVar[int]
    UNAUTHENTICATED_CALLS_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    UNAUTHENTICATED_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    denied_calls: int
    unauthenticated_calls: int
    connections: int
    unauthenticated_connections: int
    def __init__(self, denied_calls: _Optional[int] = ..., unauthenticated_calls: _Optional[int] = ..., connections: _Optional[int] = ..., unauthenticated_connections: _Optional[int] = ...) -> None: ...
