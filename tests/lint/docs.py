#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""docs.py ROOT PROGRAM: what the program can do stands in the documents. Prints what does not.

Settings: `litefunnel serve --help`, the sample config and litefunnel.conf(5) name the same ones.
Methods and error codes of the daemon stand in PROTOCOL.md; commands in litefunnel(1) and README.md.
Each `sh` snippet of README.md is run by a test: it begins with a line `# run by PATH`, and the file
PATH holds the snippet's commands, or runs the file that the snippet runs.
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
    flags = {"create", "config", "help"}
    known = {name.replace("-", "_") for name in re.findall(r"^  --([a-z0-9-]+)", said.stdout, re.M)}
    known -= flags
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
    codes = set(re.findall(r'\[FAILURE_[A-Z_]+\] = \{"([a-z_]+)"', read(root, "server/funnel/reply.c")))
    section = re.search(r"^## Errors(.*?)^## ", text, re.S | re.M)
    listed = set(re.findall(r"^\| `([a-z_]+)` \|", section[1] if section else "", re.M))
    compare("error code", codes, "reply.c", listed, "PROTOCOL.md", both=False)


def commands(root):
    known = set(re.findall(r'^\t\{"([a-z-]+)", cli_', read(root, "server/main.c"), re.M))
    page = unmdoc(read(root, "deploy/man/litefunnel.1"))
    compare("command", known, "main.c", set(re.findall(r"^\.(?:It|Nm|Ss|Ic).*?\b([a-z-]+)\b", page, re.M))
            & known, "litefunnel(1)")
    readme = read(root, "README.md")
    if readme is not None:
        compare("command", known, "main.c", {c for c in known if re.search(rf"\b{c}\b", readme)}, "README.md")


def snippets(root):
    """Each ```sh block of the README names its test, and that test runs it."""
    readme = read(root, "README.md")
    if readme is None:
        return
    for block in re.findall(r"^```sh\n(.*?)^```", readme, re.S | re.M):
        first, _, rest = block.partition("\n")
        test = re.match(r"# run by (\S+)$", first)
        if not test:
            continue  # shown, not marked for running
        text = read(root, test[1])
        if text is None:
            complain(f"README.md: a snippet is run by {test[1]}, which does not exist")
        elif "README" not in text and rest.strip() not in text:
            complain(f"README.md: {test[1]} neither reads README.md nor holds the snippet:\n{rest}")


def main():
    root, program = pathlib.Path(sys.argv[1]), sys.argv[2]
    settings(root, program)
    protocol(root)
    commands(root)
    snippets(root)
    print(*complaints, sep="\n")
    return 1 if complaints else 0


sys.exit(main())
