"""The paper as one page: static, light, readable on a phone, opened from disk."""

import html as escaping
import itertools
from collections.abc import Iterable, Mapping, Sequence

from experiments import claims, published

_STYLE = """
:root { color-scheme: light; --line: #8886; --good: #0a6b44; --bad: #a33a0e; }
body { font: 17px/1.5 Georgia, serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1, h2, h3 { font-family: system-ui, sans-serif; line-height: 1.2; }
figure { margin: 0 0 2rem; }
img { min-width: 45rem; width: 100%; height: auto; }
figcaption, table, nav { font: 14px/1.4 system-ui, sans-serif; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; }
td { border-top: 1px solid var(--line); }
td.number { font-variant-numeric: tabular-nums; }
.supported { color: var(--good); } .not { color: var(--bad); }
@media (max-width: 40rem) {
  thead { display: none; }
  tr { display: block; border-top: 2px solid var(--line); padding: .4rem 0; }
  td { display: block; border: 0; padding: .1rem 0; }
  td::before { content: attr(data-label) ": "; color: #555; }
}
"""


def html(parts: Sequence, judged: Sequence[Mapping], compared: Mapping, commits: Mapping) -> str:
  """The page. parts: as of `publishing`. judged: of `claims.judge`. compared: of
  `published.compare`. commits: see `claims.computed_at`.
  """
  counts = [entry['verdict'].split(':')[0] for entry in judged]
  summary = ', '.join(f'{counts.count(kind)} {kind}' for kind in dict.fromkeys(counts))
  links = ' · '.join(
    f'<a href="#{part.stem}">{escaping.escape(_heading(part))}</a>' for part in parts
  )
  figures = '\n'.join(_figure(part) for part in parts)
  rows = '\n'.join(_claim(entry, parts) for entry in judged)
  tables = '\n'.join(map(_table, published.tables(compared)))
  computed = escaping.escape(claims.computed_at(commits))
  return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Variational autoencoders and denoising diffusion, measured</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Variational autoencoders and denoising diffusion, measured</h1>
<p>Every figure, and every number but those that are said to be published, was computed by this
project, at commit {computed}. Of {len(judged)} claims of the lecture: {summary}.</p>
<h2 id="claims">Claims</h2>
<p>Each effect is above 0 where the claim holds; brackets hold its 95% interval over the seeds, or
the exact value twice. Under a condition a claim holds where the interval is above 0, fails where it
is not above 0 anywhere, and else is open. It is supported where it holds under every condition that
was measured, and not supported where it holds under none.</p>
{_grid(claims.HEADER, rows)}
<h2 id="published">Published numbers beside ours</h2>
{tables}
<h2 id="figures">Figures</h2>
<nav>{links}</nav>
{figures}
</body>
</html>
"""


def _table(table: published.Table) -> str:
  rows = '\n'.join(_row(table.header, map(escaping.escape, row)) for row in table.rows)
  remark = f'\n<p>{escaping.escape(table.remark)}</p>' if table.remark else ''
  return f'<h3>{escaping.escape(table.heading)}</h3>\n{_grid(table.header, rows)}{remark}'


def _grid(header: Sequence[str], rows: str) -> str:
  names = ''.join(f'<th>{escaping.escape(name)}</th>' for name in header)
  return f"""<div class="scroll"><table>
<thead><tr>{names}</tr></thead>
<tbody>
{rows}
</tbody></table></div>"""


def _row(header: Sequence[str], cells: Iterable[str], kinds: Sequence[str] = ()) -> str:
  """A row of cells in HTML, each with its column's name, for where there is no room for columns."""
  parts = itertools.zip_longest(header, cells, kinds, fillvalue='')
  return ''.join(
    [
      '<tr>',
      *(
        f'<td class="{kind}" data-label="{escaping.escape(name)}">{cell}</td>'
        for name, cell, kind in parts
      ),
      '</tr>',
    ]
  )


def _heading(part) -> str:
  return f'{part.module.TITLE} ({part.dataset})' if part.dataset else part.module.TITLE


def _figure(part) -> str:
  title, caption = escaping.escape(_heading(part)), escaping.escape(part.module.CAPTION)
  moving = ''
  if hasattr(part.module, 'animate'):
    moving = f'<img src="{part.stem}.gif" alt="{title}, moving">'
  return f"""<figure id="{part.stem}">
<h3>{title}</h3>
<div class="scroll"><img src="{part.stem}.png" alt="{title}">{moving}</div>
<figcaption>{caption} <a href="{part.stem}.pdf">PDF</a>,
<a href="{part.stem}.npz">numbers</a>.</figcaption>
</figure>"""


def _claim(entry: Mapping, parts: Sequence) -> str:
  target = next(part.stem for part in parts if part.name == entry['figure'])
  kind = {claims.SUPPORTED: 'supported', claims.NOT_SUPPORTED: 'not'}
  cells = (
    escaping.escape(entry['section']),
    escaping.escape(entry['claim']),
    f'<a href="#{target}">{escaping.escape(entry["effect"])}</a>',
    '<br>'.join(escaping.escape(claims.in_words(found)) for found in entry['evidence']),
    escaping.escape(entry['verdict']),
  )
  state = kind.get(entry['verdict'].partition(':')[0], '')
  return _row(claims.HEADER, cells, ('', '', '', 'number', state))
