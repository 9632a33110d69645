"""The data as code: how a script reads what the run was trained on, and cuts and prepares it."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rushlight import files
from rushlight.data import (
    DATASETS,
    MISSING,
    MISSING_AMONG_NUMBERS,
    SHIPPED,
    Data,
    ResidentSplit,
    array_names,
    cache_folder,
    decode_csv,
    dtype_name,
    idx_file,
    is_table,
    read_array_files,
)
from rushlight.texts import Note
from rushlight.training import Recipe

ENCODINGS = {"utf-8": "utf-8-sig", "UTF-16": "utf-16", "GB18030": "gb18030"}
MOST_OF_A_TABLE = 1 << 30  # bytes
ONE_LINE = 96  # characters
READ = "(DATA / name).read_bytes()"
SHORT = {"train": "train", "validation": "val", "test": "test"}
Facts = dict[str, Any]


def carried_data(recipe: Recipe, data: Data, left: list[Note]) -> Facts:
    """Return the template's values for reading the data; note in `left` what cannot be carried."""
    source, options = recipe.data["source"], recipe.data["options"]
    path = Path(source)
    others = {split for split in ("validation", "test") if split in recipe.data}
    if data.features is not None and (data.features.tokens or data.features.time):
        left.append(Note("eject.cannot.data", kind=Note(f"data.kinds.{'texts' if data.features.tokens else 'series'}")))
        return {}
    if source in DATASETS:
        found = of_name(source)
    elif is_table(source):
        found = of_table(path, recipe, data, left)
        others -= {"test"}
    elif path.is_dir() and (idx := of_idx(path)) is not None:
        found = idx
    elif path.suffix.lower() == ".npz" or (path.is_dir() and any(path.glob("*.npy"))):
        found = of_arrays(path, data)
    elif path.is_dir() and data.features is not None and data.features.kind == "image" and is_of_class_folders(data):
        found = of_pictures(path, data)
    else:
        left.append(Note("eject.cannot.data", kind=path.suffix or path.name))
        return {}
    left += [
        Note("eject.cannot.option", option=f"{SHORT[split]}_data", value=recipe.data[split]) for split in sorted(others)
    ]
    own = found.pop("own", {"train"})
    assert data.target is not None
    cut = {"test_fraction": None, "val_fraction": None}
    if "test" not in own and data.test is not None:
        cut["test_fraction"] = options.get("test_fraction", 0.2)
    if "validation" not in own and data.validation is not None:
        cut["val_fraction"] = options.get("val_fraction", 0.1)
    stratified = data.target.task in ("classification", "binary") and data.target.layout == "rows"
    usual = {"homepage": "", "path": quote(str(path))}
    return {**usual, **found, **cut, "cuts": any(cut.values()), "stratified": stratified}


def of_name(name: str) -> Facts:
    """Return how a dataset by name is read: from the cache's unpacked files, the digits from where they are installed."""
    dataset, folder = DATASETS[name], cache_folder() / name
    own = {"own": {"train", "test"}, "homepage": dataset.homepage, "path": quote(str(folder))}
    names = {
        split: [each.name for file in dataset.files for each in file.contents if each.split == split]
        for split in ("train", "test")
    }
    if dataset.layout == "shipped":
        return {**own, "kind": "digits", "path": quote(str(SHIPPED))}
    if dataset.layout == "idx":
        read = {split: tuple(map(quote, each)) for split, each in names.items()}
        return {**own, "kind": "idx", "unpack": READ, "files": read}
    record = dataset.files[0].contents[0].size_bytes // (10_000 if len(names["train"]) > 1 else 50_000)
    joined = {split: ", ".join(map(quote, each)) for split, each in names.items()}
    return {**own, "kind": "cifar", "record": record, **joined}


def of_idx(folder: Path) -> Facts | None:
    """Return how idx files in a folder of the user's are read; None where there are none."""
    found = {split: [idx_file(folder, split, what) for what in ("images", "labels")] for split in ("train", "test")}
    names = {split: tuple(quote(each.name) for each in pair if each is not None) for split, pair in found.items()}
    names = {split: pair for split, pair in names.items() if len(pair) == 2}
    if "train" not in names:
        return None
    packed = any(".gz" in name for pair in names.values() for name in pair)
    unpack = f'gzip.decompress({READ}) if name.endswith(".gz") else {READ}' if packed else READ
    return {"kind": "idx", "unpack": unpack, "files": names, "own": set(names)}


def of_arrays(path: Path, data: Data) -> Facts:
    """Return how .npz or .npy files are read: by the names of the arrays, in the dtype and shape of training."""
    assert isinstance(data.train, ResidentSplit)
    assert data.target is not None
    pairs, (x, y) = array_names(path), read_array_files(path)[0]
    inputs, targets, target = data.train.inputs, data.train.targets, data.target
    shape = ".unsqueeze(1)" if x.ndim < inputs.dim() else ""
    shape = ".permute(0, 3, 1, 2).contiguous()" if x.ndim == 4 and x.shape[1:] != inputs.shape[1:] else shape
    kind = {"uint8": "", "int64": ".long()", "float32": ".float()"}[dtype_name(inputs)]
    has_names, is_wide = y.dtype.kind in "UO", y.ndim == 2
    number = (
        "torch.tensor([CLASSES.index(name) for name in ARRAY.ravel().tolist()])"
        if has_names
        else "torch.from_numpy(ARRAY)"
    )
    if targets.is_floating_point():
        number += ".float()" + (".reshape(-1, 1)" if targets.dim() == 2 and (has_names or not is_wide) else "")
    elif is_wide and target.layout == "rows":
        number += ".argmax(1)" if y.shape[1] > 1 else ".flatten().long()"
    else:
        number += ".long()"
    return {
        "kind": "arrays", "is_file": path.is_file(), "names": listed("[]", sorted({name for pair in pairs.values() for name in pair})),
        "pairs": {SHORT[split]: tuple(map(quote, pair)) for split, pair in pairs.items()}, "inputs": shape + kind, "targets": number,
        "classes": listed("[]", target.classes) if has_names else "", "own": set(pairs),
    }  # fmt: skip


def is_of_class_folders(data: Data) -> bool:
    """Tell whether the samples' names end in CLASS/FILE for a class of theirs."""
    assert data.target is not None
    first = str(data.train.names[0]) if data.train.names else ""
    return any(part in data.target.classes for part in first.split("/")[:-1])


def of_pictures(path: Path, data: Data) -> Facts:
    """Return how a folder of pictures is read: at the size, and in the colours, of the run."""
    assert data.features is not None
    assert data.target is not None
    channels, height, width = data.features.shape
    names = {split: [str(name) for name in own.names or ()] for split, own in data.splits.items()}
    has_folders = all(name.split("/")[0].lower() in ("train", "training") for name in names["train"])
    tops = {split: each[0].split("/")[0] for split, each in names.items()} if has_folders else {"train": ""}
    own = {split: top for split, top in tops.items() if split == "train" or top != tops["train"]}
    endings = sorted({Path(name).suffix.lower() for each in names.values() for name in each})
    return {
        "kind": "pictures", "classes": listed("[]", data.target.classes), "mode": "L" if channels == 1 else "RGB", "width": width, "height": height,
        "endings": listed("[]", endings), "has_alpha": not {".png", ".gif", ".webp", ".tif", ".tiff"}.isdisjoint(endings),
        "channels_first": ".unsqueeze(0)" if channels == 1 else ".permute(2, 0, 1).contiguous()",
        "folders": {SHORT[split]: f"DATA / {quote(top)}" if top else "DATA" for split, top in own.items()}, "own": set(own),
    }  # fmt: skip


def of_table(path: Path, recipe: Recipe, data: Data, left: list[Note]) -> Facts:
    """Return how a CSV is read: what each column is; what is learnt of one is learnt by the script."""
    assert data.features is not None
    assert data.target is not None
    name, columns, target = path.name.lower(), data.features.columns, data.target
    if path.is_dir() or name.endswith((".parquet", ".pq", ".gz", ".jsonl", ".ndjson")):
        left.append(Note("eject.cannot.data", kind=".parquet" if path.is_dir() else path.suffix))
        return {}
    text, encoding, delimiter = decode_csv(path, files.read_bytes(path, MOST_OF_A_TABLE))
    kinds = {column.name: column.kind for column in columns}
    left += [
        Note("eject.cannot.dates", name=each.name, order=each.date_order)
        for each in columns
        if each.date_order != "ymd"
    ]
    cells: dict[str, set[str]] = defaultdict(set)
    for row in csv.DictReader(io.StringIO(text), delimiter=delimiter):
        for key, cell in row.items():
            cells[str(key).strip()].add(str(cell).strip())
    missing = sorted(MISSING & set().union(*cells.values()))
    gaps = sorted(
        {cell for key in kinds if kinds[key] != "category" for cell in cells[key]} & MISSING_AMONG_NUMBERS - MISSING
    )
    booleans = any({"true", "false"} & set(column.categories) for column in columns)
    number = "float(row[TARGET])" if target.task == "regression" else "CLASSES.index(row[TARGET])"
    each = f"torch.tensor([{number if target.task == 'classification' else f'[{number}]'} for row in rows])"
    each += ".float()" if target.task == "binary" else ""
    test = recipe.data.get("test")
    return {
        "kind": "table", "target": quote(target.name), "classes": listed("[]", target.classes), "columns": bracketed("{}", [f"{quote(name)}: {quote(kind)}" for name, kind in kinds.items()]), "kinds": set(kinds.values()),
        "missing": listed("{}", missing), "gaps": listed("{}", sorted({*missing, *gaps})), "encoding": ENCODINGS.get(encoding, "cp1252"), "booleans": booleans, "targets": each,
        "delimiter": "" if delimiter == "," else f", delimiter={quote(delimiter)}", "has_test": test is not None, "test_path": f"Path({quote(test)})",
        "kept": "[row for row in rows if row[TARGET] not in MISSING]" if missing else "rows", "own": {"train", "test"} if test else {"train"},
    }  # fmt: skip


def quote(value: object) -> str:
    """Return a text as Python writes it, in double quotes where that can be."""
    found = repr(str(value))
    return f'"{found[1:-1]}"' if found[0] == "'" and '"' not in found else found


def listed(brackets: str, texts: Iterable[str]) -> str:
    """Return texts in brackets, as a list or a set in Python; '' where there are none."""
    quoted = [quote(each) for each in texts]
    return bracketed(brackets, quoted) if quoted else ""


def bracketed(brackets: str, parts: list[str]) -> str:
    """Return parts of code in brackets, in lines that are not too long."""
    if sum(map(len, parts)) + 2 * len(parts) < ONE_LINE:
        return f"{brackets[0]}{', '.join(parts)}{brackets[1]}"
    lines = [""]
    for part in parts:
        lines += [""] if len(lines[-1]) + len(part) > ONE_LINE else []
        lines[-1] += f" {part},"
    return "\n".join([brackets[0], *(f"   {line}" for line in lines), brackets[1]])


def prepared_as(data: Data) -> Facts:
    """Return how inputs become what the model receives, and targets what the loss takes."""
    assert data.features is not None
    assert data.target is not None
    normalization = data.features.normalization
    splits = [SHORT[name] for name in ("train", "validation", "test") if name in data.splits]
    is_bytes, is_image = data.features.dtype == "uint8", data.features.kind == "image"
    scaled, prepared = bool(normalization.mean), ""
    if is_bytes:
        bare = "x.float()" if normalization.divisor == 1 else f"x.float() / {normalization.divisor:g}"
        prepared = f"({bare} - MEAN) / STD" if scaled else bare
    return {
        "scaling": "" if not scaled else "pixels" if is_image else "standard", "at_once": scaled and is_image and not is_bytes,
        "mean": per_channel(normalization.mean), "std": per_channel(normalization.std), "prepared": prepared,
        "scales_targets": bool(data.target.mean), "splits": lambda name: ", ".join(f"{name}_{split}" for split in splits),
        "scaled": lambda name, mean, std: ", ".join(f"({name}_{split} - {mean}) / {std}" for split in splits),
    }  # fmt: skip


def per_channel(numbers: Sequence[float]) -> str:
    """Return one number for each channel as a tensor that broadcasts against pictures."""
    return f"torch.tensor({list(numbers)}).reshape(-1, 1, 1)"
