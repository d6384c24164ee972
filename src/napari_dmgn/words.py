"""Values as error messages show them."""

__all__ = ["brief"]

_LONGEST = 100


def brief(value: object) -> str:
    """Return a value's repr in one line, shortened: arrays have many."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
