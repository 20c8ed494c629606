"""One image file: read, normalise, write, with a JSON file beside it that says how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuralprep.bids.derivatives import ScanName
from neuralprep.bids.sidecars import write_json
from neuralprep.engine.inputs import IMAGE_ENDINGS, image_stem
from neuralprep.errors import InputError
from neuralprep.normalization.catalog import METHODS, Contrast, Window
from neuralprep.normalization.landmarks import Landmarks
from neuralprep.normalization.methods import normalize
from neuralprep.normalization.region import Normalized
from neuralprep.normalization.windows import apply_window
from neuralprep.volume import Frame, Volume, load

#: contrast by BIDS suffix
_CONTRAST: dict[str, Contrast] = {
    "T1w": "t1", "UNIT1": "t1", "MP2RAGE": "t1", "T2w": "t2", "FLAIR": "flair", "PDw": "pd", "PD": "pd",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Recipe:
    """What to do with every image; either a window or a method.

    Parameters
    ----------
    window, equalize
        See :func:`~neuralprep.normalization.windows.apply_window`.
    method, contrast, percentiles, landmarks
        See :func:`~neuralprep.normalization.methods.normalize`. Without a contrast the suffix of the file name tells.
    mask, wm_mask
        A mask file, or a folder of masks named like the images (``<stem>`` or ``<stem>_mask``).
    background, fill, checks
        As for the functions; a background of None is their default.
    frame
        Which frame of 4-D images.
    """

    window: Window | None = None
    equalize: bool = False
    method: str = ""
    contrast: Contrast | None = None
    percentiles: tuple[float, float] = (1.0, 99.0)
    landmarks: Landmarks | None = None
    mask: Path | None = None
    wm_mask: Path | None = None
    background: float | None = None
    fill: float | None = 0.0
    frame: Frame = None
    checks: bool = True

    @property
    def label(self) -> str:
        """Name of the recipe in file names (letters and digits)."""
        if self.window is None:
            return self.method
        return f"{self.window.name}window{'equalized' if self.equalize else ''}"

    @property
    def result(self) -> str:
        """What the values of the result mean."""
        if self.window is None:
            return METHODS[self.method].result
        ends = f"{self.window.text} at 0 and 1"
        return f"{ends}, histogram equalised over the brain" if self.equalize else ends


def mask_for(mask: Path | None, stem: str) -> Path | None:
    """The user's mask of one image or case: the file itself, or the one in a folder that is named like it.

    Raises
    ------
    InputError
        A folder without such a file.
    """
    if mask is None or not mask.is_dir():
        return mask
    for name in (f"{stem}{tail}{ending}" for tail in ("", "_mask") for ending in IMAGE_ENDINGS):
        if (mask / name).is_file():
            return mask / name
    raise InputError(f"{mask}: has no mask for {stem}. Expected {stem}.nii.gz or {stem}_mask.nii.gz.")


def load_mask(path: Path | None) -> Volume | None:
    """Read a mask, if there is one."""
    return None if path is None else load(path, checks=False)


def output_name(name: str, recipe: Recipe) -> str:
    """File name of the result of an image called ``name``."""
    scan = ScanName.of(name)
    return f"{scan.prefix}_desc-{recipe.label}_{scan.suffix}.nii.gz"


def normalize_file(source: Path, target: Path, recipe: Recipe) -> dict[str, float]:
    """Normalise one image file.

    Parameters
    ----------
    source
        The image.
    target
        Image to write; its record goes beside it, with the ending .json.
    recipe
        What to do.

    Returns
    -------
    dict
        Measures of the method.

    Raises
    ------
    InputError
        Anything wrong with the image, the mask or the place to write to.
    """
    stem = image_stem(source) or source.name
    mask_path, wm_path = mask_for(recipe.mask, stem), mask_for(recipe.wm_mask, stem)
    contrast = _contrast(stem, recipe, wm_path)
    image = load(source, recipe.frame)
    done = _normalized(image, load_mask(mask_path), load_mask(wm_path), contrast, recipe)
    done.image.save(target, description=f"neuralprep {recipe.label}")
    record = _record(image, recipe, contrast, mask_path, wm_path)
    write_json(target.with_name(f"{image_stem(target)}.json"), {**record, "Measures": done.measures})
    return done.measures


def _normalized(image: Volume, mask: Volume | None, wm_mask: Volume | None, contrast: Contrast,
                recipe: Recipe) -> Normalized[Volume]:
    if recipe.window is not None:
        return apply_window(image, recipe.window, mask, equalize=recipe.equalize, background=recipe.background,
                            fill=recipe.fill, checks=recipe.checks)
    return normalize(image, recipe.method, mask, contrast=contrast, percentiles=recipe.percentiles,
                     landmarks=recipe.landmarks, wm_mask=wm_mask, background=recipe.background or 0.0,
                     fill=recipe.fill, checks=recipe.checks)


def _contrast(stem: str, recipe: Recipe, wm_path: Path | None) -> Contrast:
    """Contrast given, or told by the file name; an error where it matters and nothing tells."""
    if recipe.contrast is not None:
        return recipe.contrast
    told = _CONTRAST.get(ScanName.of(stem).suffix)
    if told is None and recipe.method and "contrast" in METHODS[recipe.method].takes and wm_path is None:
        raise InputError(f"{stem}: its name does not tell its contrast (no _T1w, _T2w, _FLAIR or _PDw at the end), "
                         f"which {recipe.method} must know; give --contrast")
    return told or "t1"


def _record(image: Volume, recipe: Recipe, contrast: Contrast, mask: Path | None,
            wm_mask: Path | None) -> dict[str, Any]:
    """What was done, for the JSON file; names of files only, since folders may name a person."""
    record: dict[str, Any] = {
        "Description": f"Image with normalised intensities: {recipe.result}.",
        "Sources": [image.source.name if image.source else ""],
        "Mask": None if mask is None else mask.name,
        "ValueOutside": "as inside" if recipe.fill is None else recipe.fill,
    }
    if mask is None:
        record["Background"] = "default" if recipe.background is None else recipe.background
    if recipe.window is not None:
        window = recipe.window
        record["Window"] = {"Name": window.name, "Low": window.low, "High": window.high, "Units": window.units,
                            "Source": window.source}
        record["Equalized"] = recipe.equalize
    else:
        takes = METHODS[recipe.method].takes
        record["Method"] = recipe.method
        if "contrast" in takes and wm_mask is None:
            record["Contrast"] = contrast
        if wm_mask is not None:
            record["WhiteMatterMask"] = wm_mask.name
        if "percentiles" in takes:
            record["Percentiles"] = list(recipe.percentiles)
        if recipe.landmarks is not None:
            record["StandardScale"] = list(recipe.landmarks.standard)
    if image.notes:
        record["Notes"] = list(image.notes)
    return record
