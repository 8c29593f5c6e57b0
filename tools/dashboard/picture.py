#!/usr/bin/env python3
"""The panels of the dashboard as one SVG, drawn from a Prometheus that runs: picture.py URL MINUTES [END]

It prints the SVG, of the minutes before END (seconds since 1970; now). It asks what dashboard.py would have Grafana ask, and draws the answers: no number is made up or smoothed. It is a picture for
the documents, and not what Grafana draws.
"""
import json
import math
import sys
import time
import urllib.parse
import urllib.request
from html import escape

from dashboard import COLUMNS, ROWS

STEP = 10  # seconds between two points; deploy/prometheus/prometheus.yaml scrapes every 5 s
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 330, 210, 42, 28, 52  # of a panel, and what is left around its plot
COLOURS = "#3274d9 #e0752d #37872d #c4162a #8f3bb8 #b8860b #0a8a8a #7a7a7a #d683ce #5794f2 #73bf69 #fade2a".split()


def ask(url, query, begin, end):
    """The series of a query, as (labels, {second: number})."""
    query = query.replace("$__rate_interval", "30s").replace("$namespace", ".*")
    parameters = urllib.parse.urlencode({"query": query, "start": begin, "end": end, "step": STEP})
    with urllib.request.urlopen(f"{url}/api/v1/query_range?{parameters}", timeout=30) as answer:
        result = json.load(answer)["data"]["result"]
    return [(series["metric"], {int(at): float(number) for at, number in series["values"]}) for series in result]


def named(legend, labels):
    for label, value in labels.items():
        legend = legend.replace("{{" + label + "}}", value)
    return legend


def ceiling(number):
    """The next of 1, 2, 5, 10, 20, …, and 1 at least."""
    power = 10 ** math.floor(math.log10(max(number, 1)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= number)


def runs(points):
    """Points without a gap between them: where Prometheus has no sample there is no line."""
    run = []
    for at in sorted(points):
        if run and at - run[-1] > STEP:
            yield run
            run = []
        run.append(at)
    if run:
        yield run


def panel(it, series, begin, end):
    """The parts of one panel, from its upper left corner."""
    # What was 0 all the time hides the rest of a legend with many entries.
    empty = "all are 0" if series else "nothing was counted"
    series = [(name, points) for name, points in series if len(series) <= 3 or any(points.values())]
    width, height = WIDTH - LEFT - 10, HEIGHT - TOP - BOTTOM
    floor = {}
    stacks = []
    for name, points in series:
        low = {at: floor.get(at, 0) if it.stacked else 0 for at in points}
        high = {at: low[at] + number for at, number in points.items()}
        floor |= high
        stacks.append((name, low, high))
    top = ceiling(max((number for _, _, high in stacks for number in high.values()), default=0))

    def place(at, number):
        return f"{LEFT + (at - begin) / (end - begin) * width:.1f},{TOP + height - number / top * height:.1f}"

    unit = {"s": " s", "ops": "/s"}.get(it.unit, "")
    yield f'<text x="8" y="18" font-weight="bold">{escape(it.title)}</text>'
    for share in (0, 0.5, 1):
        y = TOP + height * (1 - share)
        yield f'<path d="M{LEFT} {y:.1f}h{width}" stroke="#ddd"/>'
        yield f'<text x="{LEFT - 4}" y="{y + 4:.1f}" text-anchor="end" fill="#666">{top * share:g}{unit}</text>'
    for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end")):
        minutes = (end - begin) / 60 * share
        yield (f'<text x="{LEFT + share * width:.1f}" y="{TOP + height + 13}" text-anchor="{anchor}" fill="#666">'
               f'{minutes:g} min</text>')
    for index, (name, low, high) in enumerate(stacks):
        colour = COLOURS[index % len(COLOURS)]
        for run in runs(high):
            line = " ".join(place(at, high[at]) for at in run)
            if it.stacked:
                below = " ".join(place(at, low[at]) for at in reversed(run))
                yield f'<polygon points="{line} {below}" fill="{colour}" fill-opacity="0.4"/>'
            yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.2"/>'
    x, y = LEFT, TOP + height + 28
    for index, (name, _, _) in enumerate(stacks):
        if x + 14 + 6 * len(name) > WIDTH and x > LEFT:
            x, y = LEFT, y + 13
        yield f'<text x="{x}" y="{y}" fill="{COLOURS[index % len(COLOURS)]}">■ <tspan fill="#333">{escape(name)}</tspan></text>'
        x += 24 + 6 * len(name)
    if not stacks:
        yield f'<text x="{LEFT + width / 2}" y="{TOP + height / 2}" text-anchor="middle" fill="#999">{empty}</text>'


def main(url, minutes, end=None):
    end = int(end or time.time()) // STEP * STEP
    begin = end - int(minutes) * 60
    parts = []
    y = 0
    for title, row in ROWS.items():
        parts.append(f'<text x="8" y="{y + 22}" font-size="14" font-weight="bold">{escape(title)}</text>')
        y += 30
        for index, it in enumerate(row):
            series = [(named(legend, labels), points) for query, legend in it.queries
                      for labels, points in ask(url, query, begin, end)]
            drawn = "\n".join(panel(it, series, begin, end))
            x, below = index % COLUMNS * WIDTH, y + index // COLUMNS * HEIGHT
            parts.append(f'<g transform="translate({x} {below})"><rect x="2" y="2" width="{WIDTH - 4}" height="{HEIGHT - 4}"'
                         f' fill="#fff" stroke="#ccc"/>\n{drawn}</g>')
        y += -(-len(row) // COLUMNS) * HEIGHT
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {COLUMNS * WIDTH} {y}" font-family="sans-serif" font-size="11">\n'
          f'<rect width="100%" height="100%" fill="#f6f6f6"/>\n' + "\n".join(parts) + "\n</svg>")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (OSError, TypeError, ValueError) as error:
        sys.exit(f"picture.py URL MINUTES [END] draws nothing: {error}. Does `make prometheus` run?")
