"""A change wakes everybody who waits, once; a wait shows that it lasts, and ends at once when it is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from replay.change import Change


def test_a_change_wakes_all_who_wait_and_none_who_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.change._WAIT_SHOWN_S", 60.0)

    async def scenario() -> None:
        change = Change()
        change.notify()  # nobody waits
        waiting = [asyncio.create_task(change.wait()) for _ in range(3)]
        await asyncio.sleep(0.02)
        assert not any(task.done() for task in waiting)
        change.notify()
        later = asyncio.create_task(change.wait())
        waited_s = await asyncio.wait_for(asyncio.gather(*waiting), 5.0)
        assert all(0.01 < each < 5.0 for each in waited_s)
        await asyncio.sleep(0.02)
        assert not later.done()
        change.notify()
        await asyncio.wait_for(later, 5.0)

    asyncio.run(scenario())


def test_a_wait_ends_now_and_then_so_that_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.change._WAIT_SHOWN_S", 0.05)
    assert 0.04 < asyncio.run(asyncio.wait_for(Change().wait(), 5.0)) < 5.0


@pytest.mark.parametrize("moment", range(4))
def test_a_cancelled_wait_ends_although_the_change_comes_at_that_moment(moment: int) -> None:
    async def scenario() -> None:
        change = Change()
        waiting = asyncio.create_task(change.wait())
        await asyncio.sleep(0)
        change.notify()
        for _ in range(moment):
            await asyncio.sleep(0)
        ended = waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting], timeout=5.0)
        assert waiting.cancelled() != ended

    asyncio.run(scenario())
