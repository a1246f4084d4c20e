"""Prints the rows: name, what is judged, kind, connections."""

from rows import ROWS

for name, row in ROWS.items():
    print(f"{name:28}{'smoke ' if row.smoke else '':6}{row.group:8}{row.connections:6} {row.kind}")
