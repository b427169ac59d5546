"""Columns that look personal (names, e-mail, telephone, addresses of machines), by their name and by their cells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import ip_address

_NAMED = {
    "a person's name": ("firstname", "lastname", "surname", "fullname", "realname", "givenname", "familyname"),
    "an e-mail address": ("email", "mail", "emailaddress"),
    "a telephone number": ("phone", "telephone", "tel", "mobile", "cellphone", "msisdn", "whatsapp", "phonenumber"),
    "an IP address": ("ip", "ipaddress", "ipaddr", "ipv4", "ipv6", "remoteaddr"),
    "an address": ("address", "street", "postaladdress", "homeaddress"),
    "a date of birth": ("dob", "birthday", "birthdate", "dateofbirth"),
    "a number of a person": ("ssn", "passport", "iban", "nationalid", "taxid", "creditcard", "cardnumber"),
    "a place on the map": ("latitude", "longitude", "geo", "gps", "coordinates"),
}
_BY_NAME = {name: kind for kind, names in _NAMED.items() for name in names}
_ENDS = ("email", "phone", "ip", "ipaddress", "firstname", "lastname", "fullname", "surname")
"""Also behind another word: ``reporter_email``."""
_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
_PHONE = re.compile(r"(?:\+\d[\d\s().-]{6,18}\d|\(?\d{2,5}\)?[\s.-]\d{2,5}[\s.-]\d{2,5}(?:[\s.-]\d{2,5})?)")
_NAME = re.compile(r"(?:[^\W\d_][\w'’.-]*\s){1,3}[^\W\d_][\w'’.-]*")
_DATE = re.compile(r"\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{4}")
MOST = 0.5
"""Share of the filled cells that must look so."""


def words_of(column: str) -> list[str]:
    """The words in a column's name, in lower case: ``createdAt`` and ``created_at`` are the same."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", column)
    return [word for word in re.split(r"[^\w]+|_+", spaced.lower()) if word]


def personal_kind(column: str, cells: Sequence[str]) -> str:
    """What of a person a column seems to hold, and how that shows; "" where nothing does.

    Parameters
    ----------
    column : str
    cells : sequence of str
        Those that are not empty.
    """
    words = words_of(column)
    name = "".join(words)
    by_name = _BY_NAME.get(name) or next(
        (_BY_NAME[end] for end in _ENDS for start in range(1, len(words)) if "".join(words[start:]) == end), ""
    )
    if by_name:
        return f"{by_name}, by the column's name"
    shown = list(cells[:1000])
    for kind, looks in (
        ("e-mail addresses", _EMAIL.fullmatch),
        ("IP addresses", _is_address),
        ("telephone numbers", _is_phone),
    ):
        if shown and sum(bool(looks(cell.strip())) for cell in shown) > MOST * len(shown):
            return f"{kind}, by its cells"
    called = name in ("name", "person", "contact", "customer", "member")
    if called and sum(_is_name(cell) for cell in shown) > MOST * max(len(shown), 1):
        return "names of persons, by its name and cells"
    return ""


def personal_in_texts(texts: Iterable[str]) -> dict[str, int]:
    """How many texts hold an e-mail address, and how many a telephone number; kinds that none holds are left out."""
    found = {"e-mail addresses": 0, "telephone numbers": 0}
    for text in texts:
        found["e-mail addresses"] += "@" in text and bool(_EMAIL.search(text))
        found["telephone numbers"] += any(_is_phone(one[0]) for one in _PHONE.finditer(text[:5000]))
    return {kind: n for kind, n in found.items() if n}


def _is_phone(cell: str) -> bool:
    digits = sum(map(str.isdecimal, cell))
    return 7 <= digits <= 15 and bool(_PHONE.fullmatch(cell)) and not _DATE.match(cell)


def _is_address(cell: str) -> bool:
    try:
        return bool(ip_address(cell)) and not cell.isdecimal()
    except ValueError:
        return False


def _is_name(cell: str) -> bool:
    return bool(_NAME.fullmatch(cell.strip())) and all(word[:1].isupper() for word in cell.split())
