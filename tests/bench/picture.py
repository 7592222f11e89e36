"""Lines in a coordinate system, as an SVG that GitHub shows in light and in dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 34, 44
TICKS = 4
COLOURS = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#9a6700")

Series = Mapping[str, Sequence[tuple[float, float]]]
"""By name of the line: its points."""


def chart(title: str, x_title: str, lines: Series) -> str:
    """One chart, its x axis by powers (sessions double from point to point), as the inside of an SVG."""
    xs = sorted({x for points in lines.values() for x, _ in points})
    tick = _tick(max((y for points in lines.values() for _, y in points), default=0.0) or 1.0)
    top = tick * TICKS
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    at = {x: LEFT + inner_width * n / max(1, len(xs) - 1) for n, x in enumerate(xs)}

    def y_of(value: float) -> float:
        return TOP + inner_height * (1 - value / top)

    parts = [f'<text x="{LEFT}" y="16" font-weight="bold">{escape(title)}</text>']
    for step in range(TICKS + 1):
        value = tick * step
        y = y_of(value)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#8884"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_figure(value)}</text>')
    for x in xs:
        parts.append(f'<text x="{at[x]:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_figure(x)}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_title)}</text>')
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{at[x]:.1f},{y_of(y):.1f}" for x, y in sorted(points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{at[x]:.1f}" cy="{y_of(y):.1f}" r="2.5" fill="{colour}"/>' for x, y in points]
        parts.append(f'<text x="{LEFT + 8 + 90 * number}" y="{TOP - 4}" fill="{colour}">{escape(name)}</text>')
    return "\n".join(parts)


def page(charts: Sequence[str]) -> str:
    """The charts side by side, two in a row."""
    rows = -(-len(charts) // 2)
    width, height = 2 * WIDTH, rows * HEIGHT
    body = "\n".join(
        f'<g transform="translate({n % 2 * WIDTH} {n // 2 * HEIGHT})">\n{inner}\n</g>' for n, inner in enumerate(charts)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="11" fill="#888">\n{body}\n</svg>\n'
    )


def _tick(most: float) -> float:
    """The least of 1, 2, 2.5, 4 or 5 times a power of ten that reaches `most` in the given number of steps."""
    power = 10.0 ** math.floor(math.log10(most / TICKS))
    return next(n * power for n in (1, 2, 2.5, 4, 5, 10) if n * power * TICKS >= most)


def _figure(value: float) -> str:
    if value >= 1000:
        return f"{value / 1000:.3g}k"
    return f"{value:.3g}"
