"""The one exception that a user's mistake raises."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave: one line that says what, where, and what to do.

    The command line prints the message alone, without a traceback, and exits with 2.
    """


_REFUSED_BY_TORCH = re.compile(r"WeightsUnpickler error: ([^\n]*?)(?:\. |\n|$)")


def why_not_loaded(error: object) -> str:
    """Why weights could not be loaded, in one line, from what torch says in many.

    Of parameters that do not fit the first is named. Torch's advice to read a file with
    ``weights_only=False``, which runs its code, is left out.
    """
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "Weights only load failed" in str(error):
        found = _REFUSED_BY_TORCH.search(str(error))
        return f"it holds more than weights ({found[1] if found else 'it cannot be read'})"
    if "loading state_dict" in lines[0] and len(lines) > 1:
        more = f" (and {len(lines) - 2} more)" if len(lines) > 2 else ""
        return f"{lines[1].rstrip('.')}{more}"
    return " ".join(lines)


#: A list with more names than this helps nobody in one line.
_LONG_LIST = 40


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown ``name``: the closest known one, or a list of known ones.

    Returns:
        A sentence such as ``Did you mean 'MAT'?`` or ``Known: MAT, SrSv.``
    """
    names = sorted(known)
    lowered = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {lowered[close[0]]!r}?"
    if len(names) > _LONG_LIST:
        distant = difflib.get_close_matches(name.lower(), lowered, n=5, cutoff=0.0)
        return f"Nearest known: {', '.join(lowered[candidate] for candidate in distant)}."
    return f"Known: {', '.join(names)}."
