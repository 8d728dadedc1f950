"""Change settings by their dotted names."""

import dataclasses


def changed(config, dotted, value):
    """`config` with one setting replaced, past the parser, so that `validate` alone is asked."""
    head, _, rest = dotted.partition(".")
    inner = changed(getattr(config, head), rest, value) if rest else value
    return dataclasses.replace(config, **{head: inner})
