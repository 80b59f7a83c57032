"""Recovery: the journal of transactions, the strategies, the engine that decides, the conductor that acts."""

from __future__ import annotations

from pytest_webaccel.recovery.breaker import Backoff, Breaker, Breakers, BreakerState
from pytest_webaccel.recovery.conductor import GivenUpError, Recovery, Repairable, Replay, recover
from pytest_webaccel.recovery.engine import Decision, Do, GaveUp, Recovered, RecoveryMachine, Survey
from pytest_webaccel.recovery.journal import Journal, JournalError, JournalStatistics, Transaction
from pytest_webaccel.recovery.race import Contender, race
from pytest_webaccel.recovery.rungs import Rung, Situation, Step
from pytest_webaccel.recovery.strategies import STRATEGIES, RecoveryStrategy

__all__ = [
    "STRATEGIES",
    "Backoff",
    "Breaker",
    "BreakerState",
    "Breakers",
    "Contender",
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
    "Survey",
    "Transaction",
    "race",
    "recover",
]
