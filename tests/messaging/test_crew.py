"""Threads that send: when another one helps, and what they have in doubt together."""

from __future__ import annotations

import threading
import time

from messaging.crew import Crew


def test_one_alone_takes_all_and_two_take_half_each():
    crew = Crew(20)
    with crew.working(), crew.group(500) as alone:
        assert alone == 20
    with crew.working(), crew.working(), crew.group(500) as one, crew.group(500) as two:
        assert (one, two) == (10, 10)


def test_fewer_than_the_share_leave_room():
    crew = Crew(20)
    with crew.working(), crew.group(3) as size, crew.group(17) as rest:
        assert (size, rest) == (3, 17)


def test_however_many_are_at_work_no_more_than_agreed_are_in_doubt():
    crew, doubt, highest = Crew(20), [0], [0]
    lock = threading.Lock()

    def work() -> None:
        with crew.working():
            for _ in range(20):
                with crew.group(500) as size:
                    with lock:
                        doubt[0] += size
                        highest[0] = max(highest[0], doubt[0])
                    time.sleep(0.0005)
                    with lock:
                        doubt[0] -= size

    threads = [threading.Thread(target=work) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)

    assert not any(thread.is_alive() for thread in threads)
    assert 0 < highest[0] <= 20


def test_another_joins_where_the_provider_is_slow():
    crew = Crew(20)
    assert crew.join()
    crew.tell(at_provider=0.9, in_all=1.0)
    assert crew.join()


def test_another_is_sent_away_where_it_is_quick_and_the_first_looks_once_more():
    crew = Crew(20)
    assert crew.join()
    crew.tell(at_provider=0.1, in_all=1.0)
    assert not crew.join()
    assert (crew.is_called(), crew.is_called()) == (True, False)


def test_a_call_is_not_forgotten_by_who_leaves_before_its_time():
    crew = Crew(20)
    assert crew.join()
    assert not crew.join()
    assert crew.leave()
    assert crew.join()
