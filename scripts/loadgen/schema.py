"""Writes loadgen/schema.json from loadgen/src/result.rs: names, types and comments are the source's.

    python3 scripts/loadgen/schema.py           write it
    python3 scripts/loadgen/schema.py --check   fail when it is not what the source says

Reads only the Rust that result.rs is made of: plain structs, and enums without data.
"""

import json
import pathlib
import re
import sys

LOADGEN = pathlib.Path(__file__).resolve().parents[2] / "loadgen"
ITEM = re.compile(
    r"((?:^///.*\n)+)((?:^#\[.*\]\n)+)^pub (struct|enum) (\w+) \{\n((?:.*\n)*?)^\}", re.M
)
FIELD = re.compile(r"((?:^ {4}///.*\n)+)(?:^ {4}#\[.*\]\n)*^ {4}(?:pub (\w+): (.+)|(\w+)),$", re.M)
HISTOGRAM = {
    "type": "string",
    "contentEncoding": "base64",
    "description": "An HdrHistogram in its V2 format, deflated, in base64.",
}


def words(comment):
    """A doc comment as one paragraph, without the marks of Rust's links."""
    text = " ".join(line.strip().removeprefix("///").strip() for line in comment.splitlines())
    return re.sub(r"\[`?([^\]`]+)`?\](?:\([^)]*\))?", r"\1", text).strip()


def described(schema, text):
    """A reference may have neighbours since 2019-09."""
    return {"description": text, **{k: v for k, v in schema.items() if k != "description"}}


def schema_of(rust):
    if match := re.fullmatch(r"Option<(.+)>", rust):
        return {"anyOf": [schema_of(match[1]), {"type": "null"}]}
    if match := re.fullmatch(r"Vec<(.+)>", rust):
        return {"type": "array", "items": schema_of(match[1])}
    if match := re.fullmatch(r"BTreeMap<String, (.+)>", rust):
        return {"type": "object", "additionalProperties": schema_of(match[1])}
    if rust == "Histogram<u64>":
        return dict(HISTOGRAM)
    plain = {
        "String": {"type": "string"},
        "bool": {"type": "boolean"},
        "f64": {"type": "number"},
        "i64": {"type": "integer"},
    }
    if rust in plain:
        return dict(plain[rust])
    if rust in ("u8", "u16", "u32", "u64", "usize"):
        return {"type": "integer", "minimum": 0}
    return {"$ref": f"#/$defs/{rust}"}


def variant_name(name, attributes):
    if 'rename_all = "snake_case"' in attributes:
        return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    if 'rename_all = "UPPERCASE"' in attributes:
        return name.upper()
    return name


def definitions(source):
    found = {}
    for comment, attributes, kind, name, body in ITEM.findall(source):
        if "Serialize" not in attributes:
            continue
        fields = FIELD.findall(body)
        written = len(re.findall(r"^ {4}(?:pub \w+: |[A-Z]\w*,)", body, re.M))
        if len(fields) != written:
            raise SystemExit(f"{name}: {written} fields are written, {len(fields)} understood")
        if kind == "enum":
            variants = [variant_name(field[3], attributes) for field in fields]
            meanings = "; ".join(
                f"{variant}: {words(field[0]).rstrip('.')}"
                for variant, field in zip(variants, fields)
            )
            found[name] = {"description": f"{words(comment)} {meanings}.", "enum": variants}
            continue
        found[name] = {
            "description": words(comment),
            "type": "object",
            "properties": {
                field[1]: described(schema_of(field[2]), words(field[0])) for field in fields
            },
            "required": [field[1] for field in fields],
            "additionalProperties": False,
        }
    return found


def render():
    source = (LOADGEN / "src/result.rs").read_text()
    version = re.search(r'SCHEMA: &str = "([^"]+)"', source)[1]
    found = definitions(source)
    for name in ("Run", "Check"):
        found[name]["properties"]["schema"] = {
            "description": "The version of this schema.",
            "const": version,
        }
    return json.dumps(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": version,
            "description": "What loadgen writes with --json: a run, or what `check` found.",
            "oneOf": [{"$ref": "#/$defs/Run"}, {"$ref": "#/$defs/Check"}],
            "$defs": found,
        },
        indent=2,
    ) + "\n"


def main():
    file = LOADGEN / "schema.json"
    text = render()
    if "--check" in sys.argv[1:]:
        if file.read_text() != text:
            sys.exit("loadgen/schema.json is not what loadgen/src/result.rs says; "
                     "run python3 scripts/loadgen/schema.py")
        return
    file.write_text(text)


if __name__ == "__main__":
    main()
