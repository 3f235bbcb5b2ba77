# SPDX-License-Identifier: BSD-3-Clause
"""The figures as SVG: line charts that are legible on light and on dark pages."""
import math
import os
from html import escape

from cases import DEPTHS, IDLE_COUNTS

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 76, 24, 84, 56  # around the plot itself
PERCENTS = ('1', '10', '25', '50', '75', '90', '95', '99', '99.9', '99.99', '99.999')

# Of a series: its colours on light and dark pages; it has a marker, too, for those who see no colours.
COLOURS = (('#0969da', '#4493f8'), ('#bc4c00', '#f0883e'), ('#1a7f37', '#3fb950'),
           ('#8250df', '#ab7df8'))
MARKERS = ('<circle class="f{i}" cx="{x}" cy="{y}" r="4"/>',
           '<rect class="f{i}" x="{left}" y="{top}" width="8" height="8"/>',
           '<path class="f{i}" d="M{x} {top}l5 9h-10z"/>',
           '<path class="f{i}" d="M{x} {top}l5 4-5 5-5-5z"/>')


def style():
    def sheet(dark, ink, soft, grid, page):
        rules = [f'text {{ fill: {soft}; }}', f'.title {{ fill: {ink}; }}',
                 f'.page {{ fill: {page}; }}', f'.grid {{ stroke: {grid}; }}']
        for i, colours in enumerate(COLOURS):
            rules.append(f'.f{i} {{ fill: {colours[dark]}; }} .l{i} {{ stroke: {colours[dark]}; }}')
        return '\n'.join(rules)

    return ('text { font: 13px system-ui, sans-serif; }\n'
            '.title { font-size: 16px; font-weight: 600; }\n'
            '.line { fill: none; stroke-width: 2; stroke-linejoin: round; }\n'
            + sheet(0, '#1f2328', '#59636e', '#d8dee4', '#ffffff')
            + '\n@media (prefers-color-scheme: dark) {\n'
            + sheet(1, '#f0f6fc', '#9198a1', '#30363d', '#0d1117') + '\n}\n')


def marker(index, x, y):
    return MARKERS[index].format(i=index, x=f'{x:.1f}', y=f'{y:.1f}', left=f'{x - 4:.1f}',
                                 top=f'{y - 4:.1f}')


def label(value):
    for limit, suffix in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
        if value >= limit:
            return f'{value / limit:g} {suffix}'
    return f'{value:g}'


class Linear:
    """From 0 to above the largest value, with four to eight steps."""

    def __init__(self, values):
        top = max(values) or 1
        step = 10 ** math.floor(math.log10(top))
        step = next(step * f for f in (0.1, 0.2, 0.25, 0.5, 1, 2) if top / (step * f) <= 7)
        self.ticks = [step * i for i in range(math.ceil(top / step) + 1)]

    def place(self, value):
        return value / self.ticks[-1]


class Logarithmic:
    """Whole powers of ten around the values."""

    def __init__(self, values):
        values = [v for v in values if v > 0] or [1]
        self.low = math.floor(math.log10(min(values)))
        self.high = max(math.ceil(math.log10(max(values))), self.low + 1)
        self.ticks = [10.0 ** e for e in range(self.low, self.high + 1)]

    def place(self, value):
        return (math.log10(max(value, self.ticks[0])) - self.low) / (self.high - self.low)


def axes(scale, xs, x_title, place_x, place_y):
    for tick in scale.ticks:
        y = place_y(tick)
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        yield f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{label(tick)}</text>'
    for i, x in enumerate(xs):
        yield (f'<text x="{place_x(i):.1f}" y="{HEIGHT - BOTTOM + 22}" text-anchor="middle">'
               f'{escape(str(x))}</text>')
    yield (f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">'
           f'{escape(x_title)}</text>')


def lines(series, place_x, place_y):
    legend_x = LEFT
    for index, (name, values) in enumerate(series):
        points = [(place_x(i), place_y(v)) for i, v in enumerate(values) if v is not None]
        way = 'L'.join(f'{x:.1f} {y:.1f}' for x, y in points)
        yield f'<path class="line l{index}" d="M{way}"/>'
        yield from (marker(index, x, y) for x, y in points)
        yield marker(index, legend_x + 5, 58)
        yield f'<text x="{legend_x + 16}" y="62">{escape(name)}</text>'
        legend_x += 40 + 7.5 * len(name)


def chart(title, x_title, y_title, xs, series, scale_of=Linear, shown=()):
    """
    series: (name, values), None where there is none. xs are evenly spaced, whatever they are. shown:
    values that the y axis covers in any case.
    """
    scale = scale_of([*shown, *(v for _, values in series for v in values if v is not None)])
    step = (WIDTH - LEFT - RIGHT) / len(xs)

    def place_x(i):
        return LEFT + step * (i + 0.5)

    def place_y(value):
        return HEIGHT - BOTTOM - scale.place(value) * (HEIGHT - BOTTOM - TOP)

    body = [*axes(scale, xs, x_title, place_x, place_y), *lines(series, place_x, place_y)]
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'role="img" aria-label="{escape(title)}">\n<style>\n{style()}</style>\n'
            f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="6"/>\n'
            f'<text class="title" x="{LEFT}" y="26">{escape(title)}</text>\n'
            f'<text x="{LEFT}" y="44">{escape(y_title)}</text>\n' + '\n'.join(body) + '\n</svg>\n')


# ---- what is shown ----

def series_of(summary, names, metric, case):
    """names: (series, its server and key); case(key, x) is asked for by the caller's xs."""
    found = []
    for name, server, values in names:
        numbers = [summary.get(case(*value), metric, server) for value in values]
        if any(number is not None for number in numbers):
            found.append((name, numbers))
    return found


def iops_over_depth(summary):
    names = (('vhostd, split', 'vhostd', [('split', d) for d in DEPTHS]),
             ('vhostd, packed', 'vhostd', [('packed', d) for d in DEPTHS]),
             ('qemu-storage-daemon', 'qsd', [('split', d) for d in DEPTHS]))
    series = series_of(summary, names, 'iops',
                       lambda ring, depth: f'depths null {ring} randread qd{depth}')
    return chart('Random reads of 4 KiB from a null disk', 'queue depth',
                 'IOPS; one queue, one core for the server', DEPTHS, series) if series else None


def latency_percentiles(summary):
    series = []
    for name, case, server in (('vhostd QD 1', 'null split randread qd1', 'vhostd'),
                               ('vhostd QD 32', 'null split randread qd32', 'vhostd'),
                               ('qsd QD 1', 'null split randread qd1', 'qsd'),
                               ('qsd QD 32', 'null split randread qd32', 'qsd')):
        percentiles = summary.get(case, 'percentiles_us', server)
        if percentiles:
            series.append((name, [percentiles.get(p) for p in PERCENTS]))
    return chart('Latency of random reads of 4 KiB from a null disk', 'percentile',
                 'µs; qsd is qemu-storage-daemon',
                 PERCENTS, series, Logarithmic) if series else None


def scaling(summary):
    queues = (1, 2, 4, 8)
    names = [(f'{n} reactor{"s" if n > 1 else ""}', 'vhostd', [(q, n) for q in queues])
             for n in (1, 2)]
    series = series_of(summary, names, 'iops', lambda q, n: f'{q} queues on {n} reactors')
    return chart('Queues over reactors, front-end on the same CPUs', 'queues',
                 'IOPS; QD 32 each, null disk', queues, series) if series else None


def idle_cost(summary):
    names = [(mode, 'vhostd', [(mode, count) for count in IDLE_COUNTS])
             for mode in ('adaptive', 'interrupt')]
    series = series_of(summary, names, 'value', lambda m, count: f'idle {m} {count} controllers')
    return chart('What idle guests cost', 'connected controllers',
                 '% of a core; in poll mode it is always 100 %', IDLE_COUNTS,
                 series, shown=(1,)) if series else None


PLOTS = {'iops.svg': iops_over_depth, 'latency.svg': latency_percentiles,
         'scaling.svg': scaling, 'idle.svg': idle_cost}


def write_all(summary, folder):
    """Those that there are figures for."""
    os.makedirs(folder, exist_ok=True)
    for name, plot in PLOTS.items():
        text = plot(summary)
        if text:
            with open(os.path.join(folder, name), 'w', encoding='utf-8') as file:
                file.write(text)
