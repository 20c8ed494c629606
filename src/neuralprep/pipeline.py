"""The path of a scan: one table of steps, a plan for what was asked, and the preprocessor that walks it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from neuralprep.errors import InputError
from neuralprep.stages import affine, bias, brain, conform, intensity, quality
from neuralprep.stages.look import Look, closer_look, find_brain, turned_looks
from neuralprep.templates import load_template, space_grid
from neuralprep.transform import Affine
from neuralprep.volume import Volume

if TYPE_CHECKING:
    from neuralprep.inference.session import Session


@dataclass(frozen=True, eq=False)
class Settings:
    """What to do with a scan.

    Parameters
    ----------
    strip, normalize, register
        Switch each of the three tasks. Without ``normalize`` images keep their intensities; without ``strip`` no mask
        is made; without ``register`` nothing is put in template space.
    lam
        Smoothness of the multiplier field (lambda of the paper), 0.001 to 10 is the trained range.
    border_mm
        Move the brain mask outwards (or inwards, negative) by this much.
    no_csf
        Strip at the brain's surface instead of the inner skull.
    mask
        A brain mask to use instead of the network's, on the scan's grid.
    space, resolution
        Template space and its voxel size in mm (None: 1 mm).
    fill
        Value outside the brain: "zero", "min" (of the image) or a number.
    outputs
        Names of :attr:`Result.outputs` to make; None makes all that the switches allow.
    device, threads
        Where to run: ``auto``, ``cpu``, ``cuda``, ``mps``; CPU threads (None: all).
    model
        Name of a shipped network or a ``.safetensors`` path.
    """

    strip: bool = True
    normalize: bool = True
    register: bool = True
    lam: float = 0.1
    border_mm: float = 0.0
    no_csf: bool = False
    mask: Volume | None = None
    space: str = "MNI152NLin2009aSym"
    resolution: float | None = None
    fill: str | float = "zero"
    outputs: tuple[str, ...] | None = None
    device: str = "auto"
    threads: int | None = None
    model: str = "npp"

    def __post_init__(self) -> None:
        """Refuse values and combinations that cannot take effect."""
        if not 1e-4 <= self.lam <= 100:
            raise InputError(f"lambda is {self.lam}; give a value from 0.0001 to 100 (trained: 0.001 to 10)")
        if not -10 <= self.border_mm <= 15:
            raise InputError(f"the border is {self.border_mm} mm; give -10 to 15 mm")
        if isinstance(self.fill, str) and self.fill not in ("zero", "min"):
            raise InputError(f"fill '{self.fill}' is unknown; give zero, min or a number")
        if not (self.strip or self.normalize or self.register):
            raise InputError("all three tasks are switched off; nothing would be done")
        if not self.strip and (self.border_mm or self.no_csf or self.mask is not None):
            raise InputError("border, no_csf and mask have no effect without strip")
        if self.mask is not None and (self.border_mm or self.no_csf):
            raise InputError("a given mask is used as it is: border and no_csf have no effect on it")


@dataclass(frozen=True, eq=False)
class Result:
    """What a run gives.

    Attributes
    ----------
    scan
        The input after sanitising, on its own grid.
    outputs
        Volumes and the affine by name (the ``gives`` of :data:`STEPS` that were asked for).
    quality
        Measures and the decision ok or check.
    timings
        Seconds per step.
    provenance
        Version, model and its checksum, device, lambda, registration method and score.
    """

    scan: Volume
    settings: Settings
    outputs: dict[str, Volume | Affine]
    quality: quality.Quality
    timings: dict[str, float]
    provenance: dict[str, Any]


@dataclass(eq=False)
class State:
    """Everything known about one scan while it is processed."""

    scan: Volume
    settings: Settings
    session: Session
    threads: int
    known: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.known[name]


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

    A CT scores low in any pose, so turning it would only cost time.
    """
    settings, found = state.settings, state["second_look"]
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
        made = brain.brain_from_look(found, state.scan, settings.border_mm, state.threads)
    if not made.mask.data.any():
        raise InputError(
            f"{state.scan.source or 'the scan'}: no brain was found; is it a head scan, with the right voxel size?"
        )
    return {"brain_mask": made.mask, "nocsf_mask": made.nocsf_mask, "brain_distance": made.distance, "brain": made}


def _field(state: State) -> dict[str, Any]:
    found, fit, settings = state["look"], state["fit"], state.settings
    if state["windowed"] is not state.scan:
        return {"log_gain": bias.flat_log_gain(found)}
    if not fit.good:
        return {"log_gain": bias.smooth_log_gain(found)}
    template = load_template(settings.space)
    return {"log_gain": bias.refine_log_gain(found, fit.template_from_scan, template, settings.lam)}


def _normalize(state: State) -> dict[str, Any]:
    tissue = state["nocsf_mask"]
    made = intensity.normalise(state["windowed"], state["look"], state["log_gain"], tissue)
    multiplier = intensity.masked(made.gain, _mask(state)) if state.settings.strip else made.gain
    return {"gain": made.gain, "multiplier": multiplier, "preproc": made.preproc, "offset": made.offset}


def _apply_mask(state: State) -> dict[str, Any]:
    return {"preproc_brain": intensity.masked(_image(state), _mask(state), _fill(state.settings))}


def _mask(state: State) -> Volume:
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
    mask = _mask(state)
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
    Step("strip", ("look",), ("brain_mask", "nocsf_mask", "brain_distance", "brain"), _strip),
    Step("field", ("windowed", "look", "fit"), ("log_gain",), _field),
    Step("normalize", ("windowed", "look", "log_gain", "brain_mask", "nocsf_mask"),
         ("multiplier", "preproc", "gain", "offset"), _normalize),
    Step("mask", ("brain_mask", "nocsf_mask", "preproc"), ("preproc_brain",), _apply_mask),
    Step("space", ("preproc", "template_from_scan"), ("space_preproc",), _space_image),
    Step("space_brain", ("space_preproc", "brain_mask", "nocsf_mask"), ("space_brain_mask", "space_preproc_brain"),
         _space_brain),
)
"""The house in one table. A scan walks it from top to bottom; a step runs only if something asked for needs it."""

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


def possible_outputs(settings: Settings) -> tuple[str, ...]:
    """Outputs that the switches allow, in order."""
    return tuple(name for name, tasks in OUTPUTS.items() if all(getattr(settings, task) for task in tasks))


def plan(wanted: Iterable[str], settings: Settings) -> list[Step]:
    """Steps, in running order, that make ``wanted``.

    Raises
    ------
    InputError
        An output that does not exist or that the switches rule out.
    """
    wanted = set(wanted)
    unknown = sorted(wanted - set(OUTPUTS))
    if unknown:
        raise InputError(f"no output is called {', '.join(unknown)}; there are {', '.join(OUTPUTS)}")
    impossible = sorted(wanted - set(possible_outputs(settings)))
    if impossible:
        raise InputError(f"{', '.join(impossible)} cannot be made with a task switched off that it needs")
    chosen: list[Step] = []
    for step in reversed(STEPS):
        if wanted & set(step.gives):
            chosen.append(step)
            needs = step.needs if settings.normalize else tuple(n for n in step.needs if n != "preproc")
            wanted |= set(needs)
    return chosen[::-1]


class Preprocessor:
    """Loads the network once and processes any number of scans.

    Parameters
    ----------
    settings
        What to do; see :class:`Settings`.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        from neuralprep.inference.session import available_threads, open_session

        self.settings = settings or Settings()
        self.threads = self.settings.threads or available_threads()
        wanted = self.settings.outputs if self.settings.outputs is not None else possible_outputs(self.settings)
        self.wanted = tuple(wanted)
        self.steps = plan(self.wanted, self.settings)
        self.session = open_session(self.settings.model, self.settings.device, self.threads)

    def run(self, volume: Volume) -> Result:
        """Process one scan.

        Raises
        ------
        InputError
            No brain in the scan, or a mask that does not fit it.
        """
        state = State(volume, self.settings, self.session, self.threads)
        timings: dict[str, float] = {}
        for step in self.steps:
            start = time.perf_counter()
            state.known.update(step.work(state))
            timings[step.name] = time.perf_counter() - start
        start = time.perf_counter()
        judged = self._judge(state)
        timings["quality"] = time.perf_counter() - start
        outputs = {name: state[name] for name in OUTPUTS if name in self.wanted}
        return Result(volume, self.settings, outputs, judged, timings, self._provenance(state))

    def _judge(self, state: State) -> quality.Quality:
        known = state.known
        if "brain_mask" not in known:
            known = {**known, **_strip_for_quality(state)}
        fit = known.get("fit")
        mask = known["brain_mask"]
        if self.settings.border_mm:  # limits are for the brain, not for the margin that the user adds
            mask = mask.with_data((known["brain_distance"].data <= 0).astype("uint8"))
        return quality.assess(
            scan=state.scan,
            brain_mask=mask,
            nocsf_mask=known["nocsf_mask"],
            distance=known["brain_distance"] if self.settings.mask is None else None,
            template_from_scan=None if fit is None else fit.template_from_scan,
            template=None if fit is None else load_template(self.settings.space),
            space_brain_mask=known.get("space_brain_mask"),
            registration_score=None if fit is None else fit.score,
            agreement=agreement(known["first_look"], known["look"]),
            gain=known.get("gain"),
        )

    def _provenance(self, state: State) -> dict[str, Any]:
        from neuralprep import __version__

        found: Look = state["look"]
        fit = state.known.get("fit")
        return {
            "neuralprep": __version__,
            "model": self.session.model.name,
            "model_sha256": self.session.model.sha256,
            "runtime": self.session.backend.name,
            "lambda": self.settings.lam,
            "ct_window": state["windowed"] is not state.scan,
            "intensity_offset": state.known.get("offset"),
            "pose_residual_mm": round(found.residual_mm, 3),
            "registration": None if fit is None else {"method": fit.method, "score": round(fit.score, 4)},
        }


def _strip_for_quality(state: State) -> dict[str, Any]:
    """Masks for quality control when stripping was not asked for."""
    made = brain.brain_from_look(state["look"], state.scan, 0.0, state.threads)
    return {"brain_mask": made.mask, "nocsf_mask": made.nocsf_mask, "brain_distance": made.distance}


def agreement(first: Look, second: Look) -> float:
    """Dice of the masks of two looks, on the second's grid: low where the network contradicts itself."""
    from neuralprep.resample import resample

    other = resample(Volume(first.prediction.distances[1], first.working.grid), second.working.grid, fill=20.0).data < 0
    mask = (second.prediction.distances[1] < 0) & second.working.visible
    other &= second.working.visible
    total = int(mask.sum()) + int(other.sum())
    return 2 * float((mask & other).sum()) / total if total else 0.0
