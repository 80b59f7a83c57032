"""The family of errors. Each message says what failed, where, why, and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_webaccel.terms import Damage

__all__ = [
    "BridgeError",
    "BrowserError",
    "ConfigurationError",
    "DamagedLaneError",
    "FaultError",
    "FeedError",
    "HistoryError",
    "InstallError",
    "LaneUnavailableError",
    "ModelError",
    "ProtocolError",
    "RecoveryError",
    "RemoteError",
    "WebAccelError",
    "WrongAnswerError",
]


class WebAccelError(Exception):
    """Base of every error that the plugin raises on purpose."""


class ConfigurationError(WebAccelError):
    """A flag, ini value, environment variable or marker argument that cannot be meant."""


class InstallError(WebAccelError):
    """A browser or an engine could not be brought here."""


class BrowserError(WebAccelError):
    """A browser did not start, or did not do what its driver asked."""


class LaneUnavailableError(WebAccelError):
    """The lane asked for is not to be had on this machine."""


class BridgeError(WebAccelError):
    """The bridge to the page cannot be used as asked."""


class ProtocolError(BridgeError):
    """A peer said something the protocol does not allow; its connection is closed."""


class RemoteError(WebAccelError):
    """The page did the work and it failed: ``kind`` is the page's word for how.

    The lane itself is whole, so there is nothing to recover from.
    """

    def __init__(self, kind: str, message: str) -> None:
        """Keep ``kind`` (such as ``operator``, ``model``, ``unsupported``) beside the message."""
        super().__init__(message)
        self.kind = kind


class DamagedLaneError(WebAccelError):
    """The lane broke under a request; ``damage`` is what was seen first."""

    def __init__(self, damage: Damage, where: str = "") -> None:
        """Name the place (lane, request) in the message and keep the damage for the engine."""
        super().__init__(f"{where + ': ' if where else ''}{damage.symptom}: {damage.detail}")
        self.damage = damage


class ModelError(WebAccelError):
    """A model that is not ONNX, is cut short, or has what the backend lacks."""


class FeedError(WebAccelError):
    """Feeds with a wrong name, dtype or shape."""


class FaultError(WebAccelError):
    """A fault could not be caused, or has no meaning on the lane."""


class RecoveryError(WebAccelError):
    """Recovery was tried and its budget is spent."""


class WrongAnswerError(RecoveryError):
    """An answer that contradicts its reference, so that it must not be delivered."""


class HistoryError(WebAccelError):
    """The database cannot be used: locked, newer, not a database, disk full."""
