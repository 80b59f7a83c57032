"""Recovery: the journal of transactions, the strategies, the engine that decides, the conductor that acts."""

from __future__ import annotations

from pytest_webaccel.recovery.conductor import GivenUpError, Recovery, Repairable, Replay, recover
from pytest_webaccel.recovery.engine import Decision, Do, GaveUp, Recovered, RecoveryMachine
from pytest_webaccel.recovery.journal import Journal, JournalError, JournalStatistics, Transaction
from pytest_webaccel.recovery.strategies import STRATEGIES, RecoveryStrategy, Rung, Situation, Step

__all__ = [
    "STRATEGIES",
    "Decision",
    "Do",
    "GaveUp",
    "GivenUpError",
    "Journal",
    "JournalError",
    "JournalStatistics",
    "Recovered",
    "Recovery",
    "RecoveryMachine",
    "RecoveryStrategy",
    "Repairable",
    "Replay",
    "Rung",
    "Situation",
    "Step",
    "Transaction",
    "recover",
]
