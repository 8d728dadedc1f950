"""A clock that tests set."""


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now
