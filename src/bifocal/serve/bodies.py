"""Reads JSON bodies, and refuses those of so many members that to say what is wrong with each would stop all else."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

MEMBERS = 50_000
"""Of all lists and objects in a body: what is wrong with so many is told in less than a second."""


def read_json(blob: bytes | str) -> Any:
    """What a body says.

    Raises
    ------
    HTTPException
        413 where it has too many members; the framework lets this kind pass while it reads a body.
    ValueError, RecursionError
        Where it is no JSON.
    """
    value = json.loads(blob)
    found, left = 0, [value]
    while left:
        one = left.pop()
        if isinstance(one, dict | list):
            found += len(one)
            if found > MEMBERS:
                raise HTTPException(413, f"the lists and objects of a body have {MEMBERS:,} members at most")
            left.extend(one.values() if isinstance(one, dict) else one)
    return value


class Narrow(APIRoute):
    """A door that reads its body by `read_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def narrow(request: Request) -> Response:
            return await handle(_Request(request.scope, request.receive))

        return narrow


class _Request(Request):
    async def json(self) -> Any:
        return read_json(await self.body())
