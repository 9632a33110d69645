"""From raw samples to tensors: normalisation, targets, the signature of the data."""

from rushlight.data.shape.build import (
    EXAMPLES,
    as_stored,
    build_data,
    check_more_than_one_class,
    check_same_dtype,
    check_samples,
    dtype_name,
    identity_of,
    learn_normalization,
    mean_and_std,
    normalization_notes,
    resident,
    split_digest,
    standard_normalization,
    standardised,
    unseen_class_notes,
)
from rushlight.data.shape.samples import FOLD_CUT, SPLIT_FOLDERS, Cut, Names, Samples, cut_samples, cut_splits
from rushlight.data.shape.several import as_inputs, group_split, has_several_inputs
from rushlight.data.shape.targets import as_array, as_floats, check_same_shape, owned, read_targets, target_notes
from rushlight.data.shape.to_model import PrepareBatch
