"""Deferral routers: who answers, the small model or the large one.

Everything here runs on logs (``Records``) with NumPy alone; no model, no accelerator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from routers.policy import Policy
    from routers.tier_policy import TierPolicy

__all__ = ["Policy", "TierPolicy"]


def __getattr__(name: str) -> Any:
    """The policies, imported when they are asked for: importing the package costs nothing.

    >>> import routers
    >>> routers.Policy.__name__
    'Policy'
    """
    if name == "Policy":
        from routers.policy import Policy

        return Policy
    if name == "TierPolicy":
        from routers.tier_policy import TierPolicy

        return TierPolicy
    raise AttributeError(f"module 'routers' has no attribute {name!r}")
