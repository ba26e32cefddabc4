"""The losses of other libraries that stand beside ours: one file for each family.

Each file defines ``PEERS``, a tuple of :class:`benchmarks.catalogue.peer.Peer`.
"""
