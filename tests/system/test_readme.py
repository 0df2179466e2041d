# SPDX-License-Identifier: MIT
"""The snippets of README.md that are marked <!-- run --> do what they show."""
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest

README = (pathlib.Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^<!-- run -->\n```sh\n(.*?)^```", README, re.S | re.M)
# A person who types is slower than the daemon starts; a script waits.
WAIT = "\nwhile [ ! -S app.db-funnel ]; do sleep 0.01; done\n"


def test_there_are_snippets():
    assert SNIPPETS


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippet(litefunnel, snippet):
    place = tempfile.mkdtemp(prefix="readme-")
    try:
        script = 'litefunnel() { "$BIN" "$@"; }\nset -e\n' + snippet.replace(" &\n", " &" + WAIT)
        result = subprocess.run(["bash", "-c", script + "\nwait\n"], cwd=place, text=True, timeout=60,
                                capture_output=True, env={"BIN": str(litefunnel), "PATH": "/usr/bin:/bin"})
        assert result.returncode == 0, result.stdout + result.stderr
    finally:
        shutil.rmtree(place)
