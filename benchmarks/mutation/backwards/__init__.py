"""Right, hand-written backwards: the design set, which the naming of causes may be tuned on."""
