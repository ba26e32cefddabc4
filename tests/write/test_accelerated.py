"""What all accelerated losses have in common."""

import pytest
import torch

from lossproof.write.accelerated import Accelerated


class Doubled(Accelerated):
    def forward(self, input):
        return 2 * self.plain(input)

    def plain(self, input):
        return input.sum()


def test_replicas_of_data_parallel_are_refused_in_words():
    with pytest.raises(TypeError, match=r"`nn.DataParallel` cannot replicate a Doubled"):
        torch.nn.Sequential(Doubled())[0]._replicate_for_data_parallel()


def test_parts_are_cut_where_a_loss_has_any():
    loss = Doubled()
    loss.cut(3)
    assert not hasattr(loss, "chunk_size")
    loss.chunk_size = None
    loss.cut(3)
    assert loss.chunk_size == 3
