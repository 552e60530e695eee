"""Zip archives from others, as torch writes them: compared with their own checksums before they are read."""

from __future__ import annotations

import zipfile
from pathlib import Path

MAX_RATIO = 300  # times a member may grow; weights, images and features grow less than 20 times
HARMLESS = 64 << 20  # bytes that any member may have
END_MARK, END_SIZE = b"PK\5\6", 22  # of a zip archive without a comment, as numpy and torch write them
FOLDER = 0x10  # of a part marked so torch reads nothing, and takes whatever is in memory for the numbers
MANY = 0xFFFF  # what the end says where there are more members than it can count


def check_archive(path: str | Path, *, stored: bool = True) -> None:
    """Refuse a zip archive with a damaged member, one that stands in it twice, or one that inflates absurdly.

    torch does not compare the checksums in the archives it reads: a flipped bit in the weights would go
    unnoticed.

    Args:
        path: The archive.
        stored: Refuse compressed members altogether; torch.save writes none.

    Raises:
        ValueError: It is so, or the file is no complete archive. The caller names the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = checked_members(archive)
            for member in members:
                if stored and member.compress_type != zipfile.ZIP_STORED:
                    raise ValueError("it is compressed, as torch never writes it")
            damaged = archive.testzip()
    except Exception as error:  # zipfile and zlib raise errors of many types on damaged files
        raise ValueError(str(error) or type(error).__name__) from error
    if damaged is not None:
        raise ValueError(f"the checksum of its part {damaged} is wrong")


def checked_members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the members of an archive, all that it says it has, each once and none that inflates absurdly.

    Raises:
        ValueError: It is otherwise.
    """
    members = archive.infolist()
    file = archive.fp
    assert file is not None
    file.seek(-END_SIZE, 2)
    end = file.read(END_SIZE)
    said = int.from_bytes(end[10:12], "little")
    if not end.startswith(END_MARK) or said not in (len(members), MANY):
        raise ValueError(f"its directory is damaged: it says {said} parts, and {len(members)} can be found")
    if len({member.filename for member in members}) < len(members):
        raise ValueError("a part of it stands in it twice")
    for member in members:
        if member.external_attr & FOLDER:
            raise ValueError(f"its part '{member.filename}' is marked as a folder")
        if member.file_size > max(HARMLESS, MAX_RATIO * member.compress_size):
            raise ValueError(
                f"its part '{member.filename}' would grow from {member.compress_size:,} to "
                f"{member.file_size:,} bytes, as in a decompression bomb; if it is none, write the file "
                "without compression"
            )
        with archive.open(member):  # compares its name in the directory with that at the part itself
            pass
    return members
