"""Small networks by name, fitted to the data, and the user's own by `file.py:Class`."""

from rushlight.models.arguments import as_json, restored
from rushlight.models.calls import call_model, main_output
from rushlight.models.custom import MOST_OF_A_SOURCE, build_custom, find_source, load_model_class, source_digest
from rushlight.models.modes import eval_mode
from rushlight.models.named import MODELS, build_model
