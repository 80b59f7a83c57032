"""``network_latency``, ``network_bandwidth``, ``network_jitter``: the way between page and bridge is slowed.

Names and units are Toxiproxy's: milliseconds and KB (1024 bytes) a second. A slow network fails no request by
itself: the answer comes late, or the request's own deadline passes first.
"""

from __future__ import annotations
