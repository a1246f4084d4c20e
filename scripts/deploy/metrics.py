"""What metrics the server has, and who asks for which.

    metrics.py names         whether alerts, their tests, the dashboard and README.md name only
                             metrics that the tables of the source make
    metrics.py exposed FILE  whether what a server exposes (OpenMetrics) has all of them, each of
                             the type that it should be
"""

import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# A row of counts! in the first file, and of distributions! in the second.
COUNT = re.compile(r"^    (\w+): (Counter|Gauge),$", re.M)
DISTRIBUTION = re.compile(r"^    (\w+): (Nanoseconds|Bytes|Number) in \w+,$", re.M)

# What is in no table: of the process, or of all shards together.
OTHERS = {
    "ringwire_connections_open": "gauge",
    "ringwire_queued_bytes": "gauge",
    "ringwire_ready": "gauge",
    "ringwire_shard_stalled": "gauge",
    "ringwire_reloads": "counter",
    "ringwire_last_reload_success": "gauge",
    "ringwire_log_lines_dropped": "counter",
    "ringwire_build_info": "gauge",
    "process_cpu_seconds": "counter",
    "process_resident_memory_bytes": "gauge",
    "process_open_fds": "gauge",
    "process_max_fds": "gauge",
    "process_start_time_seconds": "gauge",
}

# What a family's samples are called.
SUFFIXES = {
    "counter": ["_total"],
    "gauge": [""],
    "histogram": ["_bucket", "_count", "_sum"],
}


def name_of(field):
    """The unit stands at the end of a metric's name: payload_bytes_received is of bytes."""
    if "_bytes_" in field:
        field = field.replace("_bytes_", "_", 1) + "_bytes"
    return f"ringwire_{field}"


def families():
    """The type of each family of metrics, by its name."""
    found = dict(OTHERS)
    text = (ROOT / "src/conn/counts.rs").read_text(encoding="utf-8")
    counts = COUNT.findall(text)
    text = (ROOT / "src/conn/distribution.rs").read_text(encoding="utf-8")
    distributions = DISTRIBUTION.findall(text)
    if len(counts) < 30 or len(distributions) < 5:
        sys.exit("the tables of counts.rs and distribution.rs in src/conn were not understood")
    for field, kind in counts:
        found[name_of(field)] = kind.lower()
    for field, unit in distributions:
        end = {"Nanoseconds": "_seconds", "Bytes": "_bytes", "Number": ""}[unit]
        found[f"ringwire_{field}{end}"] = "histogram"
    return found


def samples():
    return {
        name + suffix for name, kind in families().items() for suffix in SUFFIXES[kind]
    }


def named(text):
    return set(re.findall(r"\b(?:ringwire|process)_[a-z0-9_]+\b", text))


def queries():
    dashboard = json.loads((HERE / "prometheus/dashboard.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def check_names():
    known = samples()
    wrong = []
    asked = [(f"dashboard.json, '{title}'", query) for title, query in queries()]
    for file in ("alerts.yml", "alerts.test.yml", "prometheus.yml"):
        asked.append((file, (HERE / "prometheus" / file).read_text(encoding="utf-8")))
    # Names of settings and files begin in the same way; of the page only what is a metric's.
    page = (HERE / "README.md").read_text(encoding="utf-8")
    asked.append(("README.md", " ".join(re.findall(r"`((?:ringwire|process)_[a-z0-9_]+)`", page))))
    count = 0
    for place, text in asked:
        for name in sorted(named(text)):
            count += 1
            if name not in known:
                wrong.append(f"{place}: there is no metric {name}")
    rules = (HERE / "prometheus/alerts.yml").read_text(encoding="utf-8")
    tests = (HERE / "prometheus/alerts.test.yml").read_text(encoding="utf-8")
    alerts = re.findall(r"- alert: (\w+)", rules)
    for alert in alerts:
        if f'alertname="{alert}"' not in tests:
            wrong.append(f"alerts.test.yml: nothing makes {alert} come")
        if alert not in page:
            wrong.append(f"README.md: nothing tells what {alert} means")
    for alert in sorted(set(re.findall(r"\bRingwire[A-Z]\w+", page + tests)) - set(alerts)):
        wrong.append(f"there is no alert {alert}")
    if count < 50 or len(alerts) < 10:
        wrong.append(f"only {count} names and {len(alerts)} alerts were found")
    return wrong


def types(text):
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))


def check_exposed(text):
    wrong = []
    if not text.endswith("# EOF\n"):
        wrong.append("it does not end with # EOF")
    said = types(text)
    have = set(re.findall(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)[{ ]", text, re.M))
    for name, kind in sorted(families().items()):
        if said.get(name) != kind:
            wrong.append(f"{name} is {said.get(name, 'not there')} and not a {kind}")
            continue
        for suffix in SUFFIXES[kind]:
            if name + suffix not in have:
                wrong.append(f"there is no sample {name}{suffix}")
    for line in text.splitlines():
        if not line.startswith("#") and len(line.rsplit(" ", 1)) != 2:
            wrong.append(f"this is no sample: {line}")
    return wrong


def main():
    match sys.argv[1:]:
        case ["names"]:
            wrong = check_names()
        case ["exposed", file]:
            wrong = check_exposed(pathlib.Path(file).read_text(encoding="utf-8"))
        case _:
            sys.exit(__doc__)
    for line in wrong:
        print(line)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
