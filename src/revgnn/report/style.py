"""The style sheet of reports: phones, screens, print, light and dark."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1d2733; --quiet: #5b6774; --line: #dde3ea; --wash: #f5f7fa;
  --accent: #0b62a4; --warn: #b45309; --warn-wash: #fff7ed; }
@media (prefers-color-scheme: dark) { :root { --page: #12181f; --ink: #e3e8ee; --quiet: #9aa7b4; --line: #2c3743;
  --wash: #1b242e; --accent: #63b3ed; --warn: #f0a04b; --warn-wash: #2b2114; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 3rem; max-width: 60rem; color: var(--ink); background: var(--page);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 2.25rem 0 .6rem; font-size: 1.1rem; }
p { margin: .4rem 0; }
.quiet, caption { color: var(--quiet); font-size: .875rem; }
.headline { margin: 1.25rem 0 .75rem; font-size: 1.15rem; }
.headline strong { font-size: 1.75rem; font-variant-numeric: tabular-nums; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; margin: 1.5rem 0 0; }
.tiles div { padding: .7rem .9rem; background: var(--wash); border-radius: .5rem; }
.tiles dt { color: var(--quiet); font-size: .8rem; }
.tiles dd { margin: 0; font-size: 1.3rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; }
figure svg.drawn { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .cell { fill: var(--accent); }
svg .on { fill: var(--page); }
svg .axis { stroke: var(--line); fill: none; }
svg .quiet { fill: var(--quiet); }
svg .point { fill: var(--accent); fill-opacity: .5; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .38rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }
th { font-weight: 500; color: var(--quiet); }
thead th { font-size: .85rem; overflow-wrap: break-word; }
td.number, th.number { text-align: right; }
td.number { overflow-wrap: break-word; }
.records td.number { overflow-wrap: anywhere; }
.stressed tbody tr:first-child > * { font-weight: 600; color: var(--ink); }
.pairs { margin-bottom: 1rem; font-size: .925rem; table-layout: fixed; }
.pairs th { width: 58%; }
.pairs caption { color: var(--accent); font-weight: 600; }
.warning { margin: 1.25rem 0 0; padding: .6rem .9rem; border-left: 4px solid var(--warn);
  background: var(--warn-wash); }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: 0 2rem;
  align-items: start; }
details { margin-top: .75rem; }
summary { cursor: pointer; color: var(--accent); font-weight: 500; }
details[open] summary { margin-bottom: .75rem; }
@media (max-width: 30rem) { body { padding: 1.25rem .9rem 2rem; } th, td { padding: .35rem .3rem; font-size: .875rem; }
  thead th { font-size: .75rem; } }
@media print { :root { color-scheme: light; --page: #fff; --ink: #1d2733; --quiet: #5b6774; --line: #dde3ea; }
  body { max-width: none; padding: 0; font-size: 11pt; } h2 { break-after: avoid; }
  figure, tr, .tiles div { break-inside: avoid; } .tiles div, .warning { border: 1px solid var(--line); } }
"""
