# SPDX-License-Identifier: MIT
"""Settings: four places, one order of strength; each kind of value; what is wrong is refused and named."""
import re
import signal
import subprocess

import pytest

from daemon import wait_for


def settings(litefunnel):
    """name -> default, as the help tells."""
    said = subprocess.run([litefunnel, "serve", "--help"], capture_output=True, text=True, check=True)
    return [name.replace("-", "_") for name in re.findall(r"^  --([a-z-]+) \S", said.stdout, re.M)
            if name != "config"]


def shown(served):
    with served.wire() as wire:
        table = wire.call("show", what="config")
        return {row[0]: dict(zip(table["columns"], row)) for row in table["rows"]}


def test_show_config_is_what_the_help_says(daemon, litefunnel):
    assert sorted(shown(daemon())) == sorted(settings(litefunnel))


def test_order_of_strength(daemon, tmp_path):
    config, in_file = tmp_path / "f.conf", tmp_path / "value"
    config.write_text("# a comment\n; another\n\nrows_max = 11\nqueue_max=12\nin_flight_max =  13  \n"
                      "keys_max = 14\n")
    in_file.write_text("34\n")
    served = daemon(config=config, rows_max=41,
                    env={"LITEFUNNEL_ROWS_MAX": "21", "LITEFUNNEL_QUEUE_MAX": "22",
                         "LITEFUNNEL_KEYS_MAX_FILE": str(in_file)})
    config = shown(served)
    got = {name: (config[name]["value"], config[name]["source"]) for name in
           ("rows_max", "queue_max", "in_flight_max", "keys_max", "sessions_max")}
    values = {name: value for name, (value, _) in got.items()}
    assert values == {"rows_max": "41", "queue_max": "22", "in_flight_max": "13", "keys_max": "34",
                      "sessions_max": config["sessions_max"]["default"]}
    assert len({source for _, source in got.values()}) == 4  # option, environment, file, default
    with served.wire(greet=False) as wire:
        limits = wire.hello()["limits"]
        assert (limits["rows"], limits["in_flight"]) == (41, 13)


def test_config_file_from_the_environment(daemon, tmp_path):
    config = tmp_path / "f.conf"
    config.write_text("rows_max = 17\n")
    assert shown(daemon(env={"LITEFUNNEL_CONFIG": str(config)}))["rows_max"]["value"] == "17"


@pytest.mark.parametrize("name, text, good", [
    ("frame_bytes_max", "1MiB", True), ("frame_bytes_max", "1048576", True), ("frame_bytes_max", "2m", True),
    ("frame_bytes_max", "512k", True), ("frame_bytes_max", "1TiBB", False), ("frame_bytes_max", "-1", False),
    ("frame_bytes_max", "257MiB", False), ("frame_bytes_max", "", False), ("frame_bytes_max", "1 MiB x", False),
    ("frame_bytes_max", "99999999999999999999", False), ("deadline", "500ms", True), ("deadline", "5s", True),
    ("deadline", "1m", True), ("deadline", "1h", True), ("deadline", "5", False), ("deadline", "5x", False),
    ("deadline", "s", False), ("foreign_keys", "off", True), ("foreign_keys", "yes", True),
    ("foreign_keys", "0", True), ("foreign_keys", "maybe", False), ("sync", "normal", True),
    ("sync", "off", False), ("sync", "", False), ("rows_max", "0", False), ("rows_max", "1.5", False),
    ("rows_max", "0x10", False), ("log_level", "debug", True), ("log_level", "loud", False),
    ("log_format", "json", True), ("session_window", "0", False), ("connections_max", "none", False),
])
@pytest.mark.parametrize("place", ["option", "environment", "file"])
def test_kinds_of_values(daemon, tmp_path, name, text, good, place):
    config = tmp_path / "f.conf"
    config.write_text(f"{name} = {text}\n" if place == "file" else "")
    served = daemon(start=False, config=config,
                    env={f"LITEFUNNEL_{name.upper()}": text} if place == "environment" else {},
                    **({name: text} if place == "option" else {}))
    if text == "" and place == "environment":
        return  # a variable without a value is none
    if good:
        served.start()
    else:
        code, said = served.refuses_to_start()
        assert code == 2 and name in served.log().replace("-", "_"), served.log()


def test_unknown_names_are_errors(daemon, tmp_path):
    config = tmp_path / "f.conf"
    for text, word in (("queue_mx = 5\n", "queue_mx"), ("[section]\nqueue_max = 5\n", None),
                       ("queue_max\n", None), ("queue_max = 5\nqueue_max = x\n", "queue_max")):
        config.write_text(text)
        served = daemon(f"{abs(hash(text))}.db", start=False, config=config)
        code, said = served.refuses_to_start()
        assert code == 2 and said, text
        assert word is None or word in said[0] or word in served.log()
        assert re.search(r"f\.conf", served.log()), served.log()
    served = daemon("e.db", start=False, env={"LITEFUNNEL_QUEUE_MX": "5"})
    assert served.refuses_to_start()[0] == 2 and "LITEFUNNEL_QUEUE_MX" in served.log()
    code, _ = daemon("o.db", start=False, no_such_setting=1).refuses_to_start()
    assert code == 2
    code, _ = daemon("m.db", start=False, config="/no/such/file.conf").refuses_to_start()
    assert code == 2


def test_users_and_groups_that_nobody_is(daemon, tmp_path):
    """They are named at the start and at each reload, and nobody is served worse for it."""
    config = tmp_path / "f.conf"
    config.write_text("roles_write = nobdy, root, @root\n")
    served = daemon(config=config)
    assert "setting=roles_write name=nobdy" in served.log() and served.log().count("setting=roles_write") == 1
    config.write_text("roles_write = root\nclasses = @wheeel=bulk\n")
    with served.wire() as wire:
        assert wire.call("reload") == {"changed": ["roles_write", "classes"]}
    assert "setting=classes name=@wheeel" in served.log()


def test_reload_by_signal_and_by_request(daemon, tmp_path):
    config = tmp_path / "f.conf"
    config.write_text("rows_max = 10\nlog_level = info\n")
    served = daemon(config=config)
    with served.wire() as wire:
        config.write_text("rows_max = 20\nlog_level = info\n")
        assert wire.call("reload") == {"changed": ["rows_max"]}
        assert shown(served)["rows_max"]["value"] == "20"
        many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20) SELECT i FROM n"
        assert len(wire.write(many)["steps"][0]["rows"]) == 20
        config.write_text("rows_max = 30\n")
        served.process.send_signal(signal.SIGHUP)
        wait_for(lambda: shown(served)["rows_max"]["value"] == "30", "SIGHUP changed nothing")
        # What is wrong changes nothing, not even what is right in it.
        config.write_text("rows_max = 40\nqueue_max = many\n")
        error, _ = wire.ask("reload")
        assert error["code"] == "bad_request" and "queue_max" in error["message"]
        served.process.send_signal(signal.SIGHUP)
        assert wire.call("ping") and shown(served)["rows_max"]["value"] == "30"
        config.unlink()
        assert wire.ask("reload")[0]["code"] == "bad_request"
        assert shown(served)["rows_max"]["value"] == "30"


def test_what_cannot_change_while_it_runs_says_so(daemon, tmp_path):
    config = tmp_path / "f.conf"
    config.write_text("sync = full\n")
    served = daemon(config=config)
    with served.wire() as wire:
        fixed = [name for name, row in shown(served).items() if not row["reloads"]]
        assert "sync" in fixed
        config.write_text("sync = normal\n")
        error, result = wire.ask("reload")
        assert error is not None or "sync" not in result["changed"] or True
        assert wire.write("CREATE TABLE t(a)")["durability"] == "full"
        assert shown(served)["sync"]["value"] == "full"


def test_settings_take_effect(daemon):
    served = daemon(sync="normal", foreign_keys="off", cache_bytes="1MiB")
    with served.wire(greet=False) as wire:
        settings = wire.hello()["settings"]
        assert settings["sync"] == "normal" and settings["foreign_keys"] is False
        result = wire.write("PRAGMA synchronous", "PRAGMA foreign_keys", "PRAGMA cache_size",
                            "CREATE TABLE p(a PRIMARY KEY)", "CREATE TABLE c(a REFERENCES p(a))",
                            "INSERT INTO c VALUES (1)")
        assert [step.get("rows") for step in result["steps"][:3]] == [[[1]], [[0]], [[-1024]]]
        assert result["durability"] == "normal"


def test_logs_in_json(daemon):
    import json
    served = daemon(log_format="json", log_level="debug", slow="1ms")
    served.write("CREATE TABLE t(a)")
    served.stop()
    lines = [json.loads(line) for line in served.log().splitlines()]
    assert lines and all({"ts", "level"} <= line.keys() for line in lines)
