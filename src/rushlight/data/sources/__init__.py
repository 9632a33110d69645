"""Where data comes from: one package for each kind of source, asked in the order of `KINDS`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rushlight.lazy import lazy_names

if TYPE_CHECKING:
    from rushlight.data.sources.arrays import ARRAYS, array_names, idx_file, read_array_files
    from rushlight.data.sources.datasets import DATASET, LOADER, group_inputs
    from rushlight.data.sources.images import IMAGES, MASKS, ImageFolderDataset, read_image
    from rushlight.data.sources.kind import SourceKind
    from rushlight.data.sources.named import DATASETS, NAMED, SHIPPED, cache_folder, describe_datasets, needs_network
    from rushlight.data.sources.tables import (
        MISSING,
        MISSING_AMONG_NUMBERS,
        TABLE,
        cut_csv,
        decode_csv,
        decoded_text,
        describe_columns,
        encode_rows,
        is_table,
        larger_table,
        read_other_table,
        read_rows,
        read_text_file,
        stream_like,
        streamed_rows,
        tokenizer_json,
        with_tokenizer,
    )


__getattr__, __dir__ = lazy_names(__name__)
