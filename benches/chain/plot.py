"""One SVG of horizontal bars: what each system costs, as a multiple of the cheapest peer.

A function of the results alone, so that the same results give the same bytes."""

from xml.sax.saxutils import escape

FULL = 3.0               # the scale ends here; longer bars are cut, and their label says so
LEFT, WIDTH, ROW, TOP = 170, 430, 17, 64

# Okabe and Ito's colours, which eyes of every kind tell apart; every bar bears its name as well.
COLOURS = {"portcullis": "#0072b2", "haproxy": "#e69f00", "nginx": "#009e73", "stunnel": "#cc79a7",
           "traefik": "#56b4e9", "caddy": "#d55e00"}
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2328; }
  .title { font-size: 15px; font-weight: 600; }
  .group { font-weight: 600; }
  .note { fill: #59636e; }
  .axis { stroke: #59636e; stroke-width: 1; }
  .one { stroke: #1f2328; stroke-width: 1; stroke-dasharray: 3 3; }
  .ground { fill: #ffffff; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .note { fill: #9198a1; }
    .axis { stroke: #9198a1; }
    .one { stroke: #f0f6fc; }
    .ground { fill: #0d1117; }
  }
"""


def bars(title, description, groups):
    """groups: [(heading, [(system, ratio)])]."""
    height = TOP + sum((len(rows) + 2) * ROW for _, rows in groups)
    scale = lambda ratio: LEFT + WIDTH * min(ratio, FULL) / FULL
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 80} {height}" '
           f'width="{LEFT + WIDTH + 80}" height="{height}" role="img" aria-labelledby="title desc">',
           f'<title id="title">{escape(title)}</title>', f'<desc id="desc">{escape(description)}</desc>',
           f"<style>{STYLE}</style>", f'<rect class="ground" width="{LEFT + WIDTH + 80}" height="{height}"/>',
           f'<text class="title" x="12" y="24">{escape(title)}</text>',
           f'<text class="note" x="12" y="42">shorter is better; dashed: the best peer of the row</text>']
    y = TOP
    for heading, rows in groups:
        out.append(f'<text class="group" x="12" y="{y + 6}">{escape(heading)}</text>')
        y += ROW
        begin = y - 4
        for system, ratio in rows:
            colour = COLOURS[system.split("-")[0]]
            cut = " (cut)" if ratio > FULL else ""
            out.append(f'<text x="{LEFT - 8}" y="{y + 8}" text-anchor="end">{escape(system)}</text>'
                       f'<rect x="{LEFT}" y="{y - 3}" width="{scale(ratio) - LEFT:.1f}" height="{ROW - 4}" '
                       f'fill="{colour}"/>'
                       f'<text x="{scale(ratio) + 6:.1f}" y="{y + 8}">{ratio:.2f}{cut}</text>')
            y += ROW
        out.append(f'<line class="axis" x1="{LEFT}" y1="{begin}" x2="{LEFT}" y2="{y - 4}"/>'
                   f'<line class="one" x1="{scale(1):.1f}" y1="{begin}" x2="{scale(1):.1f}" y2="{y - 4}"/>')
        y += ROW
    return "\n".join(out) + "\n</svg>\n"
