"""Records: every parameter of a sample, as plain data that survives JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from neuralprep.errors import InputError
from neuralprep.synthesis.classes import CLASSES, INDEX
from neuralprep.synthesis.contrast import SOFT_BINS, table_size
from neuralprep.synthesis.spatial import Pose

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Mass:
    """A focal lesion: an irregular ball inside the skull, in layers, that may push the brain aside.

    The centre is ``center_mm`` (template mm), or lies ``depth_mm`` below the inner skull on the ray from the brain's
    centre along ``direction`` (head axes): a small depth makes an extra-axial mass. Lengths are head mm.

    ``push`` is the share of its volume that displaces the brain (0 replaces tissue, 1 only displaces). A core fills the
    inner ``core`` of the radius; a rim is ``rim_mm`` thick; oedema changes the white matter up to ``oedema_mm`` away.
    A ``fluid`` mass is a cavity: it counts as fluid and does not extend the tissue surface; any other counts as
    lesion and as tissue. ``kind`` only names it.
    """

    kind: str = "region"
    center_mm: Triple | None = None
    direction: Triple = (0.0, 0.0, 1.0)
    depth_mm: float = 30.0
    radius_mm: float = 12.0
    roughness: float = 0.3
    push: float = 0.0
    fluid: bool = False
    intensity: float = 0.5
    core: float = 0.0
    core_intensity: float = 0.0
    rim_mm: float = 0.0
    rim_intensity: float = 0.0
    oedema_mm: float = 0.0
    oedema_intensity: float = 0.0
    texture: float = 0.02
    seed: int = 0


@dataclass(frozen=True)
class Anatomy:
    """Changes of the head itself.

    ``atrophy`` is the relative change of the volume of the brain (-0.3 shrinks, the gap fills with fluid; growth stops
    at the skull). ``ventricles_mm`` moves the ventricles' walls outward. ``lesions`` (0-1) is the load of small
    white-matter lesions, most of them next to the ventricles. ``neck`` says what happens where the label map ends:
    "cut" (air), "crop" (the scan ends there, too) or "extend" (its last slice goes on, widening by ``shoulders``).
    ``dura`` is the number of bone voxels next to the fluid that are dura mater; ``fat`` separates subcutaneous fat
    from the deeper soft tissue; ``merged`` are pairs of classes of which the first takes the second's intensity.
    """

    atrophy: float = 0.0
    ventricles_mm: float = 0.0
    lesions: float = 0.0
    lesion_seed: int = 0
    lesion_intensity: float = 0.5
    neck: str = "cut"
    neck_margin_mm: float = 0.0
    shoulders: float = 0.0
    dura: int = 0
    fat: bool = False
    merged: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Background:
    """What lies around the head: "air", "blobs" (smooth texture of amplitude ``level``), "zero" (exactly zero),
    "noise" (extra Rician noise of standard deviation ``level``) or "mp2rage" (noise over the full range wherever there
    is no signal; ``level`` is the noise of the two inversions relative to their signal).

    ``holder`` is the intensity of a head rest behind the head, or None; ``holder_gap_mm`` its distance from the head
    and ``holder_mm`` its thickness; ``table`` adds a flat couch below it.
    """

    kind: str = "air"
    level: float = 0.0
    seed: int = 0
    holder: float | None = None
    holder_gap_mm: float = 8.0
    holder_mm: float = 6.0
    table: bool = False


@dataclass(frozen=True)
class Motion:
    """Rigid poses (rotations in degrees, shifts in mm) and the shares of the phase-encoding lines taken in each.

    The pose during the central line is the sample's own: the other poses are relative to it.
    """

    axis: int
    shares: tuple[float, ...]
    poses: tuple[tuple[float, float, float, float, float, float], ...]


@dataclass(frozen=True)
class Kspace:
    """Faults of the raw data, none of them by default.

    ``ghost`` is (axis, number of copies per field of view, level, phase in radians); ``spikes`` are
    (kx, ky, kz in cycles per field of view, amplitude, phase); ``wrap`` is (axis, fraction of the field of view cut
    off at the low end, at the high end), what is cut off appears at the other side; ``gibbs`` is the share of the
    spatial frequencies kept along each axis.
    """

    motion: Motion | None = None
    ghost: tuple[int, int, float, float] | None = None
    spikes: tuple[tuple[int, int, int, float, float], ...] = ()
    wrap: tuple[int, float, float] | None = None
    gibbs: Triple = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Slices:
    """Faults of single slices along ``axis``: every other slice is brighter by ``interleave`` (relative), and
    ``corrupted`` slices, drawn from ``seed``, have lost most of their signal.
    """

    axis: int = 2
    interleave: float = 0.0
    corrupted: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Coils:
    """Root-sum-of-squares of ``count`` receive coils around the head; the signal at the darkest place of the head is
    lower by ``strength`` (0-1) than at the brightest.
    """

    count: int
    strength: float
    seed: int


@dataclass(frozen=True)
class EchoPlanar:
    """Geometric distortion along ``axis`` (up to ``shift_mm`` next to air, plus a smooth part from ``seed``), with the
    signal piling up accordingly, and ``dropout`` (0-1) of the signal next to air.
    """

    axis: int = 1
    shift_mm: float = 0.0
    dropout: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Record:
    """Everything that determines a sample; ``json.dumps(record.as_dict())`` replays it with ``render``.

    Lengths are mm; ``means`` and ``spreads`` are per entry of the intensity table; ``resolution`` holds per axis
    (slice distance, slice thickness, phase) or None; ``cut`` the fractions of each axis outside the field of view;
    ``stripped_mm`` removes everything further than this outside the inner skull; ``deface_deg`` is the tilt of the
    plane that cuts the face away at ``deface_mm`` from the brain; ``psf_mm`` is the full width at half maximum of an
    isotropic point spread. With ``ceiling`` the network's scale ends at the brightness of the brain, as that of the
    closer look does. ``window`` says when intensities are limited to [0, 1], the display window of a CT:
    "none", "early" (each tissue) or "late" (the acquired image).
    """

    head: str
    look: str
    shape: tuple[int, int, int] = (128, 128, 128)
    spacing_mm: float = 2.0
    pose: Pose = field(default_factory=Pose)
    means: tuple[float, ...] = ()
    spreads: tuple[float, ...] = ()
    texture_seed: int = 0
    soft_seed: int = 0
    anatomy: Anatomy = field(default_factory=Anatomy)
    masses: tuple[Mass, ...] = ()
    background: Background = field(default_factory=Background)
    echo_planar: EchoPlanar | None = None
    bias_strength: float = 0.0
    bias_nodes: tuple[int, int, int] = (3, 3, 3)
    bias_seed: int = 0
    coils: Coils | None = None
    kspace: Kspace = field(default_factory=Kspace)
    psf_mm: float = 0.0
    resolution: tuple[Triple | None, ...] = (None, None, None)
    slices: Slices | None = None
    noise: float = 0.0
    rician: bool = False
    noise_seed: int = 0
    gamma: float = 1.0
    invert: bool = False
    window: str = "none"
    cut: tuple[tuple[float, float], ...] = ((0.0, 0.0), (0.0, 0.0), (0.0, 0.0))
    stripped_mm: float | None = None
    deface_deg: float | None = None
    deface_mm: float = 5.0
    ceiling: bool = False
    subsamples: int = 4

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Record:
        """Rebuild a record from :meth:`as_dict` (tuples may have become lists), also one of an older version.

        Raises
        ------
        InputError
            A key is unknown or missing, or has a value of the wrong kind.
        """
        values = _upgraded(dict(values))
        masses = values.pop("masses", ())
        return _build(Record, {**values, "masses": [_build(Mass, mass) for mass in masses]})


_NESTED: dict[str, type] = {
    "pose": Pose, "anatomy": Anatomy, "background": Background, "echo_planar": EchoPlanar, "coils": Coils,
    "kspace": Kspace, "motion": Motion, "slices": Slices,
}


def _build(kind: type, values: dict[str, Any]) -> Any:
    unknown = sorted(set(values) - {f.name for f in fields(kind)})
    if unknown:
        raise InputError(f"the record has an unknown key {', '.join(unknown)} ({kind.__name__}); "
                         "was it written by a newer version?")
    made = {
        key: _build(_NESTED[key], value) if key in _NESTED and isinstance(value, dict) else _tuples(value)
        for key, value in values.items()
    }
    try:
        return kind(**made)
    except TypeError as error:
        raise InputError(f"the record is not complete: {error}") from error


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value


def _upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """Records of the first version called masses ``blobs`` and had a table without the six painted classes."""
    if "blobs" in values:
        values["masses"] = [*values.get("masses", ()), *values.pop("blobs")]
    old = INDEX["internal_air"]
    stand_ins = ("air", "cortical_bone", "cortical_bone", "soft_tissue", "cerebral_gm", "skin")
    for key in ("means", "spreads"):
        table = list(values.get(key, ()))
        if len(table) == old + SOFT_BINS:
            values[key] = [*table[:old], *(table[INDEX[name]] for name in stand_ins), *table[old:]]
        elif len(table) != table_size():
            raise InputError(f"the record's {key} have {len(table)} entries; {table_size()} are expected "
                             f"({len(CLASSES)} classes and {SOFT_BINS} soft-tissue regions)")
    return values
