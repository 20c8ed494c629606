"""Fuzz the image readers for as long as you like: byte flips, truncations, header fields, gzip damage.

    python benchmarks/fuzz.py --minutes 10 [--seed 1] [--keep FOLDER]

Every input must give an image with finite values and a usable grid, or an `InputError` that names the file. Anything
else is printed with the seed that makes it again, kept if a folder is given, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np

from neuralprep.errors import InputError
from neuralprep.volume import load

SHAPE = (44, 43, 42)
INTERESTING = np.array([0, 1, 0x7F, 0x80, 0xFF], dtype=np.uint8)


def good_files() -> dict[str, bytes]:
    """One small good file of every kind, by ending."""
    data = np.random.default_rng(0).integers(1, 100, SHAPE).astype(np.int16)
    affine = np.array([[1, 0.1, 0, -20], [-0.1, 1.1, 0, -25], [0, 0, 1.2, -22], [0, 0, 0, 1.0]])
    plain, second = nib.Nifti1Image(data, affine), nib.Nifti2Image(data, affine)
    plain.set_sform(affine, 1)
    plain.set_qform(affine, 1)
    stored = nib.MGHImage(data.astype(np.float32), affine).to_bytes()
    return {"1.nii": plain.to_bytes(), "2.nii": second.to_bytes(), "1.mgh": stored,
            "1.nii.gz": gzip.compress(plain.to_bytes(), 1), "1.mgz": gzip.compress(stored, 1)}


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """A damaged copy: header bytes most of the time, then anything, then a cut."""
    raw = np.frombuffer(content, np.uint8).copy()
    limit = 560 if rng.random() < 0.8 else len(raw)
    positions = rng.integers(0, min(limit, len(raw)), rng.integers(1, 9))
    kind = rng.integers(0, 3)
    if kind == 0:
        raw[positions] = rng.integers(0, 256, len(positions))
    elif kind == 1:
        raw[positions] = rng.choice(INTERESTING, len(positions))
    else:
        raw[positions] ^= np.uint8(1) << rng.integers(0, 8, len(positions)).astype(np.uint8)
    return raw.tobytes()[: rng.integers(0, len(raw)) if rng.random() < 0.15 else len(raw)]


def fault_of(path: Path) -> str:
    """What is wrong with how a file is read; "" if nothing."""
    try:
        volume = load(path)
    except InputError as error:
        return "" if str(error).startswith(str(path)) and "\n" not in str(error) else f"message: {error}"
    except Exception:  # noqa: BLE001  (finding them is the purpose)
        return traceback.format_exc()
    sound = np.isfinite(volume.data).all() and np.isfinite(volume.grid.affine).all()
    return "" if sound else "values or grid not finite"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for files that are read wrongly")
    args = parser.parse_args()
    files, outcomes = good_files(), Counter[str]()
    end, number = time.monotonic() + 60 * args.minutes, args.seed
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            rng = np.random.default_rng(number)
            ending = str(rng.choice(sorted(files)))
            path = Path(folder, ending)
            path.write_bytes(damaged(files[ending], rng))
            fault = fault_of(path)
            outcomes["bad" if fault else "sound"] += 1
            if fault:
                print(f"seed {number}, {ending}: {fault}")
                if args.keep is not None:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    (args.keep / f"{number}-{ending}").write_bytes(path.read_bytes())
            number += 1
    print(f"{sum(outcomes.values())} files: {dict(outcomes)}; next seed {number}")
    return 1 if outcomes["bad"] else 0


if __name__ == "__main__":
    sys.exit(main())
