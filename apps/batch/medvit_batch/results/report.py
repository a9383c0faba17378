"""``report.html``: the batch on one page that opens offline and can be mailed. It holds no patient data, no paths and
no script.
"""

from __future__ import annotations

import base64
import json
from collections import Counter, defaultdict
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

from medvit.atomic_write import os_errors_as_output_errors, replace_file
from medvit.reports import RATINGS
from medvit_batch.cases import State
from medvit_batch.results.charts import bar, histogram
from medvit_batch.results.summary import Summary

__all__ = ["write_report"]

_PICTURES = 200
"""Upper limit of thumbnails on the page, flagged cases first; further cases get a link to their preview."""

_ROWS = 500
"""Upper limit of cases in a table; cases.csv lists all."""

_CHARTS = 60
_SIZE = (360, 160)
_COLOURS = {
    "good": "#2e7d4f", "uncalibrated": "#6b7785", "check": "#c9962b", "poor": "#b3392f", "published": "#2e7d4f", "flagged": "#c9962b", "failed": "#b3392f",
    "set aside": "#c9962b", "skipped": "#9aa4ad", "pending": "#d4dae0", "running": "#3f74b5", "checked": "#3f74b5",
}  # fmt: skip
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c2328;background:#fff;margin:0 auto;max-width:1180px;padding:24px}
h1{font-size:24px;margin:0}h2{font-size:18px;margin:32px 0 8px}small,.dim{color:#5b666e}
.use{background:#fff4d6;border:1px solid #e6cf8b;padding:6px 12px;border-radius:6px;margin:12px 0}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:16px 0}.tile{border:1px solid #dde3e8;border-radius:8px;padding:8px 16px;min-width:90px}
.tile b{display:block;font-size:24px}.bar{display:flex;height:14px;border-radius:7px;overflow:hidden;background:#eef1f4}.bar span{display:block}
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:5px 10px;border-bottom:1px solid #e4e9ed}
td.uid{font:12px ui-monospace,monospace;word-break:break-all;max-width:330px}
.charts,.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(250px,1fr));gap:16px}
.pictures{grid-template-columns:repeat(auto-fill,minmax(350px,1fr))}figure{margin:0}figcaption{font-weight:600}svg{width:100%;fill:#3f74b5}
.pictures img{width:100%;border-radius:6px;display:block}.rating{color:#fff;border-radius:4px;padding:0 7px;font-size:13px}
@media print{.pictures figure,tr{break-inside:avoid}}
"""


def write_report(summary: Summary, out: Path) -> None:
    """Write the report of a batch."""
    parts = [
        _head(summary), _states(summary), _look(summary), _failures(summary), _ratings(summary), _volumes(summary), _times(summary),
        _pictures(summary, out), _files(summary), "</body></html>\n",
    ]  # fmt: skip
    path = out / "report.html"
    with os_errors_as_output_errors(out), replace_file(path) as aside:
        aside.write_text("".join(parts), encoding="utf-8")


def _head(summary: Summary) -> str:
    run, asked = summary.run, json.loads(summary.run.get("command") or "{}")
    versions = sorted({f"{row['bundle']} {row['version']}" for row in summary.cases if row["version"]})
    hidden = asked.get("deidentify")
    # the start of a node's run may be the day of a study
    said = [] if hidden else [f"Last run started {run.get('started', '')[:16].replace('T', ' ')} UTC"]
    said.append(
        f"Last run ended: {run.get('outcome') or 'not yet'}" if hidden else f"ended: {run.get('outcome') or 'not yet'}"
    )
    said += [f"selection: {asked['select']}"] if asked.get("select") and not hidden else []
    said += ["De-identified by DICOM PS3.15's Basic Profile; pixels are unchanged"] if hidden else []
    said += [f"bundles: {', '.join(versions)}"] if versions else []
    uses = "".join(f'<p class="use">{escape(use)}.</p>' for use in summary.intended_use)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>medvit batch</title><style>{_STYLE}</style></head><body><h1>medvit batch: {len(summary.cases)} series</h1>"
        f"<p class='dim'>{escape('; '.join(said))}.</p>{uses or '<p class=use>For research use, not for diagnosis.</p>'}"
    )


def _states(summary: Summary) -> str:
    flagged = sum(row["flagged"] == "yes" for row in summary.cases)
    tiles = [(state, n) for state, n in summary.counts.items()] + [("flagged", flagged)]
    shown = "".join(f'<div class="tile"><b>{n}</b>{escape(state)}</div>' for state, n in tiles)
    parts = [(state, n, _COLOURS[state]) for state, n in summary.counts.items()]
    return f'<div class="tiles">{shown}</div>{bar(parts)}'


def _look(summary: Summary) -> str:
    rows = [row for row in summary.cases if row["flagged"] == "yes"]
    if not rows:
        return ""
    cells = "".join(
        f"<tr><td class=uid>{_link(row)}</td><td>{_badge(row['rating'])}</td><td>{escape(_flag_words(row))}</td></tr>"
        for row in rows[:_ROWS]
    )
    return (
        f"<h2>Published results to check ({len(rows)})</h2><table><tr><th>Series</th><th>Rating</th><th>Reason</th></tr>{cells}</table>"
        + _more(len(rows))
    )


def _flag_words(row: dict[str, Any]) -> str:
    return "; ".join(text for text in (row["flags"], row["rating_reasons"]) if text)


def _failures(summary: Summary) -> str:
    """List the cases without a result, grouped by reason."""
    parts = []
    for state, title in ((State.FAILED, "Failed"), (State.SET_ASIDE, "Set aside"), (State.SKIPPED, "Skipped")):
        groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for row in summary.cases:
            if row["state"] == state:
                groups[row["reason"], row["remedy"] if row["remedy"] not in row["reason"] else ""].append(row)
        if not groups:
            continue
        total = sum(len(rows) for rows in groups.values())
        lines = "".join(
            f"<tr><td>{len(rows)}</td><td>{escape(rows[0]['stage'])}</td><td>{escape(f'{reason} {remedy}'.strip())}</td>"
            f"<td class=uid>{'<br>'.join(escape(row['case']) for row in rows[:5])}{f'<br>and {len(rows) - 5} more' if len(rows) > 5 else ''}</td></tr>"
            for (reason, remedy), rows in sorted(groups.items(), key=lambda item: -len(item[1]))[:_ROWS]
        )
        parts.append(
            f"<h2>{title} ({total})</h2><table><tr><th>Cases</th><th>Stage</th><th>Reason and what to do</th><th>Series</th></tr>{lines}</table>"
            + _more(len(groups))
        )
    return "".join(parts)


def _more(count: int) -> str:
    return f"<p class=dim>and {count - _ROWS} more: see cases.csv.</p>" if count > _ROWS else ""


def _ratings(summary: Summary) -> str:
    counts = Counter(row["rating"] for row in summary.cases if row["rating"])
    if not counts:
        return ""
    parts = [(rating, counts[rating], _COLOURS[rating]) for rating in RATINGS]
    said = ", ".join(f"{n} {rating}" for rating, n, _ in parts if n)
    return f"<h2>Rating</h2>{bar(parts)}<p class=dim>{escape(said)}. The rating judges whether the anatomy is plausible; it is not a comparison with a reader. Uncalibrated: nothing implausible was found, but these weights or this anatomy were not validated on enough real patients.</p>"


def _volumes(summary: Summary) -> str:
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in summary.measurements:
        if row["volume_ml"]:
            found[row["bundle"], row["label"]].append(row["volume_ml"])
    if not found:
        return ""
    charts = "".join(
        histogram(values, "mL", f"{label} ({bundle})") for (bundle, label), values in list(found.items())[:_CHARTS]
    )
    return f'<h2>Volumes</h2><div class="charts">{charts}</div>'


def _times(summary: Summary) -> str:
    done = [row for row in summary.cases if row["state"] == State.PUBLISHED and row["seconds"]]
    if not done:
        return ""
    charts = histogram([row["seconds"] for row in done], "s", "Time per case")
    peaks = [row["peak_mb"] for row in done if row["peak_mb"]]
    charts += histogram(peaks, "MB", "Peak memory of the worker") if peaks else ""
    return f'<h2>Time and memory</h2><div class="charts">{charts}</div>'


def _pictures(summary: Summary, out: Path) -> str:
    done = [
        row
        for row in summary.cases
        if row["state"] == State.PUBLISHED and (out / row["folder"] / "preview.png").is_file()
    ]
    done.sort(key=lambda row: (row["flagged"] != "yes", -("", *RATINGS).index(row["rating"])))
    shown = [
        f"<figure>{_thumbnail(row, out)}<small>{_badge(row['rating'])} {_link(row)}</small></figure>"
        for row in done[:_PICTURES]
    ]
    links = [f"<li class=uid>{_link(row)}</li>" for row in done[_PICTURES:]]
    if not shown:
        return ""
    rest = f"<p>Previews of the other cases:</p><ul>{''.join(links)}</ul>" if links else ""
    return f'<h2>Pictures</h2><div class="pictures">{"".join(shown)}</div>{rest}'


def _thumbnail(row: dict[str, Any], out: Path) -> str:
    from PIL import Image

    packed = BytesIO()
    try:
        with Image.open(out / row["folder"] / "preview.png") as picture:
            picture.thumbnail(_SIZE)
            picture.convert("RGB").save(packed, "JPEG", quality=72)
    except OSError:  # the file is being replaced
        return ""
    data = base64.b64encode(packed.getvalue()).decode()
    return f'<a href="{escape(row["folder"])}/preview.png"><img alt="preview of {escape(row["case"])}" src="data:image/jpeg;base64,{data}"></a>'


def _link(row: dict[str, Any]) -> str:
    return f'<a href="{escape(row["folder"])}/">{escape(row["case"])}</a>'


def _badge(rating: str) -> str:
    return f'<span class="rating" style="background:{_COLOURS[rating]}">{escape(rating)}</span>' if rating else ""


def _files(summary: Summary) -> str:
    kinds = json.loads(summary.run.get("files") or "{}")
    unused = json.loads(summary.run.get("unused") or "[]")
    names = {
        "planes": "DICOM images",
        "object": "other DICOM objects",
        "image": "image files",
        "other": "not DICOM",
        "missing": "links or placeholders without a file",
        "unreadable": "files that could not be read",
    }
    said = ", ".join(f"{n} {names.get(kind, kind)}" for kind, n in kinds.items())
    lines = "".join(
        f"<tr><td class=uid>{escape(a)}</td><td>{escape(k)}</td><td>{escape(w)}</td></tr>" for a, k, w in unused[:_ROWS]
    )
    table = (
        f"<table><tr><th>File</th><th>Kind</th><th>Reason</th></tr>{lines}</table>{_more(len(unused))}" if lines else ""
    )
    note = "<p class=dim>Files are listed by number, since their names may be patients'. medvit batch status --paths lists the names.</p>"
    return f"<h2>Files</h2><p>{escape(said) or 'none'}.</p>{table}{note if lines else ''}"
