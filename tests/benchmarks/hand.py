"""A clock for tests: nothing waits for it."""


class Hand:
    """A clock that is moved by hand, by the wall twice as far as by the processor."""

    def __init__(self):
        self.now = 0.0

    def move(self, seconds):
        self.now += seconds

    def processor(self):
        return self.now

    def wall(self):
        return 2 * self.now
