"""What the documents show between markers: a function for each block, in one module for each subject."""

from __future__ import annotations

from . import batch_picture, defaults, depth, equilibrium, front_page, house, over_depth, planner, recipes, runs, scale

BLOCKS = {
    name: block
    for subject in (
        front_page,
        recipes,
        over_depth,
        depth,
        runs,
        equilibrium,
        defaults,
        planner,
        scale,
        house,
        batch_picture,
    )
    for name, block in subject.BLOCKS.items()
}
"""Name in ``<!-- generated: NAME -->`` -> the function that writes what stands there."""
