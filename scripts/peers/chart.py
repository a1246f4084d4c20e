"""Draws processor time a message, relative to the ring's floor, as one SVG picture.

A panel for each workload, a bar for each server, in the same order everywhere. The scale is
linear, so that a few percent can be seen; a bar that would be longer than the panel is cut, and its
figure says how long it is. The thin line on a bar is the least and the most of the rounds.
"""

import statistics
from xml.sax.saxutils import escape

import workloads
from tables import duration
from workloads import RING_FLOOR, RINGWIRE

LEGEND = {
    "ringwire": "ringwire",
    "floor": "raw TCP, without a protocol",
    "peer": "other WebSocket servers",
}

LABELS = {
    "floor_epoll": "raw TCP on epoll",
    "ringwire_aio": "ringwire, async",
    "ringwire_aio_tokio": "ringwire, async on tokio",
    "ringwire_before": "ringwire, an earlier build",
    "ringwire_epoll": "ringwire on epoll",
    "tokio_uring": "raw TCP on tokio-uring",
    "tokio_websockets": "tokio-websockets",
    "tokio_tungstenite": "tokio-tungstenite",
    "bun": "Bun",
    "ws": "ws (Node)",
}

COLUMNS = 2
COLUMN_WIDTH = 540
MARGIN = 24
GUTTER = 32
TOP = 92
LABEL_WIDTH = 148
FIGURE_WIDTH = 124
BAR_PITCH, BAR_HEIGHT = 17, 11
PANEL_HEAD, PANEL_GAP = 26, 32
SCALE_MAX = 4.0

STYLE = """
  text { font-family: system-ui, sans-serif; font-size: 12px; fill: #1f2328 }
  .tick { font-size: 10px }
  .title { font-size: 17px; font-weight: 600 } .panel { font-size: 13px; font-weight: 600 }
  .quiet { fill: #59636e } .grid { stroke: #d1d9e0; stroke-width: 1 }
  .floor-line { stroke: #1f2328; stroke-width: 1.5 } .spread { stroke: #1f2328; stroke-width: 1 }
  .ringwire { fill: #0f766e } .floor { fill: #afb8c1 } .peer { fill: #6e8fc9 }
  .own { font-weight: 600 } .page, .cut { fill: #ffffff }
  @media (prefers-color-scheme: dark) {
    .page, .cut { fill: #0d1117 } text { fill: #e6edf3 } .quiet { fill: #9198a1 }
    .grid { stroke: #30363d } .floor-line, .spread { stroke: #e6edf3 }
    .ringwire { fill: #2dd4bf } .floor { fill: #57606a } .peer { fill: #5b7db8 }
  }
"""


class Panel:
    """One workload."""

    def __init__(self, results, name, order):
        self.label = results.workloads[name]["label"]
        self.goal = next(
            (
                goal.floor_ratio_max
                for goal in workloads.CPU_GOALS
                if goal.workload == name and not goal.better_floor
            ),
            None,
        )
        self.floor_ns = statistics.median(results.cpu(name, RING_FLOOR))
        self.bars = []
        for server in order:
            ratio = results.ratio(name, server, RING_FLOOR)
            if ratio and server != RING_FLOOR:
                ns = statistics.median(results.cpu(name, server))
                self.bars.append((server, results.servers[server]["role"], ratio, ns))

    @property
    def height(self):
        return PANEL_HEAD + len(self.bars) * BAR_PITCH + PANEL_GAP

    def draw(self, left, top):
        plot_left = left + LABEL_WIDTH
        plot_width = COLUMN_WIDTH - LABEL_WIDTH - FIGURE_WIDTH
        unit = plot_width / SCALE_MAX
        bottom = top + PANEL_HEAD + len(self.bars) * BAR_PITCH
        yield text(left, top + 13, self.label, "panel")
        floor = f"floor {duration(self.floor_ns)}"
        if self.goal:
            floor = f"goal at most {self.goal} ×, {floor}"
        yield text(left + COLUMN_WIDTH, top + 13, floor, "quiet", "end")
        for tick in range(int(SCALE_MAX) + 1):
            x = plot_left + tick * unit
            if tick != 1:
                yield line(x, top + PANEL_HEAD - 4, bottom, "grid")
            label = {0: "0", 1: "floor"}.get(tick, f"{tick} ×")
            yield text(x, bottom + 9, label, "quiet tick", "middle")
        for index, (server, role, ratio, ns) in enumerate(self.bars):
            y = top + PANEL_HEAD + index * BAR_PITCH
            middle = y + BAR_HEIGHT / 2
            own = "own" if role == RINGWIRE else ""
            name = LABELS.get(server, server)
            yield text(plot_left - 8, middle + 4, name, own, "end")
            cut = ratio.median > SCALE_MAX
            length = min(ratio.median, SCALE_MAX) * unit
            yield (
                f'<rect class="{role}" x="{plot_left:.1f}" y="{y}" width="{length:.1f}" '
                f'height="{BAR_HEIGHT}" rx="1.5"/>'
            )
            if cut:
                x = plot_left + length - 16
                yield (
                    f'<path class="cut" d="M{x:.1f} {y + BAR_HEIGHT + 1}l6 -{BAR_HEIGHT + 2}h4'
                    f'l-6 {BAR_HEIGHT + 2}z"/>'
                )
            elif ratio.most <= SCALE_MAX and (ratio.most - ratio.least) * unit >= 2:
                yield (
                    f'<path class="spread" d="M{plot_left + ratio.least * unit:.1f} {middle}'
                    f'H{plot_left + ratio.most * unit:.1f}"/>'
                )
            places = 2 if ratio.median < 10 else 1 if ratio.median < 100 else 0
            figure = f"{ratio.median:.{places}f} ×"
            x = plot_left + plot_width + 56
            yield text(x, middle + 4, figure, own, "end")
            yield text(left + COLUMN_WIDTH, middle + 4, duration(ns), "quiet", "end")
        yield line(plot_left + unit, top + PANEL_HEAD - 4, bottom, "floor-line")


def text(x, y, words, style="", anchor="start"):
    style = f' class="{style}"' if style else ""
    anchor = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{style}{anchor}>{escape(words)}</text>'


def line(x, top, bottom, style):
    return f'<path class="{style}" d="M{x:.1f} {top}V{bottom}"/>'


def legend(right, y):
    """What the colours mean."""
    # Letters are about so wide, whatever the font.
    widths = [len(words) * 7 + 34 for words in LEGEND.values()]
    x = right - sum(widths)
    for (style, words), width in zip(LEGEND.items(), widths):
        yield f'<rect class="{style}" x="{x:.1f}" y="{y - 10}" width="11" height="11" rx="1.5"/>'
        yield text(x + 17, y, words, "quiet")
        x += width


def order_of(results):
    """ringwire on its engines, the floors, then the peers as they were given."""
    rank = {RINGWIRE: 0, "floor": 1, "peer": 2}
    return sorted(results.servers, key=lambda name: rank[results.servers[name]["role"]])


def draw(results):
    order = order_of(results)
    panels = [
        Panel(results, name, order)
        for name in results.ordered()
        if results.workloads[name]["kind"] in ("echo", "ingest") and results.cpu(name, RING_FLOOR)
    ]
    # Filled column by column, each about as high as the other.
    in_all, columns = sum(panel.height for panel in panels), [[]]
    for panel in panels:
        above = sum(one.height for one in columns[-1])
        if above + panel.height / 2 > in_all / COLUMNS and len(columns) < COLUMNS and above:
            columns.append([])
        columns[-1].append(panel)
    height = TOP + max((sum(one.height for one in column) for column in columns), default=0)
    width = 2 * MARGIN + COLUMNS * COLUMN_WIDTH + (COLUMNS - 1) * GUTTER
    environment = results.data["environment"]
    rounds = sorted({entry["rounds"] for entry in results.workloads.values()})
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">',
        "<title>Processor time a message, relative to a raw TCP echo on the same ring</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}"/>',
        text(MARGIN, 32, "Processor time a message on the server", "title"),
        *legend(width - MARGIN, 32),
        text(
            MARGIN,
            52,
            "The line at 1 × is the floor: a raw TCP echo on ringwire's own ring driver, without "
            "a protocol. Shorter is better; bars are cut at 4 ×.",
            "quiet",
        ),
        text(
            MARGIN,
            70,
            f"Linux {environment['kernel']}, {environment['cpu_model']}, one processor a side. Interleaved "
            f"rounds: {' or '.join(map(str, rounds))}; the figure is their median, the thin line their least and most.",
            "quiet",
        ),
    ]
    for index, column in enumerate(columns):
        top = TOP
        for panel in column:
            lines += panel.draw(MARGIN + index * (COLUMN_WIDTH + GUTTER), top)
            top += panel.height
    lines.append("</svg>")
    return lines
