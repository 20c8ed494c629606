"""What each quality measure means: its accepted range with the reason for it, and its words for a person.

One table for the decision (`stages.quality`), the report and the documentation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Range:
    """Closed interval of accepted values, and the narrower one of usual values.

    A value outside `low`..`high` asks for a check; one outside `usual_low`..`usual_high` only earns a note.
    """

    low: float = -np.inf
    high: float = np.inf
    usual_low: float = -np.inf
    usual_high: float = np.inf


@dataclass(frozen=True)
class QualityLimits:
    """Accepted range of each measure. Field names are the names of the measures."""

    # Adult intracranial volumes are 1100 to 1900 ml in population studies; beyond 1000 to 2100 a wrong mask
    # is likelier than an unusual head. Children under about two years and animals lie below: give other limits.
    icv_ml: Range = Range(1000.0, 2100.0, 1150.0, 1950.0)
    # Tissue and ventricles: the same heads less 8 to 30 % of sulcal CSF.
    tissue_ml: Range = Range(750.0, 1900.0, 900.0, 1700.0)
    # CSF outside the brain over ICV; 0.08 in the young to 0.35 in marked atrophy.
    csf_share: Range = Range(0.005, 0.45, 0.03, 0.38)
    # The tissue surface lies inside the inner skull by definition; a few voxels may touch it.
    tissue_outside_share: Range = Range(high=0.02)
    # Area on a side, front, back or top face beyond what the cap of an uncut brain has there; 5 cm2 is a cap of
    # about 1 mm more, 20 cm2 a cap of 4 mm and 4 ml.
    fov_contact_cm2: Range = Range(high=10.0, usual_high=0.5)
    # The lower face may cut the brain stem (8 to 12 cm2 with the CSF around it); most clinical two-dimensional scans
    # also cut the lowest cerebellum (25 to 40 cm2), which is worth a note, not a check.
    fov_contact_inferior_cm2: Range = Range(high=45.0, usual_high=12.0)
    # Second largest piece over the whole, before cleaning: it is an eye, the neck, or the brain was split.
    second_component_share: Range = Range(high=0.02)
    hole_ml: Range = Range(high=2.0)
    # What a closing with a 12 mm ball adds: the inner skull is smooth (0.003 to 0.014 in good masks of fifteen
    # heads of all contrasts); a mask with bites taken out of it had 0.022.
    dent_share: Range = Range(high=0.018, usual_high=0.015)
    # Correlation with the template's tissues deep in the brain (registration.affine): wrong poses stay below 0.37.
    registration_score: Range = Range(low=0.4)
    # Warped brain mask against the template's: 0.94 to 0.98 in good affine fits, 0.90 with marked atrophy.
    template_dice: Range = Range(low=0.88, usual_low=0.92)
    # Smallest and largest stretch of the affine (scan mm per template mm). The MNI head is larger than most:
    # adults lie at 0.74 to 1.07.
    scale_min: Range = Range(0.7, 1.3)
    scale_max: Range = Range(0.75, 1.35)
    shear: Range = Range(high=0.25)
    # A pull-back with negative determinant mirrors the head: left would be written as right.
    affine_determinant: Range = Range(low=1e-6)
    # Template brain that falls outside the image; the lowest 2 % is medulla and often not scanned.
    uncovered_share: Range = Range(high=0.04, usual_high=0.015)
    # |left - right| / (left + right) about the template's mid-plane; healthy hemispheres differ by under 2 %.
    left_right_difference: Range = Range(high=0.06)
    # Dice of the left half with the mirrored right half; torque of healthy brains costs up to 0.05.
    left_right_dice: Range = Range(low=0.88)
    # Dice of the masks of two passes, in different poses.
    agreement: Range = Range(low=0.92, usual_low=0.94)
    # The same for a head and its mirror image.
    mirror_agreement: Range = Range(low=0.92, usual_low=0.94)
    # Disagreement of the predicted template coordinates with one affine: 1.5 to 5 mm on heads, 14 without one.
    residual_mm: Range = Range(high=10.0, usual_high=7.0)
    # Any number is the user's wish.
    kept_voxels: Range = Range()
    # What the mask's Dice with the truth is likely to be.
    predicted_dice: Range = Range(low=0.9, usual_low=0.94)
    # A true distance has gradient 1 everywhere; a network in doubt gives a flat or a broken one. 0.08 to 0.40 with
    # good masks of networks at several ages, 0.64 with a mask that took in the neck.
    odd_gradient_share: Range = Range(high=0.5, usual_high=0.43)
    # Interquartile spread over the median inside the brain: 0.1 to 0.5 for MR, 0.2 for CT, 0 for a blank.
    brain_variation: Range = Range(low=0.01)
    # Distinct values in a sample of some ten thousand voxels: a scan has hundreds, a label map a few dozen.
    distinct_values: Range = Range(low=40.0)
    # 99th over 1st percentile of the multiplier in the brain: 1.1 to 2.5 at 3T, up to 4 with surface coils.
    gain_range: Range = Range(1.0, 6.0, usual_high=4.0)
    # Voxels above 4 mm blur the boundary by partial volume: usable, but not for fine volumetry.
    largest_voxel_mm: Range = Range(usual_high=4.0)
    # Share of one exact value 4 to 12 mm outside the mask: 1 in a stripped scan, under 0.5 in a head.
    blank_shell_share: Range = Range(usual_high=0.85)


LIMITS = QualityLimits()


@dataclass(frozen=True)
class Measure:
    """How one measure is named and explained to a person."""

    name: str
    label: str
    unit: str
    digits: int
    low: str = ""
    high: str = ""


MEASURES: tuple[Measure, ...] = (
    Measure("icv_ml", "Volume inside the skull", "ml", 0,
            "the mask may miss brain, or this is a child or an animal: look at the outline",
            "the mask may take in skull or neck: look at the outline, or check the voxel size in the header"),
    Measure("tissue_ml", "Volume of brain tissue and ventricles", "ml", 0,
            "tissue may be missing: look at the inner outline",
            "the inner outline may run outside the brain: look at it"),
    Measure("csf_share", "CSF around the brain, share of the volume inside the skull", "", 3,
            "no CSF was found between brain and skull: the scan may be stripped already",
            "much more CSF than usual: marked atrophy, or the inner outline misses cortex: look at it"),
    Measure("tissue_outside_share", "Tissue outside the skull outline", "", 3,
            high="the two outlines cross: look at them"),
    Measure("fov_contact_cm2", "Brain cut by the sides, front, back or top of the image", "cm²", 1,
            high="the edge of the image cuts the brain and volumes are too small: use a whole-brain scan"),
    Measure("fov_contact_inferior_cm2", "Brain mask on the lower edge of the image", "cm²", 1,
            high="the image ends above the foramen magnum, so cerebellum or stem may be cut"),
    Measure("second_component_share", "Second largest piece before cleaning", "", 3,
            high="the mask fell into pieces: it took in something else, or the brain was split"),
    Measure("hole_ml", "Holes inside the brain mask", "ml", 1,
            high="the mask has holes: a lesion or cavity may have been left out, look at the outline"),
    Measure("dent_share", "Dents in the brain mask, share of its volume", "", 4,
            high="pieces of brain seem to be missing at the surface: look at the outline"),
    Measure("registration_score", "Correlation with the template", "", 3,
            "the scan may not be aligned: look at the template figure"),
    Measure("template_dice", "Overlap of the brain mask with the template brain (Dice)", "", 3,
            "mask or alignment is off: look at both figures"),
    Measure("scale_min", "Smallest stretch from template to scan", "", 3,
            "not the size of an adult head: the alignment is off, or this is a child or an animal",
            "not the size of an adult head: check the voxel size in the header"),
    Measure("scale_max", "Largest stretch from template to scan", "", 3,
            "not the size of an adult head: the alignment is off, or this is a child or an animal",
            "not the size of an adult head: check the voxel size in the header"),
    Measure("shear", "Shear of the alignment", "", 3,
            high="the alignment is distorted: look at the template figure"),
    Measure("affine_determinant", "Determinant of the alignment", "", 3,
            "the alignment mirrors the head, left and right are swapped: check the header's orientation"),
    Measure("uncovered_share", "Template brain outside the image", "", 3,
            high="the image does not cover the whole brain: do not compare its volumes with others"),
    Measure("left_right_difference", "Volume difference of the halves", "", 3,
            high="the mask is lopsided: one side is missing or overfull, or the alignment is off"),
    Measure("left_right_dice", "Overlap of the left half with the mirrored right (Dice)", "", 3,
            "the mask is lopsided: one side is missing or overfull, or the alignment is off"),
    Measure("agreement", "Agreement of two passes (Dice)", "", 3,
            "two passes drew different brains: look at the outline"),
    Measure("mirror_agreement", "Agreement with the mirror image (Dice)", "", 3,
            "the mask of the mirrored head is another one: look at the outline"),
    Measure("residual_mm", "Misfit of the predicted pose", "mm", 1,
            high="the network could not make out the pose of the head: look at the outline"),
    Measure("kept_voxels", "Voxels added to keep the label", "", 0),
    Measure("predicted_dice", "Predicted overlap of the brain mask with the truth (Dice)", "", 3,
            "the signs say that this mask is unlikely to be right: look at the outline"),
    Measure("odd_gradient_share", "Unsteady share of the surface", "", 3,
            high="the network was in doubt about the surface: look at the outline"),
    Measure("brain_variation", "Variation of intensity in the brain", "", 3,
            "the image is almost uniform inside the mask: check that it is the right file"),
    Measure("distinct_values", "Distinct intensities in a sample", "", 0,
            "this looks like a label map or a mask, not a scan: check the file"),
    Measure("gain_range", "Range of the bias correction in the brain", "x", 2,
            "the multiplier field is not positive: do not use the normalised image",
            "the correction is stronger than any coil needs: raise --lambda, look at the field"),
    Measure("largest_voxel_mm", "Largest voxel side", "mm", 2,
            high="thick slices blur the outline: volumes are less exact than from 1 mm scans"),
    Measure("blank_shell_share", "Blank share of the surroundings", "", 2,
            high="the scan seems to be skull-stripped already: the boundary it came with is kept"),
)
