"""Settings of the replay service: durability, retention, windows, and its tables with their rate limiters.

Holds values, single bounds and their cross-checks only; what a limiter or a window does with them is in `limiter.py`
and `window.py`.

Exceptions: SettingError (replay.settings) and LimiterError (replay.limiter) from `check_config`.
"""

from __future__ import annotations

from dataclasses import dataclass

from protos.replay.v1 import replay_pb2
from replay.settings import SettingError, setting, validate
from replay.table_spec import TableSpecError, check_spec, limiter_of, parse_spec


@dataclass(frozen=True)
class ReplayConfig:
    """Settings of one replay service. The unit of size is the record: one unroll, or one whole episode."""

    store: str = setting(
        "lmdb",
        "where records are kept: lmdb (durable: acknowledged means synced to disk) or memory (lost at exit)",
        choices=("lmdb", "memory"),
    )
    shards: int = setting(
        1,
        "replay services of a run, each with a store of its own; actors are spread over them by name, and every limit "
        "below holds for each of them",
        low=1,
        high=64,
    )
    durability: str = setting(
        "sync",
        "what an acknowledgement promises: sync (on disk: no crash undoes it) or async (a crash of the machine may "
        "undo the commits of the last async_ms_max; a crash of the service undoes nothing; never corrupted)",
        choices=("sync", "async"),
    )
    async_ms_max: float = setting(
        200.0, "durability async: longest time until a commit is on disk (ms)", low=1.0, high=60_000.0
    )
    commit_records_max: int = setting(
        512, "records that make a group commit due at once, without waiting for commit_ms_max", low=1, high=100_000
    )
    commit_ms_max: float = setting(
        5.0, "longest time that an append waits for others to share its commit (ms)", low=0.0, high=1_000.0
    )
    records_max: int = setting(500_000, "records kept; beyond it the oldest are evicted", low=1)
    payload_bytes_max: int = setting(4 * 1024**3, "payload bytes kept; beyond it the oldest records are evicted", low=1)
    age_s_max: float = setting(0.0, "age up to which records are kept (s); 0: no bound", low=0.0)
    segment_bytes: int = setting(
        64 * 1024**2,
        "size of a segment of the log, a file of its own that is dropped whole (bytes); an eighth of payload_bytes_max "
        "where that is less",
        low=64 * 1024,
        high=2**34,
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
    list_streams_max: int = setting(64, "lists read at once, by curation and exports too; one more is refused", low=1)
    sample_batch_max: int = setting(4096, "largest batch that one sample request may ask for (records)", low=1)
    sample_bytes_max: int = setting(
        1024**3,
        "largest batch that one sample request may get (payload bytes), and about what is read ahead for one sample "
        "stream; a larger one is refused. For batches that travel: a sampler on the service's host reads its own",
        low=16 * 1024**2,
    )
    sample_seed: int = setting(0, "seed of the uniform table's draws", low=0)
    tables: tuple[str, ...] = setting(
        (),
        "further tables, each as 'KIND NAME key=value ...', e.g. 'prioritised per exponent=0.6', "
        "'stratified by-task by=task_id', 'curated good filter=signals.success==1'",
    )
    rules: tuple[str, ...] = setting(
        (), "curation rules that write signals about records soon after they arrive, e.g. violations, novelty"
    )
    rule_modules: tuple[str, ...] = setting((), "modules that register further rules, imported by the service")
    priorities_interval_s: float = setting(
        1.0, "time between two writings of changed priorities to disk; a crash loses the changes since", above=0.0
    )
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
        ("steps", "episodes", "return", "cost", "violating_episodes", "episode_steps", "lease.*", "release.*"),
        "header signals summed over all records ever appended; NAME* means all that begin with NAME (2,048 at most)",
    )


def check_config(config: ReplayConfig) -> None:
    """Checks every setting by itself and those that depend on each other. Raises SettingError, LimiterError."""
    validate(config, "replay.")
    for name in ("fresh_unconsumed_max", "uniform_min_size"):
        value = getattr(config, name)
        if value > config.records_max:
            raise SettingError(
                f"replay.{name} = {value} exceeds replay.records_max = {config.records_max}: "
                "records would be evicted before they could be drawn; raise records_max"
            )
    fresh, uniform, *others = table_specs(config)
    for spec in (fresh, uniform):
        limiter_of(spec)
    for spec in others:
        try:
            check_spec(spec)
        except TableSpecError as error:
            raise SettingError(f"replay.tables: {error}") from error


def table_specs(config: ReplayConfig) -> list[replay_pb2.TableSpec]:
    """What the service's tables are: fresh, uniform, and those of `tables`. Raises SettingError."""
    specs = [
        replay_pb2.TableSpec(name="fresh", kind="fresh", min_size=1, error_buffer=config.fresh_unconsumed_max),
        replay_pb2.TableSpec(
            name="uniform",
            kind="uniform",
            samples_per_insert=config.uniform_samples_per_insert,
            min_size=config.uniform_min_size,
            error_buffer=config.uniform_error_buffer,
        ),
    ]
    for text in config.tables:
        try:
            specs.append(parse_spec(text))
        except TableSpecError as error:
            raise SettingError(f"replay.tables: {error}") from error
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise SettingError(f"replay.tables names {name!r} more than once: a table could not be told by its name")
    return specs
