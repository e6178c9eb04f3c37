"""The style of the report's page: sober, readable on a phone, light or dark as the reader likes."""

import html
from collections.abc import Sequence

STYLE = """
:root { color-scheme: light dark; --back: #f6f7f9; --card: #fff; --ink: #1c1e21;
  --muted: #5f6670; --grid: #dcdfe4; --accent: #0072b2; --warn: #b04a00; }
@media (prefers-color-scheme: dark) { :root { --back: #15171a; --card: #1e2125; --ink: #e8eaed;
  --muted: #a0a7b1; --grid: #363b42; --accent: #6cb8ea; --warn: #f0a35e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 20px 16px 60px; }
h1 { font-size: 1.7rem; margin: 8px 0 4px; line-height: 1.2; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 40px 0 8px; }
h3 { font-size: 1rem; margin: 24px 0 8px; }
p { margin: 4px 0 12px; }
.lead, .note, .clip p, figcaption { color: var(--muted); }
.note { font-size: .875rem; margin: 6px 0; }
.warning { color: var(--warn); }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; }
.tile { flex: 1 1 150px; max-width: 320px; background: var(--card);
  border: 1px solid var(--grid); border-radius: 8px; padding: 10px 14px; }
.tile b { display: block; font-size: 1.15rem; font-weight: 600; overflow-wrap: anywhere; }
.tile span { color: var(--muted); font-size: .85rem; }
.charts { display: grid;
  grid-template-columns: repeat(auto-fit, minmax(min(330px, 100%), 1fr)); gap: 14px;
  align-items: start; }
figure { margin: 0; min-width: 0; }
.charts figure { background: var(--card); border: 1px solid var(--grid); border-radius: 8px;
  padding: 10px; max-width: 560px; }
.charts figcaption { font-size: .9rem; margin: 0 2px 6px; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; }
.panels { display: grid;
  grid-template-columns: repeat(auto-fit, minmax(min(240px, 100%), 1fr)); gap: 10px; }
.panels img { display: block; width: 100%; height: 150px; border-radius: 4px; object-fit: fill;
  }
.panels figcaption { font-size: .85rem; margin-top: 3px; }
.clip { margin: 0 0 20px; }
.clip p { margin: 0 0 4px; font-size: .9rem; }
.scroll { overflow-x: auto; border: 1px solid var(--grid); border-radius: 8px;
  background: var(--card); }
table { border-collapse: collapse; width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 7px 12px; text-align: right; border-top: 1px solid var(--grid);
  white-space: nowrap; }
thead th { border-top: 0; color: var(--muted); font-weight: 500; }
th:first-child { text-align: left; font-weight: 500; white-space: normal; min-width: 9em; }
td b { color: var(--accent); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; list-style: none; margin: 10px 2px 0;
  padding: 0; font-size: .85rem; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 50%;
  margin-right: 6px; }
details { margin: 10px 0; }
summary { cursor: pointer; color: var(--accent); overflow-wrap: anywhere; }
pre { overflow-x: auto; background: var(--card); border: 1px solid var(--grid);
  border-radius: 8px; padding: 12px; font-size: .8rem; line-height: 1.4; }
"""


def page(title: str, sections: Sequence[str]) -> str:
  """A whole HTML document; nothing in it is loaded from elsewhere.

  Args:
    title: plain text.
    sections: HTML, already escaped.
  """
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n'
    f'<body><main><h1>{html.escape(title)}</h1>\n'
    + '\n'.join(sections)
    + '\n</main></body></html>\n'
  )
