"""Run the command line by ``python -m revgnn``, for launchers that start modules"""

from __future__ import annotations

import sys

from .cli import main

sys.exit(main())
