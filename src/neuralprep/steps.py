"""The steps a scan can walk, in one table: what each needs, what it gives, and the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from neuralprep.errors import InputError
from neuralprep.resample import resample
from neuralprep.settings import Settings
from neuralprep.stages import affine, bias, brain, conform, doubt, intensity
from neuralprep.stages.keep import label_on_grid
from neuralprep.stages.look import Look, closer_look, find_brain, turned_looks
from neuralprep.templates import load_structures, space_grid
from neuralprep.volume import Volume

if TYPE_CHECKING:
    from neuralprep.inference.mask_session import MaskSession
    from neuralprep.inference.session import Session


_REACH_MM = 8.0
"""Distances this near to the surface are enough where they are not written."""


@dataclass(eq=False)
class State:
    """Everything known about one scan while it is processed."""

    scan: Volume
    settings: Settings
    wanted: frozenset[str]
    threads: int
    npp: Session | None = None
    masker: MaskSession | None = None
    known: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.known[name]

    @property
    def session(self) -> Session:
        """The network of the steps that look at the head."""
        assert self.npp is not None
        return self.npp


@dataclass(frozen=True)
class Step:
    """One row of the table: its name, what must be known before, what is known after, and the work."""

    name: str
    needs: tuple[str, ...]
    gives: tuple[str, ...]
    work: Callable[[State], dict[str, Any]]


def _window(state: State) -> dict[str, Any]:
    return {"windowed": conform.windowed(state.scan)}


def _look(state: State) -> dict[str, Any]:
    first, second = find_brain(state.session, state["windowed"], state.settings.lam, state.threads)
    return {"first_look": first, "second_look": second}


def _register(state: State) -> dict[str, Any]:
    """Fit the template; where the fit is poor the head may lie in a pose the network misread: turn it and compare.

    A CT scores low in any pose, so turning it would only cost time. A quick run asks the template only where the two
    looks leave doubt.
    """
    settings, found = state.settings, state["second_look"]
    if settings.quick and _undisputed(state["first_look"], found):
        return {"look": found, "template_from_scan": None, "fit": None}
    fit = affine.fit_template(found, settings.space)
    if not fit.good and state["windowed"] is state.scan:
        for first in turned_looks(state.session, state.scan, settings.lam, state.threads)[:2]:
            other = closer_look(state.session, state.scan, first, settings.lam, state.threads)
            other_fit = affine.fit_template(other, settings.space)
            if other_fit.score > fit.score + 0.03:
                found, fit = other, other_fit
            if fit.good:
                break
    return {"look": found, "template_from_scan": fit.template_from_scan, "fit": fit}


def _undisputed(first: Look, second: Look) -> bool:
    """Whether two looks tell the same story: limits that misread poses did not reach on real and synthetic heads."""
    return second.plausible and second.residual_mm < 6.0 and agreement(first, second) > 0.93


def _strip(state: State) -> dict[str, Any]:
    settings, found = state.settings, state["look"]
    if settings.mask is not None:
        if not settings.mask.grid.same_as(state.scan.grid, tol_mm=0.1):
            raise InputError(
                f"{settings.mask.source or 'the given mask'}: its grid {settings.mask.grid.shape} is not the scan's "
                f"{state.scan.grid.shape} at the same place; resample the mask to the scan first"
            )
        made = brain.brain_from_mask(settings.mask, found, state.threads)
    else:
        tissue = not settings.quick or bool({"nocsf_mask", "nocsf_distance"} & state.wanted)
        far = not settings.quick or bool({"brain_distance", "nocsf_distance"} & state.wanted)
        made = brain.brain_from_look(
            found, state["windowed"], settings.border_mm, state.threads, no_csf=settings.no_csf, tissue=tissue,
            reach_mm=brain.DISTANCE_LIMIT_MM if far else _REACH_MM,
        )  # fmt: skip
        if settings.border_mm >= 0:
            made = brain.with_given_boundary(made, found, state.scan, settings.border_mm, no_csf=settings.no_csf)
    return _stripped(state, made)


def _strip_by_cube(state: State) -> dict[str, Any]:
    """The mask of a network that only strips; the border moves its surface."""
    from neuralprep.stages.cube import mask_from_cube

    assert state.masker is not None
    border = state.settings.border_mm
    made = brain.brain_from_mask(mask_from_cube(state.masker, state.scan, state.threads), None)
    if border and made.mask.data.any():
        moved = made.mask.with_data((made.distance.data <= border).astype("uint8"))
        made = replace(made, mask=moved)
    return _stripped(state, made)


def _stripped(state: State, made: brain.Brain) -> dict[str, Any]:
    """What stripping gives, the label to keep included."""
    settings = state.settings
    if not made.mask.data.any():
        raise InputError(
            f"{state.scan.source or 'the scan'}: no brain was found; is it a head scan, with the right voxel size?"
        )
    known: dict[str, Any] = {}
    if settings.keep is not None:
        label = label_on_grid(settings.keep, state.scan.grid)
        strips = made.nocsf_mask if settings.no_csf and made.nocsf_mask is not None else made.mask
        known = {"kept_voxels": int((label.voxels & (strips.data == 0)).sum()), "kept_outside": label.outside}
        made = brain.with_kept(made, label.voxels, settings.border_mm, no_csf=settings.no_csf)
    return {**known, "brain_mask": made.mask, "nocsf_mask": made.nocsf_mask, "brain_distance": made.distance,
            "nocsf_distance": made.nocsf_distance}


def _doubt(state: State) -> dict[str, Any]:
    """Spread of the surface over the first look, the second and that at the mirror image, on the native grid."""
    found: Look = state["look"]
    plain, mirrored = (distances[1] for distances in doubt.both_distances(found))
    spread = doubt.spread_mm([plain, mirrored, doubt.other_distance(state["first_look"], found)])
    native = resample(Volume(spread, found.working.grid), state.scan.grid, threads=state.threads)
    return {"mirror_agreement": doubt.mask_dice(plain, mirrored, found.working.visible), "uncertainty": native}


def _field(state: State) -> dict[str, Any]:
    found, fit, settings = state["look"], state["fit"], state.settings
    if state["windowed"] is not state.scan:
        return {"log_gain": bias.flat_log_gain(found), "bias": "none"}
    if not fit.good:
        return {"log_gain": bias.smooth_log_gain(found), "bias": "smoothed: poor fit"}
    structures = load_structures(settings.space)
    made, refined = bias.refine_log_gain(found, fit.template_from_scan, structures, settings.lam)
    return {"log_gain": made, "bias": "refined" if refined else "smoothed: little tissue"}


def _normalize(state: State) -> dict[str, Any]:
    tissue = state["nocsf_mask"]
    made = intensity.normalise(state["windowed"], state["look"], state["log_gain"], tissue)
    multiplier = intensity.masked(made.gain, stripping_mask(state)) if state.settings.strip else made.gain
    return {"gain": made.gain, "multiplier": multiplier, "preproc": made.preproc, "offset": made.offset}


def _brain_image(state: State) -> dict[str, Any]:
    return {"brain_image": intensity.masked(state.scan, stripping_mask(state), _fill(state.settings))}


def _apply_mask(state: State) -> dict[str, Any]:
    return {"preproc_brain": intensity.masked(_image(state), stripping_mask(state), _fill(state.settings))}


def stripping_mask(state: State) -> Volume:
    """The mask that strips: inner skull, or brain surface with ``no_csf``."""
    return state["nocsf_mask"] if state.settings.no_csf else state["brain_mask"]


def _image(state: State) -> Volume:
    """The normalised scan, or the scan as it is where normalisation is off."""
    return state["preproc"] if state.settings.normalize else state.scan


def _fill(settings: Settings) -> intensity.Fill:
    return settings.fill  # type: ignore[return-value]  # checked by Settings


def _space_image(state: State) -> dict[str, Any]:
    settings = state.settings
    grid = space_grid(settings.space, settings.resolution or 1.0)
    image = intensity.to_space(_image(state), grid, state["template_from_scan"], state.threads)
    return {"space_preproc": image}


def _space_brain(state: State) -> dict[str, Any]:
    settings = state.settings
    grid = state["space_preproc"].grid
    mask = stripping_mask(state)
    soft = mask.with_data(mask.data.astype("float32"))
    inside = intensity.to_space(soft, grid, state["template_from_scan"], state.threads)
    mask = inside.with_data((inside.data >= 0.5).astype("uint8"))
    return {
        "space_brain_mask": mask,
        "space_preproc_brain": intensity.masked(state["space_preproc"], mask, _fill(settings)),
    }


STEPS: tuple[Step, ...] = (
    Step("window", (), ("windowed",), _window),
    Step("look", ("windowed",), ("first_look", "second_look"), _look),
    Step("register", ("windowed", "second_look"), ("look", "template_from_scan", "fit"), _register),
    Step("strip", ("windowed", "look"), ("brain_mask", "nocsf_mask", "brain_distance", "nocsf_distance"), _strip),
    Step("doubt", ("first_look", "look"), ("uncertainty",), _doubt),
    Step("image", ("brain_mask", "nocsf_mask"), ("brain_image",), _brain_image),
    Step("field", ("windowed", "look", "fit"), ("log_gain", "bias"), _field),
    Step("normalize", ("windowed", "look", "log_gain", "brain_mask", "nocsf_mask"),
         ("multiplier", "preproc", "gain", "offset"), _normalize),
    Step("mask", ("brain_mask", "nocsf_mask", "preproc"), ("preproc_brain",), _apply_mask),
    Step("space", ("preproc", "template_from_scan"), ("space_preproc",), _space_image),
    Step("space_brain", ("space_preproc", "brain_mask", "nocsf_mask"), ("space_brain_mask", "space_preproc_brain"),
         _space_brain),
)
"""The house in one table. A scan walks it from top to bottom; a step runs only if something asked for needs it."""

CUBE_STEPS: tuple[Step, ...] = (
    Step("strip", (), ("brain_mask", "brain_distance"), _strip_by_cube),
    Step("image", ("brain_mask",), ("brain_image",), _brain_image),
)
"""The way through a network that only strips."""

OUTPUTS: dict[str, tuple[str, ...]] = {
    "brain_mask": ("strip",),
    "nocsf_mask": ("strip",),
    "brain_distance": ("strip",),
    "multiplier": ("normalize",),
    "preproc": ("normalize",),
    "preproc_brain": ("strip",),
    "template_from_scan": ("register",),
    "space_preproc": ("register",),
    "space_preproc_brain": ("strip", "register"),
    "space_brain_mask": ("strip", "register"),
}
"""Every output and the tasks that must be switched on for it."""

ON_REQUEST: dict[str, tuple[str, ...]] = {
    "brain_image": ("strip",),
    "nocsf_distance": ("strip",),
    "uncertainty": ("strip",),
}
"""Outputs that are made only where they are named."""


def agreement(first: Look, second: Look) -> float:
    """Dice of the masks of two looks, on the second's grid: low where the network contradicts itself."""
    own = second.prediction.distances[1]
    return doubt.mask_dice(own, doubt.other_distance(first, second), second.working.visible)
