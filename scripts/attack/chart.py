"""Pictures of a soak: a line of text, and an SVG."""

from rows import MIB

BARS = "▁▂▃▄▅▆▇█"
WIDTH_MAX = 72
WIDTH, HEIGHT, MARGIN = 760, 130, 46


def sparkline(what, values, unit):
    """One bar a sample, or for as many as fit the mean of several."""
    if not values:
        return f"{what:16} nothing"
    each = max(1, -(-len(values) // WIDTH_MAX))
    groups = [values[at : at + each] for at in range(0, len(values), each)]
    means = [sum(group) / len(group) for group in groups]
    low, high = min(means), max(means)
    steps = len(BARS) - 1
    at = [round((mean - low) / (high - low) * steps) if high > low else 0 for mean in means]
    bars = "".join(BARS[step] for step in at)
    return f"{what:16} {bars}  from {unit(min(values))} to {unit(max(values))}"


def svg(samples):
    """Memory, descriptors and waits over time, one below the other."""
    panels = (
        ("memory, MiB", [sample.resident_bytes / MIB for sample in samples]),
        ("descriptors", [sample.descriptors for sample in samples]),
        ("neighbour's p99 beyond an idle server's, ms", [sample.p99_ms for sample in samples]),
    )
    minutes = [sample.minute for sample in samples]
    height = HEIGHT * len(panels) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for index, (title, values) in enumerate(panels):
        parts += panel(index * HEIGHT + 20, title, minutes, values)
    parts.append("</svg>\n")
    return "\n".join(parts)


def panel(top, title, minutes, values):
    if not values:
        return [f'<text x="{MARGIN}" y="{top}">{title}: nothing</text>']
    low, high = min(0, *values), max(values)
    end = max(minutes) or 1
    tall = HEIGHT - 40

    def place(minute, value):
        x = MARGIN + minute / end * (WIDTH - MARGIN - 10)
        y = top + 10 + tall - (value - low) / ((high - low) or 1) * tall
        return f"{x:.1f},{y:.1f}"

    points = " ".join(place(minute, value) for minute, value in zip(minutes, values))
    bottom = top + 10 + tall
    return [
        f'<text x="{MARGIN}" y="{top}">{title}</text>',
        f'<path d="M{MARGIN},{top + 10} V{bottom} H{WIDTH - 10}" fill="none" stroke="#999"/>',
        f'<text x="{MARGIN - 4}" y="{top + 18}" text-anchor="end">{high:.0f}</text>',
        f'<text x="{MARGIN - 4}" y="{bottom}" text-anchor="end">{low:.0f}</text>',
        f'<text x="{WIDTH - 10}" y="{bottom + 13}" text-anchor="end">{end:.1f} min</text>',
        f'<polyline points="{points}" fill="none" stroke="#0a58ca" stroke-width="1.5"/>',
    ]
