"""Names of BIDS files: entities in front, a suffix at the end."""

from __future__ import annotations

#: short key and long name (as filter files write it) of the entities that an anatomical image can have
ENTITIES = {
    "sub": "subject", "ses": "session", "sample": "sample", "acq": "acquisition", "ce": "ceagent",
    "rec": "reconstruction", "run": "run", "mod": "modality", "echo": "echo", "flip": "flip", "inv": "inv",
    "mt": "mt", "part": "part", "chunk": "chunk",
}  # fmt: skip
#: entities whose values are numbers: ``run-1`` and ``run-01`` are the same run
NUMBERED = frozenset({"run", "echo", "flip", "inv", "chunk"})


def split_name(stem: str) -> tuple[dict[str, str], str]:
    """Entities and suffix of a file name without its extension.

    Parameters
    ----------
    stem : str
        E.g. ``"sub-01_ses-2_T1w"``. A part that is no ``key-value`` and is not the last makes it no BIDS name.

    Returns
    -------
    entities : dict of str to str
        Short key -> value, in the order of the name; empty when the name is none of BIDS.
    suffix : str
        Last part; "" when the name is none of BIDS or ends in an entity.

    Examples
    --------
    >>> split_name("sub-01_ses-2_run-1_T1w")
    ({'sub': '01', 'ses': '2', 'run': '1'}, 'T1w')
    >>> split_name("my_scan")
    ({}, '')
    """
    *parts, suffix = stem.split("_")
    if "-" in suffix:
        parts, suffix = [*parts, suffix], ""
    entities: dict[str, str] = {}
    for part in parts:
        key, dash, value = part.partition("-")
        if not dash or not key or not value or key in entities:
            return {}, ""
        entities[key] = value
    return entities, suffix


def same_value(key: str, first: str, second: str) -> bool:
    """Whether two values of an entity mean the same."""
    if key in NUMBERED and first.isdigit() and second.isdigit():
        return int(first) == int(second)
    return first == second
