"""Asks a Prometheus that scrapes a server for everything that the dashboard shows.

    queries.py URL [SECONDS]

URL is that of Prometheus. A query that is an error, or has no result, or only results that are no
number, is printed, and the exit status is 1. SECONDS is what rates are made of (default 10).
"""

import json
import math
import sys
import urllib.error
import urllib.parse
import urllib.request

import metrics

# What has no value on a server without TLS and compression: nothing divided by nothing.
VALUELESS = {
    "What compression leaves": "no client of this check compresses",
}


def ask(url, query):
    words = urllib.parse.urlencode({"query": query})
    try:
        with urllib.request.urlopen(f"{url}/api/v1/query?{words}", timeout=10) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        return json.load(error)


def judge(url, title, query):
    """What is wrong with a query of the dashboard, or nothing."""
    reply = ask(url, query)
    if reply["status"] != "success":
        return reply.get("error", "an error")
    result = reply["data"]["result"]
    if not result:
        return "no result"
    values = [float(sample["value"][1]) for sample in result]
    if title not in VALUELESS and not all(map(math.isfinite, values)):
        return f"no number: {values}"
    return None


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    url = sys.argv[1].rstrip("/")
    seconds = sys.argv[2] if len(sys.argv) == 3 else "10"
    variables = {"$__rate_interval": f"{seconds}s", "$job": "ringwire", "$instance": ".*"}
    asked = wrong = 0
    for title, query in metrics.queries():
        for name, value in variables.items():
            query = query.replace(name, value)
        asked += 1
        if "$" in query:
            why = "a variable that this check does not know"
        else:
            why = judge(url, title, query)
        if why:
            wrong += 1
            print(f"'{title}': {why}: {query}")
    print(f"{asked} queries, {wrong} of them wrong")
    sys.exit(1 if wrong or asked < 50 else 0)


main()
