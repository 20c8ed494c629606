"""``python -m neuralprep`` is the command ``neuralprep``."""

from __future__ import annotations

import sys

from neuralprep.cli import main

if __name__ == "__main__":
    sys.exit(main())
