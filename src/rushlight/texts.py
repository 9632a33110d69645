"""The words of every error and notice, in one place, so that another language can stand beside English.

A problem says where, what was expected and what was found; the advice says what to do next. Both are
`str.format` templates. The tests check that every key is used, and that every use has a key.
"""

from __future__ import annotations

from typing import NamedTuple


class Text(NamedTuple):
    """One error's words: what is wrong, and what to do next."""

    problem: str
    advice: str = ""


ENGLISH: dict[str, Text] = {
    # ── files ────────────────────────────────────────────────────────────────────────────────────────────
    "disk-full": Text(
        "{path}: there is no space left on this disk.",
        "What was saved before is intact. Free some space, or choose another place (--runs FOLDER).",
    ),
    "no-permission": Text(
        "{path}: this account may not write here.",
        "Choose a folder you own (--runs FOLDER), or change the folder's permissions.",
    ),
    "disk-error": Text(
        "{path}: the disk refused: {reason}.",
        "What was saved before is intact. Check the disk, or choose another place (--runs FOLDER).",
    ),
    # ── runs ─────────────────────────────────────────────────────────────────────────────────────────────
    "run-exists": Text(
        'There is already a run called "{name}" in {runs}.',
        "Choose another --name, or leave --name out. To go on with that run: rushlight resume {name}",
    ),
    "run-name-bad": Text(
        'A run cannot be called "{name}": {reason}.',
        "Use letters, digits, dashes and dots, as in --name fashion-first-try.",
    ),
    "no-runs": Text(
        "There are no runs in {runs} yet.",
        "Make one with: rushlight train. If your runs are elsewhere, say where: --runs FOLDER",
    ),
    "run-unknown": Text(
        'There is no run "{run}" in {runs}.{suggestion}',
        "List them with: rushlight runs. If your runs are elsewhere, say where: --runs FOLDER",
    ),
    "run-ambiguous": Text(
        '"{run}" fits {count} runs in {runs}: {names}.',
        "Write more of the name, or all of it.",
    ),
    "not-a-run": Text(
        "{path} is a folder, but not a run's: it has neither recipe.json nor history.jsonl.",
        "A run's folder looks like runs/20261123-0331-mlp-fashion-mnist-k7. List them with: rushlight runs",
    ),
    "run-file-missing": Text(
        "{path}: this file of the run is missing.",
        "Was the run copied whole? If it was stopped before it wrote anything, start again: rushlight train",
    ),
    "run-file-damaged": Text(
        "{path}: this file of the run is damaged: {reason}.",
        "Put it back from a copy of the run if there is one; the run's other files can still be read.",
    ),
    "history-line-damaged": Text(
        '{path}, line {line}: expected one JSON object with a "kind", found {found}.',
        "Put the file back from a copy of the run if there is one. The run's weights are not in this file.",
    ),
    "history-too-short": Text(
        "{path} has {found:,} bytes, but the checkpoint was made when it had {expected:,}.",
        "The file was cut or replaced after the checkpoint was made. Put it back from a copy of the run.",
    ),
    "run-in-use": Text(
        "{folder}: this run is in use by {holder}.",
        "Wait until that process ends, or stop it; then try again.",
    ),
    "delete-needs-run": Text(
        "--delete needs to know which run.",
        "List the runs with: rushlight runs. Then delete one by its whole name: rushlight runs --delete NAME",
    ),
    "delete-whole-name": Text(
        '"{run}" is not the whole name of a run; for deleting, that is what it takes.',
        "If this is the run you mean, write: rushlight runs --delete {name}",
    ),
    "delete-link": Text(
        "{path} is a link to {target}; nothing was deleted, neither the link nor the run.",
        "To delete the run, name it by that path. To remove only the link, delete it as you would a file.",
    ),
    "delete-from-inside": Text(
        "{path}: you are in this folder, and a run is not deleted from within.",
        "Go to another folder (cd ..), then delete the run by its name or path.",
    ),
    "delete-holds-runs": Text(
        "{path} has other runs in it, {name} for one; deleting it would take them along.",
        "Move these runs elsewhere first, or delete them one by one.",
    ),
    "delete-not-a-run": Text(
        "{path} does not look like a run: next to nothing in it was written by Rushlight.",
        "If you are sure, delete the folder as you would any other.",
    ),
    "delete-needs-answer": Text(
        "{path} was not deleted: there is no terminal on which to ask whether you are sure.",
        "To delete it without being asked, add --yes.",
    ),
    "verify-and-delete": Text(
        "--verify and --delete are two different things; which one is it?",
        "Look first: rushlight runs --verify RUN. Then, if you want it gone: rushlight runs --delete RUN",
    ),
    # ── data: fetching ───────────────────────────────────────────────────────────────────────────────────
    "unknown-dataset": Text(
        'There is no dataset called "{name}".{suggestion}',
        "The names are: {known}. Data of your own is given by its path: a folder of images, a .csv, a .npz.",
    ),
    "all-sources-failed": Text(
        "{title} could not be obtained from any of {count} sources. Tried, in this order:\n{tried}",
        "Any one of these helps:\n"
        "  - put these files into {folder} by hand, as they are (they are checked and unpacked): {files}. "
        "Where they can be had: {homepage}\n"
        "  - if another machine has the data, copy its folder there, or set RUSHLIGHT_DATA to where it is;\n"
        "  - behind a proxy, set HTTPS_PROXY=http://host:port (and SSL_CERT_FILE, if it has its own "
        "certificates);\n"
        '  - to begin without any network, use the dataset "digits", which ships with Rushlight.',
    ),
    "data-disk-full": Text(
        "{folder}: there is no space left on this disk for the dataset {name}.",
        "Free some space, or set RUSHLIGHT_DATA to a folder on another disk. What was downloaded so far is "
        "kept: the next try goes on from there.",
    ),
    "data-no-permission": Text(
        "{folder}: this account may not write here, and the dataset {name} is not there yet.",
        "Set RUSHLIGHT_DATA to a folder you own.",
    ),
    "idx-unreadable": Text(
        "{path}: this file cannot be read: {reason}.",
        "Check that it is there and whole; a .gz file that breaks off was not downloaded to its end.",
    ),
    "idx-magic": Text(
        "{path} is no idx file: expected it to begin with 00 00, the type of its numbers (08, 09, 0b, 0c, 0d "
        "or 0e) and how many dimensions they have, found {found}.",
        "idx files are called like train-images-idx3-ubyte or train-images-idx3-ubyte.gz. Is this one of "
        "another kind, or an error page that was saved under that name?",
    ),
    "idx-truncated": Text(
        "{path} breaks off: {what} takes {expected:,} bytes, and there are {found:,}.",
        "It was not copied or downloaded to its end. Fetch it again.",
    ),
    "idx-too-long": Text(
        "{path} is longer than it should be: {what} takes {expected:,} bytes, and there are {found:,} or more.",
        "It is damaged, or several files were joined. Fetch it again.",
    ),
    # ── data: checks ─────────────────────────────────────────────────────────────────────────────────────
    "unequal-counts": Text(
        "{data}, {split} split: there are {inputs:,} inputs and {targets:,} targets; every input needs one target.",
        "Check how the two were read: a header line counted as data, or a filter applied to only one of them.",
    ),
    "empty-split": Text(
        "{data}: the {split} split has no samples.",
        "Check the path and the filter that made it; a split needs at least one sample.",
    ),
    "not-finite": Text(
        "{data}, {split} split: {count:,} of {total:,} samples have {what} that are not numbers; the first is "
        "sample {first}, value {position}: {value}.",
        "One NaN makes every weight NaN. Remove these samples, or fill the gaps (np.nan_to_num, a column's "
        "mean) before training.",
    ),
    "labels-out-of-range": Text(
        "{data}, {split} split: labels must be 0 to {last} ({classes} classes), but they run from {low} to {high}; "
        "{count:,} are outside, the first is sample {first} with label {value}.",
        "Number the classes from 0: labels 1 to {classes} become `y - 1`. If there really are more classes, "
        "give the model more outputs.",
    ),
    "one-class": Text(
        '{data}: every training sample has the same class, "{found}"; there is nothing to tell apart.',
        "Check the target column or the folder names, and that the data was not sorted before it was cut.",
    ),
    # ── data: folders of images ──────────────────────────────────────────────────────────────────────────
    "no-image-folder": Text(
        "{path}: there is no such folder.",
        "Check the path. A folder of images looks like train/<class>/picture.png with test/ beside train/, "
        "or like <class>/picture.png.",
    ),
    "no-train-folder": Text(
        '{path}: there is a folder "{found}" but none called "train".',
        'Put the training images into "train", one folder per class; or move the class folders out of '
        '"{found}" if it holds all there is.',
    ),
    "no-classes": Text(
        "{path}: there are no class folders with images in them ({loose:,} images lie loose in it).",
        "Put the images of each class into a folder named after the class: {path}/cat/1.png, {path}/dog/2.png.",
    ),
    "class-in-test-only": Text(
        '{path}: {count:,} classes are not in the training folder, the first is "{found}"; the training '
        "folder has {known}.",
        "Train and test folders must have the same names, capital letters too. Rename or remove the folder, "
        "or add training images of this class.",
    ),
    "unreadable-images": Text(
        "{path}: {count:,} of {total:,} images cannot be read: {files}.",
        "Replace or remove these files, or go on without them: --skip-bad.",
    ),
    "image-not-readable": Text(
        "{path}: this image cannot be read: {reason}.",
        "Replace or remove the file; when training, --skip-bad goes on without such files.",
    ),
    "image-size-impossible": Text(
        "Images cannot be resized to {height}×{width}.",
        "Give height and width as whole numbers of 1 or more: --image-size 64,64.",
    ),
    "no-images-to-show": Text(
        "{data}: these data are no images, so there is no contact sheet of them.",
        "A contact sheet is drawn of a folder of images, or of arrays of shape (n, height, width) or (n, "
        "channels, height, width).",
    ),
    # ── data: tables ─────────────────────────────────────────────────────────────────────────────────────
    "polars-missing": Text(
        "Reading tables needs the package polars, which is not installed.",
        'Install it with: pip install "rushlight[table]"',
    ),
    "no-table": Text("{path}: there is no such file.", "Check the path and the file's ending."),
    "not-a-table": Text(
        "{path}: this is no table by its ending (known are {endings}).",
        "Save the table as CSV or Parquet, or rename the file if it is one of these.",
    ),
    "table-not-readable": Text(
        "{path}: the table cannot be read: {reason}.",
        "Open it in a text editor or a spreadsheet and check that it is whole: every quote closed, every row complete.",
    ),
    "table-without-rows": Text(
        "{path}: the table has a header but no rows.",
        "Check how the file was written; training needs at least a few rows.",
    ),
    "table-empty": Text(
        "{path}: the file is empty.",
        "Check how the file was written: it needs a line with the columns' names and then the rows.",
    ),
    "table-is-excel": Text(
        "{path}: this is an Excel or ZIP file, whatever its name says.",
        "Open it in a spreadsheet and save it as CSV (UTF-8).",
    ),
    "table-not-text": Text(
        "{path}: this is no text file.",
        "If it is a spreadsheet or a database, export it as CSV (UTF-8) first.",
    ),
    "table-header-doubled": Text(
        '{path}: two columns are called "{name}" (the header is: {columns}).',
        "Give every column a name of its own in the file's first line. If there is no header line, add one.",
    ),
    "table-line-too-long": Text(
        "{path}, line {line:,}: the header names {expected} columns, this line has {found}.",
        "Text that contains the delimiter must stand in double quotes. Correct this line, or the header.",
    ),
    "no-target": Text(
        "{path}: which column is to be predicted? The columns are: {columns}.",
        "Name it: --target NAME (in Python: target='NAME').",
    ),
    "unknown-target": Text(
        '{path}: there is no column "{target}".{near} The columns are: {columns}.',
        "Name one of these columns with --target, capital letters and blanks as in the file's header.",
    ),
    "target-all-missing": Text(
        '{path}: every row\'s "{target}" is missing, so there is nothing to learn from.',
        "Choose another column with --target, or fill this one.",
    ),
    "target-not-a-number": Text(
        '{path}: a regression needs numbers, but the target "{target}" holds "{value}".',
        "Correct or clear such cells, or predict it as classes: --task classification.",
    ),
    "too-many-classes": Text(
        '{path}: the target "{target}" has {count:,} different values in {rows:,} rows; classes must each '
        "occur many times.",
        "Choose another column with --target, or, if it is a quantity, make all its cells numbers and use "
        "--task regression.",
    ),
    "binary-target-of-a-table": Text(
        '{path}: a binary task needs two classes, but the target "{target}" has {count}: {classes}.',
        "Use --task classification, which takes any number of classes.",
    ),
    "multilabel-of-a-table": Text(
        'A table has one target column ("{target}"), which cannot hold several labels at once.',
        "Use --task classification; for several labels at once give arrays: open_arrays((inputs, targets)) "
        "with one 0/1 column per label.",
    ),
    "class-not-in-training": Text(
        '{path}: the class "{value}" of "{target}" does not occur in the training data (known: {known}).',
        "Correct the spelling, remove these rows, or add such rows to the training file.",
    ),
    "no-columns": Text(
        "{path}: no column is left to learn from. {reasons}.",
        "Add a column that has something to do with the target.",
    ),
    "column-not-there": Text(
        'The column "{name}", which the model was trained with, is not there.{near} There are: {columns}.',
        "Give the rows with the same column names as in training; the order does not matter.",
    ),
    "not-a-number": Text(
        'Column "{column}", row {row:,} (counted from 1, without the header): expected a number, found "{value}".',
        "Correct this cell or leave it empty. Numbers are written with a decimal point and no thousands "
        "separators, and stay below 3.4e38.",
    ),
    "not-a-date": Text(
        'Column "{column}", row {row:,} (counted from 1, without the header): expected a date, found "{value}".',
        "Write dates as 2024-01-31 or 2024-01-31 12:30:00, or leave the cell empty.",
    ),
    "wrong-number-of-columns": Text(
        "An array of shape {found} was given; the model was trained with {expected} columns: {columns}.",
        "Give an array of shape (rows, {expected}), or a table or dict with these names.",
    ),
    "rows-not-readable": Text(
        "Rows of the kind {found} cannot be read as a table: {reason}.",
        "Give a CSV or Parquet file, a DataFrame, a dict of columns, or a list of dicts.",
    ),
    # ── data: arrays ─────────────────────────────────────────────────────────────────────────────────────
    "unknown-array-kind": Text(
        'There is no kind of array called "{kind}".',
        'Use kind="image", kind="array" (float32 features) or kind="tokens" (whole numbers that stay '
        "whole), or leave it out.",
    ),
    "shapes-differ": Text(
        "{data}: a training sample has the shape {train}, a test sample {test}; they must be the same.",
        "Prepare both splits in the same way: the same columns, the same image size.",
    ),
    "inputs-one-dimensional": Text(
        "{data}, {split} split: inputs must have one row per sample, (n, features), but their shape is {shape}.",
        "For {count:,} samples with one feature each, use x.reshape(-1, 1); for one sample with {count:,} "
        "features, x.reshape(1, -1).",
    ),
    "inputs-not-numbers": Text(
        "{data}, {split} split: inputs must be numbers, but their dtype is {dtype}.",
        "Turn texts and objects into numbers first (x.astype('float32') if they are numbers written as "
        "text). A CSV or a DataFrame with texts is read as a table.",
    ),
    "inputs-without-features": Text(
        "{data}, {split} split: inputs of shape {shape} hold no numbers at all.",
        "Check how they were cut: every sample needs at least one feature.",
    ),
    "tokens-not-whole": Text(
        "{data}, {split} split: tokens must be whole numbers, but their dtype is {dtype}.",
        "Use x.astype('int64') if all of them are whole, or leave kind=\"tokens\" out.",
    ),
    "not-an-image-shape": Text(
        "{data}, {split} split: inputs of shape {shape} are no images: expected (n, height, width), (n, "
        "channels, height, width) or (n, height, width, channels) with 1, 3 or 4 channels.",
        'Reshape them, or take them as plain numbers with kind="array".',
    ),
    "beyond-float32": Text(
        "{data}, {split} split: {count:,} numbers are too large for float32, in which models compute; the "
        "first is in sample {first}: {value:g}.",
        "float32 ends at 3.4e38. Divide this column by a large number, or take its logarithm.",
    ),
    "ragged": Text(
        "{data}: the {what} are nested lists whose rows differ in length ({reason}).",
        "Every sample needs the same shape: pad or cut the rows to one length.",
    ),
    "targets-not-usable": Text(
        "Targets must be whole numbers, texts, booleans or floats, but their dtype is {dtype}.",
        "Turn them into numbers or class names first; a list with None or mixed types becomes dtype object.",
    ),
    "targets-shape": Text(
        "Targets of shape {shape} are neither classes (n,), quantities (n, k) as floats, nor labels that "
        "hold at once (n, k) of zeros and ones.",
        "For classes give one number per sample, y.reshape(-1); for quantities use y.astype('float32').",
    ),
    "targets-differ": Text(
        "{data}: the training targets are {train}, the test targets {test}; they must be of one kind and width.",
        "Prepare both splits in the same way.",
    ),
    "task-does-not-fit": Text(
        "These targets cannot be taken for {task}: found {found}.",
        "classification: class numbers, class names or one-hot rows. binary: zeros and ones, (n,). "
        "multilabel: zeros and ones, (n, k). regression: numbers.",
    ),
    "too-few-class-names": Text(
        "{names} class names were given, but the labels need {classes}: the highest is {label}.",
        "Give one name per class, in the order of the labels.",
    ),
    "labels-too-large": Text(
        "The highest label is {label:,}, but there are only {different:,} different ones; classes are "
        "numbered 0, 1, 2, …",
        "Number them anew: names, y = np.unique(y, return_inverse=True). If they are a quantity, use "
        "y.astype('float32').",
    ),
    "class-not-named": Text(
        'The targets hold "{found}", which is not among the class names given: {classes}.',
        "Add it to the class names, or correct the targets.",
    ),
    "no-array-files": Text(
        "{path}: there is no array here: neither an .npz file, nor a folder with .npy or idx files.",
        "Save inputs and targets together: np.savez('data.npz', x=x, y=y).",
    ),
    "lone-npy": Text(
        "{path}: this file holds one array, but training needs inputs and targets.",
        "Save both together, np.savez('data.npz', x=x, y=y), or put x.npy and y.npy into one folder and "
        "give the folder.",
    ),
    "no-pairs": Text(
        "{path}: inputs and targets cannot be told apart by name; it holds: {keys}.",
        "Name them x and y (or images and labels, inputs and targets), or x_train, y_train, x_test and y_test.",
    ),
    "array-is-pickled": Text(
        "{path}: the file holds pickled Python objects. Reading these would run whatever is in them, so "
        "they are refused.",
        "Where you trust the file, save it anew as plain numbers: np.savez('data.npz', x=np.asarray(x, "
        "dtype='float32'), y=y).",
    ),
    "array-not-readable": Text(
        "{path}: NumPy cannot read this file: {reason}.",
        "It may have been cut off while it was copied: make or download it again.",
    ),
    "idx-without-labels": Text(
        "{path}: there are images but no labels.",
        "Put {expected} beside it.",
    ),
    # ── options ──────────────────────────────────────────────────────────────────────────────────────────
    "unknown-option": Text(
        'There is no option "{option}".{suggestion}',
        "The options are: {known}.",
    ),
    "bad-choice": Text(
        "{option} must be one of {choices}; it is {value!r}.{suggestion}",
    ),
    "not-positive": Text(
        "{option} must be greater than 0; it is {value!r}.",
        "Counts (epochs, batch_size, accumulate, early_stopping) are whole numbers from 1.",
    ),
    "option-not-a-number": Text("{option} must be a number, 0 or greater; it is {value!r}."),
    "option-no-bool": Text("{option} must be True or False; it is {value!r}."),
    "option-no-dict": Text(
        "{option} must be a dict of names and values; it is {value!r}.",
        'For example: model_arguments={{"hidden": (512, 512)}}',
    ),
    "option-of-other-verb": Text(
        "{verb} takes no {option}: that is an option of another function.",
        "Leave it out. What {verb} takes: {known}.",
    ),
    "option-not-recordable": Text(
        "{option} cannot be recorded in the run's recipe, which is JSON: {reason}; it is {value!r}.",
        "Give numbers, texts, and lists or dicts of these. A model that needs other things: make it, and pass it instead of its name.",
    ),
    "negative": Text("{option} must be 0 or more; it is {value!r}."),
    "bad-fraction": Text(
        "{option} must be at least 0 and less than 1; it is {value!r}.",
        "0.2 sets one sample in five aside for testing; 0 trains on everything and tests nothing.",
    ),
    "not-a-finite-number": Text(
        "{option} must be a finite number; it is {value!r}.",
        "Choose a number, such as 0.001; or leave {option} out.",
    ),
    "not-beside-live": Text(
        '"{option}" was given together with a live {part}, which brings its own.',
        "Leave {option} out, or give the {part} by its name.",
    ),
    "bad-seed": Text("The seed must be a whole number of at most 63 bits; it is {value}."),
    "not-a-setting": Text(
        "--{option} takes NAME=VALUE; it was given {value!r}.",
        "For example: --{option} dropout=0.2",
    ),
    "not-sizes": Text(
        "--{option} takes whole numbers greater than 0, separated by commas; it was given {value!r}.",
        "For example: --hidden 512,512 or --image-size 48x64",
    ),
    "no-input-file": Text(
        '"{path}": there is no such file in {folder}.',
        "Give the path of an image, a table or a .npy file; patterns such as photos/*.png are fine too.",
    ),
    # ── device ───────────────────────────────────────────────────────────────────────────────────────────
    "unknown-device": Text(
        '"{name}" is not a device. Here there is: {available}.',
        "Use auto for the best of these.",
    ),
    "no-such-device": Text(
        'The device "{name}" is not available to this torch ({torch}). Here there is: {available}.',
        "Use auto for the best of these. A GPU that is there but not listed needs a torch built for it: pytorch.org/get-started.",
    ),
    "device-unusable": Text(
        'The device "{name}" is there, but a first small computation on it failed: {reason}.',
        "Use --device cpu, or install a torch that was built for this device.",
    ),
    "no-bfloat16": Text(
        "bfloat16 does not pay here: {reason}.",
        "Use --precision float32. `rushlight env` shows what this machine has.",
    ),
    # ── data: opening ────────────────────────────────────────────────────────────────────────────────────
    "unknown-data": Text(
        '"{name}" is neither a dataset known by name nor a file or folder in {folder}.{suggestion}',
        "Known by name: {known}. Or give the path of a folder of images, a CSV or Parquet file, .npz or idx files.",
    ),
    "sheet-path": Text(
        "{path}: a contact sheet is written to a .png file in a folder that exists.",
        "For example: --sheet pictures.png",
    ),
    "option-of-other-data": Text(
        "{option} ({value}) is for {kind}, and this data is of another kind.",
        "Leave it out, or check the path of the data.",
    ),
    "unknown-file-kind": Text(
        "{path}: this kind of file ({found}) cannot be opened as data.",
        "Tables: .csv, .tsv, .parquet. Arrays: .npz, .npy, idx. Images: give the folder that holds one folder per class.",
    ),
    "unknown-data-kind": Text(
        "Data was given as {found}; expected a name, a path, a pair (inputs, targets) of arrays, a Dataset or a DataLoader.",
        "For example: rushlight.train(model, (x, y)) or rushlight.train(model, my_dataset, test_data=my_test_dataset).",
    ),
    "not-binary": Text(
        "{data} has {classes} classes; a binary loss needs two.",
        'Use loss="CrossEntropyLoss", which takes any number of classes.',
    ),
    "no-dataset": Text(
        "{found} is no map-style dataset: it lacks __len__ or __getitem__.",
        "Give the class both: __len__ returns how many samples there are, __getitem__(i) returns (input, target).",
    ),
    "sample-failed": Text(
        "{data}: reading sample {index} failed: {reason}.",
        "Try `dataset[{index}]` by itself; the error is in the dataset's own __getitem__ or its transform.",
    ),
    "samples-failed-together": Text(
        "{data}: reading {count} samples at once ({first} is the first of them) by its __getitems__ failed: {reason}.",
        "Read one by one they are fine: mend the dataset's __getitems__, which gives a list with a sample for each index, or delete it.",
    ),
    "streamed-standard": Text(
        "{data} is streamed, so the mean and std of its features cannot be learnt before training.",
        "Scale the features in the dataset's own transform, or use normalize unit (bytes divided by 255) or none.",
    ),
    "unequal-samples": Text(
        "{data}: its samples have different shapes or kinds, so they cannot be stacked into a batch: {reason}.",
        "Make them equal in the dataset's transform (resize, pad or crop), or give a DataLoader with a collate_fn.",
    ),
    "samples-not-batchable": Text(
        "{data}: its samples cannot be stacked into a batch: {reason}.",
        "Return tensors, arrays or numbers (or tuples, lists and dicts of them), or give a DataLoader with a collate_fn.",
    ),
    "streamed-texts": Text(
        '{data}: its targets are texts ("{found}"), which only data kept in memory may have.',
        "Return class numbers instead: names.index(text).",
    ),
    "no-batches": Text(
        "{data} gave no batches in epoch {epoch}.",
        "An IterableDataset must begin anew each time it is iterated: make what it reads inside __iter__.",
    ),
    "other-shape": Text(
        "{data}: the model was trained on inputs of shape {expected}; these have {found}.",
        "Test on data of the same kind and size.",
    ),
    "other-dtype": Text(
        "{data}: the training inputs are {expected}, the test inputs {found}; the scaling of the one is wrong for the other.",
        "Store both alike. Bytes become values from 0 to 1 with x.astype('float32') / 255, and these become bytes "
        "with (x * 255).round().astype('uint8').",
    ),
    "scaled-otherwise": Text(
        "{data} is already open and scaled by its own mean and std, which are not those the model was trained with.",
        "Give what you gave to open_data instead (the path, the arrays, the dataset): it is then prepared as in training.",
    ),
    "unknown-class": Text(
        '{data} has the class "{name}", which the model does not know.{suggestion}',
        "The model's classes: {known}.",
    ),
    # ── models ───────────────────────────────────────────────────────────────────────────────────────────
    "unknown-model": Text(
        'There is no model called "{name}".{suggestion}',
        "Known by name: {known}. Your own: file.py:Class, or package.module:Class.",
    ),
    "unknown-model-argument": Text(
        'The model {model} has no argument "{argument}".{suggestion}',
        "It takes: {known}.",
    ),
    "model-argument-values": Text(
        "The model {model} cannot be made with {given}: {reason}.",
        "Sizes are whole numbers in a tuple, hidden=(512, 512), one alone hidden=(512,); on the command line --model-arg hidden=512,512 or, with its comma, hidden=512,.",
    ),
    "lazy-layer": Text(
        'The lazy layer of "{name}" has no shape yet, and without (input, target) pairs nobody can tell it.',
        "Run the model on one batch yourself before training: model(inputs).",
    ),
    "needs-images": Text(
        "The model {model} needs images of shape (channels, height, width); these samples have shape {shape}.",
        "Use mlp for tables and vectors. Arrays of grey images need a channel: x[:, None] makes (n, h, w) into (n, 1, h, w).",
    ),
    "model-needs-spec": Text(
        "{data} does not give (input, target) pairs, so the model {model} cannot be fitted to it.",
        "Give a model of your own, with objective=f(model, batch) -> loss.",
    ),
    "no-model": Text(
        "The model was given as {found}; expected an nn.Module, a model's name, or file.py:Class.",
        'For example: rushlight.train(Net(), …) or rushlight.train("mlp", …).',
    ),
    "class-not-instance": Text(
        "{name} is a class; training needs one made from it.",
        "Write {name}() with its parentheses: rushlight.train({name}(), …).",
    ),
    "file-without-class": Text(
        "{path} is a file; which of its classes is the model?",
        "Name the class after a colon: {path}:Net",
    ),
    "data-as-model": Text(
        '"{name}" is a dataset; the model comes first.',
        "For example: rushlight train mlp {name}",
    ),
    "no-model-file": Text(
        "{path}: there is no such file.{suggestion}",
        "Give the path from the current folder, and the class after a colon: net.py:Net",
    ),
    "no-model-module": Text(
        'There is no module called "{name}", neither installed nor in the current folder.',
        "For a file, give its name with .py: net.py:Net",
    ),
    "model-file-failed": Text(
        "{path} could not be run: {reason} ({where}).",
        "Run the file by itself, `python {path}`, to see the whole error.",
    ),
    "syntax-error": Text(
        "{path}, line {line}: {reason}\n    {text}\n    {marker}",
        "Mend that line; a missing bracket or colon is often on the line before.",
    ),
    "no-such-class": Text(
        '{where} has no class "{name}".{suggestion}',
        "Its nn.Module classes: {known}.",
    ),
    "not-a-module": Text(
        "{name} in {where} is no nn.Module class (it is a {found}).",
        "Derive it from torch.nn.Module: class {name}(nn.Module): …",
    ),
    "constructor-arguments": Text(
        "{model} cannot be made: {reason}. It takes {wanted}.",
        "Give each argument with --model-arg NAME=VALUE.",
    ),
    "constructor-failed": Text(
        "{model} cannot be made: {reason} ({where}).",
        "The error is in the class's own __init__.",
    ),
    # ── the model on the data ────────────────────────────────────────────────────────────────────────────
    "linear-features": Text(
        "{place} expects {expected} features, the batch has {found}{origin}.",
        "Write Linear({found}, {outputs}) there, or give the data {expected} features.",
    ),
    "linear-on-image": Text(
        "{place} expects {expected} features, but it gets whole images: {shape}.",
        "Flatten first: nn.Flatten() before it, and Linear({flat}, {outputs}).",
    ),
    "needs-flatten": Text(
        "{place} expects {expected} features in the last dimension, but it gets {shape}, not flattened.",
        "Put nn.Flatten() before it.",
    ),
    "conv-channels": Text(
        "{place} expects {expected} channels, the batch has {found}: {shape}.",
        "Write {kind}({found}, {outputs}, …) there. Grey images have 1 channel, colour images 3.",
    ),
    "conv-dimensions": Text(
        "{place} expects {dimensions} dimensions (batch, channels, then the image), but it gets {shape}.",
        "Do not flatten before it. Grey images without a channel need one: x.unsqueeze(1).",
    ),
    "norm-features": Text(
        "{place} expects {expected} channels, the batch has {found}: {shape}.",
        "Write {kind}({found}) there: it must match the outputs of the layer before it.",
    ),
    "embedding": Text(
        "{place} has {size} entries and takes whole numbers from 0 to {last}; it gets {found} values from {low} to {high}.",
        "Make the embedding large enough, or number the tokens from 0; inputs of whole numbers need kind tokens (int64).",
    ),
    "forward-failed": Text(
        "{place} failed on {shape}{where}: {reason}",
        "The model was given a batch of shape {batch}. Follow that shape through the layers up to this one.",
    ),
    "outputs-no-tensor": Text(
        "{model}.forward returned {found}; expected one tensor of shape (batch, outputs).",
        "Return the logits alone, or train with objective=f(model, batch) -> loss.",
    ),
    "outputs-shape": Text(
        "{model} gives outputs of shape {found} for a batch of 2 samples; expected {wanted}.",
        "Keep the batch dimension first: no squeeze(), no mean over it.",
    ),
    "too-few-outputs": Text(
        "{model} gives {found} outputs, for labels 0 to {last}, but the data has {wanted} classes (labels 0 to {last_label}).",
        "Make the last layer's output {wanted}: nn.Linear(…, {wanted}). Labels that start at 1 must be made to start at 0: y - 1.",
    ),
    "wrong-outputs": Text(
        "{model} gives {found} outputs for each sample; this {task} needs {wanted}.",
        "Make the last layer's output {wanted}: nn.Linear(…, {wanted}).",
    ),
    "label-beyond-outputs": Text(
        "Step {step}: a label is beyond the model's outputs; labels in this batch run from {low} to {high} ({reason}).",
        "Labels must be 0 to outputs-1: number them from 0, or make the last layer wider.",
    ),
    "batch-of-one": Text(
        "Step {step}: a batch of one sample reached a BatchNorm layer, which needs at least two to tell their spread.",
        "{samples} samples in batches of {batch_size} leave one over: choose another batch size.",
    ),
    # ── loss, optimizer, schedule ────────────────────────────────────────────────────────────────────────
    "needs-objective": Text(
        "{data} does not give (input, target) pairs, so loss(model(input), target) cannot be computed.",
        "Say how a batch becomes a loss: objective=f, where f(model, batch) returns the mean loss.",
    ),
    "no-loss": Text(
        "The loss was given as {found}; expected a name, or a loss made ready.",
        'For example: loss=nn.CrossEntropyLoss() with its parentheses, or loss="CrossEntropyLoss".',
    ),
    "loss-not-scalar": Text(
        "The loss gave one number for each sample; training needs a single one.",
        'Leave reduction="none" out, or take the mean: loss.mean().',
    ),
    "loss-without-gradient": Text(
        "The loss does not depend on any parameter that trains, so there is nothing to follow downhill.",
        "Compute it from the model's outputs as tensors: without .item(), .detach(), torch.no_grad() or NumPy on the way.",
    ),
    "objective-no-tensor": Text(
        "The objective returned {found}; expected a tensor with one number, the mean loss of the batch.",
        "Let it end in: return loss.",
    ),
    "unknown-loss": Text(
        'There is no loss called "{name}" in torch.nn.{suggestion}',
        "For classes: cross-entropy. For numbers: mse, l1, huber. For yes or no: bce.",
    ),
    "float-labels": Text(
        "{loss} needs class numbers (whole numbers, int64), but the targets are {found}.",
        'If they are classes: y.astype("int64") or y.long(). If they are quantities to predict, use loss="MSELoss".',
    ),
    "regression-loss-on-classes": Text(
        "{loss} compares numbers, but the targets are {classes} classes.",
        'Use loss="CrossEntropyLoss"; or, if the class numbers are quantities, task="regression".',
    ),
    "binary-loss-on-many-classes": Text(
        "{loss} tells yes from no, but the targets have {classes} classes.",
        'Use loss="CrossEntropyLoss".',
    ),
    "unknown-optimizer": Text(
        'There is no optimizer called "{name}" in torch.optim.{suggestion}',
        "There are: {known}.",
    ),
    "unknown-optimizer-argument": Text(
        '{optimizer} has no argument "{argument}".{suggestion}',
        "It takes: {known}.",
    ),
    "batch-size-of-loader": Text(
        "batch_size is {given}, but the DataLoader that is used as it is makes batches of {own}.",
        "Leave batch_size out, or give the DataLoader another one.",
    ),
    "optimizer-arguments": Text(
        "{optimizer} refused its arguments: {reason}.",
        "See torch.optim.{optimizer} in torch's documentation for what is allowed.",
    ),
    "no-optimizer": Text(
        "The optimizer was given as {found}; expected a name or a torch.optim optimizer.",
        'For example: optimizer="SGD", lr=0.1 or optimizer=torch.optim.SGD(model.parameters(), lr=0.1).',
    ),
    "needs-closure": Text(
        "{optimizer} computes the loss several times in each step, through a closure, which the training loop does not do.",
        'Use another optimizer, such as optimizer="Adam".',
    ),
    "optimizer-gradients": Text(
        "The optimizer cannot use this model's gradients: {reason}.",
        'SparseAdam is for nn.Embedding(…, sparse=True) alone. For all else: optimizer="AdamW".',
    ),
    "nothing-trains": Text(
        "{model} has no parameters that train.",
        "Every parameter has requires_grad=False, or the layers are kept in a plain list: use nn.ModuleList or nn.Sequential.",
    ),
    "foreign-optimizer": Text(
        "{foreign} of the {held} parameters in this {optimizer} are not parameters of the model ({model}): training would change nothing.",
        "Make the optimizer after the model, from this very model: torch.optim.{optimizer}(model.parameters(), …).",
    ),
    "foreign-scheduler": Text(
        "The scheduler {schedule} moves another optimizer's learning rate than the one that trains.",
        "Make it from the optimizer that is given: {schedule}(optimizer, …).",
    ),
    "schedule-needs-length": Text(
        "The schedule {schedule} needs to know how many steps there will be, and this data does not tell its length.",
        "Use --schedule constant, or a live scheduler.",
    ),
    "scheduler-ended": Text(
        "The live scheduler {schedule} was made for fewer steps than are trained: {reason}.",
        "Make it for steps per epoch × epochs.",
    ),
    # ── training ─────────────────────────────────────────────────────────────────────────────────────────
    "not-checkpointable": Text(
        "{name} is a {found}, which a checkpoint cannot hold; the run could not be resumed.",
        "What the model, the optimizer and the schedule give as their state_dict() may hold numbers, text, tensors, NumPy "
        "arrays, and lists, tuples and dicts of these. Make a set a sorted list, and leave functions out.",
    ),
    "loss-not-finite": Text(
        "The loss became {value} at step {step:,} (epoch {epoch}), with learning rate {learning_rate}: by its own batch ({samples}){before}. {kept}",
        "Most likely the learning rate is too high: try a tenth of it, --clip-norm 1 or --warmup 100. Otherwise look at these samples, "
        "and in the model for log(0), division by 0 or a square root of 0. rushlight resume {run} --on-nan skip goes on from what is kept, "
        "checks every gradient before it is used, names the samples, and leaves such steps out; --on-nan rollback halves the learning rate instead.",
    ),
    "all-skipped": Text(
        "{count} steps one after the other had to be left out; the last was step {step:,}, whose {what} is not finite ({samples}). {kept}",
        "This is no single bad batch. Most likely the learning rate is too high, or the data holds values that are too large: "
        "try a tenth of the rate, or --on-nan rollback, which halves it.",
    ),
    "out-of-memory": Text(
        "Memory ran out at step {step:,}, even with one sample at a time. {kept}",
        "Take a smaller model or smaller inputs (--image-size), close other programs, or train on another device (--device cpu).",
    ),
    "out-of-memory-update": Text(
        "Memory ran out while the optimizer updated the weights, at step {step:,}. {kept}",
        "The optimizer's own state does not fit: take one that has less of it (--optimizer SGD), a smaller model, or close other programs.",
    ),
    "tensorboard-missing": Text(
        "TensorBoard's event files were asked for, but the package tensorboard is not installed.",
        'Install it: pip install "rushlight[tensorboard]". The run folder has its own curves without it.',
    ),
    "weights-not-finite": Text(
        'The weights of "{name}" are not finite after step {step:,} (epoch {epoch}). {kept}',
        "Most likely the learning rate is too high: try a tenth of it, or --clip-norm 1.",
    ),
    # ── runs ─────────────────────────────────────────────────────────────────────────────────────────────
    "no-bundle": Text(
        '"{run}" has no saved model yet: it did not finish.',
        "Go on with it: rushlight resume {run}",
    ),
    "no-checkpoint": Text(
        '"{run}" has no checkpoint that is whole, so there is nothing to go on from.',
        "Train again: rushlight train",
    ),
    "damaged-checkpoint": Text(
        "{folder}: this checkpoint is damaged: {reason}.",
        "Nothing of it was used. The checkpoint before it may be whole.",
    ),
    "newer-checkpoint": Text(
        "{folder}: this checkpoint was written by a newer Rushlight. It is of format {found}; this Rushlight reads format {known}.",
        "Nothing was changed. Update with: pip install --upgrade rushlight. Then try again.",
    ),
    "live-model": Text(
        '"{run}" was trained with a model made in Python ({model}), which a file cannot bring back.',
        "Make the model again and pass it: rushlight.open_run({run!r}, {short}()), or rushlight.resume({run!r}, {short}(), …).",
    ),
    "live-data": Text(
        '"{run}" was trained on data made in Python ({data}), which a file cannot bring back.',
        "Open the same data again and pass it: run.test(data), or rushlight.resume({run!r}, model, data).",
    ),
    "live-loss": Text(
        '"{run}" was trained with a loss made in Python, which a file cannot bring back.',
        "Pass it again: run.test(loss=my_loss).",
    ),
    "live-parts": Text(
        '"{run}" was trained with live objects ({parts}), which a file cannot bring back.',
        "Make them again as they were and pass them to rushlight.resume, by these names.",
    ),
    "resume-option": Text(
        '"{run}": {option} cannot be changed while a run goes on; its recipe is fixed.',
        "Start a new run for that. What resume takes: epochs, schedule (constant), device, on_nan, and the live objects of the run.",
    ),
    "schedule-is-planned": Text(
        '"{run}": its {schedule} schedule was planned for {planned} epochs, so {epochs} would not be the same schedule.',
        "Go on at a constant rate with schedule constant, or train anew with {epochs} epochs.",
    ),
    "not-exact": Text(
        '"{run}" cannot go on to the same bits, since what these depend on has changed:{differences}',
        "Put it back as it was{remedies}. Or go on all the same with --inexact: the run then says so for ever after.",
    ),
    "unknown-checkpoint": Text(
        '"{run}" has no checkpoint "{name}". It has: {known}.',
        "Give one of these, or leave --checkpoint out: the newest that is whole is then used.",
    ),
    "no-way-back": Text(
        '"{run}" cannot go on with rollback: it would go back to where its epoch began, after step {step:,}, and there is no '
        "whole checkpoint of that.",
        "Nothing was changed. Begin at an epoch's end that is there (--checkpoint; there are: {known}), or go on without it: --on-nan stop",
    ),
    "state-does-not-fit": Text(
        "{folder}: what this checkpoint holds does not fit the model, the optimizer or the loss: {reason}.",
        'Resume "{run}" with the model, the optimizer and the loss it was begun with, or start a new run.',
    ),
    "only-for-resume": Text(
        '"{option}" says how a run goes on, and this one begins.',
        "Use it with: rushlight resume RUN",
    ),
    "code-in-run": Text(
        '"{run}": its recipe names a Python file inside the run folder itself ({source}), which is not executed.',
        "A run's model lies beside the runs, not in one. If you trust the file, pass the model: rushlight.open_run({run!r}, Net()).",
    ),
    "nothing-to-test": Text(
        '"{run}" has no test split.',
        "Name some data to test on: rushlight test {run} --data PATH, or run.test(data).",
    ),
    "no-signature": Text(
        '"{run}" was trained with an objective of its own, so how its inputs look was not recorded.',
        "Use the model itself: run.model(batch).",
    ),
    "weights-need-model": Text(
        "{path} holds weights only, so it needs the model they belong to.",
        "Pass it: rushlight.load({path!r}, Net()). A bundle (a folder) of a model by name needs none.",
    ),
    # ── export: weights ──────────────────────────────────────────────────────────────────────────────────
    "weights-ending": Text(
        "{path}: a weights file ends in one of {endings}; this name does not.",
        'Write for example "{example}". A name without an ending is a folder, for the bundle '
        "(weights, preprocessing and classes).",
    ),
    "weights-missing": Text(
        "{path}: there is no such file.{suggestion}",
        "Check the path; a relative one starts from the folder in which the command runs.",
    ),
    "weights-unreadable": Text(
        "{path}: the file cannot be read: {reason}.",
        "Check that it is a file, and its permissions.",
    ),
    "weights-empty": Text(
        "{path}: the file is empty (0 bytes).",
        "Saving or downloading it was cut off: make it or fetch it again.",
    ),
    "weights-page": Text(
        "{path}: this is a web page ({size:,} bytes), not weights.",
        "The link led to the page that shows the file. Download the file itself (the page's raw or download button).",
    ),
    "weights-pointer": Text(
        "{path}: this is a Git LFS pointer ({size:,} bytes): a note on where the weights are, not the weights.",
        "Fetch the real file with `git lfs pull` in that repository.",
    ),
    "weights-misnamed": Text(
        "{path}: the content is in the format of {found}, which the name's ending does not say.",
        'Rename the file to "{name}".',
    ),
    "weights-damaged": Text(
        "{path}: the weights cannot be read; the file ({size:,} bytes) is damaged or something else: {reason}.",
        "Copy or download it again and compare the sizes. Weights are saved with "
        '`run.save("model.safetensors")`, or in plain PyTorch with '
        '`torch.save(model.state_dict(), "model.pth")`.',
    ),
    "weights-torchscript": Text(
        "{path}: this is a TorchScript program: weights together with code. Expected weights alone.",
        "Where it was made, save the weights of the model it was made from: "
        '`torch.save(model.state_dict(), "model.pth")`.',
    ),
    "pickled-model": Text(
        "{path}: this file holds more than weights: it is a pickle that names {found}. Loading it"
        " whole would run code that the file chooses, so it was not loaded; nothing in it was "
        "run.",
        "On the machine where the model was made, save its weights alone: "
        '`torch.save(model.state_dict(), "model.pth")`. Then create the model here and load them:'
        ' `rushlight.load("model.pth", model)`. If you do not know who made the file, do not open'
        " it in another way.",
    ),
    "weights-no-dictionary": Text(
        "{path}: expected tensors by name (a state_dict), found {found}.",
        'Save the weights with `torch.save(model.state_dict(), "model.pth")`.',
    ),
    "weights-not-tensors": Text(
        "{path}: expected tensors by name (a state_dict); {count} of its entries are something else: {entries}.",
        'Save the weights alone, with `torch.save(model.state_dict(), "model.pth")`.',
    ),
    "weights-unwritable": Text(
        "{path}: the model cannot be saved; these of its entries are not plain numbers: {entries}.",
        "Give every layer its values before saving, and keep other things than tensors out of the"
        " model's state (get_extra_state).",
    ),
    "weights-mismatch": Text(
        "{source}: these weights do not fit the model, which is unchanged.\n{differences}",
        "{hint} Create the model as it was when the file was saved, then load again.",
    ),
    # ── export: bundle ───────────────────────────────────────────────────────────────────────────────────
    "bundle-occupied": Text(
        "{path}: a bundle would replace this {kind}, which holds something else: {entries}.",
        "Choose a new or an empty folder.",
    ),
    "bundle-missing": Text(
        "{path}: expected a bundle, a folder with model.json in it; found {found}.",
        'Make one with `run.save("my-model")` or `rushlight save RUN my-model`.{suggestion}',
    ),
    "bundle-damaged": Text(
        "{path}: the bundle is damaged: {reason}.",
        "Copy the whole folder again from where it was made, or save it again from its run.",
    ),
    "bundle-incomplete": Text(
        "The bundle says that its model is {model}, but not for which inputs and outputs, or with which arguments.",
        "Save it again from its run, or pass the model along: rushlight.load(folder, Net()).",
    ),
    "bundle-newer": Text(
        "{path}: this bundle has format version {found}; this Rushlight reads up to version {known}.",
        "Update it: `pip install --upgrade rushlight`.",
    ),
    "bundle-needs-model": Text(
        "{path}: this bundle holds the weights of {needed}, a class of your own; a bundle holds "
        "no code, so it cannot build that.",
        "Create the model and pass it along: `rushlight.load({path!r}, {call})`.",
    ),
    "bundle-differs": Text(
        "{path}: the weights fit, but the model answers otherwise than when it was saved: on "
        "{samples} example inputs the outputs differ by up to {difference:.3g} (outputs there "
        "reach {scale:.3g}).",
        "The model has the same shapes but computes something else: an activation left out, other"
        " arguments, layers in another order. Compare its forward() with the original's. The "
        "model was left as it was.",
    ),
    "bundle-example-failed": Text(
        "{path}: the weights fit, but the model fails on the bundle's example inputs of shape {shape}: {reason}",
        "Compare its forward() with the original's: a reshape (nn.Flatten) left out, say. The "
        "model was left as it was.",
    ),
    # ── export: predict ──────────────────────────────────────────────────────────────────────────────────
    "predict-shape": Text(
        "the model takes {expected}, this input is {found}.",
        "{hint}",
    ),
    "predict-dtype": Text(
        "the model takes {expected}, this input holds {found}.",
        "{hint}",
    ),
    "predict-not-finite": Text(
        "sample {sample} of the input is not all numbers: value {position} is {value}.",
        "Fill or leave out missing values before predicting; a model cannot compute with them.",
    ),
    "predict-file": Text(
        "{path}: this model takes {expected}, and this file cannot be read as that.",
        "Read the file yourself and pass an array.",
    ),
    "predict-outputs": Text(
        "the model gives {found} for {samples} samples; expected ({samples}, {outputs}): one "
        "number for each of the {outputs} {what} it was saved with.",
        "Compare the model's last layer with the one it was trained with.",
    ),
    "predict-broken-model": Text(
        "the model's outputs are not numbers (NaN): first for sample {sample}.",
        "Its weights hold NaN, or a layer of it overflows on these inputs. Load an earlier "
        "checkpoint, or look at the inputs' size.",
    ),
    "no-probabilities": Text(
        "this is a regression: its predictions are numbers in `values`; there are no classes to rank.",
        "Use `predictions.values`.",
    ),
}
