"""`tune`: search for a recipe by trials that validation judges, then test the winner beside the defaults."""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rushlight import files
from rushlight.api import open_data
from rushlight.cluster import connected, cores_of, threads_each
from rushlight.console import StudyScreen
from rushlight.data import DATASETS, ResidentSplit
from rushlight.device import usable_cores
from rushlight.errors import ModelError, UsageError, suggest
from rushlight.models import MODELS, load_model_class
from rushlight.options import OPTIONS, TAKES, plain_options, tunes
from rushlight.report import write_importance_plot
from rushlight.runs import ENDED, is_run, lock_run, run_folders, summarize_run
from rushlight.search.final import Result, compare_with_defaults
from rushlight.search.space import (
    Space,
    check_space,
    chosen_options,
    default_space,
    known_defaults,
    read_space,
    space_to_json,
    usual_schedule,
)
from rushlight.search.study import JOURNAL, Figure, Study, Trial
from rushlight.search.trial import Job
from rushlight.search.work import work
from rushlight.texts import Joined, Note
from rushlight.version import __version__

PLAN, RESULT, PLOT = "study.json", "result.json", "importance.png"
LIVE = ("optimizer", "schedule")  # as objects they belong to one model


@dataclass(frozen=True)
class StudyResult:
    """What a search found.

    `best` has the winner's choices; `importances` is each choice's share of what makes trials differ; `result` has the tests
    of the winner and of the defaults, None where there is no test split or no seed was asked for.
    """

    name: str
    folder: Path
    metric: str
    best: Trial
    trials: tuple[Trial, ...]
    importances: dict[str, float]
    result: Result | None

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON-ready values."""
        content: dict[str, Any] = files.without_nan({**asdict(self), "folder": str(self.folder)})
        return content


@tunes
def tune(
    model: Any, data: Any = "fashion-mnist", *, space: Mapping[str, Any] | str | Path | None = None, trials: int = 50,
    hours: float | None = None, jobs: int = 1, ray: str | None = None, seeds: int = 3, **options: Any,
) -> StudyResult:  # fmt: skip
    """Search for the recipe that validates best, by `trials` runs of at most `epochs` epochs, and test it.

        study = rushlight.tune("mlp", "digits", trials=20)
        study = rushlight.tune(net, "digits", space={"lr": log(1e-4, 1e-1), "width": between(16, 256)})

    `model` is a model's name, or a function whose arguments are choices and which returns a module. `space` is a dict or a TOML
    file; a named model has one by itself, less what `options` decide. No trial begins after `hours`. `jobs` processes share the
    cores, those of a Ray cluster where `ray` is its address ("local", "auto", "HOST:PORT"). The winner is trained again from `seeds` seeds and tested, and so are the defaults. The same call goes on with a
    study that was stopped or killed.

    Raises:
        UsageError: the space, or an option, is wrong, or a study of this name has other ones.
        KeyboardInterrupt: Ctrl-C; everything is saved, and the same call goes on.
    """
    for name, value in (("trials", trials), ("jobs", jobs)):
        if not value > 0:
            raise UsageError("not-a-count", option=name, value=value)
    if hours is not None and not hours > 0:
        raise UsageError("not-positive", option="hours", value=hours)
    OPTIONS["ray"].verify(ray)
    given = plain_options(options, "tune")
    OPTIONS["runs"].verify(given.get("runs", "runs"))
    plan = make_plan(model, data, space, given)
    folder = Path(given.get("runs", "runs")) / plan.name
    files.make_folder(folder)
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock_run(folder))
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        cluster = None if ray is None else stack.enter_context(connected(ray, usable_cores()))
        threads = agree(folder, plan, jobs, [usable_cores()] if cluster is None else cores_of(cluster))
        study = Study(folder, plan.space, plan.defaults or {}, plan.epochs, plan.keeps_best, plan.seed)
        screen = StudyScreen(bool(given.get("quiet")), bool(given.get("to_stderr")))
        stack.callback(screen.close)
        screen.begin(plan.name, space_to_json(plan.space), trials, plan.epochs, jobs, threads, len(study.trials))
        try:
            search(study, plan, threads, jobs, trials, hours, screen, cluster)
            best, result = study.best, None
            if best is None:
                raise UsageError("study-without-trial", study=plan.name, count=len(study.trials))
            if seeds > 0:
                screen.testing(seeds)
                result = compare_with_defaults(plan.job, best, plan.defaults, seeds, threads, jobs, cluster)
        except KeyboardInterrupt:
            screen.stopped(sum(trial.status != "running" for trial in study.trials))
            raise
        importances = study.importances()
        panels = importances or dict.fromkeys(plan.space)
        write_importance_plot(folder / PLOT, panels, [asdict(trial) for trial in study.trials], study.metric)
        found = StudyResult(plan.name, folder, study.metric, best, tuple(study.trials), importances, result)
        files.write_json(folder / RESULT, found.to_json())
        return found


# ── what is searched, and with what ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class StudyPlan:
    """What a study searches: the same at each call that goes on with it."""

    name: str
    model: Any
    data: Any
    options: dict[str, Any]  # of every run
    space: Space
    defaults: dict[str, Any] | None  # the choices of the first trial; {}: unknown; None: a model needs choices
    record: dict[str, Any]  # in study.json

    @property
    def epochs(self) -> int:
        """The length of a whole trial."""
        return int(self.options["epochs"])

    @property
    def seed(self) -> int:
        """The seed of the sampler, and of every trial."""
        return int(self.options["seed"])

    @property
    def keeps_best(self) -> bool:
        """Whether a trial keeps the weights of its best epoch, and is worth that one."""
        return bool(self.options.get("best") or self.options.get("early_stopping"))

    def job(self, number: int, name: str, choices: Mapping[str, Any], threads: int, **more: Any) -> Job:
        """Return the job of a run with these choices."""
        options = {**chosen_options(self.model, choices, self.options), **more}
        return Job(
            number, self.model, self.data, {**options, "name": f"{self.name}-{name}", "study": self.name}, threads
        )


def make_plan(model: Any, data: Any, space: Mapping[str, Any] | str | Path | None, given: dict[str, Any]) -> StudyPlan:
    """Return what is to be searched. UsageError says what is wrong with it."""
    if isinstance(model, str) and ":" not in model and model not in MODELS:
        if model.endswith(".py"):
            raise ModelError("file-without-class", path=model)
        if model in DATASETS:
            raise UsageError("data-as-model", name=model, verb="tune")
        raise UsageError("unknown-model", name=model, known=", ".join(MODELS), suggestion=suggest(model, MODELS))
    if not isinstance(model, str) and (isinstance(model, torch.nn.Module) or not callable(model)):
        raise ModelError("tune-needs-function", found=type(model).__name__)
    for name in LIVE:
        if not isinstance(given.get(name, ""), str):
            raise UsageError("tune-live", option=name)
    own = {name: value for name, value in given.items() if name not in ("name", "quiet", "to_stderr", "runs")}
    options = {"epochs": 5, "seed": 0, "compile": "never", **own}
    if space is not None:
        found = read_space(Path(space)) if isinstance(space, (str, Path)) else check_space(space)
        both = [name for name in found if name in own]
        if both:
            raise UsageError("space-and-option", name=both[0])
        builder = load_model_class(model) if isinstance(model, str) and ":" in model else model
        if "schedule" not in found:  # else it would depend on whether the rate is searched
            options.setdefault("schedule", usual_schedule(own))
        defaults = known_defaults(builder, found, options) if has_defaults(builder, found, options) else None
    elif model in MODELS:
        opened = open_data(data, **{name: given[name] for name in TAKES["open_data"] if name in given})
        is_labelled = opened.target is not None and opened.target.layout == "rows"
        has_images = is_labelled and isinstance(opened.train, ResidentSplit) and opened.train.inputs.dim() == 4
        if opened.train.count_batches(1) is None:
            options.setdefault("schedule", "constant")  # others need a length
        found, defaults = default_space(model, options, has_images, opened.batch_size is not None)
    else:
        raise UsageError("space-needed", model=model if isinstance(model, str) else getattr(model, "__name__", "?"))
    shown = model if isinstance(model, str) else getattr(model, "__name__", type(model).__name__)
    source = str(data) if isinstance(data, (str, Path)) else type(data).__name__
    name = given.get("name") or "-".join(["tune", Path(shown.rpartition(":")[2]).stem, Path(source).stem])
    record = {"model": shown, "data": source, "options": options, "space": space_to_json(found), "defaults": defaults}
    plain = json.loads(json.dumps(record, default=lambda value: type(value).__name__))
    return StudyPlan(name, model, data, {**options, "runs": str(given.get("runs", "runs"))}, found, defaults, plain)


def has_defaults(builder: Any, space: Space, options: Mapping[str, Any]) -> bool:
    """Tell whether a model can be built where nothing is chosen.

    Raises ModelError for a choice that a function or a class of the user's has no argument for.
    """
    if isinstance(builder, str):
        return True
    signature = inspect.signature(builder)
    chosen = chosen_options(None, dict.fromkeys(space, 1), options).get("model_arguments", {})
    try:
        signature.bind(**chosen)
    except TypeError as error:
        raise ModelError(
            "constructor-arguments", model=builder.__name__, reason=error, wanted=str(signature)
        ) from error
    with contextlib.suppress(TypeError):
        signature.bind(**options.get("model_arguments", {}))
        return True
    return False


def agree(folder: Path, plan: StudyPlan, jobs: int, cores: list[int]) -> int:
    """Write what a new study searches, or check that a study that goes on searches the same; return the threads of each job.

    A study without runs is new: what it was asked could not be trained. Raises UsageError where another was begun, where runs of
    its names are those of a study that is gone, or where the jobs would have more threads than there are `cores`, by machine.
    """
    path, most = folder / PLAN, sum(cores)
    threads = min(torch.get_num_threads(), threads_each(cores, jobs))
    named = re.compile(re.escape(plan.name) + r"-(\d{3,}|best-\d{3,}-\d+|defaults-\d+)")
    begun = [run.name for run in run_folders(folder.parent) if named.fullmatch(run.name)]
    if begun and not path.exists():
        raise UsageError("study-runs-exist", study=plan.name, run=begun[0], count=len(begun))
    if begun:
        before = files.parse_json(files.read_bytes(path, files.MOST_JSON))
        then, now = flat_record(before), flat_record(plan.record)
        changed = [name for name in {**now, **then} if name[0] in plan.record and then.get(name) != now.get(name)]
        chosen = [name for name in changed if name[0] not in ("space", "defaults")]  # which follow from the others
        if changed:
            pairs = (
                Note("search.differs", name=name[-1], then=told(name, then), now=told(name, now))
                for name in chosen or [name for name in changed if name[0] == "space"] or changed
            )
            raise UsageError("study-differs", study=plan.name, differences=Joined("items", ["", *pairs]))
        threads = int(before["threads"])
    if jobs * threads > max(most, threads):
        raise UsageError("too-many-jobs", jobs=jobs, threads=threads, cores=most, most=max(1, most // threads))
    if not begun:
        files.delete_file(folder / JOURNAL)
        files.write_json(path, {**plan.record, "threads": threads, "rushlight": __version__})
    return threads


def flat_record(record: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """Return a record with the entries of its dicts beside the others, as ("options", "lr")."""
    found: dict[tuple[str, ...], Any] = {}
    for name, entry in record.items():
        found |= {(name, key): value for key, value in entry.items()} if isinstance(entry, dict) else {(name,): entry}
    return found


def told(name: tuple[str, ...], record: Mapping[tuple[str, ...], Any]) -> str:
    """Return an entry of a record as a user would write it."""
    value = record.get(name)
    if value is None:
        return Note("search.not-given")
    if isinstance(value, dict):
        return ", ".join(
            f"{key} {entry[0]}–{entry[1]}" if name[0] == "space" else f"{key}={entry}" for key, entry in value.items()
        )
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# ── the trials ───────────────────────────────────────────────────────────────────────────────────────────────────


def search(
    study: Study, plan: StudyPlan, threads: int, jobs: int, trials: int, hours: float | None, screen: StudyScreen,
    cluster: Any = None,
) -> None:  # fmt: skip
    """Train the trials that the study lacks, on a cluster where there is one: first those that a kill has left."""
    deadline = math.inf if hours is None else time.monotonic() + hours * 3600
    told = {trial.number for trial in study.trials if trial.status != "running"}
    left = [trial for trial in study.trials if trial.status == "running" or lacks_end(plan, trial)]

    def next_job() -> Job | None:
        if left:
            trial = left.pop(0)
        elif len(study.trials) < trials and time.monotonic() < deadline:
            trial = study.ask()
        else:
            return None
        return plan.job(trial.number, f"{trial.number:03}", trial.choices, threads, final_test=False)

    def judge(number: int, epoch: int, figure: Figure) -> bool:
        is_over = study.judge(number, epoch, figure)
        screen.judged(number, epoch, figure.name, figure.value)
        return is_over

    def tell(number: int, failed: str) -> Trial:
        trial, best = study.tell(number, failed), study.best
        if number not in told:
            screen.ended(asdict(trial), study.metric, best is not None and best.number == number)
        told.add(number)
        return trial

    work(jobs, next_job, judge, tell, cluster)


def lacks_end(plan: StudyPlan, trial: Trial) -> bool:
    """Tell whether a kill came between the decision to prune a trial and the end of its run."""
    folder = Path(plan.options["runs"]) / f"{plan.name}-{trial.number:03}"
    return trial.status == "pruned" and is_run(folder) and summarize_run(folder).status not in ENDED
