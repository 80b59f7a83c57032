from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from pytest_webaccel.recovery.journal import MOVES, Journal, JournalError, JournalStatistics, Transaction
from pytest_webaccel.terms import Backend, Browser, Evidence, Lane, TransactionState

if TYPE_CHECKING:
    from pytest_webaccel.rows import TransactionRow

LANE = Lane(Browser.FAKE, Backend.CPU)


def make_journal(rows: list[TransactionRow]) -> Journal:
    ids = itertools.count()
    return Journal(rows.append, "run", Evidence.FAKE, clock=lambda: "moment", new_id=lambda: f"t{next(ids)}")


@pytest.fixture
def rows() -> list[TransactionRow]:
    return []


@pytest.fixture
def journal(rows: list[TransactionRow]) -> Journal:
    return make_journal(rows)


def states(rows: list[TransactionRow]) -> list[str]:
    return [row.state for row in rows]


def test_every_state_has_its_moves():
    assert set(MOVES) == set(TransactionState)


def test_each_move_emits_a_whole_row(journal, rows):
    journal.commit(journal.start("request", LANE, "test_a"))

    assert [(r.transaction_id, r.state, r.kind, r.lane, r.test_id, r.run_id, r.evidence, r.at) for r in rows] == [
        ("t0", state, "request", "fake:cpu", "test_a", "run", Evidence.FAKE, "moment")
        for state in ("started", "committed")
    ]
    assert len({row.row_id for row in rows}) == 2


@pytest.mark.parametrize("first", ["commit", "roll_back"])
@pytest.mark.parametrize("second", ["commit", "roll_back"])
def test_an_ended_transaction_moves_no_more(journal, rows, first, second):
    transaction = journal.start("request", LANE)
    getattr(journal, first)(transaction)

    with pytest.raises(JournalError, match="cannot become"):
        getattr(journal, second)(transaction)
    assert len(rows) == 2


def test_a_transaction_of_another_journal_is_refused(journal):
    stranger = make_journal([]).start("request", LANE)
    journal.start("request", LANE)

    with pytest.raises(JournalError, match="not started by this journal"):
        journal.commit(stranger)
    assert len(journal.open_transactions()) == 1


def test_an_id_that_is_open_is_refused():
    journal = Journal(lambda row: None, "run", Evidence.FAKE, new_id=lambda: "same")
    journal.start("request", LANE)

    with pytest.raises(JournalError, match="unique"):
        journal.start("request", LANE)


def test_a_move_that_the_sink_cannot_write_did_not_happen(rows):
    disk_full = True

    def sink(row: TransactionRow) -> None:
        if disk_full and row.state == TransactionState.COMMITTED:
            raise OSError("disk full")

    journal = Journal(sink, "run", Evidence.FAKE)
    transaction = journal.start("request", LANE)
    with pytest.raises(OSError, match="disk full"):
        journal.commit(transaction)

    assert journal.open_transactions() == (transaction,)
    assert journal.statistics() == JournalStatistics(started=1, committed=0, rolled_back=0, open=1)

    disk_full = False
    journal.commit(transaction)
    assert journal.statistics() == JournalStatistics(started=1, committed=1, rolled_back=0, open=0)


def test_scope_commits_on_success(journal, rows):
    with journal.transaction("request", LANE) as transaction:
        assert journal.open_transactions() == (transaction,)
    assert states(rows) == ["started", "committed"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), asyncio.CancelledError()], ids=repr)
def test_scope_rolls_back_on_any_exception(journal, rows, error):
    with pytest.raises(type(error)), journal.transaction("request", LANE):
        raise error
    assert states(rows) == ["started", "rolled_back"]


def test_async_scope_rolls_back_when_its_task_is_cancelled(journal, rows):
    async def main() -> None:
        entered = asyncio.Event()

        async def body() -> None:
            async with journal.transaction("request", LANE):
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(body())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert states(rows) == ["started", "rolled_back"]
    assert journal.open_transactions() == ()


def test_scope_leaves_what_its_body_decided(journal, rows):
    def body() -> None:
        with journal.transaction("request", LANE) as transaction:
            journal.commit(transaction)
            raise ValueError("late")

    with pytest.raises(ValueError, match="late"):
        body()
    assert states(rows) == ["started", "committed"]


def test_scope_is_entered_once(journal, rows):
    scope = journal.transaction("request", LANE)
    with scope:
        pass
    with pytest.raises(JournalError, match="twice"), scope:
        pass
    assert states(rows) == ["started", "committed"]


def test_an_unwritable_roll_back_does_not_hide_the_error_of_the_body():
    def sink(row: TransactionRow) -> None:
        if row.state == TransactionState.ROLLED_BACK:
            raise OSError("disk full")

    with pytest.raises(ValueError, match="mine") as caught, Journal(sink, "r", Evidence.FAKE).transaction("x", LANE):
        raise ValueError("mine")
    assert "disk full" in caught.value.__notes__[0]


class JournalRules(RuleBasedStateMachine):
    opened = Bundle("opened")
    ended = Bundle("ended")

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[TransactionRow] = []
        self.journal = make_journal(self.rows)
        self.open: list[Transaction] = []
        self.counts = {"committed": 0, "rolled_back": 0}

    @rule(target=opened, kind=st.sampled_from(["request", "load"]))
    def start(self, kind):
        transaction = self.journal.start(kind, LANE)
        self.open.append(transaction)
        return transaction

    @rule(target=ended, transaction=consumes(opened), commit=st.booleans())
    def end(self, transaction, commit):
        (self.journal.commit if commit else self.journal.roll_back)(transaction)
        self.open.remove(transaction)
        self.counts["committed" if commit else "rolled_back"] += 1
        return transaction

    @rule(transaction=ended, commit=st.booleans())
    def end_again(self, transaction, commit):
        before = len(self.rows)
        with pytest.raises(JournalError):
            (self.journal.commit if commit else self.journal.roll_back)(transaction)
        assert len(self.rows) == before

    @rule(target=ended)
    def nothing(self):
        return multiple()

    @invariant()
    def books_balance(self):
        found = self.journal.statistics()
        assert self.journal.open_transactions() == tuple(self.open)
        assert found.started == found.committed + found.rolled_back + found.open
        assert (found.committed, found.rolled_back) == (self.counts["committed"], self.counts["rolled_back"])
        assert len({row.row_id for row in self.rows}) == len(self.rows) == found.started * 2 - found.open


TestJournalRules = JournalRules.TestCase


def failing(journal, *undos, error=ValueError, damage=None):
    """Run a change that says how it is undone and then raises ``error``; return what came out."""

    async def body():
        async with journal.transaction("load", LANE, "", damage or (lambda why: None)) as change:
            for what, do in undos:
                change.undo(what, do, deadline=0.05)
            raise error

    with pytest.raises(error) as raised:
        asyncio.run(body())
    return raised.value


def noting(done, word, error=None):
    async def undo():
        done.append(word)
        if error is not None:
            raise error

    return word, undo


def test_a_roll_back_undoes_what_was_done_last_step_first(journal, rows):
    done: list[str] = []
    failing(journal, noting(done, "first"), noting(done, "second"))
    assert done == ["second", "first"]
    assert states(rows) == ["started", "rolled_back"]
    assert (journal.statistics().undone, journal.statistics().not_undone) == (2, 0)


def test_a_change_that_is_committed_is_not_undone(journal):
    done: list[str] = []

    async def body():
        async with journal.transaction("load", LANE) as change:
            change.undo(*noting(done, "first"))

    asyncio.run(body())
    assert done == []


def test_an_undoing_that_fails_or_hangs_keeps_no_other_from_being_done_and_is_told(journal, rows):
    done: list[str] = []
    damage: list[str] = []
    hanging = ("hanging", lambda: asyncio.sleep(60))
    undos = [noting(done, "first"), noting(done, "second", RuntimeError("stuck")), hanging]
    error = failing(journal, *undos, damage=damage.append)
    assert done == ["second", "first"]
    assert error.__notes__ == damage
    assert ["hanging could not be undone: no answer within 0.05 s" in damage[0], "stuck" in damage[1]] == [True, True]
    assert states(rows) == ["started", "rolled_back"]
    assert (journal.statistics().undone, journal.statistics().not_undone) == (1, 2)


def test_a_scope_without_a_loop_tells_what_it_could_not_undo(journal):
    damage: list[str] = []
    scope = journal.transaction("load", LANE, "", damage.append)

    def work():
        with scope as change:
            change.undo("it", lambda: asyncio.sleep(0))
            raise ValueError

    with pytest.raises(ValueError) as raised:  # noqa: PT011 - which error it is does not matter
        work()
    assert damage == raised.value.__notes__
    assert "it was not undone" in damage[0]
