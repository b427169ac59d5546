"""Pieces of work side by side: in their order, each with one thread, and nothing of the process is left changed."""

import threading

import pytest
import torch

from bifocal.models.threads import in_threads


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param and torch.backends.mha.get_fastpath_enabled()
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_items(threads):
    meet, told = threading.Barrier(threads), []

    def work(item):
        meet.wait(10)  # as many run at once as there are threads
        return item * 10

    assert in_threads(work, [2, 0, 1], lambda *done: told.append(done)) == [20, 0, 10]
    assert told == [(1, 3), (2, 3), (3, 3)] and in_threads(work, []) == []


def test_a_piece_has_one_thread_and_its_own_pieces_run_one_after_another(threads):
    def work(_):
        names = in_threads(lambda _: threading.current_thread().name, range(3))
        return torch.get_num_threads(), {*names} == {threading.current_thread().name}

    assert in_threads(work, range(4)) == [(1, True)] * 4


def test_a_single_piece_has_all_threads(threads):
    assert in_threads(lambda _: torch.get_num_threads(), ["one"]) == [threads]


def test_an_error_of_a_piece_reaches_the_caller(threads):
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda item: 1 / item, [1, 0, 2])
