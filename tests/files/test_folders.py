import io
import multiprocessing
import os
import pickle
import re
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest

from bifocal.errors import DataError
from bifocal.example import Example
from bifocal.files import folders as _files
from bifocal.files.archives import scan_tar
from bifocal.files.folders import Files, FileSource, is_clutter

CONTENT = {"list.csv": b"id\n1\n", "img/1.png": b"one", "img/2.png": b"two" * 1000, "img/more/3.png": b""}


def make_tar(path: Path, content: dict[str, bytes], *others: tarfile.TarInfo, **options) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, blob in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(blob)
            tar.addfile(info, io.BytesIO(blob))
        for info in others:
            tar.addfile(info)
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def make_zip(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, blob in content.items():
            archive.writestr(name, blob)
    return path


def make(kind: str, folder: Path, content: dict[str, bytes] = CONTENT) -> Path:
    if kind == "folder":
        for name, blob in content.items():
            (folder / "root" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "root" / name).write_bytes(blob)
        return folder / "root"
    inner = {f"memes/{name}": blob for name, blob in content.items()}
    if kind == "inside zip":
        return make_zip(folder / "a.zip", inner | {"other.txt": b""}) / "memes"
    if kind == "inside tar":
        return make_tar(folder / "a.tar", inner | {"other.txt": b""}) / "memes"
    return {"zip": make_zip, "tar": make_tar}[kind](folder / f"a.{kind}", content)


KINDS = ("folder", "tar", "zip", "inside tar", "inside zip")


@pytest.fixture(params=KINDS)
def root(request, tmp_path):
    return make(request.param, tmp_path)


def test_a_folder_and_an_archive_are_read_alike(root):
    files = Files(root)
    assert files.exists()
    assert files.names() == sorted(CONTENT)
    assert files.names("img") == files.names("img/") == ["img/1.png", "img/2.png", "img/more/3.png"]
    assert files.names("im") == []
    assert {name: files.read(name) for name in CONTENT} == CONTENT
    assert files.read("./img//1.png") == b"one"
    with files.opened("list.csv") as file:
        assert file.readlines() == [b"id\n", b"1\n"]
        file.seek(-2, os.SEEK_END)
        assert file.read() == b"1\n"
    assert files.found() == "holds img, list.csv"


@pytest.mark.parametrize("name", ["", ".", "img", "img/9.png", "a\0b", "x" * 5000, "img/1.png/2", "other.txt"])
def test_what_is_missing_is_named(root, name):
    assert not Files(root).has(name)
    with pytest.raises(DataError, match=r"missing or not a file|cannot be read"):
        Files(root).read(name)


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.zip", "img/../../secret", "img/../list.csv", "../other.txt"])
def test_no_name_leads_out(root, name, tmp_path):
    (tmp_path / "secret").touch()
    assert not Files(root).has(name)
    with pytest.raises(DataError, match="leads out of .*; only paths inside are read"):
        Files(root).read(name)


def test_pickled_without_what_was_read(root):
    files = Files(root)
    assert files.read("img/1.png") == b"one"
    blob = pickle.dumps(files)
    assert len(blob) < 400
    assert pickle.loads(blob).read("img/2.png") == CONTENT["img/2.png"]


def many(kind: str, folder: Path) -> tuple[Files, dict[str, bytes]]:
    content = {f"{i}.bin": bytes([i]) * (5000 + 100 * i) for i in range(100)}
    files = Files(make(kind, folder, content))
    files.read("0.bin")
    return files, content


@pytest.mark.parametrize("kind", KINDS[:3])
def test_threads_share_one(kind, tmp_path):
    files, content = many(kind, tmp_path)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(files.read, list(content) * 3)) == list(content.values()) * 3


def digest(files: Files, names: list[str]) -> list[bytes]:
    return [files.read(name) for name in names for _ in range(5)]


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_forked_process_does_not_disturb_the_other(kind, tmp_path):
    files, content = many(kind, tmp_path)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=digest, args=(files, list(content)[::step])) for step in (1, -1)]
    for worker in workers:
        worker.start()
    assert digest(files, list(content)) == [blob for blob in content.values() for _ in range(5)]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0


@pytest.mark.parametrize("kind", KINDS)
def test_more_than_the_cap_is_not_read(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "MAX_MEMBER", 2**20)
    files = Files(make(kind, tmp_path, {"small": b"0" * 2**20, "large": b"0" * (2**20 + 1)}))
    assert len(files.read("small")) == 2**20
    with pytest.raises(DataError, match="large has over 1 MiB, the most that is read"):
        files.read("large")
    with files.opened("large") as file:  # but a table may be as long as it likes
        assert sum(len(chunk) for chunk in iter(lambda: file.read(2**16), b"")) == 2**20 + 1


def test_a_zip_that_lies_about_a_size_gives_no_more_than_it_declares(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"bomb": b"0" * 10_000_000})
    blob = path.read_bytes()
    assert blob.count((10_000_000).to_bytes(4, "little")) == 2  # in the member's header and in the directory
    path.write_bytes(blob.replace((10_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    with pytest.raises(DataError, match="'bomb' below .* cannot be read: Bad CRC-32"):
        Files(path).read("bomb")


def test_nothing_but_plain_files_is_opened_in_a_tar(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    others = [
        special("link.png", tarfile.SYMTYPE, str(secret)),
        special("inner.png", tarfile.SYMTYPE, "img/1.png"),
        special("hard.png", tarfile.LNKTYPE, "img/1.png"),
        special("device.png", tarfile.CHRTYPE),
        special("pipe.png", tarfile.FIFOTYPE),
        special("folder", tarfile.DIRTYPE),
    ]
    files = Files(make_tar(tmp_path / "a.tar", CONTENT | {"/abs.png": b"x", "../up.png": b"x"}, *others))
    assert files.names() == sorted(CONTENT)
    for name in ("link.png", "inner.png", "hard.png"):
        with pytest.raises(DataError, match=rf"{name} is a link, which is not followed inside an archive"):
            files.read(name)
    for name in ("device.png", "pipe.png"):
        with pytest.raises(DataError, match=rf"{name} is not a plain file"):
            files.read(name)
    for name in ("/abs.png", "../up.png", "abs.png", "up.png", "folder"):
        with pytest.raises(DataError):
            files.read(name)


def test_nothing_but_plain_files_is_opened_in_a_zip(tmp_path):
    path = make_zip(tmp_path / "a.zip", CONTENT | {"/abs.png": b"x", "../up.png": b"x"})
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("locked.png", b"x")
        archive.getinfo("locked.png").flag_bits |= 1
    files = Files(path)
    assert files.names() == sorted(CONTENT)
    with pytest.raises(DataError, match=r"link.png is a link"):
        files.read("link.png")
    with pytest.raises(DataError, match=r"locked.png is encrypted"):
        files.read("locked.png")
    for name in ("/abs.png", "../up.png", "abs.png", "up.png"):
        with pytest.raises(DataError):
            files.read(name)


def test_a_tar_made_in_its_folder_is_read_without_the_dots(tmp_path):
    assert Files(make_tar(tmp_path / "a.tar", {f"./{name}": blob for name, blob in CONTENT.items()})).names() == sorted(
        CONTENT
    )


def test_links_of_a_folder_are_followed_inside_only(tmp_path):
    root = make("folder", tmp_path)
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "away").symlink_to(tmp_path)
    (root / "in").symlink_to(root / "img" / "1.png")
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe")
    files = Files(root)
    assert files.names() == sorted([*CONTENT, "in"])
    assert files.read("in") == b"one"
    for name in ("out", "away/secret"):
        with pytest.raises(DataError, match="leads out"):
            files.read(name)
    for name in ("loop", "pipe"):
        with pytest.raises(DataError):
            files.read(name)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.xz", "a.7z"])
def test_a_compressed_tar_says_what_to_do(tmp_path, name):
    (tmp_path / name).write_bytes(b"whatever")
    with pytest.raises(DataError, match=rf"{name} is compressed as a whole.*: unpack it, or make it a plain .tar"):
        Files(tmp_path / name).names()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("nowhere", "does not exist"),
        ("notes.txt", "is not a folder, .tar or .zip"),
        ("empty", "is empty"),
        ("gzip.tar", r"holds nothing that can be read \(.*gzip.tar is no plain .tar .* gunzipped first\)"),
        ("zero.tar", r"holds nothing that can be read \(.*zero.tar is no plain .tar"),
        ("bad.zip", r"holds nothing that can be read \(.*bad.zip is no .zip that can be read"),
        ("full", "holds 0, 1, 2, 3, 4, 5, 6, 7, …"),
        ("good.zip/no", "does not exist"),
    ],
)
def test_says_what_was_found(tmp_path, name, found):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    with tarfile.open(tmp_path / "gzip.tar", "w:gz"):
        pass
    (tmp_path / "zero.tar").touch()
    (tmp_path / "bad.zip").write_bytes(b"PK nothing")
    make_zip(tmp_path / "good.zip", CONTENT)
    (tmp_path / "full").mkdir()
    for i in range(9):
        (tmp_path / "full" / str(i)).touch()
    assert re.fullmatch(found + ".*", Files(tmp_path / name).found())


def cut(path: Path, at: int) -> Path:
    path.write_bytes(path.read_bytes()[:at])
    return path


def whole_tar(tmp_path: Path) -> Path:
    """Headers at 0, 1024, 2048; payloads of 10 bytes at 512, 1536, 2560; the end mark at 3072."""
    return make_tar(tmp_path / "a.tar", {name: name.encode() * 10 for name in "abc"}, format=tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    ("at", "read", "message"),
    [
        (2565, "ab", r"is broken at byte 2048 \(member 'c' is cut\)"),
        (2100, "ab", "is broken at byte 2048"),
        (2048, "ab", "ends at byte 2048 without the mark of its end: cut between two members"),
        (3072, "abc", "ends at byte 3072 without the mark of its end"),
        (3584, "abc", None),
    ],
)
def test_a_cut_tar_is_read_as_far_as_it_goes(tmp_path, at, read, message):
    path = cut(whole_tar(tmp_path), at)
    files = Files(path)
    assert "".join(files.names()) == read
    assert [files.read(name) for name in read] == [name.encode() * 10 for name in read]
    found = []
    if message is None:
        assert [member.name for member in scan_tar(path)] == list(read)
    else:
        with pytest.raises(DataError, match=message):
            found.extend(member.name for member in scan_tar(path))
        with pytest.raises(DataError, match=rf"z is missing or not a file \(.*{message}"):
            files.read("z")


def test_a_bad_header_in_the_midst_is_not_taken_for_the_end(tmp_path):
    path = whole_tar(tmp_path)
    blob = bytearray(path.read_bytes())
    blob[1024:1034] = b"\xff" * 10
    path.write_bytes(blob)
    assert Files(path).names() == ["a"]
    with pytest.raises(DataError, match="is broken at byte 1024"):
        list(scan_tar(path))


def test_scanning_gives_the_place_of_every_payload(tmp_path):
    path = whole_tar(tmp_path)
    blob = path.read_bytes()
    assert [(m.name, blob[m.offset : m.offset + m.size]) for m in scan_tar(path)] == [
        (name, name.encode() * 10) for name in "abc"
    ]
    long = "folder/" * 30 + "x" * 120 + ".png"
    member = next(iter(scan_tar(make_tar(tmp_path / "b.tar", {long: b"payload"}))))
    assert (member.name, (tmp_path / "b.tar").read_bytes()[member.offset :][: member.size]) == (long, b"payload")


def test_a_stamp_changes_with_what_it_names(root):
    files = Files(root)
    before = files.stamp(["list.csv", "img/1.png"])
    assert [entry[0] for entry in before] == ["list.csv", "img/1.png"]
    assert files.stamp(["list.csv", "img/1.png"]) == before
    changed = next(p for p in (root, *root.parents) if p.is_file()) if not root.is_dir() else root / "list.csv"
    os.utime(changed, ns=(1, 1))
    after = Files(root).stamp(["list.csv", "img/1.png"])
    assert after[0] != before[0]
    assert (after[1] == before[1]) == root.is_dir()


def test_clutter_is_told_from_data():
    assert all(
        map(is_clutter, [".DS_Store", "img/.hidden/1.png", "__MACOSX/img/1.png", "img/Thumbs.db", "._1.png", "."])
    )
    assert not any(map(is_clutter, ["1.png", "img/a.b.png", "thumbs/db.png", "../1.png"]))


class Listing(FileSource):
    expected: ClassVar[str] = "list.csv"

    def listed(self) -> list[str]:
        return [name for name in ("list.csv",) if self.files.has(name)]

    def rows(self) -> Iterator[Example]:
        yield Example("1", {"image": "img/1.png"}, {})

    def labels(self) -> dict:
        return {}


def test_a_layout_shares_root_rows_pictures_and_fingerprint(root):
    source = Listing(root=root)
    (row,) = source
    assert source.open(row.parts["image"]) == b"one"
    assert source.role_of(row) == source.text_role == "caption"
    with pytest.raises(DataError, match=r"^picture .*img/9.png is missing or not a file$"):
        source.open("img/9.png")
    copy = pickle.loads(pickle.dumps(source))
    assert list(copy) == [row]
    assert copy.fingerprint() == source.fingerprint() != Listing(root=root, text_role="transcript").fingerprint()


def test_a_root_without_the_layout_stops_at_once(tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist; expected list.csv"):
        iter(Listing(root=tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"a.zip holds 1.png; expected list.csv"):
        iter(Listing(root=make_zip(tmp_path / "a.zip", {"1.png": b""})))


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Listing(root="~/data").root == tmp_path / "data"


def test_a_sparse_member_is_refused_alone(tmp_path):
    with open(tmp_path / "holes", "wb") as f:
        f.seek(5_000_000)
        f.write(b"end")
    (tmp_path / "plain").write_bytes(b"all of it")
    subprocess.run(["tar", "-S", "-cf", "a.tar", "holes", "plain"], cwd=tmp_path, check=True)
    files = Files(tmp_path / "a.tar")
    assert files.read("plain") == b"all of it"
    with pytest.raises(DataError):
        files.read("holes")
