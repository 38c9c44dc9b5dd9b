"""When looks come: on their grid, within their allowance, the last at the end."""

from __future__ import annotations

import pytest

from pipeline.monitor.schedule import Next, Schedule, Spent


def looks_of(schedule: Schedule, step_seconds: float, short: float, long: float) -> tuple[list[Next], Spent]:
    """All looks of a training whose looks take so long."""
    spent, now = Spent(), Next(0, long=True)
    looks: list[Next] = []
    while True:
        looks.append(now)
        spent.add(long if now.long else short, now.long)
        following = schedule.following(now.step, step_seconds, spent)
        if following is None:
            return looks, spent
        assert following.step > now.step
        now = following


@pytest.mark.parametrize("long", [0.5, 3.0, 12.0, 60.0])
def test_looks_stay_within_their_share_of_the_time(long: float) -> None:
    schedule = Schedule(steps=10_000, grid=32, minutes=0.0, max_cost=0.02)
    looks, spent = looks_of(schedule, 0.5, long / 20, long)
    assert spent.whole <= max(100, 2 * long + 25), "the first and the last look come in any case"
    assert len({look.step for look in looks}) == len(looks)
    assert all(look.step % 32 == 0 or look.step == 10_000 for look in looks)
    assert [look.step for look in looks if look.long][-1] == 10_000


def test_the_last_long_look_shows_the_end() -> None:
    looks, _ = looks_of(Schedule(steps=768, grid=32, minutes=0.0, max_cost=0.02), 0.3, 0.05, 0.9)
    assert [look.step for look in looks if look.long][-1] == 768
    assert sum(not look.long for look in looks) > 10


def test_cheap_looks_come_at_each_place_of_the_grid() -> None:
    looks, _ = looks_of(Schedule(steps=300, grid=100, minutes=0.0, max_cost=0.5), 1.0, 0.001, 0.01)
    assert looks == [Next(step, long=True) for step in (0, 100, 200, 300)]


def test_a_cost_without_a_bound_makes_looks_a_function_of_the_step_alone() -> None:
    schedule = Schedule(steps=70, grid=20, minutes=0.0, max_cost=1.0)
    for seconds in (0.0, 1e-6, 1e3):
        looks, _ = looks_of(schedule, seconds, 1e9, 1e9)
        assert looks == [Next(step, long=True) for step in (0, 20, 40, 60, 70)]


def test_minutes_become_steps_by_the_measured_rate() -> None:
    schedule = Schedule(steps=1000, grid=None, minutes=2.0, max_cost=0.5)
    assert schedule.following(120, 1.0, Spent(0.1, 0.1, 0.1, 0.1)) == Next(240, long=True)


def test_where_there_is_room_for_no_other_the_last_one_comes() -> None:
    spent, schedule = Spent(short=50.0, long=50.0, last_short=50.0, last_long=50.0), Schedule(100, 10, 0.0, 0.02)
    assert schedule.following(10, 0.1, spent) == Next(100, long=True)
    assert schedule.following(100, 0.1, spent) is None
