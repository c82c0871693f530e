"""Write what the documents show and the project knows: figures, tables, lists and trees between markers.

    python docs/generate.py             fill the blocks of the documents, and draw docs/batch.svg
    python docs/generate.py --measure   measure memory over depth first (minutes), then fill them

A block stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; docs/blocks/ writes what is in it. The suite
fails where a block is not what this file would write.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Neither the documents nor the benchmarks are part of the package: the root of the checkout has them.
sys.path.insert(0, str(ROOT))

from docs.blocks import BLOCKS  # noqa: E402
from docs.blocks.over_depth import measure  # noqa: E402

DOCUMENTS = (
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in (
            "index",
            "architecture",
            "recipes",
            "datasets",
            "paper",
            "runs",
            "depth",
            "equilibrium",
            "scale",
            "planner",
            "defaults",
            "distributed",
            "batches",
        )
    ),
    ROOT / "docs" / "batch.svg",
)
_BLOCK = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(document: str) -> str:
    """Give the text of a document with every block as it should be.

    Raises: KeyError: a block that nothing in docs/blocks/ writes.
    """
    return _BLOCK.sub(lambda match: f"{match[1]}{BLOCKS[match[2]]()}\n{match[3]}", document)


def main() -> None:
    """Fill the documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure memory over depth first")
    if parser.parse_args().measure:
        measure()
    for path in DOCUMENTS:
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"filled {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
