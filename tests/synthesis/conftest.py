"""The phantom on the CPU, made once."""

from __future__ import annotations

import pytest
import torch

from neuralprep.synthesis.heads import DeviceHead
from neuralprep.synthesis.phantom import phantom_head


@pytest.fixture(scope="session")
def head() -> DeviceHead:
    return DeviceHead.load(phantom_head(), torch.device("cpu"))
