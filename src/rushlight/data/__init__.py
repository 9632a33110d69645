"""Data: where it comes from, which samples in which order, and how they become batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rushlight.lazy import lazy_names

if TYPE_CHECKING:
    from rushlight.data.feed import (
        CPU,
        EMPTY,
        GENERATORS,
        Augment,
        Batch,
        Feed,
        Held,
        LoaderSplit,
        ResidentSplit,
        Split,
        StreamedSplit,
        Walk,
        check_main_guard,
        count_samples,
        equal_parts,
        generator_states,
        put_back,
        seeded,
        set_state,
        split_batch,
        state_of,
        tensors_in,
        to_device,
    )
    from rushlight.data.look import answer_lines, describe_data, described_samples, write_contact_sheet
    from rushlight.data.open import TOKENIZER, DataOptions, open_like, open_source, retarget, takes
    from rushlight.data.order import share_of, step_seed
    from rushlight.data.shape import as_array, as_inputs, dtype_name, group_split, has_several_inputs, owned
    from rushlight.data.sources import (
        DATASETS,
        MISSING,
        MISSING_AMONG_NUMBERS,
        SHIPPED,
        ImageFolderDataset,
        array_names,
        cache_folder,
        cut_csv,
        decode_csv,
        describe_datasets,
        encode_rows,
        group_inputs,
        idx_file,
        is_table,
        needs_network,
        read_array_files,
        read_image,
        read_rows,
        read_text_file,
        streamed_rows,
        tokenizer_json,
        with_tokenizer,
    )
    from rushlight.data.spec import (
        FLOATS,
        Column,
        FeatureKind,
        FeatureSpec,
        Floats,
        Layout,
        Normalization,
        Scale,
        TargetSpec,
        Task,
        Tokens,
        in_floats,
        reading_floats,
    )
    from rushlight.data.splits import Data, keeping_workers


__getattr__, __dir__ = lazy_names(__name__)
