"""The options of training, declared once."""

from rushlight.options.declare import OPTIONS, TAKES, Option, Options, RecipeOptions, found_text, is_ray_address
from rushlight.options.given import check_options, plain_options
from rushlight.options.reference import options_reference
from rushlight.options.signatures import opens, resumes, trains, tunes
