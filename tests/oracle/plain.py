# SPDX-License-Identifier: MIT
"""
Plain SQLite that answers as PROTOCOL.md says a daemon does: one batch, one transaction, alone.

It calls the system's libsqlite3, the one that the daemon is linked with, so that the counters,
declared types and extended codes are the library's own. It does the simplest thing that can be
right: BEGIN, the steps, COMMIT, and ROLLBACK after any error. No savepoint, no cache, nothing is
shared.
"""
import ctypes
import re

OK, ERROR, SCHEMA, ROW, DONE = 0, 1, 17, 100, 101
INTEGER, FLOAT, TEXT, BLOB = 1, 2, 3, 4
TRANSIENT = ctypes.c_void_p(-1)
DBCONFIG_DEFENSIVE, DBSTATUS_DEFERRED_FKS = 1010, 10
OPEN_READWRITE, OPEN_CREATE, OPEN_READONLY = 2, 4, 1
ROWS_MAX = 100000

lib = ctypes.CDLL("libsqlite3.so.0")
_P, _I, _L, _S = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_char_p
for _name, _result, _arguments in (
        ("open_v2", _I, [_S, ctypes.POINTER(_P), _I, _S]),
        ("close", _I, [_P]),
        ("extended_result_codes", _I, [_P, _I]),
        ("prepare_v2", _I, [_P, _P, _I, ctypes.POINTER(_P), ctypes.POINTER(_P)]),
        ("step", _I, [_P]), ("reset", _I, [_P]), ("finalize", _I, [_P]),
        ("errmsg", _S, [_P]), ("changes64", _L, [_P]), ("total_changes64", _L, [_P]),
        ("last_insert_rowid", _L, [_P]), ("set_last_insert_rowid", None, [_P, _L]),
        ("get_autocommit", _I, [_P]), ("stmt_readonly", _I, [_P]),
        ("bind_int64", _I, [_P, _I, _L]), ("bind_double", _I, [_P, _I, ctypes.c_double]),
        ("bind_text", _I, [_P, _I, _S, _I, _P]), ("bind_blob", _I, [_P, _I, _S, _I, _P]),
        ("bind_null", _I, [_P, _I]), ("bind_parameter_index", _I, [_P, _S]),
        ("column_count", _I, [_P]), ("column_name", _S, [_P, _I]),
        ("column_decltype", _S, [_P, _I]),
        ("column_type", _I, [_P, _I]), ("column_int64", _L, [_P, _I]),
        ("column_double", ctypes.c_double, [_P, _I]), ("column_blob", _P, [_P, _I]),
        ("column_bytes", _I, [_P, _I]), ("db_status", _I, [_P, _I, _P, _P, _I])):
    _function = getattr(lib, f"sqlite3_{_name}")
    _function.restype, _function.argtypes = _result, _arguments

# (context, handle, operation, database, table, rowid before, rowid after)
PREUPDATE = ctypes.CFUNCTYPE(None, _P, _P, _I, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64)
lib.sqlite3_preupdate_hook.restype, lib.sqlite3_preupdate_hook.argtypes = _P, [_P, PREUPDATE, _P]

FIRST_WORD = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/|;)*([a-z]+)", re.IGNORECASE | re.DOTALL)
DML = {"insert", "update", "delete", "replace", "with"}


class Failed(Exception):
    """A step failed: the error map that the client gets."""


def text_of(data):
    return data.decode("utf-8", "surrogateescape")


def options_of(step):
    """sql, params, opts of a step however short."""
    return (*step, None, None)[:3] if len(step) < 3 else step


class Plain:
    def __init__(self, path, *, readonly=False, setup=(), hook=False):
        self.path = str(path)
        self.flags = OPEN_READONLY if readonly else OPEN_READWRITE | OPEN_CREATE
        self.pragmas = ["PRAGMA temp_store = memory", "PRAGMA cell_size_check = on",
                        "PRAGMA synchronous = off", *setup]
        if not readonly:
            self.pragmas.append("PRAGMA journal_mode = wal")
        self.hook = PREUPDATE(lambda *_: None) if hook else None
        self.db = None
        self.open()

    def open(self):
        db = _P()
        assert lib.sqlite3_open_v2(self.path.encode(), ctypes.byref(db), self.flags, None) == OK
        self.db = db
        lib.sqlite3_extended_result_codes(db, 1)
        # A variadic function: the values go where a C compiler would put them.
        assert lib.sqlite3_db_config(
            db, _I(DBCONFIG_DEFENSIVE), _I(1), ctypes.cast(None, _P)) == OK
        if self.hook:
            lib.sqlite3_preupdate_hook(db, self.hook, None)
        for pragma in self.pragmas:
            self.rows(pragma)

    def close(self):
        assert lib.sqlite3_close(self.db) == OK
        self.db = None

    # ---- statements

    def _error(self, code):
        message = re.sub("[\udc80-\udcff]", "?", text_of(lib.sqlite3_errmsg(self.db)))  # as the daemon tells it
        return Failed({"code": "sql", "message": message, "sqlite": code})

    def _prepare(self, sql):
        """The statement, or None for an empty text, and the rest of the text."""
        data = sql.encode("utf-8", "surrogateescape")
        buffer = ctypes.create_string_buffer(data)
        start = ctypes.addressof(buffer)
        stmt, tail = _P(), _P()
        code = lib.sqlite3_prepare_v2(self.db, start, len(data), ctypes.byref(stmt),
                                      ctypes.byref(tail))
        if code != OK:
            raise self._error(code)
        return stmt if stmt.value else None, text_of(data[tail.value - start:])

    def only_reads(self, sql):
        """Whether it changes nothing; None if it cannot be compiled."""
        try:
            stmt, _ = self._prepare(sql)
        except Failed:
            return None
        reads = not stmt or bool(lib.sqlite3_stmt_readonly(stmt))
        lib.sqlite3_finalize(stmt)
        return reads

    def _bind(self, stmt, place, value):
        if value is None:
            lib.sqlite3_bind_null(stmt, place)
        elif isinstance(value, int):
            lib.sqlite3_bind_int64(stmt, place, int(value))
        elif isinstance(value, float):
            lib.sqlite3_bind_double(stmt, place, value)
        elif isinstance(value, str):
            data = value.encode("utf-8", "surrogateescape")
            lib.sqlite3_bind_text(stmt, place, data, len(data), TRANSIENT)
        else:
            lib.sqlite3_bind_blob(stmt, place, bytes(value), len(value), TRANSIENT)

    def _bind_all(self, stmt, values):
        if isinstance(values, dict):
            for key, value in values.items():
                places = [lib.sqlite3_bind_parameter_index(stmt, (prefix + key).encode())
                          for prefix in ":@$"]
                self._bind(stmt, max(places), value)
        else:
            for i, value in enumerate(values or ()):
                self._bind(stmt, i + 1, value)

    @staticmethod
    def _value(stmt, i):
        kind = lib.sqlite3_column_type(stmt, i)
        if kind == INTEGER:
            return lib.sqlite3_column_int64(stmt, i)
        if kind == FLOAT:
            return lib.sqlite3_column_double(stmt, i)
        if kind in (TEXT, BLOB):
            data = lib.sqlite3_column_blob(stmt, i)
            data = ctypes.string_at(data, lib.sqlite3_column_bytes(stmt, i)) if data else b""
            return text_of(data) if kind == TEXT else data
        return None

    def _columns(self, stmt):
        count = lib.sqlite3_column_count(stmt)
        types = [lib.sqlite3_column_decltype(stmt, i) for i in range(count)]
        return ([text_of(lib.sqlite3_column_name(stmt, i)) for i in range(count)],
                [None if kind is None else text_of(kind) for kind in types])

    def rows(self, sql):
        """Of a statement of the harness: all its rows."""
        stmt, _ = self._prepare(sql)
        found = []
        while (code := lib.sqlite3_step(stmt)) == ROW:
            found.append([self._value(stmt, i) for i in range(lib.sqlite3_column_count(stmt))])
        lib.sqlite3_finalize(stmt)
        if code != DONE:
            raise self._error(code)
        return found

    # ---- steps

    def _run(self, stmt, opts, result):
        """Steps a bound statement to its end; rows go to result."""
        count = lib.sqlite3_column_count(stmt)
        most = min(opts.get("rows", ROWS_MAX), ROWS_MAX)
        while (code := lib.sqlite3_step(stmt)) == ROW:
            result["seen"] += 1
            if opts.get("script"):
                continue
            if len(result["rows"]) < most:
                result["rows"].append([self._value(stmt, i) for i in range(count)])
            elif opts.get("truncate"):
                result["truncated"] = True
            else:
                raise Failed({"code": "too_large"})
        if code != DONE:
            raise self._error(code)

    def _single(self, sql, params, opts, result):
        stmt, _ = self._prepare(sql)
        if stmt is None:
            raise Failed({"code": "bad_request"})
        dml = not lib.sqlite3_stmt_readonly(stmt) and FIRST_WORD.match(sql)[1].lower() in DML
        try:
            if lib.sqlite3_column_count(stmt) > 0:
                result["columns"], result["types"] = self._columns(stmt)
            for number, values in enumerate(params if opts.get("many") else [params]):
                try:
                    self._bind_all(stmt, values)
                    self._run(stmt, opts, result)
                except Failed as failed:
                    if opts.get("many"):
                        failed.args[0]["row"] = number
                    raise
                if dml:
                    result["changes"] += lib.sqlite3_changes64(self.db)
                lib.sqlite3_reset(stmt)
        finally:
            lib.sqlite3_finalize(stmt)

    def _script(self, sql, opts, result):
        while sql:
            before = sql
            stmt, sql = self._prepare(sql)
            if stmt is None:
                continue
            word = FIRST_WORD.match(before)
            dml = not lib.sqlite3_stmt_readonly(stmt) and word[1].lower() in DML
            try:
                self._run(stmt, opts, result)
                if dml:
                    result["changes"] += lib.sqlite3_changes64(self.db)
            finally:
                lib.sqlite3_finalize(stmt)

    def _step(self, step):
        sql, params, opts = options_of(step)
        opts = opts or {}
        result = {"changes": 0, "rows": [], "seen": 0}
        total = lib.sqlite3_total_changes64(self.db)
        if opts.get("script"):
            self._script(sql, opts, result)
        else:
            self._single(sql, params, opts, result)
        expect = opts.get("expect", {})
        seen = result.pop("seen")
        if expect.get("changes", result["changes"]) != result["changes"] or (
                expect.get("rows", seen) != seen):
            raise Failed({"code": "guard"})
        if "columns" not in result:
            del result["rows"]
        result["total"] = lib.sqlite3_total_changes64(self.db) - total
        result["rowid"] = lib.sqlite3_last_insert_rowid(self.db)
        return result

    # ---- batches

    def _deferred(self):
        now, high = _I(), _I()
        lib.sqlite3_db_status(
            self.db, DBSTATUS_DEFERRED_FKS, ctypes.byref(now), ctypes.byref(high), 0)
        return now.value != 0

    def batch(self, steps, keep=True):
        """(error, steps of the result). Without keep the batch is undone, whatever it did."""
        if any("changes()" in step[0].lower() for step in steps):
            self.close()  # those functions tell of statements before: there must be none
            self.open()
        error, results, at = None, [], None
        lib.sqlite3_set_last_insert_rowid(self.db, 0)
        self.rows("BEGIN IMMEDIATE")
        try:
            for at, step in enumerate(steps):
                results.append(self._step(step))
            at = None
            if keep:
                self.rows("COMMIT")
            elif self._deferred():
                raise Failed(
                    {"code": "sql", "message": "FOREIGN KEY constraint failed", "sqlite": 787})
        except Failed as failed:
            error, results = failed.args[0], None
            if at is not None:
                error["step"] = at
        if not lib.sqlite3_get_autocommit(self.db):
            self.rows("ROLLBACK")
        return error, results

    # ---- content

    def content(self):
        """Everything that a user can see in the database, as comparable text."""
        schema = self.rows("SELECT type, name, tbl_name, sql FROM sqlite_schema"
                           " WHERE substr(tbl_name, 1, 4) <> '_lf_' ORDER BY rowid")
        shown = [repr(row) for row in schema]
        virtual = [name for kind, name, _, sql in schema
                   if kind == "table" and sql and sql.upper().startswith("CREATE VIRTUAL")]
        for kind, name, _, sql in schema:
            if kind not in ("table", "view") or any(
                    name.startswith(f"{one}_") for one in virtual):
                continue  # how a virtual table stores its rows may depend on where commits are
            quoted = '"' + name.replace('"', '""') + '"'
            rowid = "" if kind == "view" or "WITHOUT ROWID" in (sql or "").upper() else "rowid, "
            try:
                shown += [f"{name}: {row!r}" for row in self.rows(f"SELECT {rowid}* FROM {quoted}")]
            except Failed as failed:
                shown.append(f"{name}: {failed}")
        for pragma in ("user_version", "application_id", "integrity_check", "foreign_key_check"):
            shown.append(f"{pragma}: {sorted(self.rows(f'PRAGMA {pragma}'), key=repr)}")
        return shown


def comparable(error, result):
    """The same two of an answer on the wire, without what plain SQLite cannot know."""
    return comparable_alone((error, result and result["steps"]))


def comparable_alone(answer):
    """As comparable(), for what Plain.batch() says."""
    error, steps = answer
    if error is not None:
        kept = ("code", "step", "row", *(("message", "sqlite") if error["code"] == "sql" else ()))
        error = {key: error[key] for key in kept if key in error}
        if error.get("sqlite") == SCHEMA:
            error["sqlite"] = ERROR  # SQLite's own whim, after it forgot the schema: SELECT nosuch
    return error, steps
