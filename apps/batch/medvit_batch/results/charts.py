"""Small charts as SVG without a script, so that the report opens in any browser."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["bar", "histogram"]

_WIDTH, _HEIGHT, _BINS = 240, 70, 20


def histogram(values: Sequence[float], unit: str, title: str) -> str:
    """Draw a histogram, with minimum, median and maximum as text."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    width = (high - low) / _BINS or 1.0
    counts = [0] * _BINS
    for value in ordered:
        counts[min(_BINS - 1, int((value - low) / width))] += 1
    step, most = _WIDTH / _BINS, max(counts)
    bars = "".join(
        f'<rect x="{n * step:.1f}" y="{_HEIGHT * (1 - count / most):.1f}" width="{step - 1:.1f}" height="{_HEIGHT * count / most:.1f}"/>'
        for n, count in enumerate(counts)
        if count
    )
    words = f"{len(values)} values, {low:.4g} to {high:.4g} {unit}, median {ordered[len(ordered) // 2]:.4g}"
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(words)}">{bars}</svg><small>{escape(words)}</small></figure>'
    )


def bar(parts: Sequence[tuple[str, int, str]]) -> str:
    """Draw the parts of a whole, (name, count, colour) each, as one horizontal bar."""
    total = sum(count for _, count, _ in parts) or 1
    cells = "".join(
        f'<span style="width:{100 * count / total:.3f}%;background:{colour}" title="{escape(name)}: {count}"></span>'
        for name, count, colour in parts
        if count
    )
    return f'<div class="bar">{cells}</div>'
