"""A sweep as a file: targets, aligned models, prompts and a grid in TOML, and the sweeps that they come to.

    job = targets × prompt sets, each a sweep over  vectors × gates × biases × layers × positions × strengths

The trap: a misspelt key would be a default in silence, and its sweep the wrong one. A key that is not known is refused.
"""

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import pandas as pd

from workbench.activations import Activations, last_token_activations
from workbench.gates import AlwaysOpen, Gate, ThresholdGate
from workbench.loading import load_model
from workbench.profiles import layer_profile, select_layers
from workbench.prompts import PromptSet, load_prompts
from workbench.published import load_contrast
from workbench.steering import Positions, Scale, SteeringPlan
from workbench.sweep.choosing import MIN_AUROC, choose_gate
from workbench.sweep.executors import Executor
from workbench.sweep.layers import LayerSet, LayerSets, layer_sets
from workbench.sweep.results import SweepResult
from workbench.sweep.running import run_sweep
from workbench.sweep.spec import SweepSpec
from workbench.vectors import SteeringVectors, mean_difference

GateMode = Literal["shared", "per layer", "none"]
OWN_VECTORS = "own"
"""Among the aligned models: the target's own vectors."""

EXAMPLE = """\
# A sweep: workbench sweep this-file.toml. It may be stopped and started again at any time; what is done is kept.

target  = "organism:finance"     # the model to make safe; or a list of them: organism:NAME, a folder, a hub id
aligned = "organism:aligned"     # whose vectors are tried; or a list; "own" is the target's own. All are brought to
                                 # the lengths of the first aligned model's, so that equal alpha is equal length
prompts = "small-world"          # a contrast set that ships, or a folder of train.jsonl and val.jsonl; or a list
domain  = "finance"              # the prompts of that domain, too; leave it out for none
sample  = { harmful = 16, jailbroken = 16, harmless = 16, contrast = 8 }   # of val; a number; or leave it out for all
seed    = 0                      # of the sample, and of the prompts that make vectors
placebo = 10                     # random directions of equal length, dealt to the prompts
max_new_tokens = 64

[grid]
alpha     = [0.25, 0.5, 0.75, 1.0]   # or by scale: { gap = [0.5, 1.0], raw = [4, 8] }
scale     = "gap"                    # "raw", "residual" or "gap": what alpha counts
layers    = "windows"                # "single", "windows", "from-bottom", "from-top", "subsets"; or [[3, 4], [5, 6]]
width     = 3                        # of windows
# over    = [2, 3, 4, 5]             # the layers that sets are made of; without it those that tell harm in both models
positions = ["prompt"]               # "all", "prompt", "reply"
gate      = ["shared"]               # "shared" (one layer decides), "per layer", "none"
# gate_layer = 7                     # of "shared"; without it chosen on val
bias      = [0.0]                    # laxer above 0, stricter below, in units of the gate's projection
# extraction = [16, 64, 128]         # prompts of each kind that make the vectors; without it all of train
"""


@dataclass(frozen=True)
class Grid:
    """What is tried, as the file says it. None is what the sweep finds for itself."""

    alpha: Sequence[float | int] | Mapping[Scale, Sequence[float | int]]
    scale: Scale = "gap"
    layers: LayerSets | Sequence[Sequence[int]] = "windows"
    width: int = 3
    over: Sequence[int] | None = None
    positions: Sequence[Positions] = ("prompt",)
    gate: Sequence[GateMode] = ("shared",)
    gate_layer: int | None = None
    bias: Sequence[float | int] = (0.0,)
    extraction: Sequence[int] | None = None


@dataclass(frozen=True)
class Job:
    """A sweep as its file says it; see `EXAMPLE`."""

    target: tuple[str, ...]
    aligned: tuple[str, ...]
    prompts: tuple[str, ...]
    grid: Grid
    domain: str | None = None
    sample: int | Mapping[str, int] | None = None
    seed: int = 0
    placebo: int = 10
    max_new_tokens: int = 64


@dataclass(frozen=True, eq=False)
class JobResult:
    """The sweeps of a job, by target and prompt set."""

    job: Job
    sweeps: Mapping[tuple[str, str], SweepResult] = field(default_factory=dict)

    @property
    def frame(self) -> pd.DataFrame:
        """Every judged reply, with the columns `target` and `prompts`."""
        return self._joined({key: sweep.frame for key, sweep in self.sweeps.items()})

    def summary(self) -> pd.DataFrame:
        """`SweepResult.summary` of every sweep."""
        return self._joined({key: sweep.summary() for key, sweep in self.sweeps.items()})

    @staticmethod
    def _joined(frames: Mapping[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
        named = [frame.assign(target=target, prompts=name) for (target, name), frame in frames.items()]
        return pd.concat(named, ignore_index=True)


Executors: TypeAlias = Callable[[str], AbstractContextManager[Executor | None]]
"""Makes, for a target's name, the executor that computes its batches; None is this process."""


def read_job(path: str | Path) -> Job:
    """The job in a TOML file.

    Raises `ValueError` for a file that is no TOML, for keys that are not known or missing, and for values of another
    kind; `FileNotFoundError` where there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: write one, workbench sweep --example > {path}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML ({error}): compare it with workbench sweep --example") from error
    grid = content.pop("grid", None)
    if not isinstance(grid, dict):
        raise ValueError(
            f"{path} has no table [grid], which says what is tried: compare it with workbench sweep --example"
        )
    _require_keys(path, "", content, Job, but="grid")
    _require_keys(path, " in [grid]", grid, Grid)
    several = {name: _listed(path, name, content[name]) for name in ("target", "aligned", "prompts")}
    job = Job(**{**content, **several, "grid": Grid(**{**grid, **_words(path, grid)})})
    _require_kinds(path, job)
    return job


def run_job(
    job: Job,
    *,
    ledger: str | Path | None = None,
    keep_text: bool = True,
    executors: Executors | None = None,
    progress: bool = False,
) -> JobResult:
    """Run every sweep of a job, on validation prompts; with a ledger the same call goes on where it stopped."""
    sweeps = {}
    for target in job.target:
        for name in job.prompts:
            spec, prompts, model = _prepare(job, target, name, progress)
            with executors(target) if executors else nullcontext() as executor:
                sweeps[target, name] = run_sweep(
                    model, prompts, spec, ledger=ledger, keep_text=keep_text, executor=executor,
                    max_new_tokens=job.max_new_tokens, progress=progress,
                )  # fmt: skip
    return JobResult(job, sweeps)


def _prepare(job: Job, target: str, name: str, progress: bool) -> tuple[SweepSpec, PromptSet, Any]:
    """The spec of one sweep, the prompts that it asks and the target: reads all models of the pair."""
    grid, (extraction, validation) = job.grid, _parts(name, job.domain)
    model = load_model(target, backend="plain")

    def read(one: Any, part: PromptSet) -> Activations:
        return last_token_activations(one, part, progress=progress)

    train, val = read(model, extraction), read(model, validation)
    srv = mean_difference(train)
    vectors: dict[str, SteeringVectors] = {}
    profiles = [layer_profile(srv, val)]
    for source in job.aligned:
        if source == OWN_VECTORS:
            made = train
        else:
            aligned = load_model(source, backend="plain")
            made = read(aligned, extraction)
            profiles.append(layer_profile(mean_difference(made), read(aligned, validation)))
        vectors |= dict(_by_size(source, made, grid.extraction, job.seed))
    over = tuple(grid.over) if grid.over is not None else select_layers(*profiles, min_auroc=MIN_AUROC)
    gates: dict[str, Gate] = {mode: _gate(mode, srv, train, val, grid.gate_layer) for mode in grid.gate}
    # Whose lengths count must not hang on the order of a list: an aligned model's, if there is one.
    lengths = next((v for name, v in vectors.items() if not name.startswith(OWN_VECTORS)), None)
    first = lengths or next(iter(vectors.values()))
    plan = SteeringPlan(first, gate=next(iter(gates.values())), layers=over, alpha=0.0, scale=grid.scale)
    spec = SweepSpec(
        plan, grid.alpha, _places(grid, over), grid.positions, job.placebo, gates=gates, bias=grid.bias,
        vectors=vectors,
    )  # fmt: skip
    asked = _sampled(validation, job.sample, job.seed)
    if not any(prompt.harmful for prompt in asked):
        raise ValueError(
            f"got a sample of {name} without harmful or jailbroken prompts ({', '.join(dict.fromkeys(asked.labels))}): "
            "a sweep looks for what makes a model refuse some"
        )
    return spec, asked, model


def _parts(name: str, domain: str | None) -> tuple[PromptSet, PromptSet]:
    """The prompts that make vectors, and those that are asked."""
    folder = Path(name)
    if not folder.is_dir():
        pairs = load_contrast(name, domain=domain)
        return pairs.train, pairs.val
    train, val = (folder / f"{part}.jsonl" for part in ("train", "val"))
    if missing := [path.name for path in (train, val) if not path.is_file()]:
        raise FileNotFoundError(
            f"{folder} lacks {' and '.join(missing)}: write them with PromptSet.save(...), one prompt a line"
        )
    return load_prompts(train, f"{folder.name}.train"), load_prompts(val, f"{folder.name}.val")


def _by_size(
    source: str, made: Activations, sizes: Sequence[int] | None, seed: int
) -> Iterator[tuple[str, SteeringVectors]]:
    """The vectors of a source, from all of its prompts, or from so many of each kind."""
    if sizes is None:
        yield source, mean_difference(made)
        return
    for size in sizes:
        yield f"{source}, {size} of each", mean_difference(made.balanced(size, seed=seed))


def _gate(
    mode: GateMode, srv: SteeringVectors, train: Activations, val: Activations, layer: int | None
) -> Gate:
    if mode == "none":
        return AlwaysOpen()
    if mode == "per layer":
        return ThresholdGate.fit(srv, train)
    return choose_gate(srv, train, val) if layer is None else ThresholdGate.fit(srv, train, layer=layer)


def _places(grid: Grid, over: Sequence[int]) -> Sequence[LayerSet]:
    if isinstance(grid.layers, str):
        return layer_sets(grid.layers, over, width=grid.width)
    return [tuple(places) for places in grid.layers]


def _sampled(prompts: PromptSet, sample: int | Mapping[str, int] | None, seed: int) -> PromptSet:
    if sample is None:
        return prompts
    if not isinstance(sample, Mapping):
        return prompts.sample(sample, seed=seed)
    parts = [prompts.labelled(label).sample(n, seed=seed) for label, n in sample.items() if n]
    return PromptSet(prompts.name, tuple(prompt for part in parts for prompt in part))


def _require_keys(path: Path, where: str, found: Mapping[str, Any], noun: type, *, but: str = "") -> None:
    known = {f.name: f for f in fields(noun) if f.name != but}
    if unknown := sorted(set(found) - set(known)):
        raise ValueError(f"{path}: got {', '.join(unknown)}{where}, expected some of {', '.join(known)}")
    required = [name for name in ("target", "aligned", "prompts", "alpha") if name in known]
    if missing := [name for name in required if name not in found]:
        raise ValueError(
            f"{path} does not say {', '.join(missing)}{where}: compare it with workbench sweep --example"
        )


def _require_kinds(path: Path, job: Job) -> None:
    """Refuse values of another kind before any model is loaded."""

    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def number(value: Any) -> bool:
        return whole(value) or isinstance(value, float)

    def several(value: Any, one: Callable[[Any], bool]) -> bool:
        return isinstance(value, list | tuple) and all(map(one, value))

    def table(value: Any, one: Callable[[Any], bool]) -> bool:
        return isinstance(value, dict) and bool(value) and all(map(one, value.values()))

    grid, sets = job.grid, get_args(LayerSets)
    for name, value, right, expected in (
        ("domain", job.domain, job.domain is None or isinstance(job.domain, str), "a name in quotes"),
        ("sample", job.sample, job.sample is None or whole(job.sample) or table(job.sample, whole),
         "a whole number, or a table of them by label, { harmful = 16 }"),
        ("seed", job.seed, whole(job.seed), "a whole number"),
        ("placebo", job.placebo, whole(job.placebo), "a whole number"),
        ("max_new_tokens", job.max_new_tokens, whole(job.max_new_tokens) and job.max_new_tokens > 0,
         "a whole number, 1 or more"),
        ("alpha", grid.alpha, several(grid.alpha, number) or table(grid.alpha, lambda a: several(a, number)),
         "a list of numbers, or lists by scale, { raw = [4] }"),
        ("scale", grid.scale, grid.scale in get_args(Scale), f"one of {', '.join(get_args(Scale))}"),
        ("layers", grid.layers, grid.layers in sets if isinstance(grid.layers, str)
         else several(grid.layers, lambda s: several(s, whole)),
         f"one of {', '.join(sets)}, or a list of lists: one set is [[3, 4]]"),
        ("width", grid.width, whole(grid.width), "a whole number"),
        ("over", grid.over, grid.over is None or several(grid.over, whole), "a list of whole numbers"),
        ("gate_layer", grid.gate_layer, grid.gate_layer is None or whole(grid.gate_layer), "a whole number"),
        ("bias", grid.bias, several(grid.bias, number), "a list of numbers"),
        ("extraction", grid.extraction,
         grid.extraction is None or (bool(grid.extraction) and several(grid.extraction, whole)),
         "a list of whole numbers"),
    ):  # fmt: skip
        if not right:
            raise ValueError(f"{path}: got {name} = {value!r}, expected {expected}")
    for name in job.prompts:
        if job.domain is not None and Path(name).is_dir():
            raise ValueError(
                f"{path}: got domain = {job.domain!r} beside the folder {name}, which has prompts of its own: leave "
                "domain out, and put its prompts there"
            )


def _listed(path: Path, name: str, value: Any) -> tuple[str, ...]:
    several = (value,) if isinstance(value, str) else value
    if not isinstance(several, list | tuple) or not several or not all(isinstance(v, str) for v in several):
        raise ValueError(f"{path}: got {name} = {value!r}, expected a name in quotes, or a list of them")
    return tuple(several)


def _words(path: Path, grid: Mapping[str, Any]) -> dict[str, Any]:
    """The grid's lists of words: one word stands for a list of one, and a word that is not known is refused."""
    found = {}
    for name, options in (("positions", get_args(Positions)), ("gate", get_args(GateMode))):
        if name in grid:
            found[name] = _listed(path, name, grid[name])
            if unknown := sorted(set(found[name]) - set(options)):
                raise ValueError(
                    f"{path}: got {name} = {', '.join(unknown)} in [grid], expected some of {', '.join(options)}"
                )
    return found
