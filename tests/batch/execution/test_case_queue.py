"""The queue of cases: turns follow what was read, and a suspect is run by itself."""

from __future__ import annotations

from medvit_batch.execution.case_queue import Turns, was_interrupted


def test_turns_follow_what_was_read():
    turns = Turns([1, 2, 3, 4])
    assert list(turns.coming({})) == [1, 2, 3, 4]
    assert turns.pick({}) == 1
    assert list(turns.coming({2: False})) == [3, 4]
    assert turns.pick({2: False}) == 3  # somebody else has read 2 and is at work
    assert turns.pick({4: True, 2: False}) == 4  # its reader is free
    assert turns.pick({2: False}) == 2  # rather than nothing
    assert not turns
    turns.again(3)
    assert turns.suspect(3, frozenset({5}))
    assert turns.alone == {3, 5}
    assert not turns.suspect(3, frozenset({5}))
    assert not turns.suspect(9, frozenset())
    assert list(turns.coming({})) == []
    assert was_interrupted({"tries": 1, "interrupted": 0})
    assert was_interrupted({"tries": 0, "interrupted": 1})
    assert not was_interrupted({"tries": 0, "interrupted": 0})
