"""A policy that is computed elsewhere: the client of the Inference service, for actors without network code.

The service verified the policy that it answers with; this client checks only that an answer is well formed. A request
that a broken connection left unanswered is sent again: acting changes nothing at the service.

Exceptions: InferenceError and, below it, InferenceUnavailable (no answer in time) and InferenceRefused (the request
can never be answered).
"""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from policies.artifact import DIGEST_BYTES
from policies.client import ActingPolicy
from policies.policy import ActionBatch, PolicyIdentity, RandomSource, check_observation
from policies.spec import PolicyInterface
from protos import transport
from protos.policy.v1 import policy_pb2, policy_pb2_grpc

RETRY_S_MIN = 0.02
RETRY_S_MAX = 1.0

_PERMANENT = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
)


class InferenceError(Exception):
    """The inference service gave no usable answer."""


class InferenceUnavailable(InferenceError):
    """No answer came in time: the service is down, or has no verified policy."""


class InferenceRefused(InferenceError):
    """The service refuses such requests, or answers what is no answer: trying again is of no use."""


class ServedPolicy:
    """A policy behind an Inference service; satisfies `policies.policy.Policy`. For one thread.

    Each batch carries the identity of the policy that chose, since the service may change it at any time.

    Args:
      address: of the service ("unix:PATH" or "HOST:PORT").
      spec: the environment's specification.
      timeout_s: how long one request may take, reconnecting included.
    """

    def __init__(self, address: str, spec: PolicyInterface, *, timeout_s: float = 10.0) -> None:
        self._spec = spec
        self._timeout_s = timeout_s
        self._channel = transport.channel(address)
        self._stream: _Stream | None = None
        self._requests = 0
        self._state_size = 0

    @property
    def spec(self) -> PolicyInterface:
        """What goes in and comes out."""
        return self._spec

    @property
    def state_size(self) -> int:
        """S, as the service's newest answer had it; 0 before the first."""
        return self._state_size

    def act(
        self, observation: NDArray[Any], generator: RandomSource, state: NDArray[np.float32] | None = None
    ) -> ActionBatch:
        """See `policies.policy.Policy.act`. The service draws with its own randomness; `generator` does not advance.

        Raises:
          ValueError: the observation's shape or type is not that of the specification.
          InferenceUnavailable: no answer within the timeout.
          InferenceRefused: no answer ever.
        """
        del generator
        return self._ask(observation, state, self._timeout_s)

    def probe(self, timeout_s: float) -> PolicyIdentity:
        """Which policy the service acts with now, found by asking about one blank observation; raises as `act`."""
        blank = self._spec.observation.zeros(1)
        identity = self._ask(blank, None, timeout_s).identity
        if identity is None:
            raise InferenceRefused("the inference service does not say which policy it acts with")
        return identity

    def close(self) -> None:
        """Ends the connection."""
        self._drop_stream()
        self._channel.close()

    def _ask(self, observation: NDArray[Any], state: NDArray[np.float32] | None, timeout_s: float) -> ActionBatch:
        check_observation(observation, self._spec)
        self._requests += 1
        request = policy_pb2.ActRequest(
            request_id=self._requests,
            count=observation.shape[0],
            observation=observation.tobytes(),
            state=b"" if state is None else state.tobytes(),
        )
        deadline, delay_s, cause = time.monotonic() + timeout_s, RETRY_S_MIN, "no answer"
        while True:
            self._stream = self._stream or _Stream(self._channel)
            try:
                return self._decode(request, self._stream.ask(request, deadline - time.monotonic()))
            except (grpc.RpcError, queue.Empty) as error:
                self._drop_stream()
                if isinstance(error, grpc.Call):
                    cause = error.details() or cause
                    if error.code() in _PERMANENT:
                        raise InferenceRefused(f"the inference service refuses: {cause}") from error
                if time.monotonic() + delay_s >= deadline:
                    raise InferenceUnavailable(f"no actions within {timeout_s} s: {cause}") from error
            time.sleep(delay_s)
            delay_s = min(2 * delay_s, RETRY_S_MAX)

    def _decode(self, request: policy_pb2.ActRequest, response: policy_pb2.ActResponse) -> ActionBatch:
        rows, space = request.count, self._spec.action
        sizes = (len(response.action), len(response.log_prob), len(response.logits), len(response.digest))
        wanted = (4 * rows * space.components, 4 * rows, 4 * rows * space.parameters, DIGEST_BYTES)
        if sizes != wanted or response.request_id != request.request_id:
            raise InferenceRefused(
                f"the answer has fields of {sizes} bytes for request {response.request_id}, "
                f"{wanted} for request {request.request_id} are due"
            )
        action = np.frombuffer(response.action, space.dtype.newbyteorder("<")).reshape(rows, *space.shape)
        if fault := space.fault(action):
            raise InferenceRefused(f"the answer has no actions: {fault}")
        if len(response.state) % (4 * rows):
            raise InferenceRefused(f"the answer has {len(response.state)} bytes of state for {rows} observations")
        state = np.frombuffer(response.state, "<f4").reshape(rows, -1)
        self._state_size = state.shape[1]
        return ActionBatch(
            action,
            np.frombuffer(response.log_prob, "<f4"),
            np.frombuffer(response.logits, "<f4").reshape(rows, space.parameters),
            PolicyIdentity(response.version, response.digest),
            state if self._state_size else None,
        )

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class ServedPolicyClient:
    """Stands where a `PolicyClient` does, for an actor whose policy is served. For one thread.

    Args:
      address: of the Inference service.
      spec: the environment's specification.
      timeout_s: how long one request may take.
    """

    def __init__(self, address: str, spec: PolicyInterface, *, timeout_s: float = 10.0) -> None:
        self._policy = ServedPolicy(address, spec, timeout_s=timeout_s)
        self._acting: ActingPolicy | None = None

    def current(self) -> ActingPolicy | None:
        """The served policy once `wait` has found it; its version and digest are those of that moment.

        What chose a particular action is in `ActionBatch.identity`. After InferenceUnavailable, call `wait`.
        """
        return self._acting

    def wait(self, timeout_s: float) -> ActingPolicy | None:
        """Asks the service until it answers, at most `timeout_s`; None: it did not. Raises InferenceRefused."""
        try:
            identity = self._policy.probe(timeout_s)
        except InferenceUnavailable:
            self._acting = None
        else:
            self._acting = ActingPolicy(self._policy, identity.version, identity.digest, "served", 0)
        return self._acting

    def close(self) -> None:
        """Ends the connection."""
        self._policy.close()


class _Stream:
    """One Act stream: a request goes out, its answer comes in."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._outbox: queue.SimpleQueue[policy_pb2.ActRequest | None] = queue.SimpleQueue()
        self._inbox: queue.SimpleQueue[policy_pb2.ActResponse | grpc.RpcError] = queue.SimpleQueue()
        stub = policy_pb2_grpc.InferenceStub(channel)
        self._call = stub.Act(iter(self._outbox.get, None), wait_for_ready=True)
        self._reader = threading.Thread(target=self._read, name="served-policy", daemon=True)
        self._reader.start()

    def ask(self, request: policy_pb2.ActRequest, timeout_s: float) -> policy_pb2.ActResponse:
        """The answer. Raises grpc.RpcError when the stream broke, queue.Empty when none came in time."""
        self._outbox.put(request)
        answer = self._inbox.get(timeout=max(timeout_s, 0.0))
        if isinstance(answer, grpc.RpcError):
            raise answer
        return answer

    def close(self) -> None:
        self._outbox.put(None)
        self._call.cancel()
        self._reader.join(5.0)

    def _read(self) -> None:
        try:
            for response in self._call:
                self._inbox.put(response)
        except grpc.RpcError as error:
            self._inbox.put(error)
        else:
            # The server ended the stream in order, as it does when it stops; to the caller that is a break.
            self._inbox.put(grpc.RpcError("the inference service ended the stream"))
