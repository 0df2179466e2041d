# SPDX-License-Identifier: MIT
"""The fixtures of tests/system, for these tests too."""
import importlib.util
import pathlib

_path = pathlib.Path(__file__).resolve().parents[1] / "system" / "conftest.py"
_spec = importlib.util.spec_from_file_location("system_conftest", _path)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
litefunnel = _module.litefunnel
soak = _module.soak
slow = _module.slow
daemon = _module.daemon
shared_daemon = _module.shared_daemon


def pytest_addoption(parser):
    try:
        _module.pytest_addoption(parser)
    except ValueError:
        pass  # both are run in one go
