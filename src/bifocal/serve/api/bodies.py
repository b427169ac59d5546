"""Reads the bodies of requests, JSON and forms, in time that their size bounds, however they are made."""

from __future__ import annotations

import asyncio
import codecs
import io
import json
import re
from collections.abc import Callable, Coroutine, Iterator
from email.message import Message
from email.parser import BytesHeaderParser
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

MEMBERS = 50_000
"""Of all lists and objects in a body: what is wrong with so many is told in less than a second."""
MAX_FIELDS = 2**20
"""Bytes of a form without files; of posts with pictures each part has its own place."""
ON_THE_LOOP = 2**16
"""Bytes of a body that is read at once; a larger one is read in a thread."""
_TOO_DEEP = "the body is not valid JSON that can be read: its lists and objects lie too deep in one another"
MULTIPART, URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
_CONTENT_TYPE, _PART_HEAD = 256, 4096  # characters that are read: the time that their parser takes is quadratic
_BOUNDARY = 70  # RFC 2046
DEPTH = 200
"""Of lists and objects in one another."""
_STRING_OR_SIGN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[,\[{\]}]', re.DOTALL)
_UNICODE = ("utf-8", "ascii")


def read_json(blob: bytes | str) -> Any:
    """What a body says.

    Raises
    ------
    HTTPException
        413 where it has too many members, 400 where it is not UTF-8, nested too deeply, or an object has a key twice,
        of which two readers may take either; the framework lets this kind pass while it reads a body.
    ValueError
        Where it is no JSON.
    """
    text = blob if isinstance(blob, str) else _unicode(blob, "JSON")
    _count_members(text)
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise HTTPException(400, _TOO_DEEP) from None


def _count_members(body: str) -> None:
    """Refuse what has too many members, from the signs that divide them: before an object is made of any."""
    if body.count(",") <= MEMBERS and body.count("[") + body.count("{") <= MEMBERS:
        return
    commas = begun = ended = 0
    for n, found in enumerate(_STRING_OR_SIGN.finditer(body)):
        sign = found[0][0]
        commas += sign == ","
        begun += sign in "[{"
        ended += sign in "]}"
        if begun - ended > DEPTH:
            raise HTTPException(400, _TOO_DEEP)
        if max(commas, begun) > MEMBERS or n > 6 * MEMBERS:  # a member: two strings, a comma, a list
            raise HTTPException(413, f"the lists and objects of a body have {MEMBERS:,} members at most")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise HTTPException(400, f"the key {twice[:40]!r} stands there twice in one object")
    return made


def _unicode(blob: bytes, what: str) -> str:
    try:
        return blob.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise HTTPException(400, f"{what} comes in UTF-8; this is in another encoding") from None


def _check_charset(declared: Message) -> None:
    """Refuse another encoding than UTF-8. Raises `HTTPException`."""
    named = str(declared.get_content_charset() or "utf-8")
    try:
        good = codecs.lookup(named).name in _UNICODE
    except (LookupError, ValueError):
        good = False
    if not good:
        raise HTTPException(415, f"text comes in UTF-8, found charset {named[:40]!r}")


def content_type(request: Request) -> Message:
    """The content type of a request; see `email.message.Message.get_content_type`, which says text/plain of none."""
    declared = Message()
    declared["content-type"] = request.headers.get("content-type", "")[:_CONTENT_TYPE]
    return declared


def read_form(blob: bytes, declared: Message, *, files: float, fields: float) -> FormData:
    """The fields of a form, files as `UploadFile`.

    Raises
    ------
    HTTPException
        400 where it cannot be read or has more fields or files, 413 where fields alone are too large, 415 where their
        text is not in UTF-8.
    """
    if declared.get_content_type() == MULTIPART:
        items = list(_parts(blob, declared, int(min(files + fields, 1000))))
    else:
        items = _pairs(blob, int(min(fields, 1000)))
    with_files = sum(isinstance(value, UploadFile) for _, value in items)
    if with_files > files or len(items) - with_files > fields:
        raise _no_form(f"{fields} fields and {files} files are taken here")
    return FormData(items)


def _pairs(blob: bytes, most: int) -> list[tuple[str, UploadFile | str]]:
    if len(blob) > MAX_FIELDS:
        raise HTTPException(413, f"a form without files has {MAX_FIELDS:,} bytes at most: send {MULTIPART}")
    if blob.count(b"&") >= most:
        raise _no_form(f"{most} fields are taken here")
    try:
        return list(parse_qsl(_unicode(blob, "a form"), keep_blank_values=True, errors="strict"))
    except UnicodeDecodeError:
        raise _no_form("it comes in UTF-8, this is in another encoding") from None


def _parts(blob: bytes, declared: Message, most: int) -> Iterator[tuple[str, UploadFile | str]]:
    """The parts of a multipart form (RFC 7578), in a few passes of C over it: what it costs follows from its size."""
    boundary = str(declared.get_param("boundary", "")).encode("latin-1", "replace")
    if not 0 < len(boundary) <= _BOUNDARY:
        raise _no_form(f"its content type names a boundary of 1 to {_BOUNDARY} signs")
    line = b"\r\n--" + boundary
    pieces = (b"\r\n" + blob).split(line, most + 2)[1:]
    for piece in pieces:
        if piece.startswith(b"--"):
            return
        length = piece.find(b"\r\n\r\n", 0, _PART_HEAD)
        if length < 0 or not piece.lstrip(b" \t").startswith(b"\r\n"):
            break
        yield _field(piece[:length].strip(), piece[length + 4 :])
    raise _no_form(f"it has no end, a part without a head, or more than {most} parts")


def _field(head: bytes, content: bytes) -> tuple[str, UploadFile | str]:
    about = BytesHeaderParser().parsebytes(head)
    name = about.get_param("name", header="content-disposition")
    if not isinstance(name, str):
        raise _no_form("a part has no name")
    if str(about.get("content-transfer-encoding", "binary")).strip().lower() not in ("binary", "8bit", "7bit"):
        raise _no_form(f"the part {name[:40]!r} is encoded, send it as it is")
    if (filename := about.get_filename()) is not None:
        return name, UploadFile(io.BytesIO(content), filename=filename, size=len(content))
    _check_charset(about)
    return name, _unicode(content, f"the part {name[:40]!r}")


def _no_form(why: str) -> HTTPException:
    return HTTPException(400, f"the form cannot be read: {why}")


class CheckedBodyRoute(APIRoute):
    """An endpoint that reads its body by `read_json` and `read_form`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def narrow(request: Request) -> Response:
            return await handle(_Request(request.scope, request.receive))

        return narrow


class _Request(Request):
    async def json(self) -> Any:
        _check_charset(content_type(self))
        return await self._read(read_json)

    async def _get_form(
        self, *, max_files: int | float = 1000, max_fields: int | float = 1000, max_part_size: int = 0
    ) -> FormData:
        """As the framework's, whose parser looks at every byte in Python; parts are as large as the body may be."""
        if self._form is None:
            declared = content_type(self)
            if declared.get_content_type() in (MULTIPART, URLENCODED):
                _check_charset(declared)
                self._form = await self._read(partial(read_form, declared=declared, files=max_files, fields=max_fields))
            else:
                self._form = FormData()
        return self._form

    async def _read(self, read: Callable[[bytes], Any]) -> Any:
        blob = await self.body()
        return read(blob) if len(blob) <= ON_THE_LOOP else await asyncio.to_thread(read, blob)
