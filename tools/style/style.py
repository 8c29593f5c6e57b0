#!/usr/bin/env python3
"""How the code and the documents read, in numbers: `make style`.

    style.py [--json] [--since COMMIT]

Prints a table, or JSON for programs. It counts and never judges: it ends with 0 whatever it finds.
Every number is counted from lines of text that rustfmt has formatted, so it is an approximation.

Product code is every .rs file in src/ of the product's crates (PRODUCT), without files called
tests.rs, without folders called tests, and without what follows `#[cfg(test)] mod ... {` in a file.
The numbers, in the order of the table:

type names                  share of the names of structs, enums, traits and type aliases with any
                            `pub` that are defined more than once in the product
error types                 types that derive thiserror's Error or implement Error, and of those the
                            ones with a name that does not end in Error
impl Replica                blocks `impl Replica {` in replica/src, the files that hold one, and the
                            functions in them
ApiError                    lines that name ApiError in the product, outside of publisher/src/api,
                            subscriber/src/api and service/src/http
pub mod of publisher        lines `pub mod` in publisher/src/lib.rs
comments in bodies          lines that are a comment, between the first and last line of a function,
                            per 100 lines of product code
doc lines                   lines that are a doc comment (`///` or `//!`), per 100 lines, of LIBRARIES
long lines                  share of the lines of all .rs files with more than 100 characters
tuple-lets                  statements `let (a, b) = (x, y)`: a tuple on both sides, per 1,000 lines
single-use closures         closures that a `let` names in a function and that the rest of the
                            function names once, per 1,000 lines
README, ARCHITECTURE        bytes
commits                     of those after --since (default: the first commit of commits.py):
                            subjects over 72 characters, messages without a body
files                       .rs files of all crates with more than 400, and more than 200 lines
"""

import argparse
import collections
import json
import pathlib
import re

import commits

ROOT = pathlib.Path(__file__).resolve().parents[2]
PRODUCT = ["contract", "state", "broker", "client", "service", "replica", "publisher", "subscriber", "files", "component", "dapr-api", "cli"]
LIBRARIES = ["contract", "state", "broker", "client", "service", "replica"]
HTTP = ["publisher/src/api", "subscriber/src/api", "service/src/http"]

TYPE = re.compile(r"^\s*pub(?:\([^)]*\))? (?:struct|enum|trait|type) (\w+)", re.M)
DERIVED_ERROR = re.compile(r"derive\([^)]*\b(?:thiserror::)?Error\b[^)]*\)\]\s*(?:#\[[^\n]*\]\s*)*(?:pub(?:\([^)]*\))? )?(?:struct|enum) (\w+)")
ERROR = re.compile(r"^impl(?:<[^>]*>)? (?:std::error::|error::)?Error for (\w+)", re.M)
FUNCTION = re.compile(r"^( *)(?:pub(?:\([^)]*\))? )?(?:(?:async|const|unsafe) )*fn \w+")
CLOSURE = re.compile(r"^\s*let (?:mut )?(\w+) = (?:async )?(?:move )?\|")
TUPLE_LET = re.compile(r"\blet \([^()=;]*(?:\([^()]*\)[^()=;]*)*\)(?:: [^=;]+)? =\s+\((?=[^;]*,[^;]*\);)")


def rust_files():
    """Every .rs file of the repository with its text, by path relative to the root."""
    skipped = {"target", "node_modules", ".git"}
    for path in sorted(ROOT.rglob("*.rs")):
        name = path.relative_to(ROOT)
        if not skipped.intersection(name.parts):
            yield name.as_posix(), path.read_text()


def product_code(name, text):
    """The text of a file without its tests; None if the file is no product code."""
    parts = name.split("/")
    if parts[0] not in PRODUCT or parts[1] != "src" or "tests" in parts or parts[-1] == "tests.rs":
        return None
    return re.split(r"^#\[cfg\(test\)\]\n(?:#\[[^\n]*\]\n)*mod \w+ \{", text, maxsplit=1, flags=re.M)[0]


def bodies(text):
    """The lines of each function between its first and its last line. Functions inside of functions
    are part of the outer one."""
    indent, body = None, []
    for line in text.split("\n"):
        if indent is None:
            found = FUNCTION.match(line)
            if found and not line.rstrip().endswith((";", "}")):
                indent, body = found[1], []
        elif line == indent + "}":
            yield body
            indent = None
        elif line == indent + ";" or line.startswith(indent + ")") and line.endswith(";"):
            indent = None  # a declaration in a trait
        else:
            body.append(line)


def single_use_closures(body):
    """How many named closures of a function are used once."""
    text, count = "\n".join(body), 0
    for line in body:
        found = CLOSURE.match(line)
        if found:
            count += len(re.findall(rf"\b{found[1]}\b", text)) == 2
    return count


def replica_blocks(product):
    """Blocks `impl Replica`, their files, and their functions."""
    blocks, files, methods = 0, set(), 0
    for name, text in product.items():
        for block in re.findall(r"^impl Replica \{\n(.*?)^\}", text, re.M | re.S):
            blocks += 1
            files.add(name)
            methods += len(re.findall(r"^    (?:pub(?:\([^)]*\))? )?(?:(?:async|const) )*fn ", block, re.M))
    return blocks, len(files), methods


def commit_messages(since):
    """Messages after a commit, merges excluded; all of them where it is not known."""
    known = commits.git("cat-file", "-e", f"{since}^{{commit}}") is not None
    ids = commits.git("rev-list", "--no-merges", f"{since}..HEAD" if known else "HEAD") or ""
    return [commits.git("show", "--no-patch", "--format=%B", commit) or "" for commit in ids.split()]


def count(since):
    files = dict(rust_files())
    product = {name: code for name, text in files.items() if (code := product_code(name, text)) is not None}
    code = "\n".join(product.values())
    lines = code.count("\n") + 1
    all_lines = [line for text in files.values() for line in text.split("\n")]

    names = collections.Counter(TYPE.findall(code))
    errors = sorted(set(DERIVED_ERROR.findall(code)) | set(ERROR.findall(code)))
    misnamed = [name for name in errors if not name.endswith("Error")]
    blocks, block_files, methods = replica_blocks(product)
    api_errors = [
        line
        for name, text in product.items()
        if not name.startswith(tuple(HTTP))
        for line in text.split("\n")
        if re.search(r"\bApiError\b", line)
    ]
    functions = [body for text in product.values() for body in bodies(text)]
    comments = sum(line.lstrip().startswith("//") for body in functions for line in body)
    documented = {
        crate: [line for name, text in product.items() if name.startswith(f"{crate}/") for line in text.split("\n")]
        for crate in LIBRARIES
    }
    messages = commit_messages(since)
    sizes = [text.count("\n") for text in files.values()]
    library = files.get("publisher/src/lib.rs", "")

    def size(name):
        path = ROOT / name
        return path.stat().st_size if path.exists() else 0

    return {
        "types": len(names),
        "typesWithSeveralMeanings": sorted(name for name, times in names.items() if times > 1),
        "typesWithSeveralMeaningsPercent": percent(sum(times > 1 for times in names.values()), len(names)),
        "errorTypes": len(errors),
        "errorTypesWithoutErrorInTheirName": misnamed,
        "implReplica": {"blocks": blocks, "files": block_files, "methods": methods},
        "apiErrorOutsideOfHttp": len(api_errors),
        "publicModulesOfPublisher": len(re.findall(r"^pub mod ", library, re.M)),
        "commentsInBodiesPer100": per(comments, lines, 100),
        "docLinesPer100": {
            crate: per(sum(line.lstrip().startswith(("///", "//!")) for line in text), len(text), 100)
            for crate, text in documented.items()
            if text
        },
        "linesOver100Percent": percent(sum(len(line) > 100 for line in all_lines), len(all_lines)),
        "tupleLetsPer1000": per(len(TUPLE_LET.findall(code)), lines, 1000),
        "singleUseClosuresPer1000": per(sum(map(single_use_closures, functions)), lines, 1000),
        "bytes": {name: size(name) for name in ["README.md", "ARCHITECTURE.md"]},
        "commits": {
            "since": since,
            "all": len(messages),
            "subjectOver72": sum(len(message.split("\n")[0]) > commits.LONGEST for message in messages),
            "withoutBody": sum(not any(map(str.strip, message.split("\n")[1:])) for message in messages),
        },
        "filesOver400Lines": sorted(name for name, text in files.items() if text.count("\n") > 400),
        "filesOver200Lines": sum(lines > 200 for lines in sizes),
    }


def percent(part, whole):
    return per(part, whole, 100)


def per(part, whole, unit):
    return round(part * unit / whole, 1) if whole else 0.0


def table(found):
    """The numbers for people, each with its goal."""
    replica, sizes, made = found["implReplica"], found["bytes"], found["commits"]
    documented = ", ".join(f"{crate} {share}" for crate, share in found["docLinesPer100"].items())
    rows = [
        ("type names with two or more meanings", f"{found['typesWithSeveralMeaningsPercent']} % of {found['types']}", "≤ 5 %"),
        ("error types not called ...Error", f"{len(found['errorTypesWithoutErrorInTheirName'])} of {found['errorTypes']}", "0"),
        ("impl Replica", f"{replica['blocks']} blocks in {replica['files']} files, {replica['methods']} methods", "one owner"),
        ("ApiError outside of the HTTP modules", f"{found['apiErrorOutsideOfHttp']} lines", "0"),
        ("pub mod of publisher", found["publicModulesOfPublisher"], "≤ 3"),
        ("comments in bodies, per 100 lines", found["commentsInBodiesPer100"], "≥ 3"),
        ("doc lines per 100 lines", documented, "≥ 20"),
        ("lines over 100 characters", f"{found['linesOver100Percent']} %", "≤ 1 %"),
        ("tuple-lets per 1,000 lines", found["tupleLetsPer1000"], "about 0"),
        ("single-use closures per 1,000 lines", found["singleUseClosuresPer1000"], "≤ 0.7"),
        ("README.md", f"{sizes['README.md'] / 1024:.1f} KiB", "≤ 9 KiB"),
        ("ARCHITECTURE.md", f"{sizes['ARCHITECTURE.md'] / 1024:.1f} KiB", "≤ 14 KiB"),
        ("commit subjects over 72 characters", f"{made['subjectOver72']} of {made['all']}", "0"),
        ("commits without a body", f"{made['withoutBody']} of {made['all']}", "0"),
        ("files over 400 lines", len(found["filesOver400Lines"]), "0"),
        ("files over 200 lines", found["filesOver200Lines"], "few"),
    ]
    width = max(len(name) for name, _, _ in rows)
    result = max(len(str(now)) for _, now, _ in rows)
    yield f"{'':<{width}}  {'now':<{result}}  goal"
    for name, now, goal in rows:
        yield f"{name:<{width}}  {now!s:<{result}}  {goal}"


def main():
    arguments = argparse.ArgumentParser(description="How the code and the documents read, in numbers.")
    arguments.add_argument("--json", action="store_true", help="for programs, with the names that were counted")
    arguments.add_argument("--since", default=commits.FIRST, metavar="COMMIT", help="count the commits after this one")
    options = arguments.parse_args()
    found = count(options.since)
    print(json.dumps(found, indent=2) if options.json else "\n".join(table(found)))


if __name__ == "__main__":
    main()
