"""What all frames of environments need."""

from __future__ import annotations

import importlib.util

from rllib_seqmarl.errors import UserError


def check_pillow(purpose: str) -> None:
    """Refuses to draw without Pillow.

    Args:
        purpose: what needs it, the beginning of the line: ``drawing``.

    Raises:
        UserError: Pillow is not installed.
    """
    if importlib.util.find_spec("PIL") is None:
        raise UserError(f"{purpose} needs Pillow; run: pip install 'rllib-seqmarl[render]'")
