"""From options to a training that is ready to run: new, or resumed."""

from rushlight.training.setup.build import build_described, build_imported, hold_frozen
from rushlight.training.setup.choose import aimed, data_options
from rushlight.training.setup.explain import check_model, explain_step_error
from rushlight.training.setup.prepare import Fetch, begin, resume_training, start_training
from rushlight.training.setup.trust import check_fetchable, check_importable
