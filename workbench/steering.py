"""What InferAligner does to a model, as values: a plan, and the one addition per layer that it compiles to.

    x_l = x'_l + alpha * g_l * theta_l      for the plan's layers l          (equation 4 of arXiv 2401.11206)

A `SteeringPlan` says what is meant: whose vectors, which gate, where, how strongly. A `GateReading` says what the gate
decided for every row of a batch. `compile_shift` turns both into a `Shift`: the vector alpha * g_l * theta_l of every
row and layer.

The trap: g_l is read from the unsteered prompt. A gate above the first steered layer that is read in a steered pass
sees the shift itself, and opens because it is open; only a plan that decides online asks for that.
"""

import math
import reprlib
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from operator import index
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.activations import last_token_activations
from workbench.chat import require_template
from workbench.gates import Gate, GateReading, ThresholdGate
from workbench.lens_hooks import LensHook, lens_hooks
from workbench.loading import Model
from workbench.models import space_of, tokenizer_of
from workbench.prompts import Prompt, PromptSet
from workbench.provenance import Space, content_hash
from workbench.shifts import Shift
from workbench.vectors import SteeringVectors

Scale: TypeAlias = Literal["raw", "residual", "gap"]
Positions: TypeAlias = Literal["all", "prompt", "reply"]
Deciding: TypeAlias = Literal["clean", "online"]


@dataclass(frozen=True, eq=False)
class SteeringPlan:
    """Whose vectors to add, where, how strongly, and for which prompts: everything but the prompts and the model.

    `vectors`    the safety steering vectors theta, of the aligned model
    `gate`       decides, per prompt, where the plan acts; it may come from another model than the vectors
    `layers`     the steered layers L_G
    `alpha`      strength, in units of `scale`; negative pushes away from refusal
    `scale`      "raw": the shift's length is alpha at every layer, as in the paper; "residual": alpha times the mean
                 norm of the last-token residual in the model that `vectors` come from; "gap": alpha times |v'_l|, the
                 distance between that model's harmful and harmless means
    `positions`  which tokens are shifted: "all", as in the paper; the "prompt"'s; or the "reply"'s, beginning with the
                 first generated token (the prompt's last token, which predicts it, belongs to the prompt)
    `deciding`   what the gate reads: "clean", the unsteered prompt, as in fitting; "online", the prompt in the steered
                 pass itself, where each steered layer reads its own gate just before its own addition and so sees the
                 shifts below it. There the other layers stay closed, and a gate of one shared layer, which may not lie
                 above the first steered one, decides as it does clean. Either holds for the whole reply; the paper
                 leaves it open
    `refusal`    the paper's variant without an aligned model: where the gate is open at any of `layers`, the reply is
                 this text and no vector is added
    """

    vectors: SteeringVectors
    _: KW_ONLY
    gate: Gate
    layers: Sequence[int]
    alpha: float | int
    scale: Scale = "raw"
    positions: Positions = "all"
    deciding: Deciding = "clean"
    refusal: str | None = None

    def __post_init__(self) -> None:
        depth = self.vectors.space.n_layers
        try:
            layers = tuple(sorted({index(layer) for layer in self.layers}))
        except TypeError as error:
            raise ValueError(
                f"got layers={reprlib.repr(self.layers)}, expected a list of whole numbers from 0 to {depth - 1}: "
                "one layer is layers=[3]"
            ) from error
        object.__setattr__(self, "layers", layers)
        outside = [layer for layer in layers if not 0 <= layer < depth]
        if outside or not layers:
            raise ValueError(
                f"got {f'layers {outside}' if outside else 'no layers'}, the vectors' model has layers "
                f"0 to {depth - 1}: choose one or more of these (select_layers does)"
            )
        for name, value, options in (
            ("scale", self.scale, get_args(Scale)),
            ("positions", self.positions, get_args(Positions)),
            ("deciding", self.deciding, get_args(Deciding)),
        ):
            if value not in options:
                raise ValueError(f"got {name}={value!r}, expected one of {', '.join(map(repr, options))}")
        # The strengths too: an alpha that float32 cannot hold would make NaN of 0 * inf in the rows that stay closed.
        try:
            finite = math.isfinite(self.alpha) and bool(self.strengths.isfinite().all())
        except (TypeError, OverflowError, RuntimeError):
            finite = False
        if not finite:
            raise ValueError(
                f"got alpha={reprlib.repr(self.alpha)} with scale={self.scale!r}, expected a finite number that gives "
                "shifts of finite length in float32: alpha=0 leaves the model unsteered"
            )
        if self.gate.space is not None:
            # Of one model, or of two that share a space; the sites may differ.
            of_gate = replace(self.gate.space, site=self.vectors.space.site)
            of_gate.require(self.vectors.space, "the plan's vectors, beside its gate")
        if self.deciding == "online":
            self._require_readable_online()

    @cached_property
    def id(self) -> str:
        """A hash of everything the plan does, the same in every process."""
        return content_hash(
            self.shift,
            self.layers,
            self.vectors.space.site,
            self.gate.id,
            self.positions,
            self.deciding,
            self.refusal,
        )

    @cached_property
    def strengths(self) -> Float[Tensor, "steered"]:
        """The length of the shift at every steered layer, in residual units, signed as `alpha` is."""
        unit = {
            "raw": torch.ones_like(self.vectors.norms),
            "residual": self.vectors.residual_norms,
            "gap": self.vectors.norms,
        }
        return self.alpha * unit[self.scale][list(self.layers)]

    @cached_property
    def shift(self) -> Float[Tensor, "steered d_model"]:
        """The vector alpha * theta_l, in residual units: what an open gate adds at every steered layer."""
        return self.strengths[:, None] * self.vectors.directions[list(self.layers)]

    @cached_property
    def _hashes(self) -> dict[int, str]:
        """A hash of the shift at every steered layer that has one."""
        return {
            layer: content_hash(row) for layer, row in zip(self.layers, self.shift, strict=True) if row.any()
        }

    def effect(self, opened: Bool[Tensor, "layer"]) -> tuple[object, ...] | None:
        """What reaches a row of which the gate decided so: equal for plans that shift alike; None for no shift."""
        here = opened.tolist()
        moved = tuple((layer, name) for layer, name in self._hashes.items() if here[layer])
        return (self.vectors.space.site, self.positions, moved) if moved else None

    @property
    def reads_layer_by_layer(self) -> bool:
        """Whether each steered layer decides for itself, online; otherwise one reading decides for all layers."""
        per_layer = isinstance(self.gate, ThresholdGate) and self.gate.shared_layer is None
        return self.deciding == "online" and per_layer

    @property
    def reads(self) -> tuple[int, ...]:
        """The layers that the plan's decisions rest on."""
        return tuple(self.layers) if self.reads_layer_by_layer else self.gate.reads

    @property
    def reads_before_it_adds(self) -> bool:
        """Whether the pass that is steered can do the reading: no decision waits for a layer above its own shift."""
        here = not self.gate.reads or gate_site(self.gate) == self.vectors.space.site
        return here and (self.reads_layer_by_layer or all(layer <= self.layers[0] for layer in self.reads))

    def with_alpha(self, alpha: float | int) -> "SteeringPlan":
        """The same plan at another strength."""
        return replace(self, alpha=alpha)

    def with_layers(self, layers: Sequence[int]) -> "SteeringPlan":
        """The same plan at other layers."""
        return replace(self, layers=layers)

    def with_gate(self, gate: Gate) -> "SteeringPlan":
        """The same plan behind another gate."""
        return replace(self, gate=gate)

    def read(self, model: Model, prompts: PromptSet | Sequence[Prompt | str]) -> GateReading:
        """Decide: what the plan's gate makes of `prompts`, from one clean pass of the unsteered model.

        Raises `ValueError` for a plan that decides online: there is no such reading.
        """
        require_clean([self])
        require_space(model, [self])
        return self.gate.read(last_token_activations(model, prompts, site=gate_site(self.gate)))

    def fwd_hooks(self, reading: GateReading) -> list[LensHook]:
        """Hooks for TransformerLens: `model.run_with_hooks(ids, fwd_hooks=plan.fwd_hooks(reading), ...)`.

        They shift every position they see, of exactly the rows in `reading`, in that order. The first of them, at the
        bottom of the model, adds nothing: it raises `ValueError` in a model that lacks one of the others' names, which
        a bridge would leave out in silence.

        Raises `ValueError` for a plan that hooks cannot carry out: one that shifts the prompt or the reply only,
        decides online, or answers with a preset refusal; for a reading that another gate made.
        """
        require_clean([self])
        reading.require_gate(self.gate)
        if self.refusal is not None:
            raise ValueError(
                "the plan answers with a preset refusal, which no hook can do: use generate(...)"
            )
        shift = compile_shift(self, reading.open)
        return lens_hooks(shift.site, shift.everywhere())

    def _require_readable_online(self) -> None:
        if self.refusal is not None:
            raise ValueError(
                'got deciding="online" and a preset refusal, for which nothing is added that a gate could see: '
                'give the plan deciding="clean"'
            )
        if not self.reads_before_it_adds:
            raise ValueError(
                f'got deciding="online", steered layers from {self.layers[0]} at {self.vectors.space.site} and a gate '
                f"that reads layer {max(self.gate.reads)} at {gate_site(self.gate)}: take a gate per layer, or one of "
                'a shared layer not above the first steered one, at the steered site; or give the plan deciding="clean"'
            )


def gate_site(gate: Gate) -> str:
    """Where a gate reads; `resid_post` for one that reads nothing."""
    return gate.space.site if gate.space is not None else "resid_post"


def common_site(plans: Sequence[SteeringPlan | None]) -> str:
    """The one site of a batch's plans, those that may do nothing included; `resid_post` where there is no plan."""
    sites = sorted({plan.vectors.space.site for plan in plans if plan is not None})
    if len(sites) > 1:
        raise ValueError(f"got plans for {' and '.join(sites)} in one batch: run one batch per site")
    return sites[0] if sites else "resid_post"


def require_space(model: Model, plans: Sequence[SteeringPlan]) -> None:
    """Refuse plans whose vectors live in another space than the model (`SpaceMismatch`); their gates live in theirs."""
    if plans:
        require_template(tokenizer_of(model))  # or it would pass for one that has another
    # Once per site, because hashing a large vocabulary takes a moment.
    here: dict[str, Space] = {}
    for space in (plan.vectors.space for plan in plans):
        if space.site not in here:
            here[space.site] = space_of(model, space.site)
        here[space.site].require(space, "the plan's vectors")


def require_clean(plans: Sequence[SteeringPlan | None]) -> None:
    """Refuse plans that decide online, where a reading made beforehand is asked for or given."""
    if any(plan is not None and plan.deciding == "online" for plan in plans):
        raise ValueError(
            "a plan that decides online reads its gate in the very pass that it steers, never beforehand: use "
            'generate(...) without a reading, its completions tell the decisions; or give the plan deciding="clean"'
        )


def compile_shift(
    plans: SteeringPlan | Sequence[SteeringPlan | None], opened: Bool[Tensor, "row layer"]
) -> Shift:
    """Compile: the shift of every row, under one plan for all rows or under each row's own.

    `opened` are the decisions (`GateReading.open`), a row's being those of its own plan's gate. Rows whose plan is
    None, or answers with a preset refusal, are not shifted.

    Raises `ValueError` where plans and rows differ in number, the decisions are of a model of another depth, or the
    plans act at different sites.
    """
    each = [plans] * len(opened) if isinstance(plans, SteeringPlan) else list(plans)
    if len(each) != len(opened):
        raise ValueError(
            f"got {len(each)} plans for a reading of {len(opened)} prompts: pass one plan, or one per row"
        )
    site = common_site(each)
    spaces = list({plan.vectors.space: None for plan in each if plan is not None})
    for other in spaces[1:]:
        spaces[0].require(other, "plans of one batch")
    for depth in {space.n_layers for space in spaces}:
        if opened.shape[1] != depth:
            raise ValueError(
                f"got decisions for {opened.shape[1]} layers and a plan for a model of {depth}: "
                "read the gate on the model you steer, plan.read(model, prompts)"
            )
    shifting: dict[SteeringPlan, list[int]] = {}
    for i, plan in enumerate(each):
        if plan is not None and plan.refusal is None:
            shifting.setdefault(plan, []).append(i)
    layers = tuple(sorted({layer for plan in shifting for layer in plan.layers}))
    width = max((plan.vectors.space.d_model for plan in shifting), default=0)
    values = torch.zeros(len(each), len(layers), width)
    on_prompt, on_reply = torch.zeros(len(each), dtype=torch.bool), torch.zeros(len(each), dtype=torch.bool)
    for plan, numbers in shifting.items():
        rows = torch.tensor(numbers)
        columns = torch.tensor([layers.index(layer) for layer in plan.layers])
        values[rows[:, None], columns] = plan.shift
        on_prompt[rows] = plan.positions in ("all", "prompt")
        on_reply[rows] = plan.positions in ("all", "reply")
    return Shift(values, layers, site, on_prompt, on_reply).gated(opened)
