"""Registration where the right answer is known: motions through the header, rendered heads, what must hold of any fit.

1. Known motions: scans of ``--heads`` are turned and shifted through their headers; the error of keypoints and of the
   refined rigid and affine fits is known exactly. ``--rotations`` per head, any angle.
2. Acceptance: itself, exchanged images, known affines, the same head stored in other ways, an unbiased group. The part
   ``turns`` turns a head by 45 to 180 degrees about every axis; ``dense`` asks of dense warps (pair and group) how well
   they undo themselves and one another, and whether they fold.
3. Rendered heads (``--atlas``): label maps 19 and 20, which no network was trained on. ``contrasts``: fits between
   T1w, T2w and FLAIR of one head, carried by known motions and affines. ``rendered``: pairs of heads, each time in two
   random contrasts; Dice of the anatomical structures after the affine, after what the pair network predicts, and after
   the steps of the dense warp, five or twenty, from there and from nothing.

    python benchmarks/registration_known.py --atlas heldout.npz
    python benchmarks/registration_known.py --parts motions acceptance turns dense
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import goal_rows, markdown, save_parts, targets
from registration_common import GROUP, add_options, brain_points, moved, open_once, open_pair_once, random_affine
from scipy.spatial.transform import Rotation

from neuralprep import Affine, Grid, Volume, load
from neuralprep.alignment import AlignSettings, View, align_views, view
from neuralprep.evaluation.affine import mean_point_error
from neuralprep.evaluation.overlap import dice_by_label
from neuralprep.groupwise.align import GroupSettings, align_group, look_at
from neuralprep.groupwise.bend import bend_group
from neuralprep.inference.pair_session import PairSession, open_pair_session
from neuralprep.inference.session import Session
from neuralprep.networks.pair import STRUCTURES
from neuralprep.resample import resample
from neuralprep.synthesis.classes import indices
from neuralprep.synthesis.sampler import SamplerSettings
from neuralprep.transform import Chain, jacobian_determinant

TURNED = ("studyforrest_sub02_T1w", "openms_p01_s1_FLAIR", "tcga_fg6692_T2w")
GOALS = ("acceptance", "turns", "dense")
PARTS = ("motions", *GOALS, "contrasts", "rendered")
COMPARED = indices(tuple(name for name in STRUCTURES if name != "csf"))
WHOLE = SamplerSettings(cut=0, wrap=0, infant=0, animal=0, blob=0, stripped=0, defaced=0, any_rotation=0,
                        look_weights=(("T1w", 3), ("T2w", 2), ("FLAIR", 2), ("PDw", 1), ("random", 2)))
"""Whole heads of adults, any MR contrast."""
STILL = replace(WHOLE, warp_mm=0, atrophy=0, lesions=0, scale=(1, 1))
"""Whole heads in the shape of their label map."""
ONE_VISIT = ("T1w", "T2w", "FLAIR")


def known_motions(session: Session, folder: Path, rotations: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Errors (mm) of keypoints and refined fits for random rotations of any angle."""
    rows = []
    for name in TURNED:
        scan = load(folder / f"{name}.nii.gz")
        still = view(session, scan)
        points = brain_points(still)
        errors: dict[str, list[float]] = {"keypoints, rigid": [], "rigid": [], "affine": []}
        for _ in range(rotations):
            matrix = np.eye(4)
            matrix[:3, :3] = Rotation.random(random_state=rng).as_matrix()
            matrix[:3, 3] = rng.uniform(-50, 50, 3)
            truth = Affine(matrix)
            turned = view(session, moved(scan, truth))
            for label, settings in (("keypoints, rigid", AlignSettings("rigid", refine=False)),
                                    ("rigid", AlignSettings("rigid")), ("affine", AlignSettings("affine"))):
                found = align_views(turned, still, settings).fixed_from_moving
                errors[label].append(mean_point_error(found, truth, points))
        for label, values in errors.items():
            rows.append({"head": name, "fit": label, "n": rotations, "median mm": statistics.median(values),
                         "worst mm": max(values), "below 5 mm": f"{sum(v < 5 for v in values)}/{rotations}"})
    return rows


def acceptance_rows(session: Session, folder: Path, rng: np.random.Generator) -> list[tuple[str, float, float, str]]:
    """Errors in mm (and of the mean transform) that have a goal; see the project's facts on registration."""
    scan = load(folder / "bisweb_sag_T1w_2mm.nii.gz")
    still = view(session, scan)
    points = brain_points(still)
    rows = [("registration to itself, mm", error_mm(still, still, Affine.identity(), points), 0.1, "<=")]
    known, coarse = [], []
    for _ in range(5):
        truth = random_affine(rng)
        turned = view(session, moved(scan, truth))
        known.append(error_mm(turned, still, truth, points))
        coarse.append(error_mm(turned, still, truth, points, AlignSettings("affine", refine=False)))
    rows += [("known affines, keypoints: mean error, mm", statistics.mean(coarse), 5.0, "<="),
             ("known affines, refined: mean error, mm", statistics.mean(known), 1.0, "<=")]
    for name in ("axes LIA", "oblique", "slices of 3 mm"):
        other = view(session, stored_otherwise(scan, name))
        goal = 1.5 if "3 mm" in name else 1.0
        rows.append((f"{name}: same transform, mm", error_mm(other, still, Affine.identity(), points), goal, "<="))
    faces = view(session, load(folder / "xa30_prisma_T1w_2mm.nii.gz"))
    there, back = (align_views(a, b).fixed_from_moving for a, b in ((faces, still), (still, faces)))
    rows.append(("exchanged images, affine, mm", mean_point_error(Chain([there, back]), Affine.identity(), points),
                 0.05, "<="))  # fmt: skip
    members = [look_at(session, load(folder / f"{name}.nii.gz"), name) for name in GROUP]
    for kind in ("rigid", "affine"):
        fit = align_group(members, GroupSettings(kind))  # type: ignore[arg-type]
        rows.append((f"group, {kind}: largest entry of the mean logarithm", fit.bias, 1e-5, "<="))
        again = align_group(members[::-1], GroupSettings(kind))  # type: ignore[arg-type]
        apart = max(a.distance(b, points) for a, b in zip(fit.transforms, again.transforms[::-1], strict=True))
        rows.append((f"group, {kind}: other order, mm", apart, 1e-4, "<="))
    return rows


def turn_rows(session: Session, folder: Path) -> list[tuple[str, float, float, str]]:
    """Share of turns about every axis through the head that are found again, and the worst error."""
    scan = load(folder / f"{GROUP[0]}.nii.gz")
    still = view(session, scan)
    points, errors = brain_points(still), []
    for axis, degrees in itertools.product("xyz", (45, 90, 135, 180)):
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
        matrix[:3, 3] = scan.grid.center - matrix[:3, :3] @ scan.grid.center
        truth = Affine(matrix)
        errors.append(error_mm(view(session, moved(scan, truth)), still, truth, points, AlignSettings("rigid")))
    found = sum(error < 5 for error in errors) / len(errors)
    return [("turned by 45 to 180 degrees about x, y, z: share within 5 mm", found, 0.99, ">="),
            ("the same: worst error, mm", max(errors), 5.0, "<=")]  # fmt: skip


def dense_rows(session: Session, pair: PairSession, args: argparse.Namespace) -> list[tuple[str, float, float, str]]:
    """How dense warps undo themselves and one another and change volumes; mean velocity of a group."""
    members = [look_at(session, load(args.heads / f"{name}.nii.gz"), name) for name in GROUP]
    seen, still = (one.view for one in members[:2])
    settings = AlignSettings("svf", steps=args.steps)
    there, back = (align_views(a, b, settings, pair).fixed_from_moving for a, b in ((seen, still), (still, seen)))
    points, rows = brain_points(still), []
    own = np.linalg.norm(Chain([there, there.inverse()]).apply(points) - points, axis=1)
    p99 = np.percentile(own, 99)
    for name, value, goal in (("mean", own.mean(), 0.1), ("99 %", p99, 0.3), ("most", own.max(), 1.0)):
        rows.append((f"dense warp and its inverse: {name}, mm", float(value), goal, "<="))
    swapped = np.linalg.norm(Chain([there, back]).apply(points) - points, axis=1)
    rows.append(("exchanged images, dense: 99 %, mm", float(np.percentile(swapped, 99)), 0.3, "<="))
    change = jacobian_determinant(there, still.judged.grid)[still.judged.data > 0]
    rows += [("dense warp: least Jacobian", float(change.min()), 0.1, ">="),
             ("dense warp: spread of log Jacobian", float(np.log(np.maximum(change, 1e-3)).std()), 0.3, "<=")]
    bent = bend_group(members, align_group(members))
    rows.append(("group, dense: longest vector of the mean velocity, mm", bent.bias_mm, 1e-5, "<="))
    return rows


def contrast_rows(session: Session, atlas: Path, seed: int) -> list[dict[str, Any]]:
    """Errors (mm) of keypoints and fits between contrasts of one head, carried by known rigid motions and affines."""
    from neuralprep.evaluation.heldout import HELD_OUT, HeldOutHeads
    from neuralprep.synthesis.record import Record

    def stiff(record: Record) -> Record:
        pose = replace(record.pose, scale=(1.0, 1.0, 1.0), shear=(0.0, 0.0, 0.0), mirror=False)
        return replace(record, pose=pose)

    heads, rng, rows = HeldOutHeads(atlas, STILL), np.random.default_rng(seed), []
    for head, name in enumerate(HELD_OUT):
        cases = {look: heads.case(head + len(HELD_OUT) * k, seed, look, stiff) for k, look in enumerate(ONE_VISIT)}
        seen = {look: view(session, case.scan) for look, case in cases.items()}
        affines = {look: random_affine(rng) for look in ONE_VISIT}
        turned = {look: view(session, moved(case.scan, affines[look])) for look, case in cases.items()}
        for fixed, moving in itertools.permutations(ONE_VISIT, 2):
            there, here = (cases[look].template_from_scan for look in (moving, fixed))  # pull-backs
            truth = Affine(there.matrix @ here.inverse().matrix)
            points = brain_points(seen[fixed])
            row: dict[str, Any] = {"head": name, "fixed": fixed, "moving": moving}
            for label, settings in (("keypoints", AlignSettings("rigid", refine=False)),
                                    ("rigid", AlignSettings("rigid"))):
                row[label] = error_mm(seen[moving], seen[fixed], truth, points, settings)
            whole = Affine(affines[moving].matrix @ truth.matrix)
            for label, refine in (("affine, keypoints", False), ("affine", True)):
                settings = AlignSettings("affine", refine=refine)
                row[label] = error_mm(turned[moving], seen[fixed], whole, points, settings)
            rows.append(row)
    return rows


def rendered_rows(
    session: Session, pair: PairSession, atlas: Path, count: int, seed: int
) -> list[dict[str, Any]]:
    """Dice of structures of two held-out heads in random contrasts, and how the dense warp changes volumes."""
    from neuralprep.evaluation.heldout import HeldOutHeads

    heads, rows = HeldOutHeads(atlas, WHOLE), []
    for number in range(count):
        fixed, moving = (heads.case(2 * number + k, seed, want_classes=True) for k in range(2))
        assert fixed.classes is not None
        assert moving.classes is not None
        still, seen = view(session, fixed.scan), view(session, moving.scan)
        row: dict[str, Any] = {"contrasts": f"{fixed.look} - {moving.look}"}
        drawn = moving.scan.with_data(moving.classes.astype(np.float32))
        ways: list[tuple[str, AlignSettings, PairSession | None]] = [
            ("affine", AlignSettings(), None), ("network", AlignSettings("svf", steps=0), pair)]
        for steps in (5, 20):
            ways += [(f"{steps} steps", AlignSettings("svf", steps=steps), None),
                     (f"network, {steps} steps", AlignSettings("svf", steps=steps), pair)]  # fmt: skip
        for label, settings, network in ways:
            found = align_views(seen, still, settings, network)
            carried = resample(drawn, fixed.scan.grid, found.fixed_from_moving, order=0)
            scores = dice_by_label(np.rint(carried.data).astype(int), fixed.classes.astype(int))
            row[label] = statistics.mean(scores[name] for name in COMPARED if name in scores)
        volume_change = jacobian_determinant(found.fixed_from_moving, still.judged.grid)[still.judged.data > 0]
        rows.append(row | {"least Jacobian": float(volume_change.min())})
    return rows


def error_mm(moving: View, fixed: View, truth: Affine, points: np.ndarray, settings: AlignSettings | None = None
             ) -> float:
    """Mean error of an alignment over the brain."""
    found = align_views(moving, fixed, settings).fixed_from_moving
    return mean_point_error(found, truth, points)


def stored_otherwise(scan: Volume, name: str) -> Volume:
    """The same head with other axes, on an oblique grid, or in thick slices."""
    if name == "axes LIA":
        return scan.oriented("LIA")
    edges = (1.0, 1.0, 3.0) if "3 mm" in name else (2.0, 2.0, 2.0)
    shape = [round(extent / edge) for extent, edge in zip(scan.oriented("RAS").grid.extent, edges, strict=True)]
    grid = Grid.centered(shape, edges, scan.grid.center)
    if name == "oblique":
        turn = np.eye(4)
        turn[:3, :3] = Rotation.from_euler("xyz", (12, -9, 15), degrees=True).as_matrix()
        turn[:3, 3] = scan.grid.center - turn[:3, :3] @ scan.grid.center
        grid = Grid(grid.shape, turn @ grid.affine)
    return resample(scan, grid, antialias=True)


def headline(content: dict[str, Any]) -> dict[str, Any]:
    """What belongs on a card: the worst where there is a limit, else the mean."""
    found: dict[str, Any] = {}
    for row in content.get("known motions", []):
        found[f"known motions, {row['head']}, {row['fit']}, median mm"] = row["median mm"]
    found |= {row["goal"]: row["found"] for part in GOALS for row in content.get(part, [])}
    if "contrasts" in content:
        errors = [row["rigid"] for row in content["contrasts"]]
        found["known motions between contrasts, rigid, mean mm"] = statistics.mean(errors)
        found["known motions between contrasts, rigid, worst mm"] = max(errors)
        for label in ("affine, keypoints", "affine"):
            errors = [row[label] for row in content["contrasts"]]
            found[f"known affines between contrasts, {label}, mean mm"] = statistics.mean(errors)
            found[f"known affines between contrasts, {label}, 95 % mm"] = float(np.percentile(errors, 95))
    if "rendered" in content:
        rows = content["rendered"]
        for name in [name for name in rows[0] if name not in ("contrasts", "least Jacobian")]:
            found[f"rendered heads, structures, mean Dice, {name}"] = statistics.mean(row[name] for row in rows)
    return found


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which to run; default all")
    parser.add_argument("--rotations", type=int, default=10, help="per head of the part 'motions'")
    parser.add_argument("--steps", type=int, default=20, help="of the dense warps of the part 'dense'")
    parser.add_argument("--atlas", type=Path, help="packed label maps 19 and 20, for 'rendered' and 'contrasts'")
    parser.add_argument("--network", default="pair", metavar="WEIGHTS", help="for the part 'rendered'; default shipped")
    parser.add_argument("--rendered", type=int, default=12, help="pairs of rendered heads")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if {"rendered", "contrasts"} & set(args.parts) and args.atlas is None:
        parser.error("the parts 'rendered' and 'contrasts' need --atlas; without it name the other --parts")
    return args


def main() -> None:
    """Run the parts and save them."""
    args = options()
    session = open_once(args.threads)
    content: dict[str, Any] = {}
    if "motions" in args.parts:
        content["known motions"] = known_motions(session, args.heads, args.rotations, np.random.default_rng(args.seed))
        columns = ["head", "fit", "n", "median mm", "worst mm", "below 5 mm"]
        print(markdown(content["known motions"], columns), flush=True)
    goals = {"acceptance": lambda: acceptance_rows(session, args.heads, np.random.default_rng([args.seed, 1])),
             "turns": lambda: turn_rows(session, args.heads),
             "dense": lambda: dense_rows(session, open_pair_once(args.threads), args)}  # fmt: skip
    for part in [part for part in goals if part in args.parts]:
        found = goals[part]()
        content[part] = goal_rows(found)
        print(targets(found), flush=True)
    if "contrasts" in args.parts:
        content["contrasts"] = contrast_rows(session, args.atlas, args.seed)
        columns = ["head", "fixed", "moving", "keypoints", "rigid", "affine, keypoints", "affine"]
        print(markdown(content["contrasts"], columns), flush=True)
    if "rendered" in args.parts:
        pair = open_pair_session(args.network, "cpu", args.threads)
        content["rendered"] = rendered_rows(session, pair, args.atlas, args.rendered, args.seed)
        names = [name for name in content["rendered"][0] if name != "contrasts"]
        means = {name: statistics.mean(row[name] for row in content["rendered"]) for name in names}
        print(markdown([*content["rendered"], {"contrasts": "mean", **means}], ["contrasts", *names]), flush=True)
    print(save_parts("registration_known", content, args.parts, headline, args.results))


if __name__ == "__main__":
    main()
