"""Cross-validation folds in which the scans of one person stay together."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from neuralprep.errors import InputError
from neuralprep.export.cases import ExportCase


def assign_folds(cases: Sequence[ExportCase], folds: int = 5, seed: int = 0) -> dict[str, int]:
    """Fold that each training case validates.

    Folds that the cases name are used as they are. Otherwise subjects are shuffled by a hash of their names and dealt
    out, those with most cases first, to the fold that has the fewest cases: the answer depends on names and seed only,
    not on the order of the cases or the machine.

    Parameters
    ----------
    cases
        Training cases.
    folds
        How many to make, at least 2, or 0 for none; without effect if the cases name theirs.
    seed
        Another number, another shuffle.

    Returns
    -------
    dict of str to int
        Case to fold, in order of the cases; empty if there are to be none.

    Raises
    ------
    InputError
        Folds named for some cases only, an empty fold, a subject in two folds, or fewer subjects than folds.
    """
    given = {case.name: case.fold for case in cases if case.fold is not None}
    if given:
        return _checked(cases, given)
    if folds == 0:
        return {}
    members: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        members[case.subject].append(case.name)
    if len(members) < folds:
        raise InputError(f"{len(members)} subjects cannot make {folds} folds; give a smaller --folds (0: none)")
    filled: list[list[str]] = [[] for _ in range(folds)]
    for subject in sorted(members, key=lambda name: (-len(members[name]), _shuffled(name, seed))):
        min(filled, key=len).extend(members[subject])
    fold_of = {name: number for number, names in enumerate(filled) for name in names}
    return {case.name: fold_of[case.name] for case in cases}


def splits(fold_of: dict[str, int]) -> list[dict[str, list[str]]]:
    """Content of nnU-Net's ``splits_final.json``: for every fold the cases to train on and those to validate on."""
    names = sorted(fold_of)
    return [
        {
            "train": [name for name in names if fold_of[name] != fold],
            "val": [name for name in names if fold_of[name] == fold],
        }
        for fold in range(max(fold_of.values()) + 1)
    ]


def _shuffled(subject: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{subject}".encode()).hexdigest()


def _checked(cases: Sequence[ExportCase], given: dict[str, int]) -> dict[str, int]:
    missing = [case.name for case in cases if case.name not in given]
    if missing:
        raise InputError(f"case {missing[0]} has no fold, but others have; name a fold for all cases or for none")
    used = set(given.values())
    if used != set(range(max(used) + 1)) or len(used) < 2:
        raise InputError(f"the folds are {', '.join(map(str, sorted(used)))}; number two or more from 0 without a gap")
    fold_of_subject: dict[str, int] = {}
    for case in cases:
        fold = fold_of_subject.setdefault(case.subject, given[case.name])
        if fold != given[case.name]:
            raise InputError(f"subject {case.subject} is in the folds {fold} and {given[case.name]}; give it one fold")
    return given
