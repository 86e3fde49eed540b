"""Progress lines on an output that is not a terminal."""

import pytest

from penchant.service.cli.terminal import progress_lines


@pytest.fixture
def lines() -> list[str]:
    return []


def test_progress_prints_a_line_per_stage_and_per_half_minute(lines: list[str]) -> None:
    seconds = iter([0, 10, 29.9, 30, 59, 60, 61])
    report = progress_lines(lines.append, lambda: next(seconds))
    for done in (0, 1000, 2990, 3000, 5900, 6000):
        report("encode", done, 60_000)
    report("fit", 1, 0)
    assert lines == [
        "encode (60,000)",
        "encode: 3,000 of 60,000, 10 min left",
        "encode: 6,000 of 60,000, 9 min left",
        "fit",
    ]


def test_work_of_an_earlier_run_does_not_count_towards_the_speed(lines: list[str]) -> None:
    seconds = iter([0, 40])
    report = progress_lines(lines.append, lambda: next(seconds))
    report("encode", 9_000, 10_000)
    report("encode", 9_500, 10_000)
    assert lines[-1] == "encode: 9,500 of 10,000, 40 s left"


@pytest.mark.parametrize(
    ("done", "total", "line"),
    [
        (1, 1_000_000, "fit: 1 of 1,000,000, 8333.3 h left"),
        (0, 10, "fit: 0 of 10"),
        (2_000_000, 0, "fit: 2,000,000"),
    ],
)
def test_remaining_time_is_formatted(lines: list[str], done: int, total: int, line: str) -> None:
    seconds = iter([0, 30])
    report = progress_lines(lines.append, lambda: next(seconds))
    report("fit", 0, total)
    report("fit", done, total)
    assert lines[-1] == line


def test_a_repeated_stage_prints_its_line_again(lines: list[str]) -> None:
    report = progress_lines(lines.append, lambda: 0.0)
    for stage in ("a", "b", "a"):
        report(stage, 1, 2)
    assert lines == ["a (2)", "b (2)", "a (2)"]
