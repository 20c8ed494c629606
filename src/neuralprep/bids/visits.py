"""Visits: images of one participant that belong together.

``contrasts``: all images of one session. ``longitudinal``: the reference images of all sessions of one participant.

The *reference* of a session is told by names alone, so it is known before any image is read: a T1w if there is one,
else UNIT1, T2w, FLAIR, PDw, T2starw and the rest in the order of `neuralprep.bids.dataset.SUFFIXES`; of several images
of that contrast those without contrast agent (``ce-``) first, then the first by name, numbers counted as such. Every
run, acquisition and echo is an image of its own: none is chosen for another, none is averaged with another within a
session.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuralprep.bids.dataset import SUFFIXES
from neuralprep.bids.derivatives import VISITS
from neuralprep.bids.entities import split_name
from neuralprep.bids.layout import bids_folder

CONTRASTS, LONGITUDINAL = VISITS
_BEST = ("T1w", "UNIT1")
_ORDER = (*_BEST, *(suffix for suffix in SUFFIXES if suffix not in _BEST))
_SHOWN = 5
_NUMBER = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Visit:
    """Images that are brought together.

    Attributes
    ----------
    name : str
        Like that of a scan: ``sub-01_ses-1_contrasts``, ``sub-01_longitudinal``.
    members : tuple of str
        Names of the scans, two or more. Of contrasts the reference comes first; of sessions one for each, in their
        order.
    doubts : tuple of str
        What is amiss with the choice, in words.
    """

    name: str
    members: tuple[str, ...]
    doubts: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What is brought together."""
        return self.name.rpartition("_")[2]

    @property
    def folder(self) -> str:
        """Where its record lies below the output folder."""
        return bids_folder(self.name)


def reference_order(name: str) -> tuple[int, bool, list[str | int]]:
    """Sort key of the images of a session; the first is the reference.

    Examples
    --------
    >>> sorted(["sub-1_T2w", "sub-1_run-10_T1w", "sub-1_ce-gd_T1w", "sub-1_run-2_T1w"], key=reference_order)
    ['sub-1_run-2_T1w', 'sub-1_run-10_T1w', 'sub-1_ce-gd_T1w', 'sub-1_T2w']
    """
    entities, suffix = split_name(name)
    rank = _ORDER.index(suffix) if suffix in _ORDER else len(_ORDER)
    parts = [int(part) if part.isdigit() else part for part in _NUMBER.split(name)]
    return rank, "ce" in entities, parts


def find_visits(
    names: Iterable[str], failed: Collection[str], kinds: Collection[str]
) -> tuple[list[Visit], list[str]]:
    """Visits among the images of a data set.

    Parameters
    ----------
    names : iterable of str
        Of scans.
    failed : collection of str
        Those of them that cannot be used.
    kinds : collection of str
        Of `neuralprep.bids.derivatives.VISITS`.

    Returns
    -------
    visits : list of Visit
    messages : list of str
        Which sessions and participants have only one image that can be used, so that nothing is done.
    """
    sessions: dict[tuple[str, str], list[str]] = {}
    for name in sorted(names, key=reference_order):
        entities, _ = split_name(name)
        sessions.setdefault((entities["sub"], entities.get("ses", "")), []).append(name)
    subjects: dict[str, list[list[str]]] = {}
    for (subject, _), own in sorted(sessions.items()):
        subjects.setdefault(subject, []).append(own)
    visits, messages = [], []
    if CONTRASTS in kinds:
        made = {_prefix(*key): _contrasts(_prefix(*key), own, failed) for key, own in sorted(sessions.items())}
        visits += [visit for visit in made.values() if visit]
        messages += _alone(made, "of their images can be used, so there are no contrasts to bring together")
    if LONGITUDINAL in kinds:
        made = {_prefix(subject): _longitudinal(subject, own, failed) for subject, own in subjects.items()}
        visits += [visit for visit in made.values() if visit]
        messages += _alone(made, "session has an image that can be used, so there is no middle of sessions")
    return visits, messages


def _prefix(subject: str, session: str = "") -> str:
    return f"sub-{subject}_ses-{session}" if session else f"sub-{subject}"


def _contrasts(prefix: str, names: Sequence[str], failed: Collection[str]) -> Visit | None:
    """The images of a session that can be used; None where there is one at most."""
    kept = tuple(name for name in names if name not in failed)
    gone = [f"left out {name}, which failed" for name in names if name in failed]
    return Visit(f"{prefix}_{CONTRASTS}", kept, tuple(gone)) if len(kept) > 1 else None


def _longitudinal(subject: str, sessions: Iterable[Sequence[str]], failed: Collection[str]) -> Visit | None:
    """The first image of each session that can be used."""
    chosen, gone = [], []
    for names in sessions:
        usable = [name for name in names if name not in failed]
        chosen += usable[:1]
        before = names if not usable else names[: names.index(usable[0])]
        gone += [f"left out {name}, which failed" for name in before]
    if len(chosen) < 2:
        return None
    contrasts = dict.fromkeys(split_name(name)[1] for name in chosen)
    if len(contrasts) > 1:
        gone.append(f"the sessions' reference images have different contrasts: {', '.join(contrasts)}")
    return Visit(f"{_prefix(subject)}_{LONGITUDINAL}", tuple(chosen), tuple(gone))


def _alone(made: Mapping[str, Visit | None], why: str) -> list[str]:
    """A message on what has no visit."""
    names = [name for name, visit in made.items() if visit is None]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{', '.join(names[:_SHOWN])}{more}: at most one {why}"] if names else []


def methods(contents: Iterable[Mapping[str, Any]]) -> str:
    """Text for a methods section on the finished visits of an output folder; "" without any.

    Parameters
    ----------
    contents : iterable of mapping
        Their records.
    """
    done: dict[tuple[str, str, bool, bool], int] = {}
    for content in contents:
        used = content.get("settings", {})
        key = (str(content.get("visit")), str(used.get("space")), bool(used.get("strip")), bool(used.get("register")))
        done[key] = done.get(key, 0) + 1
    texts = []
    for (kind, space, strip, register), count in sorted(done.items()):
        whose = _counted(count, "session" if kind == CONTRASTS else "participant")
        if kind == LONGITUDINAL:
            texts.append(
                f"The reference images of all sessions of {whose} were aligned rigidly in their unbiased mid-space, in "
                "which the mean of their transforms is the identity, and averaged there. Each image was interpolated "
                "once from its original."
            )
            continue
        template = f", and the reference image, a T1w where there was one, to {space} by an affine" if register else ""
        mask = " One brain mask, the median of the surfaces that they show, served all of them." if strip else ""
        texts.append(
            f"All images of {whose} were aligned rigidly with one another, by keypoints and then by the correlation "
            f"ratio{template}. Each image was interpolated once from its original.{mask}"
        )
    return "".join(f"\n{text}\n" for text in ("## Visits", *texts)) if texts else ""


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
