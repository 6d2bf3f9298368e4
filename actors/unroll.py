"""The columns of one unroll for N lanes: written row by row, encoded lane by lane. Knows no environment and no policy.

Columns (T rows, time-major; T + 1 for the observation, 1 for the state):

    observation [T + 1, N, *shape]  row t is what action t was chosen from; row T is the state after the last step
    action [T, N, *shape]   reward f4 [T, N]   cost f4 [T, N]
    discount f4 [T, N]              0 where the step terminated its episode, otherwise 1
    mask b1 [T, N]                  True where a step was made
    log_prob f4 [T, N]   logits f4 [T, N, P]   of the behaviour policy
    state f4 [1, N, S]              what a recurrent policy kept from before row 0; none where S = 0

An observation of several parts has a column for each of them, "observation/NAME".

Truncation needs no column of its own. After a truncated step t the discount is 1, observation row t + 1 is the final
observation of that episode, and row t + 1 is a boundary row: no step is made, mask is False, and everything else in
it is 0, the discount too. So the value of observation row t + 1 is the bootstrap of the truncated step, and nothing
flows across the boundary. The next episode begins in row t + 2. After a terminated step it begins in row t + 1.

The state is stored once per record: from it, the rows and the discounts a learner computes the states of all other
rows. It is zeros where an episode begins in row 0, and where row 0 is a boundary, what the policy kept until then.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.environment import EnvironmentSpec
from protos.common.v1 import common_pb2
from replay.payload_encoding import RAW, encode_payload
from replay.schema import Encoding, PayloadLayout, schema_of


class UnrollFault(ValueError):
    """A column holds numbers that no learner could use; the message names it and the first such place."""


class UnrollBuffer:
    """One unroll of N lanes, reused from unroll to unroll.

    Rows are contiguous and aligned, as policies and environments want them, and are transposed into the payloads once
    per unroll, which costs no more than writing every row into N separate payloads would.

    Attributes:
      length: T.
      schema: layout of the payloads.
      payload_bytes: size of one of them, before it is encoded.
      encoding: of the payloads.

    Args:
      spec: what each lane is.
      lanes: N.
      unroll_length: T.
      encoding: of the payloads.
      state_size: S, of the policy that acts.

    Raises:
      SchemaError: a row of this environment would be larger than any may be.
    """

    def __init__(
        self, spec: EnvironmentSpec, lanes: int, unroll_length: int, encoding: Encoding = RAW, state_size: int = 0
    ) -> None:
        rows = (unroll_length, lanes)
        self.length = unroll_length
        self.encoding = encoding
        self.observation = spec.observation.zeros(unroll_length + 1, lanes)
        self.action = spec.action.zeros(*rows)
        self.reward = np.zeros(rows, np.float32)
        self.cost = np.zeros(rows, np.float32)
        self.discount = np.zeros(rows, np.float32)
        self.mask = np.zeros(rows, np.bool_)
        self.log_prob = np.zeros(rows, np.float32)
        self.logits = np.zeros((*rows, spec.action.parameters), np.float32)
        self.state = np.zeros((1, lanes, state_size), np.float32)
        self._steps: dict[str, NDArray[Any]] = {
            "action": self.action,
            "reward": self.reward,
            "cost": self.cost,
            "discount": self.discount,
            "mask": self.mask,
            "log_prob": self.log_prob,
            "logits": self.logits,
        }
        self._columns = spec.observation.columns(self.observation) | self._steps
        if state_size:
            self._columns["state"] = self.state
        self.schema: common_pb2.Schema = schema_of(
            {name: column[:, 0] for name, column in self._columns.items()}, unroll_length, once=("state",)
        )
        layout = PayloadLayout(self.schema)
        self.payload_bytes = layout.payload_bytes(unroll_length)
        self._payloads = np.zeros((lanes, self.payload_bytes), np.uint8)
        self._views = layout.views(self._payloads, unroll_length)

    def clear_boundary(self, row: int, lanes: NDArray[np.bool_]) -> None:
        """Makes `row` a boundary row in `lanes` (bool [N])."""
        for column in self._steps.values():
            column[row, lanes] = 0

    def begin_next(self, state: NDArray[np.float32]) -> None:
        """The last observation becomes the first one of the next unroll, and `state` [N, S] what was kept before it."""
        self.observation[0] = self.observation[self.length]
        self.state[0] = state

    def payloads(self) -> list[bytes]:
        """The N encoded payloads.

        Raises:
          UnrollFault: a number is not finite, or a cost is negative.
        """
        for name, column in self._columns.items():
            if column.dtype.kind == "f" and not np.isfinite(column).all():
                self._fault(name, ~np.isfinite(column))
        if self.cost.min() < 0:
            self._fault("cost", self.cost < 0)
        for name, view in self._views.items():
            view[...] = self._columns[name].swapaxes(0, 1)
        return [encode_payload(payload.tobytes(), self.encoding) for payload in self._payloads]

    def _fault(self, name: str, wrong: NDArray[np.bool_]) -> None:
        place = tuple(np.argwhere(wrong)[0].tolist())
        value = self._columns[name][place]
        raise UnrollFault(
            f"{name} = {value} in row {place[0]} of lane {place[1]}: it must be finite"
            f"{' and not negative' if name == 'cost' else ''}; the unroll is not sent"
        )
