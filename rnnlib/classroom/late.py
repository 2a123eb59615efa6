"""When a submission was handed in, and how late that is. No points are taken off: that is the teacher's rule.

The time comes from ``timestamp.txt``, which nbgrader writes beside a notebook when it is submitted. It is
written with the student's own rights, so it is a statement, not a proof.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

WRITTEN = re.compile(
    r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?) ?(Z|[+-]\d\d:?\d\d|[A-Za-z]\S*)?"
)


def moment(text: str, assume_local: bool = False) -> datetime:
    """A moment from ``2026-10-01 23:59`` and a zone behind it, such as ``+02:00`` or ``Europe/Berlin``.

    Args:
        text: the date, the time and the zone.
        assume_local: without a zone, take this machine's; otherwise UTC.

    Returns:
        The moment, in UTC.

    Raises:
        ValueError: it is no such text.
    """
    parts = WRITTEN.fullmatch(text.strip())
    if parts is None:
        raise ValueError(f"{text.strip()[:60]!r} is not a time such as 2026-10-01 23:59 +02:00")
    date, time, zone = parts.groups()
    try:
        naive = datetime.fromisoformat(f"{date} {time}")
        if zone is None:
            return (naive.astimezone() if assume_local else naive.replace(tzinfo=UTC)).astimezone(UTC)
        if zone[0] in "+-":
            digits = zone[1:].replace(":", "")
            offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
            return naive.replace(tzinfo=timezone(-offset if zone[0] == "-" else offset)).astimezone(UTC)
        return naive.replace(tzinfo=UTC if zone in ("Z", "UTC") else ZoneInfo(zone)).astimezone(UTC)
    except (ZoneInfoNotFoundError, OSError) as error:  # OSError: the name is that of a folder
        raise ValueError(f"{zone!r} is no time zone known here; write +02:00 or Europe/Berlin") from error
    except OverflowError as error:
        raise ValueError(f"{text.strip()!r} lies outside the calendar") from error


def hours_late(handed_in: datetime, due: datetime) -> float:
    """Hours after the due time, 0 for what came before; a second late is late."""
    return max(0.0, (handed_in - due).total_seconds() / 3600)


def shown(when: datetime) -> str:
    """A moment as it stands in tables."""
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
