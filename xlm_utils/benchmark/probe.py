"""A look at a data set on the hub before a study begins, without downloading it."""

import json

from xlm_utils.benchmark.tasks.data import HUB, DataError, check_row

BEGINNING = 1 << 20  # bytes; a row of JAQKET with its hundred contexts has less


def first_rows(name: str, path: str, files: dict, needs: list, config: str | None = None, raw: dict | None = None, **_) -> int:
    """Check the first row of each needed split on the hub, reading no more than a beginning of its file.

    Returns:
        the number of splits looked at.

    Raises:
        DataError: as ``data.load``.
    """
    import datasets
    from huggingface_hub import HfFileSystem

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it logs what it raises
    needed = ["train"] if name == "pubmedqa" else [split for split in files if split in needs]
    try:
        if raw:
            starts = {split: HfFileSystem().open(f"datasets/{path}/{raw[split]}").read(BEGINNING).decode("utf-8", "ignore") for split in needed}
            rows = {split: json.JSONDecoder().raw_decode(text.lstrip("[ \r\n"))[0] for split, text in starts.items()}
        else:
            loaded = datasets.load_dataset(path, config, streaming=True)
            rows = {split: next(iter(loaded[split]), None) for split in needed}
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:  # unreachable, unknown or changed
        told = str(error).partition("\n")[0][:120] or "no details"
        raise DataError(f"data set {name}: {path} can't be read from the hub ({type(error).__name__}: {told}); see {HUB}{path}") from None
    for split, row in rows.items():
        check_row(name, path, f"{path}, first {split} row", row)
    return len(rows)
