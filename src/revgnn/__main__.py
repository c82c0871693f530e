"""``python -m revgnn``: the command line, for launchers that start modules."""

from __future__ import annotations

import sys

from .cli import main

sys.exit(main())
