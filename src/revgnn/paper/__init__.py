"""What exists because of the paper's tables: recipes, baselines, the printed figures, and those that were measured."""
