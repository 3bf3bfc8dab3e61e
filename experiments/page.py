"""The paper as one page: static, light, readable on a phone, opened from disk."""

import html as escaping
from collections.abc import Mapping, Sequence

from experiments import claims, published

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --good: #0a7d4f; --bad: #b3400f; }
body { font: 17px/1.5 Georgia, serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1, h2, h3 { font-family: system-ui, sans-serif; line-height: 1.2; }
figure { margin: 0 0 2rem; }
img { width: 100%; height: auto; background: #fff; }
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
}
"""


def html(parts: Sequence, judged: Sequence[Mapping], compared: Mapping) -> str:
  """The page. parts: as of `publishing`. judged: of `claims.judge`. compared: of
  `published.compare`.
  """
  counts = [entry['verdict'].split(':')[0] for entry in judged]
  summary = ', '.join(f'{counts.count(kind)} {kind}' for kind in dict.fromkeys(counts))
  links = ' · '.join(
    f'<a href="#{part.stem}">{escaping.escape(_heading(part))}</a>' for part in parts
  )
  figures = '\n'.join(_figure(part) for part in parts)
  rows = '\n'.join(_row(entry, parts) for entry in judged)
  tables = '\n'.join(map(_table, published.tables(compared)))
  commit = parts[0].provenance['commit'][:12]
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
<p>Every figure and number here was computed by this project, at commit {escaping.escape(commit)}.
Of {len(judged)} claims of the lecture: {summary}.</p>
<h2 id="claims">Claims</h2>
<p>Each effect is above 0 where the claim holds; brackets hold its 95% interval over the seeds, or
the exact value twice. A claim is supported where it holds under every condition that was measured,
and not supported where it fails under every one.</p>
<div class="scroll"><table>
<thead><tr><th>Section</th><th>The lecture says</th><th>Measured</th>
<th>Effect</th><th>Verdict</th></tr></thead>
<tbody>
{rows}
</tbody></table></div>
<h2 id="published">Published numbers beside ours</h2>
{tables}
<h2 id="figures">Figures</h2>
<nav>{links}</nav>
{figures}
</body>
</html>
"""


def _table(table: published.Table) -> str:
  def cells(tag: str, values: Sequence[str]) -> str:
    return ''.join(f'<{tag}>{escaping.escape(value)}</{tag}>' for value in values)

  rows = '\n'.join(f'<tr>{cells("td", row)}</tr>' for row in table.rows)
  return f"""<h3>{escaping.escape(table.heading)}</h3>
<div class="scroll"><table>
<thead><tr>{cells('th', table.header)}</tr></thead>
<tbody>
{rows}
</tbody></table></div>
<p>{escaping.escape(table.remark)}</p>"""


def _heading(part) -> str:
  return f'{part.module.TITLE} ({part.dataset})' if part.dataset else part.module.TITLE


def _figure(part) -> str:
  title, caption = escaping.escape(_heading(part)), escaping.escape(part.module.CAPTION)
  moving = ''
  if hasattr(part.module, 'animate'):
    moving = f'<img src="{part.stem}.gif" alt="{title}, moving" loading="lazy">'
  return f"""<figure id="{part.stem}">
<h3>{title}</h3>
<img src="{part.stem}.png" alt="{title}" loading="lazy">{moving}
<figcaption>{caption} <a href="{part.stem}.pdf">PDF</a>,
<a href="{part.stem}.npz">numbers</a>.</figcaption>
</figure>"""


def _row(entry: Mapping, parts: Sequence) -> str:
  effects = '<br>'.join(escaping.escape(claims.in_words(found)) for found in entry['evidence'])
  target = next(part.stem for part in parts if part.name == entry['figure'])
  kind = {claims.SUPPORTED: 'supported', claims.NOT_SUPPORTED: 'not'}.get(entry['verdict'], '')
  return (
    f'<tr><td>{entry["section"]}</td><td>{escaping.escape(entry["claim"])}</td>'
    f'<td><a href="#{target}">{escaping.escape(entry["effect"])}</a></td>'
    f'<td class="number">{effects}</td>'
    f'<td class="{kind}">{escaping.escape(entry["verdict"])}</td></tr>'
  )
