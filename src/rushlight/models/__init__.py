"""Small networks by name, fitted to the data, and the user's own by `file.py:Class`."""

from rushlight.models.arguments import as_json, restored
from rushlight.models.calls import as_figures, call_model, floats_of, main_output
from rushlight.models.custom import MOST_OF_A_SOURCE, build_custom, find_source, load_model_class, source_digest
from rushlight.models.head import HEADS, replace_head
from rushlight.models.hooks import HOOKS, calls_own_code, hooks_in
from rushlight.models.modes import eval_mode
from rushlight.models.named import MODELS, build_model
