#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""docs.py ROOT PROGRAM: what the program can do stands in the documents. Prints what does not.

Settings: `litefunnel serve --help`, the sample config and litefunnel.conf(5) name the same ones.
Methods and error codes of the daemon stand in PROTOCOL.md; commands in litefunnel(1) and README.md.
Each `sh` snippet of README.md is marked `<!-- run -->`, and tests/system/test_readme.py runs those.
"""
import pathlib
import re
import subprocess
import sys

complaints = []


def complain(text):
    complaints.append(text)


def read(root, name):
    path = root / name
    return path.read_text(encoding="utf-8") if path.exists() else None


def compare(what, here, where_here, there, where_there, both=True):
    for name in sorted(here - there):
        complain(f"{what} {name} of {where_here} is missing in {where_there}")
    for name in sorted(there - here) if both else ():
        complain(f"{what} {name} of {where_there} does not exist in {where_here}")
    if not here:
        complain(f"found no {what} in {where_here}: has its form changed?")


def unmdoc(text):
    """An mdoc page without its escapes."""
    return text.replace("\\-", "-").replace("\\&", "")


def settings(root, program):
    said = subprocess.run([program, "serve", "--help"], capture_output=True, text=True, check=True)
    flags = {"create", "restore-if-missing", "config", "help"}
    known = {name.replace("-", "_") for name in re.findall(r"^  --([a-z0-9-]+)", said.stdout, re.M)}
    known -= {flag.replace("-", "_") for flag in flags}
    sample = read(root, "deploy/litefunnel.conf.sample")
    compare("setting", known, "serve --help",
            set(re.findall(r"^#?([a-z][a-z0-9_]*) =", sample, re.M)), "the sample config")
    page = unmdoc(read(root, "deploy/man/litefunnel.conf.5"))
    compare("setting", known, "serve --help",
            set(re.findall(r"^\.It (?:Cm|Ic|Li|Sy|Va) ([a-z][a-z0-9_]*)", page, re.M)),
            "litefunnel.conf(5)")


def protocol(root):
    text = read(root, "proto/PROTOCOL.md")
    table = re.search(r"\bmethods\[\] = \{(.*?)^\};", read(root, "server/funnel/method.c"), re.S | re.M)
    methods = set(re.findall(r'^\t\{"([a-z_]+)"', table[1] if table else "", re.M))
    compare("method", methods, "method.c", set(re.findall(r"^\| `([a-z_]+)` \| request ", text, re.M)),
            "PROTOCOL.md")
    codes = set()
    for source in ("server/funnel/failure.c", "server/funnel/reply.c"):
        codes |= set(re.findall(r'\[FAILURE_[A-Z_]+\] = \{"([a-z_]+)"', read(root, source) or ""))
    section = re.search(r"^## Errors(.*?)^## ", text, re.S | re.M)
    listed = set(re.findall(r"^\| `([a-z_]+)` \|", section[1] if section else "", re.M))
    compare("error code", codes, "funnel/", listed, "PROTOCOL.md", both=False)


def commands(root):
    known = set(re.findall(r'^\t\{"([a-z-]+)", cli_\w+, "', read(root, "server/main.c"), re.M))
    page = unmdoc(read(root, "deploy/man/litefunnel.1"))
    compare("command", known, "main.c", set(re.findall(r"^\.(?:It|Nm|Ss|Ic).*?\b([a-z-]+)\b", page, re.M))
            & known, "litefunnel(1)")
    readme = read(root, "README.md")
    if readme is not None:
        compare("command", known, "main.c", {c for c in known if re.search(rf"\b{c}\b", readme)}, "README.md")


def snippets(root):
    """Each ```sh block of the README is marked, and the test that runs the marked ones exists."""
    readme = read(root, "README.md")
    if readme is None:
        return
    test = read(root, "tests/system/test_readme.py")
    if test is None or "README.md" not in test or "<!-- run -->" not in test:
        complain("README.md: no tests/system/test_readme.py runs its snippets")
    lines = readme.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("```sh") and (number == 0 or lines[number - 1] != "<!-- run -->"):
            complain(f"README.md:{number + 1}: a ```sh snippet that is not marked <!-- run -->")


def main():
    root, program = pathlib.Path(sys.argv[1]), sys.argv[2]
    settings(root, program)
    protocol(root)
    commands(root)
    snippets(root)
    print(*complaints, sep="\n")
    return 1 if complaints else 0


sys.exit(main())
