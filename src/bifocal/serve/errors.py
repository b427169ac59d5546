"""What the service answers where it does not decide: an HTTP status, a kind for machines, a line for people."""

from __future__ import annotations

from ..errors import BifocalError


class Refused(BifocalError):
    """A request that is not served.

    Attributes
    ----------
    status : int
        HTTP status.
    kind : str
        One of `KINDS`; for machines.
    retry_after : float or None
        Seconds after which to try again.
    """

    def __init__(self, kind: str, message: str, *, retry_after: float | None = None):
        super().__init__(message)
        self.status = KINDS[kind]
        self.kind = kind
        self.retry_after = retry_after

    def to_dict(self) -> dict[str, dict[str, str]]:
        """The body of the answer."""
        return {"error": {"kind": self.kind, "message": str(self)}}


KINDS = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "slow_body": 408,
    "conflict": 409,
    "too_large": 413,
    "unsupported_type": 415,
    "unusable": 422,
    "overloaded": 429,
    "rate_limited": 429,
    "internal": 500,
    "unavailable": 503,
    "deadline": 504,
    "storage_full": 507,
}
"""Kind -> HTTP status."""

WITHIN = {
    "internal": "the service failed on this request; its own log says why",
    "unavailable": "nothing is decided or kept just now: try again in a few seconds",
    "storage_full": "the decision log has no room: nothing is decided or kept until it has",
}
"""Kinds of failures within the service -> all that is told of them outside."""
