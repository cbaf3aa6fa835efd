"""How figures, rates and sets are worded in the contest's tables."""

from __future__ import annotations

from hallmark.contest.rows import Row


def rate_name(rate: float | None) -> str:
    """``5 %``, or that there is no attack."""
    return "no attack" if rate is None else f"{100 * rate:g} %"


def points(value: float | None, error: float | None, digits: int = 2) -> str:
    """A difference of rates in points."""
    if value is None:
        return "-"
    return f"{100 * value:+z.{digits}f}" + ("" if error is None else f" ± {100 * error:.{digits}f}")


def set_name(row: Row) -> str:
    """Data set, attack, rate and seed, or of how many seeds a mean is."""
    rate = "" if row["rate"] is None else f" {100 * row['rate']:g} %"
    seed = f"seed {row['seed']}" if row["seed"] is not None else f"({row['seeds']} seeds)"
    return f"{row['dataset']} {row['attack']}{rate} {seed}"


def percent(value: float | None) -> str:
    """A rate (0-1) per cent."""
    return "-" if value is None else f"{100 * value:.1f}".replace("-0.0", "0.0")


def yes(value: bool) -> str:
    """Whether a claim holds; it stands out if not."""
    return "yes" if value else "**no**"
