"""The paper's tables: recipes, baselines, the printed figures, measured results, and both side by side"""
