"""Tasks by the name that recipes use."""

from __future__ import annotations

from neuralprep.training.tasks.ablation import AblationTask
from neuralprep.training.tasks.base import Task
from neuralprep.training.tasks.mindgrab import MindGrabTask
from neuralprep.training.tasks.npp import NPPTask
from neuralprep.training.tasks.pair import PairTask
from neuralprep.training.tasks.pumba import PumbaTask
from neuralprep.training.tasks.strip import StripTask

TASKS: dict[str, type[Task]] = {
    kind.name: kind for kind in (NPPTask, StripTask, MindGrabTask, PumbaTask, AblationTask, PairTask)
}

__all__ = ["TASKS", "AblationTask", "MindGrabTask", "NPPTask", "PairTask", "PumbaTask", "StripTask", "Task"]
