# SPDX-License-Identifier: MIT
"""
Random schemas and random batches over them.

Small values and few tables, so that constraints, triggers and foreign keys meet often. Nothing here
may depend on time, chance or the connection, and nothing may be what the daemon refuses by rule.
"""

CONFLICTS = ("", "", "", " ON CONFLICT ROLLBACK", " ON CONFLICT FAIL", " ON CONFLICT ABORT",
             " ON CONFLICT IGNORE", " ON CONFLICT REPLACE")
OR = ("", "", "", "", "OR ROLLBACK ", "OR FAIL ", "OR ABORT ", "OR IGNORE ", "OR REPLACE ")
ACTIONS = ("", " ON DELETE CASCADE", " ON DELETE SET NULL", " ON DELETE RESTRICT",
           " ON UPDATE CASCADE", " ON DELETE SET DEFAULT ON UPDATE SET NULL",
           " ON DELETE CASCADE ON UPDATE CASCADE")
DEFERRALS = ("", "", " DEFERRABLE INITIALLY DEFERRED", " DEFERRABLE INITIALLY DEFERRED",
             " DEFERRABLE INITIALLY IMMEDIATE")
TYPES = ("INTEGER", "TEXT", "REAL", "BLOB", "NUMERIC", "", "VARCHAR(10)", "BOOLEAN")
RAISES = ("RAISE(ABORT, 'aborted')", "RAISE(FAIL, 'failed')", "RAISE(ROLLBACK, 'rolled back')",
          "RAISE(IGNORE)")
BIG = (2 ** 62, -2 ** 63, 2 ** 53 + 1, 0, -1)  # not the largest rowid: after it they are random


class Table:
    def __init__(self, name, columns, key, rowid=True, generated=()):
        self.name = name
        self.columns = columns  # those that can be written
        self.key = key  # the columns of its primary key
        self.rowid = rowid
        self.generated = generated
        self.unique = [key]


class Program:
    """A schema, and batches over it, all drawn from rng."""

    def __init__(self, rng):
        self.rng = rng
        # A program is mild or harsh: whether its failures take the whole transaction along. In mild
        # ones groups grow and stay, in harsh ones they are replayed again and again.
        mild = rng.random() < 0.6
        self.conflicts = [text for text in CONFLICTS if not mild or "ROLLBACK" not in text]
        self.ors = [text for text in OR if not mild or "ROLLBACK" not in text]
        self.raises = [text for text in RAISES if not mild or "ROLLBACK" not in text]
        self.wrong = rng.choice((0.0, 0.01, 0.05))  # share of steps that cannot succeed
        self.tables = []
        self.views = []
        self.made = 0
        self.fts = self.rtree = False
        self.schema = self._schema()

    def one(self, *choices):
        return self.rng.choice(choices)

    def chance(self, share):
        return self.rng.random() < share

    # ---- schema

    def _schema(self):
        steps = ["CREATE TABLE log(n INTEGER PRIMARY KEY, what, x, y)"]
        for i in range(self.rng.randrange(2, 5)):
            steps.append(self._table(f"t{i}"))
        for _ in range(self.rng.randrange(3)):
            steps.append(self._index())
        if self.chance(0.4):
            steps += self._view()
        for _ in range(self.rng.randrange(6)):
            steps.append(self._trigger())
        if self.chance(0.15):
            self.fts = True
            steps.append("CREATE VIRTUAL TABLE fts USING fts5(a, b)")
        if self.chance(0.1):
            self.rtree = True
            steps.append("CREATE VIRTUAL TABLE box USING rtree(id, x0, x1)")
        table = self.one(*self.tables)
        for value in range(self.rng.randrange(8)):
            columns = ", ".join(table.columns)
            steps.append(f"INSERT OR IGNORE INTO {table.name}({columns}) VALUES "
                         f"({', '.join(str(value) for _ in table.columns)})")
        return steps

    def _table(self, name):
        rng, strict = self.rng, self.chance(0.1)
        kind = rng.random()
        key, rowid, parts, tail = ["id"], True, [], []
        if kind < 0.5:
            auto = self.one("", "", " AUTOINCREMENT")
            conflict = "" if auto else rng.choice(self.conflicts)
            parts.append(f"id INTEGER PRIMARY KEY{conflict}{auto}")
        elif kind < 0.65:
            parts.append(f"id INTEGER, k TEXT{'' if strict else ' COLLATE NOCASE'}")
            tail.append("PRIMARY KEY (id, k)")
            key, rowid = ["id", "k"], False
        elif kind < 0.8:
            parts.append(f"id {self.one('INTEGER', 'TEXT')} NOT NULL PRIMARY KEY"
                         f"{rng.choice(self.conflicts)}")
            rowid = False
        else:
            parts.append(f"id {self.one('INT', 'TEXT')} UNIQUE{rng.choice(self.conflicts)}")
        table = Table(name, ["id", *(["k"] if "k" in key else [])], key, rowid)
        for column in ("a", "b", "c", "d")[:rng.randrange(1, 5)]:
            parts.append(self._column(table, column, strict, tail))
            table.columns.append(column)
        if self.chance(0.3):
            stored = self.one("VIRTUAL", "STORED")
            unique = " UNIQUE" if self.chance(0.3) else ""
            parts.append(f"g {'ANY' if strict else ''} AS "
                         f"({self.one('a + 1', 'abs(a)', 'a || id', 'upper(a)', 'a IS NULL')}) "
                         f"{stored}{unique}")
            table.generated = ["g"]
        if self.chance(0.2) and len(table.columns) > 2:
            pair = rng.sample(table.columns[1:], 2)
            tail.append(f"UNIQUE ({', '.join(pair)}){rng.choice(self.conflicts)}")
            table.unique.append(pair)
        options = [*(["STRICT"] if strict else []),
                   *(["WITHOUT ROWID"] if not rowid and kind < 0.8 else [])]
        if rowid is False and "WITHOUT ROWID" not in options:
            table.rowid = True
        self.tables.append(table)
        return f"CREATE TABLE {name}({', '.join(parts + tail)}) {', '.join(options)}"

    def _column(self, table, column, strict, tail):
        rng = self.rng
        text = f"{column} {self.one('INTEGER', 'TEXT', 'ANY') if strict else rng.choice(TYPES)}"
        draw = rng.random()
        if draw < 0.2:
            text += f" NOT NULL{rng.choice(self.conflicts)}"
            text += self.one("", " DEFAULT 3")
        elif draw < 0.4:
            text += f" UNIQUE{rng.choice(self.conflicts)}"
            table.unique.append([column])
        elif draw < 0.5:
            text += f" CHECK ({column} < 8)"
        elif draw < 0.8:
            parent = rng.choice(self.tables) if self.tables and self.chance(0.8) else table
            if len(parent.key) == 1:
                text += (f" REFERENCES {parent.name}({parent.key[0]})"
                         f"{rng.choice(ACTIONS)}{rng.choice(DEFERRALS)}")
            elif "k" in table.columns:
                tail.append(f"FOREIGN KEY (id, k) REFERENCES {parent.name}(id, k)"
                            f"{rng.choice(ACTIONS[:4])}{rng.choice(DEFERRALS)}")
        elif draw < 0.9:
            text += self.one(" COLLATE NOCASE", " COLLATE RTRIM", " DEFAULT 'x'",
                             " DEFAULT (1 + 1)")
        return text

    def _index(self):
        table = self.one(*self.tables)
        self.made += 1
        column = self.one(*table.columns)
        unique = "UNIQUE " if self.chance(0.4) else ""
        where = f" WHERE {column} > 3" if self.chance(0.3) else ""
        what = self.one(column, f"{column} DESC", f"lower({column})", f"{column} COLLATE NOCASE")
        return f"CREATE {unique}INDEX i{self.made} ON {table.name}({what}){where}"

    def _view(self):
        table, other = self.one(*self.tables), self.one(*self.tables)
        columns = ", ".join(table.columns[:3])
        first, second = table.columns[0], table.columns[-1]
        self.views.append(Table("v0", table.columns[:3], table.key, False))
        return [f"CREATE VIEW v0 AS SELECT {columns} FROM {table.name}",
                f"CREATE TRIGGER vi INSTEAD OF INSERT ON v0 BEGIN"
                f" {self._body(table, 'NEW', first)} END",
                f"CREATE TRIGGER vu INSTEAD OF UPDATE ON v0 BEGIN"
                f" UPDATE {self.one(*self.ors)}{other.name} SET {other.columns[-1]} = NEW.{first}"
                f" WHERE {other.columns[0]} = OLD.{first}; END",
                f"CREATE TRIGGER vd INSTEAD OF DELETE ON v0 BEGIN"
                f" DELETE FROM {table.name} WHERE {second} IS OLD.{first}; END"]

    def _body(self, table, row, column):
        """What a trigger does."""
        rng = self.rng
        other = self.one(*self.tables)
        draw = rng.random()
        if draw < 0.35:
            # A bare RAISE(IGNORE) and its sisters on some rows only.
            return (f"SELECT {rng.choice(self.raises)} WHERE {row}.{column} "
                    f"{self.one('=', '>', 'IS')} {rng.randrange(9)};")
        if draw < 0.6:
            return f"INSERT INTO log(what, x) VALUES ('{table.name}', {row}.{column});"
        if draw < 0.75:
            return (f"UPDATE {self.one(*self.ors)}{other.name}"
                    f" SET {other.columns[-1]} = {row}.{column}"
                    f" WHERE {other.columns[0]} < {rng.randrange(5)};")
        if draw < 0.9:
            return (f"INSERT {self.one(*self.ors)}INTO {other.name}({other.columns[0]},"
                    f" {other.columns[-1]}) VALUES ({row}.{column}, {rng.randrange(9)});"
                    if len(other.columns) > 1 else
                    f"INSERT INTO log(what, y) VALUES ('one', {row}.{column});")
        return f"DELETE FROM {other.name} WHERE {other.columns[0]} = {row}.{column};"

    def _trigger(self):
        table = self.one(*self.tables)
        self.made += 1
        event = self.one("INSERT", "INSERT", "UPDATE", "DELETE",
                         f"UPDATE OF {table.columns[-1]}")
        row = "OLD" if event == "DELETE" else "NEW"
        column = self.one(*table.columns)
        when = f" WHEN {row}.{column} {self.one('>', '<')} {self.rng.randrange(9)}" if (
            self.chance(0.4)) else ""
        return (f"CREATE TRIGGER g{self.made} {self.one('BEFORE', 'AFTER')} {event} ON {table.name}"
                f"{when} BEGIN {self._body(table, row, column)}"
                f"{self._body(table, row, column) if self.chance(0.3) else ''} END")

    # ---- values and pieces

    def value(self, column=None):
        rng, draw = self.rng, self.rng.random()
        if column == "id" and draw < 0.9:
            return rng.randrange(30)
        if draw < 0.6:
            return rng.randrange(10)
        if draw < 0.75:
            return rng.choice(("a", "B", "b", "c ", "c", "", "5", "5.0", "é", "a\x00b"))
        if draw < 0.85:
            return None
        if draw < 0.92:
            return rng.choice((0.5, 5.0, -0.0, 1e300, 2.5))
        if draw < 0.96:
            return rng.choice((b"", b"\x00\xff", b"a", b"5"))
        return rng.choice(BIG)

    def literal(self, value):
        if value is None:
            return "NULL"
        if isinstance(value, bytes):
            return f"x'{value.hex()}'"
        if isinstance(value, str):
            return "'" + value.replace("\x00", "").replace("'", "''") + "'"
        return repr(value) if value != -2 ** 63 else "(-9223372036854775807 - 1)"

    def put(self, params, column=None):
        """A value as a parameter or as a literal."""
        value = self.value(column)
        if self.chance(0.6):
            params.append(value)
            return "?"
        return self.literal(value)

    def where(self, table, params):
        draw = self.rng.random()
        column = self.one(*table.columns, *table.generated)
        if draw < 0.15:
            return ""
        if draw < 0.7:
            return (f" WHERE {column} {self.one('=', '=', '<', '>', 'IS')} "
                    f"{self.put(params, column)}")
        if draw < 0.85:
            return f" WHERE {column} IN ({self.put(params)}, {self.put(params)})"
        return f" WHERE {column} BETWEEN 2 AND {self.put(params)}"

    def returning(self, table):
        if not self.chance(0.15):
            return ""
        return " RETURNING " + self.one("*", table.columns[0], f"{table.columns[-1]} AS z, 1 + 1",
                                        f"typeof({table.columns[0]})")

    # ---- statements

    def _insert(self, table, params):
        rng = self.rng
        columns = table.columns if self.chance(0.7) else rng.sample(
            table.columns, rng.randrange(1, len(table.columns) + 1))
        verb = "REPLACE " if self.chance(0.05) else f"INSERT {self.one(*self.ors)}"
        if self.chance(0.15):
            other = self.one(*self.tables)
            taken = ", ".join(rng.choice(other.columns) for _ in columns)
            source = f"SELECT {taken} FROM {other.name}{self.where(other, params) or ' WHERE true'}"
        else:
            source = "VALUES " + ", ".join(
                "(" + ", ".join(self.put(params, column) for column in columns) + ")"
                for _ in range(self.one(1, 1, 1, 2, 4)))
        upsert = ""
        if self.chance(0.15) and table.name != "v0":
            unique = self.one(*table.unique)
            action = "NOTHING" if self.chance(0.3) else (
                f"UPDATE SET {table.columns[-1]} = {self.one('excluded.', '')}{table.columns[0]}"
                f"{' WHERE ' + table.columns[0] + ' > 2' if self.chance(0.3) else ''}")
            upsert = f" ON CONFLICT ({', '.join(unique)}) DO {action}"
            if self.chance(0.3):
                upsert = " ON CONFLICT DO NOTHING"
        return (f"{verb}INTO {table.name}({', '.join(columns)}) {source}{upsert}"
                f"{self.returning(table)}")

    def _update(self, table, params):
        most = min(3, len(table.columns))
        columns = self.rng.sample(table.columns, self.rng.randrange(1, most + 1))
        sets = ", ".join(
            f"{column} = " + (self.put(params, column) if self.chance(0.5) else
                              self.one(f"{column} + 1", *table.columns))
            for column in columns)
        return (f"UPDATE {self.one(*self.ors)}{table.name} SET {sets}{self.where(table, params)}"
                f"{self.returning(table)}")

    def _delete(self, table, params):
        return f"DELETE FROM {table.name}{self.where(table, params)}{self.returning(table)}"

    def _select(self, table, params):
        rng, other = self.rng, self.one(*self.tables)
        draw = rng.random()
        if draw < 0.4:
            order = f" ORDER BY {self.one(*table.columns)}" if self.chance(0.5) else ""
            return f"SELECT * FROM {table.name}{self.where(table, params)}{order}"
        if draw < 0.55:
            return (f"SELECT count(*), min({table.columns[-1]}), total({table.columns[0]}) "
                    f"FROM {table.name}{self.where(table, params)}")
        if draw < 0.65:
            return (f"SELECT x.{table.columns[0]}, y.{other.columns[-1]} FROM {table.name} x "
                    f"LEFT JOIN {other.name} y ON y.{other.columns[0]} = x.{table.columns[-1]}")
        if draw < 0.75:
            return "SELECT changes(), total_changes(), last_insert_rowid()"
        if draw < 0.85:
            return self.one(f"PRAGMA foreign_key_check({table.name})",
                            f"PRAGMA table_info({table.name})",
                            "SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE '\\_lf%' "
                            "ESCAPE '\\' AND name NOT LIKE 'sqlite_autoindex\\__lf%' ESCAPE '\\'",
                            "PRAGMA user_version", "SELECT * FROM log ORDER BY n DESC LIMIT 5")
        if draw < 0.95:
            return (f"SELECT {table.columns[0]}, row_number() OVER (ORDER BY {table.columns[-1]}, "
                    f"{table.columns[0]}) FROM {table.name}")
        return (f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5) "
                f"SELECT i, (SELECT count(*) FROM {table.name} "
                f"WHERE {table.columns[0]} = i) FROM n")

    def _with(self, table, params):
        return (f"WITH q(i) AS (VALUES ({self.put(params)}), (2)) INSERT INTO {table.name}"
                f"({table.columns[0]}) SELECT i FROM q")

    def _ddl(self, table):
        self.made += 1
        draw = self.rng.random()
        if draw < 0.2:
            return f"CREATE TABLE x{self.made}(a, b UNIQUE)"
        if draw < 0.35:
            return self._index()
        if draw < 0.5:
            return self._trigger()
        if draw < 0.6:
            value = self.rng.randrange(9)
            return f"ALTER TABLE {table.name} ADD COLUMN z{self.made} DEFAULT {value}"
        if draw < 0.75:
            return f"DROP {self.one('INDEX', 'TRIGGER')} IF EXISTS {self.one('i', 'g')}" \
                   f"{self.rng.randrange(1, self.made + 1)}"
        if draw < 0.8:
            return f"ALTER TABLE x{self.rng.randrange(1, self.made + 1)} RENAME TO y{self.made}"
        if draw < 0.85:
            column = f"z{self.rng.randrange(self.made)}"
            return f"ALTER TABLE {table.name} RENAME COLUMN {column} TO w"
        if draw < 0.9:
            return f"DROP TABLE x{self.rng.randrange(1, self.made + 1)}"
        if draw < 0.95:
            return f"PRAGMA user_version = {self.rng.randrange(100)}"
        return f"CREATE TABLE {table.name}(a)"  # there is one

    def _wrong(self, table):
        """What fails, each in its own way."""
        return self.one(
            "SELEC 1", "INSERT INTO nowhere VALUES (1)", "SELECT nosuch FROM log",
            f"INSERT INTO {table.name} VALUES (1, 2, 3, 4, 5, 6, 7, 8, 9)",
            "SELECT abs(-9223372036854775807 - 1)", "SELECT json('{')",
            "SELECT sum(9223372036854775807) FROM (SELECT 1 UNION ALL SELECT 2)",
            "INSERT INTO log(x) SELECT json_extract('x', '$')",
            "INSERT INTO log(x) SELECT abs(iif(n = 3, -9223372036854775807 - 1, n)) FROM log",
            "SELECT zeroblob(-1) || randomly()", "SELECT 'a' LIKE 'b' ESCAPE 'cc'",
            f"CREATE TRIGGER bad AFTER INSERT ON {table.name} BEGIN SELECT nosuch(); END",
            f"INSERT INTO {table.name}({table.columns[0]}) VALUES (1), (1), (1), (1)",
            f"UPDATE {table.name} SET {table.columns[0]} = 1", "SELECT '", "SELECT * FROM v0 WHERE",
            "INSERT INTO log(n) VALUES ('text')")

    def _virtual(self):
        if self.fts and (not self.rtree or self.chance(0.6)):
            return self.one(
                "INSERT INTO fts(a, b) VALUES ('one two', 'three')",
                "INSERT INTO fts(a, b) VALUES ('one two', 'two three'), ('three', 'four')",
                "SELECT rowid, a FROM fts WHERE fts MATCH 'two' ORDER BY rowid",
                "UPDATE fts SET a = 'five six' WHERE rowid = 2",
                "DELETE FROM fts WHERE fts MATCH 'four'",
                "INSERT INTO fts(fts) VALUES ('integrity-check')",
                "INSERT INTO fts(rowid, a) VALUES (1, 'again')")
        return self.one(
            f"INSERT {self.one(*self.ors)}INTO box VALUES ({self.rng.randrange(6)}, 3, 5)",
            "INSERT INTO box VALUES (7, 5, 3)", "UPDATE box SET x1 = x1 + 1 WHERE x0 < 4",
            "DELETE FROM box WHERE id = 2", "SELECT * FROM box WHERE x1 >= 3 ORDER BY id")

    # ---- steps and batches

    def step(self):
        rng, params, opts = self.rng, [], {}
        draw = rng.random()
        table = self.one(*self.tables)
        if self.views and self.chance(0.08):
            table = self.views[0]
        if (self.fts or self.rtree) and self.chance(0.15):
            sql = self._virtual()
        elif draw < 0.40:
            sql = self._insert(table, params)
        elif draw < 0.58:
            sql = self._update(table, params)
        elif draw < 0.67:
            sql = self._delete(table, params)
        elif draw < 0.82:
            sql = self._select(table, params)
        elif draw < 0.85:
            sql = self._with(self.one(*self.tables), params)
        elif draw < 0.89:
            sql = self._ddl(self.one(*self.tables))
        elif draw < 0.89 + self.wrong:
            sql = self._wrong(self.one(*self.tables))
        elif draw < 0.96:
            return self._many(self.one(*self.tables))
        else:
            return self._script()
        assert sql.count("?") == len(params), (sql, params)
        if self.chance(0.04):
            opts["expect"] = {self.one("changes", "rows"): self.one(0, 1, 1, 2)}
        if self.chance(0.05):
            opts["rows"] = rng.randrange(4)
            if self.chance(0.7):
                opts["truncate"] = True
        return [sql, params, opts] if opts else [sql, params] if params else [sql]

    def _many(self, table):
        columns = table.columns[:2]
        rows = [[self.value(column) for column in columns] for _ in range(self.rng.randrange(6))]
        if self.chance(0.3):
            rows = [dict(zip(("p", "q"), row)) for row in rows]
            places = (":p", "@q")[:len(columns)]
        else:
            places = ("?", "?")[:len(columns)]
        return [f"INSERT {self.one(*self.ors)}INTO {table.name}({', '.join(columns)}) "
                f"VALUES ({', '.join(places)}){self.returning(table)}", rows, {"many": True}]

    def _script(self):
        statements = []
        for _ in range(self.rng.randrange(1, 5)):
            step = self.step()
            if len(step) == 1:
                statements.append(step[0])
        return ["; ".join(statements or ["SELECT 1"]) + self.one("", ";", "; -- end"), None,
                {"script": True}]

    def batch(self):
        return [self.step() for _ in range(self.one(1, 1, 1, 1, 2, 3, 5))]

    def doomed(self):
        """A batch that fails whatever the database holds, often by taking the transaction along."""
        last = self.one(
            ["SELECT 1", None, {"expect": {"rows": 7}}],
            ["INSERT OR ROLLBACK INTO log(n) VALUES (-1), (-1)"],
            ["INSERT OR FAIL INTO log(n) VALUES (-1), (-2), (-1)"],
            ["INSERT INTO log(n) VALUES (-1), (-1)"],
            ["UPDATE OR ROLLBACK log SET n = 'text' WHERE n = (SELECT max(n) FROM log)",
             None, {"expect": {"changes": 9}}],
            ["SELECT nosuch"])
        return [*(self.step() for _ in range(self.rng.randrange(3))), last]
