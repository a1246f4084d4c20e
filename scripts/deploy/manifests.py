"""Looks at container/kubernetes.yaml and at the systemd unit, beyond what their own programs check.

    manifests.py settings FILE TOKENS   writes the settings of the ConfigMap to FILE, with TOKENS as
                                        the file of tokens
    manifests.py agree                  whether names and times in them agree with each other
    manifests.py probes URL             whether the paths of the probes are answered 200 by an admin
                                        side, without a token
"""

import pathlib
import re
import sys
import tomllib
import urllib.error
import urllib.request

import yaml

HERE = pathlib.Path(__file__).resolve().parent
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000}


def documents():
    with open(HERE / "container/kubernetes.yaml", encoding="utf-8") as file:
        return {
            (one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(file)
        }


def settings_of(documents):
    return documents["ConfigMap", "ringwire"]["data"]["ringwire.toml"]


def seconds(value):
    """Of a time in a file of settings or in a unit."""
    number, unit = re.fullmatch(r"(\d+)([a-z]*)", str(value)).groups()
    return int(number) * MILLISECONDS[unit or "ms"] / 1_000


def drain_s(toml):
    """How long a drain takes at most."""
    settings = tomllib.loads(toml)
    return seconds(settings["drain_spread_ms"]) + seconds(settings["drain_timeout_ms"])


def agree():
    all_of = documents()
    pod = all_of["Deployment", "ringwire"]["spec"]["template"]
    labels, spec = pod["metadata"]["labels"], pod["spec"]
    container = spec["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    settings = tomllib.loads(settings_of(all_of))
    selectors = [
        one["spec"]["selector"].get("matchLabels", one["spec"]["selector"])
        for (kind, _), one in all_of.items()
        if kind in ("Deployment", "PodDisruptionBudget", "Service")
    ]
    yield "a selector finds no pod", all(
        selector.items() <= labels.items() for selector in selectors
    )
    named = [
        port["targetPort"]
        for (kind, _), one in all_of.items()
        if kind == "Service"
        for port in one["spec"]["ports"]
    ] + [container[probe]["httpGet"]["port"] for probe in PROBES]
    yield "a port is named that the container has not", set(named) <= set(ports)
    yield "the ports are not those of the settings", (
        settings["listen"].endswith(f":{ports['ws']}")
        and settings["admin_listen"].endswith(f":{ports['admin']}")
    )
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    yield "a volume is not mounted, or there is none", set(mounts) == {
        volume["name"] for volume in spec["volumes"]
    }
    yield "a file is named that is in no volume", all(
        any(file.startswith(f"{path}/") for path in mounts.values())
        for file in (container["args"][-1], settings["admin_token_file"])
    )
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = spec["terminationGracePeriodSeconds"]
    yield "terminationGracePeriodSeconds is over before a drain is", grace >= pause + drain_s(
        settings_of(all_of)
    )
    unit = (HERE / "systemd/ringwire.service").read_text(encoding="utf-8")
    stop = seconds(re.search(r"^TimeoutStopSec=(\S+)$", unit, re.M)[1])
    toml = (HERE / "systemd/ringwire.toml").read_text(encoding="utf-8")
    yield "TimeoutStopSec is over before a drain is", stop > drain_s(toml)


def probes(url):
    container = documents()["Deployment", "ringwire"]["spec"]["template"]["spec"]["containers"][0]
    for probe in PROBES:
        path = container[probe]["httpGet"]["path"]
        try:
            with urllib.request.urlopen(url.rstrip("/") + path, timeout=10) as reply:
                status = reply.status
        except urllib.error.HTTPError as error:
            status = error.code
        yield f"{probe}: {path} is answered {status}", status == 200


def main():
    match sys.argv[1:]:
        case ["settings", file, tokens]:
            text = settings_of(documents())
            own = tomllib.loads(text)["admin_token_file"]
            pathlib.Path(file).write_text(text.replace(own, tokens), encoding="utf-8")
            return
        case ["agree"]:
            found = agree()
        case ["probes", url]:
            found = probes(url)
        case _:
            sys.exit(__doc__)
    wrong = [what for what, is_right in found if not is_right]
    print("\n".join(wrong))
    sys.exit(1 if wrong else 0)


main()
