"""The path of a scan: a plan for what was asked, and the preprocessor that walks it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from neuralprep.errors import InputError
from neuralprep.settings import Settings
from neuralprep.stages import brain, conform, quality
from neuralprep.stages.trust import predict_dice
from neuralprep.steps import CUBE_STEPS, ON_REQUEST, OUTPUTS, STEPS, State, Step, agreement, stripping_mask
from neuralprep.templates import load_template
from neuralprep.transform import Affine
from neuralprep.volume import Volume
from neuralprep.weights.registry import MESHNET_LAYOUT, NPP_LAYOUT

if TYPE_CHECKING:
    from neuralprep.inference.mask_session import MaskSession
    from neuralprep.inference.session import Session
    from neuralprep.stages.look import Look
    from neuralprep.weights.registry import ModelFiles

__all__ = ["ON_REQUEST", "OUTPUTS", "STEPS", "Preprocessor", "Result", "Settings", "plan", "possible_outputs",
           "template_images"]


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
    mask
        The mask that strips, whether or not it is among the outputs; None without stripping.
    """

    scan: Volume
    settings: Settings
    outputs: dict[str, Volume | Affine]
    quality: quality.Quality
    timings: dict[str, float]
    provenance: dict[str, Any]
    mask: Volume | None = None


def template_images(result: Result, resolution: float) -> Result:
    """The outputs of a result in template space again, with voxels of another size; nothing is fitted again.

    Parameters
    ----------
    result
        With ``template_from_scan`` and, where intensities were normalised, ``preproc`` among its outputs.
    resolution
        Voxel size in mm.

    Returns
    -------
    Result
        Its outputs are the affine and those images that `result` has in template space: the same to the bit as a run
        with this resolution makes.

    Raises
    ------
    InputError
        An output is missing that they are made from.
    """
    settings = replace(result.settings, resolution=resolution, outputs=None)
    space, masked = (step for step in STEPS if step.name in ("space", "space_brain"))
    known: dict[str, Any] = {"brain_mask": result.mask, "nocsf_mask": result.mask}  # whichever of them strips
    for name in ("template_from_scan", "preproc") if settings.normalize else ("template_from_scan",):
        if name not in result.outputs:
            raise InputError(f"images with other voxels in {settings.space} are made from {name}: name it as output")
        known[name] = result.outputs[name]
    wanted = {"template_from_scan", *space.gives, *masked.gives} & result.outputs.keys()
    state = State(result.scan, settings, frozenset(wanted), settings.threads or 1, known=known)
    if wanted != {"template_from_scan"}:
        known.update(space.work(state))
    if wanted & {*masked.gives}:
        known.update(masked.work(state))
    return replace(result, settings=settings, outputs={name: known[name] for name in OUTPUTS if name in wanted})


def possible_outputs(settings: Settings) -> tuple[str, ...]:
    """Outputs that the switches allow, in order, apart from those on request."""
    return tuple(name for name, tasks in OUTPUTS.items() if all(getattr(settings, task) for task in tasks))


def plan(wanted: Iterable[str], settings: Settings, steps: tuple[Step, ...] = STEPS) -> list[Step]:
    """Steps, in running order, that make ``wanted``.

    Raises
    ------
    InputError
        An output that does not exist or that the switches or the network rule out.
    """
    wanted = set(wanted)
    every = OUTPUTS | ON_REQUEST
    unknown = sorted(wanted - set(every))
    if unknown:
        raise InputError(f"no output is called {', '.join(unknown)}; there are {', '.join(every)}")
    impossible = sorted(name for name in wanted if not all(getattr(settings, task) for task in every[name]))
    if impossible:
        raise InputError(f"{', '.join(impossible)} cannot be made with a task switched off that it needs")
    beyond = sorted(wanted - {name for step in steps for name in step.gives})
    if beyond:
        raise InputError(f"{', '.join(beyond)} cannot be made by the model {settings.model}, which only gives a mask")
    chosen: list[Step] = []
    for step in reversed(steps):
        if wanted & set(step.gives):
            chosen.append(step)
            needs = step.needs if settings.normalize else tuple(n for n in step.needs if n != "preproc")
            wanted |= set(needs)
    return chosen[::-1]


def check(settings: Settings, model: ModelFiles | None = None) -> tuple[ModelFiles, tuple[str, ...], list[Step]]:
    """Model, outputs and steps that settings stand for; cheap, so that a batch can stop before it starts.

    Raises
    ------
    InputError
        Something asked for cannot take effect or cannot be made.
    WeightsError
        No such model.
    """
    from neuralprep.weights.registry import find_model

    model = model or find_model(settings.model)
    if model.layout != NPP_LAYOUT and (settings.normalize or settings.register):
        raise InputError(f"the model {settings.model} only strips: switch normalize and register off")
    if model.layout != MESHNET_LAYOUT:
        wanted = possible_outputs(settings) if settings.outputs is None else settings.outputs
        return model, tuple(wanted), plan(wanted, settings)
    if settings.no_csf:
        raise InputError(f"the model {settings.model} knows one surface: no_csf has no effect on it")
    if settings.mask is not None:
        raise InputError(f"with a given mask the model {settings.model} has nothing to do: leave one of them out")
    wanted = ("brain_mask",) if settings.outputs is None else settings.outputs
    return model, tuple(wanted), plan(wanted, settings, CUBE_STEPS)


class Preprocessor:
    """Loads the network once and processes any number of scans.

    Parameters
    ----------
    settings
        What to do; see :class:`Settings`.
    like
        Another preprocessor with the same model, device and threads, whose loaded network is used.
    """

    def __init__(self, settings: Settings | None = None, like: Preprocessor | None = None) -> None:
        from neuralprep.inference.mask_session import open_mask_session
        from neuralprep.inference.session import available_threads, open_session

        self.settings = settings = settings or Settings()
        self.threads = settings.threads or available_threads()
        self.model: ModelFiles
        self.model, self.wanted, self.steps = check(settings, like.model if like else None)
        self.npp: Session | None = None
        self.masker: MaskSession | None = None
        if like:
            self.npp, self.masker = like.npp, like.masker
        elif self.model.layout == MESHNET_LAYOUT:
            self.masker = open_mask_session(settings.model, settings.device, self.threads)
        else:
            self.npp = open_session(settings.model, settings.device, self.threads)

    def again(self, settings: Settings) -> Preprocessor:
        """A preprocessor for other settings with the same model, device and threads; nothing is loaded again."""
        return Preprocessor(settings, like=self)

    def run(self, volume: Volume) -> Result:
        """Process one scan.

        Raises
        ------
        InputError
            No brain in the scan, or a mask or label that does not fit it.
        """
        state = State(volume, self.settings, frozenset(self.wanted), self.threads, self.npp, self.masker)
        timings: dict[str, float] = {}
        for step in self.steps:
            start = time.perf_counter()
            state.known.update(step.work(state))
            timings[step.name] = time.perf_counter() - start
        start = time.perf_counter()
        judged = self._judge(state)
        timings["quality"] = time.perf_counter() - start
        outputs = {name: state[name] for name in (*OUTPUTS, *ON_REQUEST) if name in self.wanted}
        mask = stripping_mask(state) if "brain_mask" in state.known else None
        return Result(volume, self.settings, outputs, judged, timings, self._provenance(state), mask)

    def _judge(self, state: State) -> quality.Quality:
        known, settings = state.known, self.settings
        if "brain_mask" not in known:
            known = {**known, **_strip_for_quality(state)}
        fit, found = known.get("fit"), known.get("look")
        masks = {"brain_mask": known["brain_mask"], "nocsf_mask": known.get("nocsf_mask")}
        if settings.border_mm:  # limits are for the brain, not for the margin that the user adds
            moved, by = ("nocsf_mask", "nocsf_distance") if settings.no_csf else ("brain_mask", "brain_distance")
            masks[moved] = known[by].with_data((known[by].data <= 0).astype("uint8"))
        surface = known["brain_distance"] if settings.mask is None and self.masker is None else None
        judged = quality.assess(
            scan=state.scan,
            brain_mask=masks["brain_mask"],
            nocsf_mask=masks["nocsf_mask"],
            distance=surface,
            template_from_scan=None if fit is None else fit.template_from_scan,
            template=None if fit is None else load_template(settings.space),
            space_brain_mask=known.get("space_brain_mask"),
            registration_score=None if fit is None else fit.score,
            agreement=None if found is None else agreement(known["first_look"], found),
            gain=known.get("gain"),
            mirror_agreement=known.get("mirror_agreement"),
            residual_mm=None if found is None else found.residual_mm,
            kept_voxels=known.get("kept_voxels"),
            predict=partial(predict_dice, quality=self.model.quality, sha256=self.model.digest),
        )
        return replace(judged, notes=(*judged.notes, *_kept_notes(known)))

    def _provenance(self, state: State) -> dict[str, Any]:
        from neuralprep import __version__

        facts: dict[str, Any] = {
            "neuralprep": __version__,
            "model": self.model.name,
            "model_sha256": self.model.sha256,
        }
        if self.model.fine is not None:
            facts["close_model_sha256"] = self.model.fine.sha256
        if self.masker is not None:
            return facts | {"runtime": self.masker.runtime, "ct_units": conform.is_ct(state.scan)}
        found: Look = state["look"]
        fit = state.known.get("fit")
        return facts | {
            "runtime": state.session.backend.name,
            "lambda": self.settings.lam,
            "ct_window": state["windowed"] is not state.scan,
            "intensity_offset": state.known.get("offset"),
            "bias": state.known.get("bias"),
            "pose_residual_mm": round(found.residual_mm, 3),
            "registration": None if fit is None else {"method": fit.method, "score": round(fit.score, 4)},
        }


def _kept_notes(known: dict[str, Any]) -> list[str]:
    """What happened to the label that had to be kept, in words."""
    if "kept_voxels" not in known:
        return []
    notes = [f"{known['kept_voxels']} voxels of the label to keep lay outside the brain mask and were added to it."]
    if known["kept_outside"]:
        notes.append(f"{known['kept_outside']} voxels of the label to keep lie outside the scan and are lost.")
    return notes


def _strip_for_quality(state: State) -> dict[str, Any]:
    """Masks for quality control when stripping was not asked for."""
    made = brain.brain_from_look(state["look"], state["windowed"], 0.0, state.threads)
    return {"brain_mask": made.mask, "nocsf_mask": made.nocsf_mask, "brain_distance": made.distance}
