"""Running a network: OpenVINO on the CPU when installed, PyTorch otherwise and on a GPU."""
