from threading import Thread

import torch

from lossproof.terms.workspace import Workspace, loan

CPU = torch.device("cpu")


def taken(workspace, *shape, dtype=torch.float32):
    return workspace.take(shape, dtype, CPU)


def test_memory_is_handed_on_in_another_shape():
    workspace = Workspace()
    buffer = taken(workspace, 2, 6)
    place = buffer.data_ptr()
    workspace.give_back([buffer])
    assert taken(workspace, 3, 5).data_ptr() != place
    assert taken(workspace, 12, dtype=torch.float64).data_ptr() != place
    again = taken(workspace, 3, 4)
    assert again.shape == (3, 4)
    assert again.data_ptr() == place
    assert taken(workspace, 3, 4).data_ptr() != place  # it is given once


def test_what_a_step_does_not_want_is_forgotten():
    workspace = Workspace()
    buffer = taken(workspace, 5)
    workspace.give_back([buffer])
    workspace.begin()
    assert workspace._unwanted[5, torch.float32]
    workspace.begin()
    assert workspace._unwanted == {}
    assert workspace._free == {}


def test_nothing_is_shared_that_was_not_given_back():
    workspace = Workspace()
    buffers = [taken(workspace, 8) for _ in range(4)]
    assert len({buffer.data_ptr() for buffer in buffers}) == 4


def test_accelerators_keep_their_own_memory():
    workspace = Workspace()
    buffer = workspace.take((3,), torch.float32, torch.device("meta"))
    workspace.give_back([buffer])
    assert workspace._free == {}


def test_a_loan_is_noted_and_a_gift_is_not():
    noted = []
    like = torch.zeros(1, dtype=torch.float64)
    assert loan(None, noted)((2, 3), like).shape == (2, 3)
    assert noted == []
    buffer = loan(Workspace(), noted)((2, 3), like)
    assert buffer.dtype == torch.float64
    assert len(noted) == 1
    assert noted[0] is buffer


def test_threads_never_get_the_same_memory():
    workspace, wrong = Workspace(), []

    def work(number):
        for _ in range(300):
            workspace.begin()
            buffer = taken(workspace, 64)
            buffer.fill_(number)
            workspace.begin()
            if not bool((buffer == number).all()):
                wrong.append(number)
            workspace.give_back([buffer])

    threads = [Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
