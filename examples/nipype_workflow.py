"""Nipype: python nipype_workflow.py OUT SCAN [SCAN ...]   (pip install 'neuralprep[nipype]')."""

import sys
from pathlib import Path

from nipype import Node, Workflow
from nipype.interfaces.utility import Function

from neuralprep.integrations.nipype import Run


def volumes_ml(masks):
    """Volume inside of each mask, in ml."""
    import nibabel
    import numpy as np

    images = [nibabel.load(mask) for mask in masks]
    return [float(image.get_fdata().sum() * abs(np.linalg.det(image.affine[:3, :3])) / 1000) for image in images]


def main(out, scans):
    """Strip, normalise and register; then measure the brains."""
    folder = Path(out).resolve()
    prepare = Node(Run(inputs=[str(Path(scan).resolve()) for scan in scans], out=str(folder)), name="prepare")
    measure = Node(Function(input_names=["masks"], output_names=["ml"], function=volumes_ml), name="measure")
    workflow = Workflow(name="brains", base_dir=str(folder / "nipype"))
    workflow.connect(prepare, "brain_mask", measure, "masks")
    graph = workflow.run()
    return next(node.result.outputs.ml for node in graph.nodes if node.name == "measure")


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2:]))
