"""The classes of a segmentation task: names, numbers, regions, and the map from a study's own label numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuralprep.errors import InputError

#: nnU-Net's name of voxels that do not count in training
IGNORE = "ignore"


@dataclass(frozen=True)
class Classes:
    """Classes as nnU-Net wants them: whole numbers 1, 2, 3, ... without a gap, 0 is the background.

    Attributes
    ----------
    members
        Name to label numbers; a name with several numbers is a region.
    mapping
        Label number of the study to number here; None leaves the numbers as they are.
    order
        For regions: the number that each region writes, later ones over earlier ones.
    """

    members: Mapping[str, tuple[int, ...]]
    mapping: Mapping[int, int] | None = None
    order: tuple[int, ...] | None = None

    def json(self) -> dict[str, Any]:
        """The entries ``labels`` and ``regions_class_order`` of ``dataset.json``."""
        labels: dict[str, int | list[int]] = {"background": 0}
        labels |= {name: numbers[0] if len(numbers) == 1 else list(numbers) for name, numbers in self.members.items()}
        return {"labels": labels} | ({"regions_class_order": list(self.order)} if self.order else {})

    def mapped(self, labels: NDArray[np.integer]) -> NDArray[np.integer]:
        """A label array with the numbers of the data set; numbers the map does not know must not occur."""
        return labels if self.mapping is None else _looked_up(labels, self.mapping)

    def unmapped(self, labels: NDArray[np.integer]) -> NDArray[np.integer]:
        """A label array with the numbers of the study again; where several became one, the lowest of them."""
        if self.mapping is None:
            return labels
        back = {target: source for source, target in sorted(self.mapping.items(), reverse=True)}
        return _looked_up(labels, {**back, 0: 0})


def make_classes(
    found: Sequence[int],
    named: Mapping[str, Sequence[int]] | None = None,
    mapping: Mapping[int, int] | None = None,
) -> Classes:
    """Classes of label maps, or what is wrong with them.

    Parameters
    ----------
    found
        Label numbers that occur in the label maps.
    named
        Names of numbers *after* the map; names with several numbers make a task of nested regions. None calls them
        label1, label2, ...
    mapping
        Numbers of the study to numbers of the data set; 0 drops a label.

    Raises
    ------
    InputError
        Numbers with gaps (a map that closes them is offered), numbers without a name or outside the map, regions that
        are not nested, or an ignore label that is not the last.
    """
    present = sorted(set(found) - {0})
    if mapping is not None:
        unknown = [number for number in present if number not in mapping]
        if unknown:
            raise InputError(f"the label map says nothing of label {unknown[0]}; add {unknown[0]}=NUMBER (0 drops it)")
        present = sorted({mapping[number] for number in present} - {0})
    if not present and not named:
        raise InputError("no label map holds a label, every voxel is 0")
    members = {name: tuple(numbers) for name, numbers in (named or {f"label{n}": (n,) for n in present}).items()}
    declared = sorted({number for numbers in members.values() for number in numbers})
    nameless = [number for number in present if number not in declared]
    if nameless:
        raise InputError(f"label {nameless[0]} has no name; add NAME={nameless[0]} to --classes")
    if declared != list(range(1, len(declared) + 1)):
        offer = ";".join(f"{number}={place}" for place, number in enumerate(declared, start=1))
        hint = "" if named is None else " (and number --classes by the right-hand sides)"
        raise InputError(
            f"the labels {', '.join(map(str, declared))} are not 1, 2, 3, ... without a gap, as nnU-Net needs them; "
            f'give --label-map "{offer}"{hint}'
        )
    if "background" in members:
        raise InputError("the background is always 0; leave it out of --classes")
    ignored = members.get(IGNORE, (declared[-1],))
    if ignored != (declared[-1],):
        raise InputError(f"the class {IGNORE!r} must be the single highest label, {declared[-1]}; it is {ignored}")
    return Classes(members, dict(mapping) if mapping is not None else None, _region_order(members))


def parse_map(text: str) -> dict[int, int]:
    """Label map from text: ``"1=1;2=2;4=3"`` -> ``{1: 1, 2: 2, 4: 3}``.

    Raises
    ------
    InputError
        Malformed, or a label mapped twice.
    """
    mapping: dict[int, int] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        source, _, target = (piece.strip() for piece in part.partition("="))
        if not (source.isdecimal() and target.isdecimal()) or int(source) == 0:
            raise InputError(f"{part!r} is no entry of a label map; write FROM=TO with whole numbers, FROM above 0")
        if int(source) in mapping:
            raise InputError(f"label {source} is mapped twice in {text!r}; map it once")
        mapping[int(source)] = int(target)
    if not mapping:
        raise InputError("the label map is empty; write FROM=TO;FROM=TO")
    return mapping


def _region_order(members: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """Number that each region writes over those before it: the one that no later region holds.

    nnU-Net turns overlapping regions back into one label map by writing a number per region in their order, so each
    region must be one number more than the later regions in it.
    """
    regions = {name: set(numbers) for name, numbers in members.items() if name != IGNORE}
    if all(len(numbers) == 1 for numbers in regions.values()):
        return None
    order = []
    names = list(regions)
    for place, name in enumerate(names):
        later = [regions[other] for other in names[place + 1 :]]
        own = regions[name] - set().union(*(numbers for numbers in later if numbers <= regions[name]))
        crossing = [other for other in later if other & regions[name] and not other <= regions[name]]
        if crossing or len(own) != 1:
            raise InputError(
                f"region {name} cannot be told from the others: list regions from the largest to the smallest, each "
                "holding one label more than the regions within it, e.g. WT=1,2,3;TC=1,3;ET=3"
            )
        order.append(own.pop())
    return tuple(order)


def _looked_up(labels: NDArray[np.integer], mapping: Mapping[int, int]) -> NDArray[np.integer]:
    table = np.zeros(max(int(labels.max()), *mapping) + 1, np.int32)
    table[list(mapping)] = list(mapping.values())
    return table[labels]
