"""Which known loss a loss claims to be, and whether it is that loss.

The user has no reference; the literature does. A ``KnownLoss`` holds a loss as its terms, written
in float64 from the paper. Other packages add theirs with ``likeness.known.register``.
"""
