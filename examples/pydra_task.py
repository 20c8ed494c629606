"""Pydra: python pydra_task.py OUT SCAN [SCAN ...]   (pip install 'neuralprep[pydra]')."""

import sys
from pathlib import Path

from neuralprep.integrations.pydra import task


def main(out, scans):
    """Strip, normalise and register; the masks of the scans."""
    prepare = task("run", inputs=[str(Path(scan).resolve()) for scan in scans], out=str(Path(out).resolve()))
    prepare()
    return prepare.result().output.brain_mask_files


if __name__ == "__main__":
    print(*main(sys.argv[1], sys.argv[2:]), sep="\n")
