"""Archives from strangers: looked at before anything is unpacked."""

import zipfile
from pathlib import Path


def refuse_bomb(path: Path) -> None:
    """Refuse a zip archive (as torch.save writes) that unpacks to more bytes than the file has.

    torch.save compresses nothing, so a true file never does. Nothing is ever unpacked to disk, whatever names an
    archive holds. Any other kind of file passes.

    Raises: ValueError naming the file.
    """
    try:
        if not zipfile.is_zipfile(path):  # which may fail as well
            return
        with zipfile.ZipFile(path) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, OSError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is a damaged archive ({error}); download or save it again") from error
    size = path.stat().st_size
    if claimed > size:
        raise ValueError(
            f"{path} is refused: it has {size} bytes and would unpack to {claimed}, which no checkpoint does; it is "
            "damaged or made to exhaust memory"
        )
