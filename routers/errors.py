"""The one exception for bad input: its message is the single line a person reads."""


class InputError(ValueError):
    """Bad input: says what was wrong, where, and what to do. The command exits with code 2.

    >>> raise InputError("records.parquet: no column 'quality'; add it as float in [0, 1]")
    Traceback (most recent call last):
    ...
    routers.errors.InputError: records.parquet: no column 'quality'; add it as float in [0, 1]
    """


def did_you_mean(name: str, known: list[str]) -> str:
    """A hint that names the nearest known word, or lists them all.

    >>> did_you_mean("chow_avrage", ["chow_average", "random"])
    "did you mean 'chow_average'? Known: chow_average, random"
    >>> did_you_mean("xyz", ["a", "b"])
    'Known: a, b'
    """
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}Known: {', '.join(known)}"
