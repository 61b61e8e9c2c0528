from profiles.measuring.throttling import (
    CpuReading,
    count_busy_ticks,
    find_other_fraction,
    read_cpu_time,
)

STAT = """cpu  999 999 999 999 999 999 999 999 0 0
cpu0 10 1 2 1000 500 3 4 5 7 0
cpu1 20 0 0 2000 0 0 0 0 0 0
cpu12 40 0 0 0 0 0 0 0 0 0
intr 12345
"""


def reading(busy: float, own: float, elapsed: float) -> CpuReading:
    return CpuReading(busy_seconds=busy, own_seconds=own, elapsed_seconds=elapsed)


def test_busy_is_all_but_idle_of_the_allowed_cpus() -> None:
    assert count_busy_ticks(STAT, {0}) == 10 + 1 + 2 + 3 + 4 + 5
    assert count_busy_ticks(STAT, {0, 1}) == 25 + 20
    assert count_busy_ticks(STAT, {1, 12}) == 20 + 40


def test_others_took_what_is_busy_and_not_ours() -> None:
    # Two CPUs for 10 s: 15 s busy, of which 12 s ours.
    assert find_other_fraction(reading(100, 5, 40), reading(115, 17, 60)) == 0.15


def test_ticks_that_lag_behind_are_not_negative_work() -> None:
    assert find_other_fraction(reading(0, 0, 0), reading(9.99, 10, 20)) == 0.0


def test_unknown_is_said_and_not_guessed() -> None:
    assert find_other_fraction(None, reading(1, 1, 1)) is None
    assert find_other_fraction(reading(1, 1, 1), None) is None
    # A sandbox with counters that stand still.
    assert find_other_fraction(reading(0, 0, 0), reading(0, 8, 20)) is None


def test_this_machine_is_read() -> None:
    before = read_cpu_time()
    sum(range(2_000_000))
    after = read_cpu_time()
    assert before is not None and after is not None
    assert after.own_seconds > before.own_seconds
    assert after.busy_seconds >= before.busy_seconds > 0
