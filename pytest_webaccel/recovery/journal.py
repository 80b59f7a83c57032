"""The journal: every change a lane undertakes is started, then committed or rolled back.

A change says how it is undone while it goes on; rolling it back undoes what was done, last step first.

The journal itself does no I/O. Each move becomes a :class:`~pytest_webaccel.terms.TransactionRow`
handed to the sink, which writes the worker's spool; so a worker that dies leaves behind exactly the
transactions that were open.
"""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from typing import TYPE_CHECKING

from pytest_webaccel import rows
from pytest_webaccel.errors import WebAccelError
from pytest_webaccel.rows import TransactionRow
from pytest_webaccel.terms import Evidence, Lane, TransactionState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

__all__ = [
    "MOVES",
    "UNDO_S",
    "Journal",
    "JournalError",
    "JournalStatistics",
    "Transaction",
    "TransactionScope",
    "Undo",
]

#: Seconds that one undoing may take when nothing else is said.
UNDO_S = 5.0

#: Legal moves of a transaction that exists; a new one always begins as ``started``.
MOVES: Mapping[TransactionState, frozenset[TransactionState]] = {
    TransactionState.STARTED: frozenset({TransactionState.COMMITTED, TransactionState.ROLLED_BACK}),
    TransactionState.COMMITTED: frozenset(),
    TransactionState.ROLLED_BACK: frozenset(),
}


class JournalError(WebAccelError):
    """A transaction was moved where it may not go, or does not belong to the journal."""


@dataclasses.dataclass(frozen=True, slots=True)
class Undo:
    """One step back: ``do`` undoes ``what`` within ``deadline`` seconds; what is undone already is no error."""

    what: str
    do: Callable[[], Awaitable[object]]
    deadline: float = UNDO_S


@dataclasses.dataclass(eq=False, slots=True)
class Transaction:
    """Handle of one journalled change. Only its journal changes ``state``; ``undos`` are in the order of what was done.

    Kinds are load, run, step, tensor, shard, repair and spare.
    """

    transaction_id: str
    kind: str
    lane: Lane
    test_id: str
    state: TransactionState = TransactionState.STARTED
    undos: list[Undo] = dataclasses.field(default_factory=list)

    def undo(self, what: str, do: Callable[[], Awaitable[object]], *, deadline: float = UNDO_S) -> None:
        """Say how ``what``, which is about to be done, is undone should the change be rolled back."""
        self.undos.append(Undo(what, do, deadline))

    def __str__(self) -> str:
        """Return id, kind and place, for error messages."""
        where = f" of {self.test_id}" if self.test_id else ""
        return f"transaction {self.transaction_id} ({self.kind} on {self.lane}{where})"


@dataclasses.dataclass(frozen=True, slots=True)
class JournalStatistics:
    """Counts since the journal began. ``started`` = ``committed`` + ``rolled_back`` + ``open``.

    ``undone`` steps were taken back, ``not_undone`` could not be.
    """

    started: int
    committed: int
    rolled_back: int
    open: int
    undone: int = 0
    not_undone: int = 0


class Journal:
    """Keeps the open transactions of one worker and tells the sink of every move.

    ``sink`` is called once a move, before the move counts: when it raises, the move did not happen.
    ``clock`` returns the ``at`` of a row (ISO 8601, UTC), ``new_id`` a fresh transaction id. Not
    safe to share between threads; it belongs to the worker's loop.
    """

    def __init__(
        self,
        sink: Callable[[TransactionRow], None],
        run_id: str,
        evidence: Evidence,
        *,
        clock: Callable[[], str] = rows.now,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._sink = sink
        self._run_id = run_id
        self._evidence = evidence
        self._clock = clock
        self._new_id = new_id
        self._open: dict[str, Transaction] = {}
        self._counts = dict.fromkeys(TransactionState, 0)
        self._undone = {True: 0, False: 0}

    def start(self, kind: str, lane: Lane, test_id: str = "") -> Transaction:
        """Return a new open transaction. ``kind`` names the change, such as ``request`` or ``load``.

        Raises JournalError when ``new_id`` gives an id that is still open.
        """
        transaction = Transaction(self._new_id(), kind, lane, test_id)
        if transaction.transaction_id in self._open:
            raise JournalError(f"{transaction}: an open transaction already has this id; ids must be unique")
        self._emit(transaction, TransactionState.STARTED)
        self._open[transaction.transaction_id] = transaction
        return transaction

    def commit(self, transaction: Transaction) -> None:
        """Record that the change happened. Raises JournalError unless ``transaction`` is open here."""
        self._move(transaction, TransactionState.COMMITTED)

    def roll_back(self, transaction: Transaction) -> None:
        """Record that the change did not happen. Raises JournalError unless ``transaction`` is open here."""
        self._move(transaction, TransactionState.ROLLED_BACK)

    def transaction(
        self, kind: str, lane: Lane, test_id: str = "", on_damage: Callable[[str], None] = lambda why: None
    ) -> TransactionScope:
        """Return a scope, for ``with`` or ``async with``, that starts a transaction and always ends it.

        ``on_damage`` is told in words of what a roll-back could not undo: whatever it was done to is not whole.
        """
        return TransactionScope(self, kind, lane, test_id, on_damage)

    async def undo(self, transaction: Transaction) -> list[str]:
        """Take back what ``transaction`` did, last step first; return what could not be, in words.

        A step that fails, or takes longer than its deadline, does not keep the others from being taken.
        """
        failures = []
        while transaction.undos:
            step = transaction.undos.pop()
            try:
                async with asyncio.timeout(step.deadline):
                    await step.do()
            except Exception as error:  # whatever it is, the steps before it must be taken back, too
                why = f"no answer within {step.deadline:g} s" if isinstance(error, TimeoutError) else repr(error)
                failures.append(f"{transaction}: {step.what} could not be undone: {why}")
                self._undone[False] += 1
            else:
                self._undone[True] += 1
        return failures

    def open_transactions(self) -> tuple[Transaction, ...]:
        """Return the transactions neither committed nor rolled back, oldest first."""
        return tuple(self._open.values())

    def statistics(self) -> JournalStatistics:
        """Return a snapshot of the counts."""
        return JournalStatistics(
            started=self._counts[TransactionState.STARTED],
            committed=self._counts[TransactionState.COMMITTED],
            rolled_back=self._counts[TransactionState.ROLLED_BACK],
            open=len(self._open),
            undone=self._undone[True],
            not_undone=self._undone[False],
        )

    def _move(self, transaction: Transaction, to: TransactionState) -> None:
        if to not in MOVES[transaction.state]:
            raise JournalError(f"{transaction} is {transaction.state} and cannot become {to}")
        if self._open.get(transaction.transaction_id) is not transaction:
            raise JournalError(f"{transaction} was not started by this journal")
        self._emit(transaction, to)
        transaction.state = to
        del self._open[transaction.transaction_id]

    def _emit(self, transaction: Transaction, state: TransactionState) -> None:
        self._sink(
            TransactionRow(
                run_id=self._run_id,
                evidence=self._evidence,
                at=self._clock(),
                # A transaction reaches a state once, so this id is unique and needs no second source of ids.
                row_id=f"{transaction.transaction_id}.{state}",
                lane=str(transaction.lane),
                transaction_id=transaction.transaction_id,
                state=str(state),
                kind=transaction.kind,
                test_id=transaction.test_id,
            )
        )
        self._counts[state] += 1


class TransactionScope:
    """Commits when its body ends, rolls back when its body raises anything, cancellation included.

    A body that moved the transaction itself is left with what it chose. Rolling back undoes what the body did,
    in ``async with``; what cannot be undone, or written, is a note on the body's own error, which comes out.
    """

    def __init__(
        self,
        journal: Journal,
        kind: str,
        lane: Lane,
        test_id: str,
        on_damage: Callable[[str], None] = lambda why: None,
    ) -> None:
        self._journal = journal
        self._begin = (kind, lane, test_id)
        self._on_damage = on_damage
        self._transaction: Transaction | None = None

    def __enter__(self) -> Transaction:
        """Start the transaction."""
        if self._transaction is not None:
            raise JournalError(f"{self._transaction}: its scope was entered twice; ask the journal for a new one")
        self._transaction = self._journal.start(*self._begin)
        return self._transaction

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the transaction as the body ended."""
        transaction = self._transaction
        if transaction is None or transaction.state is not TransactionState.STARTED:
            return
        if error is not None and transaction.undos:  # only a loop could undo them
            self._not_undone(error, [f"{transaction}: {step.what} was not undone" for step in transaction.undos])
        if error is None:
            self._journal.commit(transaction)
            return
        try:
            self._journal.roll_back(transaction)
        except Exception as second:
            error.add_note(f"{transaction} could not be rolled back in the journal: {second!r}")

    async def __aenter__(self) -> Transaction:
        """Start the transaction."""
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """End the transaction as the body ended; undo what it did where it raised."""
        transaction = self._transaction
        if error is not None and transaction is not None and transaction.state is TransactionState.STARTED:
            try:
                self._not_undone(error, await self._journal.undo(transaction))
            finally:  # also where undoing is interrupted
                self.__exit__(kind, error, at)
            return
        self.__exit__(kind, error, at)

    def _not_undone(self, error: BaseException, failures: list[str]) -> None:
        for failure in failures:
            error.add_note(failure)
            self._on_damage(failure)
