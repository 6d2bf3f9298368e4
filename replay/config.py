"""Settings of the replay service: durability, retention, windows, and the rate limiters of its two tables.

Holds values, single bounds and their cross-checks only; what a limiter or a window does with them is in `limiter.py`
and `window.py`.

Exceptions: SettingError (see replay.settings) from `check_config`.
"""

from __future__ import annotations

from dataclasses import dataclass

from replay.settings import SettingError, setting, validate


@dataclass(frozen=True)
class ReplayConfig:
    """Settings of one replay service. The unit of size is the record: one unroll, or one whole episode."""

    store: str = setting(
        "lmdb",
        "where records are kept: lmdb (durable: acknowledged means synced to disk) or memory (lost at exit)",
        choices=("lmdb", "memory"),
    )
    commit_records_max: int = setting(
        512, "records that make a group commit due at once, without waiting for commit_ms_max", low=1, high=100_000
    )
    commit_ms_max: float = setting(
        5.0, "longest time that an append waits for others to share its commit (ms)", low=0.0, high=1_000.0
    )
    records_max: int = setting(500_000, "records kept; beyond it the oldest are evicted", low=1)
    payload_bytes_max: int = setting(4 * 1024**3, "payload bytes kept; beyond it the oldest records are evicted", low=1)
    map_bytes: int = setting(
        64 * 1024**3,
        "address space reserved for the LMDB file, which can never outgrow it (bytes); not memory, not disk",
        low=1024**2,
        high=64 * 1024**4,
    )
    window_records: int = setting(
        1024, "most unacknowledged records that one append stream may have on the way", low=1, high=1_000_000
    )
    window_bytes: int = setting(
        8 * 1024**2, "most unacknowledged payload bytes that one append stream may have on the way", low=1, high=2**40
    )
    pending_bytes_max: int = setting(
        256 * 1024**2, "most bytes of records waiting for a commit over all append streams together", low=1
    )
    append_streams_max: int = setting(1024, "append streams open at once; one more is refused", low=1)
    sample_streams_max: int = setting(64, "sample streams open at once; one more is refused", low=1)
    sample_batch_max: int = setting(4096, "largest batch that one sample request may ask for (records)", low=1)
    sample_seed: int = setting(0, "seed of the uniform table's draws", low=0)
    fresh_unconsumed_max: int = setting(
        128, "limiter of fresh: appends are held while this many records wait; more of them is more policy lag", low=1
    )
    uniform_min_size: int = setting(1, "limiter of uniform: records in the store before the first draw", low=1)
    uniform_samples_per_insert: float = setting(
        0.0, "limiter of uniform: draws per appended record to keep to; 0 for no limit", low=0.0
    )
    uniform_error_buffer: float = setting(
        1024.0,
        "limiter of uniform: how far draws and appends may run ahead of samples_per_insert, either way (draws)",
        above=0.0,
    )
    signal_totals: tuple[str, ...] = setting(
        ("steps", "episodes", "return", "cost", "violating_episodes", "episode_steps"),
        "header signals summed over all records ever appended",
    )


def check_config(config: ReplayConfig) -> None:
    """Checks every setting by itself and those that depend on each other; raises SettingError."""
    validate(config, "replay.")
    for name in ("fresh_unconsumed_max", "uniform_min_size"):
        value = getattr(config, name)
        if value > config.records_max:
            raise SettingError(
                f"replay.{name} = {value} exceeds replay.records_max = {config.records_max}: "
                "records would be evicted before they could be drawn; raise records_max"
            )
    if config.store == "lmdb" and config.map_bytes < 2 * config.payload_bytes_max:
        raise SettingError(
            f"replay.map_bytes = {config.map_bytes} is less than twice replay.payload_bytes_max = "
            f"{config.payload_bytes_max}: the file would be full before anything is evicted; raise map_bytes"
        )
