"""``python -m slr_det`` is ``slr-det``."""

from __future__ import annotations

import sys

from slr_det.toolbox import main

if __name__ == "__main__":
    sys.exit(main())
