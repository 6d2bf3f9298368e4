"""The rule `novelty`: how new a record's states are, by counting hashed states.

Tang et al., "#Exploration: A Study of Count-Based Exploration for Deep RL" (arXiv 1611.04717): a state s has the code
phi(s) = sign(A s), and its bonus is n(phi(s))^(-1/2), n being how often that code has come. Here n is 1 plus how often
it came in earlier records, and a record's novelty the mean over its steps: 1 for states never seen, towards 0 for
states seen over and over.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from replay.curation.context import CurationContext
from replay.curation.rules import rule
from replay.record import LoggedRecord


@rule("novelty", signals=("novelty",), needs_payload=True, parameters={"bits": 32.0})
def novelty(record: LoggedRecord, context: CurationContext) -> Mapping[str, float]:
    """Mean over the steps of 1 / sqrt(1 + earlier visits), states told apart by a SimHash of `bits` bits, in (0, 1].

    States of different environments are counted apart.
    """
    columns, steps = record.step_columns, record.header.steps
    observed = [column[:steps] for name, column in columns.items() if name.startswith("observation")]
    mask = columns.get("mask", np.ones(steps, np.bool_))
    if not observed or not mask.any():
        return {}
    states = np.concatenate([column[mask].reshape(int(mask.sum()), -1) for column in observed], axis=1)
    codes = context.simhash(states, int(context.parameter("bits")))
    visits = context.visits(codes, record.origin.environment.code_digest)
    return {"novelty": float(np.mean(1.0 / np.sqrt(1.0 + visits)))}
