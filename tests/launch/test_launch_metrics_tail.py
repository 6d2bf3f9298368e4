"""Following a file of JSON lines that somebody else writes."""

from __future__ import annotations

from pathlib import Path

from launch.metrics_tail import MetricsTail, read_all


def test_each_complete_line_comes_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    assert tail.read() == []
    path.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert tail.read() == [{"a": 1}, {"a": 2}]
    assert tail.read() == []
    with path.open("a") as file:
        file.write(": 3}\n")
    assert tail.read() == [{"a": 3}]


def test_from_the_end_passes_over_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n')
    tail = MetricsTail(path, from_end=True)
    with path.open("a") as file:
        file.write('{"a": 2}\n')
    assert tail.read() == [{"a": 2}]


def test_from_the_end_of_no_file_is_its_start(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path, from_end=True)
    path.write_text('{"a": 1}\n')
    assert tail.read() == [{"a": 1}]


def test_what_is_no_object_is_counted_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"a": 1}\nnonsense\n[1]\n\xff\n{"a": 2}\n')
    tail = MetricsTail(path)
    assert tail.read() == [{"a": 1}, {"a": 2}]
    assert tail.unreadable_lines == 3


def test_read_all_takes_files_larger_than_one_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    line = '{"a": "' + "x" * 1000 + '"}\n'
    path.write_text(line * 6000)
    assert len(read_all(path)) == 6000
