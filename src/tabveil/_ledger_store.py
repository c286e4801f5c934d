"""Where the ledger's entries lie: one schema in a SQLite file, in memory, or in PostgreSQL, through SQLAlchemy.

Entries can be added and read, nothing else: triggers in the database refuse to update or delete them. Each entry's
hash covers its payload and the hash before it. Writers are serialised: SQLite by BEGIN IMMEDIATE, PostgreSQL by a lock
on the account's row. A write that returned is on disk: SQLite with a rollback journal and synchronous=EXTRA (a
write-ahead log would drop its tail silently where a byte of it is damaged), PostgreSQL with synchronous_commit.

Privacy: payloads hold events, labels and times; no cell of a table ever comes here.
"""

from __future__ import annotations

import functools
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event as sa_event
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool, StaticPool

from tabveil.errors import LedgerError, MissingDependencyError, StorageError, UsageError, VerificationError

GENESIS = "0" * 64
"""What the first entry of an account is chained to."""

APPLICATION_ID = 0x7461_6276
"""Marks a SQLite file as a ledger ("tabv")."""

FORMAT = 1
"""Version of the schema, kept as SQLite's user_version."""

PATIENCE = 60.0
"""Seconds a writer waits for its turn."""

METADATA = sa.MetaData()
ACCOUNTS = sa.Table(
    "tabveil_accounts",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("dataset", sa.Text, nullable=False, unique=True),
)
ENTRIES = sa.Table(
    "tabveil_entries",
    METADATA,
    sa.Column("account", sa.Integer, sa.ForeignKey("tabveil_accounts.id"), primary_key=True, autoincrement=False),
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sqlite_with_rowid=False,
)

_REFUSAL = "the ledger is append-only"
_TRIGGERS: dict[str, tuple[str, ...]] = {
    "sqlite": tuple(
        f"CREATE TRIGGER {table.name}_{verb} BEFORE {verb.upper()} ON {table.name} "
        f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
        for table in (ACCOUNTS, ENTRIES)
        for verb in ("update", "delete")
    ),
    "postgresql": (
        "CREATE FUNCTION tabveil_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$",
        *(
            f"CREATE TRIGGER {table.name}_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON {table.name} "
            "FOR EACH STATEMENT EXECUTE FUNCTION tabveil_refuse()"
            for table in (ACCOUNTS, ENTRIES)
        ),
    ),
}
_LIVE_TRIGGERS = (
    "SELECT count(*) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE p.proname = 'tabveil_refuse' AND "
    "t.tgenabled = 'O' AND t.tgrelid IN ('tabveil_accounts'::regclass, 'tabveil_entries'::regclass)"
)
_CREATION_LOCK = 0x7461_6276_6569_6C
"""Key of PostgreSQL's advisory lock around creating tables and accounts."""


def canonical(data: Mapping[str, Any]) -> str:
    """One spelling of a JSON object: sorted keys, no blanks, ASCII; raises ValueError on infinities and NaN."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def chained(previous: str, payload: str) -> str:
    """Hash of an entry: SHA-256 over the hash before it and its payload."""
    return hashlib.sha256((previous + payload).encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """One line of an account.

    Attributes:
      seq: 0 for the first.
      payload: canonical JSON.
      hash: `chained` of the entry before and `payload`.
    """

    seq: int
    payload: str
    hash: str

    @property
    def data(self) -> dict[str, Any]:
        """The payload, read."""
        data: dict[str, Any] = json.loads(self.payload)
        return data


class Store:
    """A place for entries.

    Args:
      place: path of a SQLite file, ":memory:", or a SQLAlchemy URL (sqlite:// or postgresql://).
      create: make the file or tables where they are missing.

    Raises:
      UsageError: a URL of another database.
      MissingDependencyError: PostgreSQL without its driver.
      LedgerError: unreachable, not a ledger, or missing with `create` False.
      StorageError: the disk is full.
    """

    def __init__(self, place: str | Path, *, create: bool = True) -> None:
        self.url = _url(place)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self.in_memory = self.sqlite and self.url.database in {None, "", ":memory:"}
        self._check_file(create)
        self._engine = _engine(self.url, self.in_memory)
        self._lock = threading.RLock()
        if not self._exists():
            if not create:
                raise LedgerError("There is no ledger in this database.")
            self._create()

    def _check_file(self, create: bool) -> None:
        if not self.sqlite or self.in_memory or str(self.url.database).startswith("file:"):
            return
        path = Path(str(self.url.database))
        if not path.parent.is_dir():
            raise LedgerError("The folder for the ledger file does not exist: create it first.")
        if not create and not path.is_file():
            raise LedgerError("There is no ledger file of this name.")

    def _exists(self) -> bool:
        with self.reading() as connection:
            if self.sqlite:
                mark = connection.exec_driver_sql("PRAGMA application_id").scalar()
                version = connection.exec_driver_sql("PRAGMA user_version").scalar()
                if mark == APPLICATION_ID and version != FORMAT:
                    raise LedgerError("The ledger was written by another version of this software.")
            tables = set(sa.inspect(connection).get_table_names())
        ours = {ACCOUNTS.name, ENTRIES.name}
        if self.sqlite and tables and (mark != APPLICATION_ID or not ours <= tables):
            raise LedgerError("The file is a database, but not an intact ledger.")
        return ours <= tables

    def _create(self) -> None:
        with self.writing() as connection:
            self._lock_creation(connection)
            if set(sa.inspect(connection).get_table_names()) >= {ACCOUNTS.name, ENTRIES.name}:
                return
            METADATA.create_all(connection)
            for statement in _TRIGGERS[self.url.get_backend_name()]:
                connection.exec_driver_sql(statement)
            if self.sqlite:
                connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.exec_driver_sql(f"PRAGMA user_version = {FORMAT}")

    def _lock_creation(self, connection: sa.Connection) -> None:
        """One process at a time creates tables or accounts; SQLite has one writer anyway."""
        if not self.sqlite:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_CREATION_LOCK})")

    # ---------------------------------------------------------------------------------------------------- transactions
    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the ledger."""
        with self._transaction(immediate=False) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that writes; on SQLite the only one, on PostgreSQL until `account` locks its row."""
        with self._transaction(immediate=True) as connection:
            if not self.sqlite:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{PATIENCE:.0f}s'")
                if connection.exec_driver_sql("SHOW synchronous_commit").scalar() in {"off", "local"}:
                    connection.exec_driver_sql("SET LOCAL synchronous_commit = on")
            yield connection

    @contextmanager
    def _transaction(self, *, immediate: bool) -> Iterator[sa.Connection]:
        with self._lock, _one_sentence(), self._engine.connect() as connection:
            connection = connection.execution_options(tabveil_immediate=immediate)
            if not self.sqlite and not immediate:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with self._begun(connection):
                yield connection

    def _begun(self, connection: sa.Connection) -> sa.RootTransaction:
        """Begin; try again while another process holds the file beyond SQLite's own patience."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return connection.begin()
            except OperationalError as error:
                if not self.sqlite or "locked" not in str(error.orig) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    # --------------------------------------------------------------------------------------------------------- reading
    def datasets(self, connection: sa.Connection) -> list[str]:
        """Names of all accounts, in order of opening."""
        return list(connection.execute(sa.select(ACCOUNTS.c.dataset).order_by(ACCOUNTS.c.id)).scalars())

    def account(self, connection: sa.Connection, dataset: str) -> int | None:
        """Number of an account, its row locked until the transaction ends if this one writes; None if unknown."""
        query = sa.select(ACCOUNTS.c.id).where(ACCOUNTS.c.dataset == dataset)
        if connection.get_execution_options().get("tabveil_immediate"):
            query = query.with_for_update()
        return connection.execute(query).scalar()

    def entries(self, connection: sa.Connection, account: int) -> list[Entry]:
        """All entries of an account, first to last."""
        query = sa.select(ENTRIES.c.seq, ENTRIES.c.payload, ENTRIES.c.hash).where(ENTRIES.c.account == account)
        return [Entry(*row) for row in connection.execute(query.order_by(ENTRIES.c.seq))]

    def head(self, connection: sa.Connection, account: int) -> Entry | None:
        """The last entry of an account."""
        last = sa.select(sa.func.max(ENTRIES.c.seq)).where(ENTRIES.c.account == account)
        seq = connection.execute(last).scalar()
        return None if seq is None else self.entry(connection, account, seq)

    def entry(self, connection: sa.Connection, account: int, seq: int) -> Entry | None:
        """One entry of an account."""
        query = sa.select(ENTRIES.c.seq, ENTRIES.c.payload, ENTRIES.c.hash)
        row = connection.execute(query.where(ENTRIES.c.account == account, ENTRIES.c.seq == seq)).first()
        return None if row is None else Entry(*row)

    def chains(self, connection: sa.Connection) -> dict[str, list[Entry]]:
        """All entries of all accounts; VerificationError where an entry belongs to none."""
        accounts = connection.execute(sa.select(ACCOUNTS.c.id, ACCOUNTS.c.dataset).order_by(ACCOUNTS.c.id)).all()
        found = {dataset: self.entries(connection, number) for number, dataset in accounts}
        total = connection.execute(sa.select(sa.func.count()).select_from(ENTRIES)).scalar_one()
        if sum(len(entries) for entries in found.values()) != total or not all(found.values()):
            raise VerificationError("The ledger holds entries of no account, or an account without entries.")
        return found

    def now(self, connection: sa.Connection) -> float:
        """Seconds since 1970 by the one clock all writers share."""
        if self.sqlite:
            return time.time()
        return float(connection.exec_driver_sql("SELECT extract(epoch from clock_timestamp())").scalar_one())

    # --------------------------------------------------------------------------------------------------------- writing
    def add_account(self, connection: sa.Connection, dataset: str) -> int:
        """Number of a new account, or of the one another process has just added; locked like `account`."""
        self._lock_creation(connection)
        found = self.account(connection, dataset)
        if found is not None:
            return found
        number = int(connection.execute(sa.select(sa.func.coalesce(sa.func.max(ACCOUNTS.c.id), 0))).scalar_one()) + 1
        connection.execute(sa.insert(ACCOUNTS).values(id=number, dataset=dataset))
        return number

    def append(self, connection: sa.Connection, account: int, entry: Entry) -> None:
        """Add an entry after the head of a locked account."""
        row = {"account": account, "seq": entry.seq, "payload": entry.payload, "hash": entry.hash}
        connection.execute(sa.insert(ENTRIES).values(**row))

    # -------------------------------------------------------------------------------------------------------- checking
    def check(self, connection: sa.Connection) -> None:
        """The storage itself: SQLite's integrity check and its exact schema; on PostgreSQL, the triggers.

        Raises:
          VerificationError: damaged, or no longer append-only.
        """
        if not self.sqlite:
            if connection.exec_driver_sql(_LIVE_TRIGGERS).scalar() != 2:
                raise VerificationError("The ledger's triggers are missing: it is no longer append-only.")
            return
        found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        if list(found) != ["ok"]:
            raise VerificationError("The ledger file is damaged: SQLite's integrity check fails.")
        if _schema_of(connection) != _expected_schema():
            raise VerificationError("The ledger's tables or triggers were changed: it is no longer append-only.")


def _schema_of(connection: sa.Connection) -> list[tuple[Any, ...]]:
    rows = connection.exec_driver_sql("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name")
    return [tuple(row) for row in rows]


@functools.cache
def _expected_schema() -> list[tuple[Any, ...]]:
    with Store(":memory:").reading() as connection:
        return _schema_of(connection)


def _url(place: str | Path) -> sa.URL:
    """The SQLAlchemy URL of a place; a plain path is a SQLite file."""
    text = str(place)
    if isinstance(place, Path) or "://" not in text:
        return sa.URL.create("sqlite", database=text)
    try:
        url = sa.make_url(text)
    except ArgumentError:
        raise UsageError("The ledger's URL cannot be read.") from None
    if url.get_backend_name() == "sqlite":
        return url
    if url.get_backend_name() in {"postgresql", "postgres"}:
        return url.set(drivername="postgresql+psycopg")
    raise UsageError("A ledger lives in a SQLite file or in PostgreSQL: give a path or a postgresql:// URL.")


def _engine(url: sa.URL, in_memory: bool) -> sa.Engine:
    """An engine without kept connections, so that it survives a fork; in memory there is one connection."""
    if url.get_backend_name() != "sqlite":
        try:
            return sa.create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": 10})
        except ModuleNotFoundError as error:
            raise MissingDependencyError("PostgreSQL needs psycopg: pip install 'tabveil[postgres]'.") from error
    pool = StaticPool if in_memory else NullPool
    engine = sa.create_engine(url, poolclass=pool, connect_args={"timeout": PATIENCE, "check_same_thread": False})
    sa_event.listen(engine, "connect", _configure)
    sa_event.listen(engine, "begin", _begin)
    return engine


def _configure(connection: Any, _: object) -> None:
    """Settings of every SQLite connection; transactions are begun by `_begin` alone."""
    connection.isolation_level = None
    settings = ("synchronous=EXTRA", "foreign_keys=ON", "recursive_triggers=ON", "trusted_schema=OFF")
    # small pages: little unused space, in which a flipped byte changes nothing and so is not found
    for setting in (*settings, "cell_size_check=ON", "secure_delete=ON", "page_size=512"):
        connection.execute(f"PRAGMA {setting}")


def _begin(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get("tabveil_immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


@contextmanager
def _one_sentence() -> Iterator[None]:
    """A database's error as one sentence, without paths, passwords or statements."""
    try:
        yield
    except DBAPIError as error:
        raise _told(str(error.orig).lower()) from error
    except (SQLAlchemyError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise LedgerError("The ledger cannot be read: it is damaged or not a ledger.") from error


def _told(message: str) -> LedgerError | StorageError:
    if "disk is full" in message or "no space" in message:
        return StorageError("The disk is full: the ledger could not be written and nothing was charged.")
    if "locked" in message or "lock timeout" in message:
        return LedgerError("The ledger is busy: another process has held it for a minute; try again.")
    if "readonly" in message or "read-only" in message:
        return LedgerError("The ledger is read-only: nothing can be charged.")
    if _REFUSAL in message:
        return LedgerError("The ledger is append-only: entries cannot be changed or removed.")
    if any(words in message for words in ("not a database", "malformed", "decode", "encrypted")):
        return LedgerError("The ledger file is damaged or not a ledger.")
    return LedgerError("The ledger's database cannot be reached or refuses to answer.")
