"""Maps between the residual streams of two models: a direction of one becomes a direction of the other.

    a_l(target) ≈ m_l + W_l (a_k(source) − m_k)       fitted on what both models make of the same texts, without labels
    ridge        W_l minimises Σ ‖a_l − m_l − W_l (a_k − m_k)‖² + λ_l ‖W_l‖²    (λ_l by held-out error: scikit-learn)
    Procrustes   W_l = c_l R_l with R_l orthogonal, and one scale c_l           (Schönemann 1966: scipy)
    a vector     v_l = W_l v_k                          a difference of two residuals: the means drop out

Layer l of the target is paired with the layer k of the source that lies at the same relative depth
(`paired_layers`).

The trap: fit it between the *bases* of the two models, not on the aligned model itself. That one refuses harmful
texts where the target answers them, so a map between the two turns the safety vector into the target's own intent
vector, with a fine held-out error and no effect. The error does not show it, nor what else a map may have missed: look
at the controls, a random vector through the same map, texts in the wrong order (`fit_shuffled_map`), calm texts only.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from workbench.activations import Activations
from workbench.provenance import Provenance, Space, content_hash, foreign, load_tensors, save_tensors
from workbench.vectors import SteeringVectors

Method: TypeAlias = Literal["ridge", "procrustes"]
Matrix: TypeAlias = NDArray[np.float64]

FOLDS = 5
RIDGES = 10.0 ** np.arange(-4, 4)
"""Strengths tried, in units of the mean variance of the source's residual times the number of texts."""


@dataclass(frozen=True, eq=False)
class ResidualMap:
    """From the residual stream of a source model to that of a target, layer by layer of the target.

    `source_layers[l]` is the source's layer that target layer l is predicted from, `weights[l]` the W_l that does so,
    `source_means` and `target_means` what it is centred by. `r2[l]` is the share of the target's variance, over all its
    directions, that a map fitted without them predicts on held-out texts; NaN where the target has no variance.
    """

    weights: Float[Tensor, "layer d_target d_source"]
    source_means: Float[Tensor, "layer d_source"]
    target_means: Float[Tensor, "layer d_target"]
    r2: Float[Tensor, "layer"]
    source_layers: tuple[int, ...]
    method: str
    n_texts: int
    source_space: Space
    target_space: Space
    provenance: Provenance

    def __post_init__(self) -> None:
        depth, wide, narrow = (
            self.target_space.n_layers,
            self.target_space.d_model,
            self.source_space.d_model,
        )
        expected = {
            "weights": (depth, wide, narrow),
            "source_means": (depth, narrow),
            "target_means": (depth, wide),
            "r2": (depth,),
        }
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"{name} has shape {tuple(getattr(self, name).shape)}, expected {shape}")
        if len(self.source_layers) != depth or not set(self.source_layers) <= set(
            range(self.source_space.n_layers)
        ):
            raise ValueError(
                f"got source layers {list(self.source_layers)}, expected one for each of the target's {depth} layers, "
                f"from 0 to {self.source_space.n_layers - 1}"
            )

    @property
    def id(self) -> str:
        """A hash of the numbers that map."""
        return content_hash(self.weights, self.source_means, self.target_means, self.source_layers)

    @property
    def scales(self) -> Float[Tensor, "layer"]:
        """How much a direction is stretched at most; of a Procrustes map the one c_l by which all are."""
        return torch.linalg.matrix_norm(self.weights, 2)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with both spaces and the provenance in its header."""
        tensors = {name: getattr(self, name) for name in ("weights", "source_means", "target_means", "r2")}
        header = {
            "source_layers": list(self.source_layers),
            "method": self.method,
            "n_texts": self.n_texts,
            "source_space": self.source_space.to_json(),
            "target_space": self.target_space.to_json(),
            "provenance": self.provenance.to_json(),
        }
        save_tensors(path, "map", tensors, header)


def load_map(path: str | Path) -> ResidualMap:
    """The map that `save` wrote. Nothing is unpickled."""
    tensors, header = load_tensors(path, "map")
    try:
        return ResidualMap(
            **{name: tensors[name] for name in ("weights", "source_means", "target_means", "r2")},
            source_layers=tuple(header["source_layers"]),
            method=header["method"],
            n_texts=header["n_texts"],
            source_space=Space(**header["source_space"]),
            target_space=Space(**header["target_space"]),
            provenance=Provenance.from_json(header["provenance"]),
        )
    except (KeyError, TypeError) as error:
        raise foreign(path) from error


def paired_layers(source: Space, target: Space) -> tuple[int, ...]:
    """For every layer of the target the layer of the source at the nearest relative depth; halves go up.

    After block l of L a model is (l + 1) / L of its way through, so the last layer is paired with the last, and the
    first with one that is as near to the embedding. `resid_pre` and `resid_mid` lie a block lower: l / L, and the
    embeddings, `resid_pre` of layer 0, are a pair.
    """
    done = 1 if target.site == "resid_post" else 0
    shares = ((layer + done) / target.n_layers for layer in range(target.n_layers))
    nearest = (int(share * source.n_layers + 0.5) - done for share in shares)
    return tuple(min(max(layer, 0), source.n_layers - 1) for layer in nearest)


def fit_map(
    source: Activations, target: Activations, *, method: Method = "ridge", seed: int = 0
) -> ResidualMap:
    """The map from `source` to `target`, fitted on what both made of the same texts, in the same order.

    Labels are not looked at. Ridge takes at every layer the strength of least leave-one-out error; Procrustes an
    orthogonal map and one scale: lengths and angles stay, so it can be fitted on fewer texts, and bends nothing. Models
    of different width get one with orthonormal rows or columns. `seed` draws the folds of the held-out R².

    Raises `ValueError` where the two did not read the same texts, or too few; `SpaceMismatch` where they were read at
    different sites, or one model's weights were processed.
    """
    _require_pairs(source, target)
    return _fit(source, target, np.arange(len(source)), method, seed, note=f"{method} map")


def fit_shuffled_map(
    source: Activations, target: Activations, *, method: Method = "ridge", seed: int = 0
) -> ResidualMap:
    """A control: the same fit on texts put in the wrong order, so that no pair says the same.

    What its vectors do, means, variances and chance would do as well.
    """
    _require_pairs(source, target)
    # One cycle through all of them, in a random order: no text stays with itself.
    cycle = np.random.default_rng(seed).permutation(len(source))
    order = np.empty_like(cycle)
    order[cycle] = np.roll(cycle, 1)
    return _fit(source, target, order, method, seed, note=f"{method} map on shuffled texts, seed {seed}")


def map_vectors(through: ResidualMap, vectors: SteeringVectors, like: SteeringVectors) -> SteeringVectors:
    """`vectors` of the map's source as vectors of its target: directions W_l v_k, with the lengths of `like`.

    `like` is of the target: its own vectors, or those of the aligned model of its base. A map knows how far to go in
    neither, so equal α then means shifts of equal length.

    Raises `SpaceMismatch` for vectors of another model than the map's source, or `like` of another than its target.
    """
    through.source_space.require(vectors.space, "vectors to be mapped")
    through.target_space.require(like.space, "vectors that lend their lengths")
    paired = list(through.source_layers)
    values = einsum(
        through.weights.double(),
        vectors.directions[paired].double(),
        "layer d_target d_source, layer d_source -> layer d_target",
    )
    lengths = values.norm(dim=-1, keepdim=True)
    # What a map shrinks to nothing is rounding, and no direction.
    floor = 1e-6 * through.scales.double()[:, None]
    directions = torch.where(lengths > floor, values / lengths, torch.zeros_like(values)).float()
    note = f"mapped by {through.method} from {vectors.provenance.model or 'another model'}, map {through.id}"
    provenance = replace(
        vectors.provenance, kind="vectors", note=note, parents=(vectors.provenance, through.provenance)
    )
    return replace(
        like, directions=directions, provenance=provenance, centre=_mapped_centre(through, vectors)
    )


def _mapped_centre(through: ResidualMap, vectors: SteeringVectors) -> Tensor | None:
    if vectors.centre is None:
        return None
    moved = vectors.centre[list(through.source_layers)] - through.source_means
    return through.target_means + einsum(
        through.weights, moved, "layer d_target d_source, layer d_source -> layer d_target"
    )


def _require_pairs(source: Activations, target: Activations) -> None:
    if len(source) != len(target):
        raise ValueError(
            f"got activations of {len(source)} texts in the source and {len(target)} in the target, expected the same "
            "texts in the same order: read one list with both models"
        )
    if source.prompts is not None and target.prompts is not None:
        texts = [[prompt.messages for prompt in read.prompts] for read in (source, target) if read.prompts]
        if texts[0] != texts[1]:
            first = next(i for i, (ours, theirs) in enumerate(zip(*texts, strict=True)) if ours != theirs)
            raise ValueError(
                f"source and target read different texts (hashes {source.prompts_hash} and {target.prompts_hash}; the "
                f"first that differs is number {first}): a map needs one list, read by both models in one order"
            )
    distinct = len(source) if source.prompts is None else len({prompt.messages for prompt in source.prompts})
    if distinct < len(source):
        raise ValueError(
            f"got {len(source)} texts of which {distinct} are distinct, expected each once: a text that is held out "
            "may not be among those that the map is fitted on"
        )
    if len(source) < 2 * FOLDS:
        raise ValueError(
            f"got {len(source)} texts, expected at least {2 * FOLDS}, and better several times the models' width "
            f"({source.space.d_model} and {target.space.d_model}): any texts will do, labels are not needed"
        )
    replace(target.space, n_layers=source.space.n_layers, d_model=source.space.d_model,
            template_hash=source.space.template_hash, tokenizer_hash=source.space.tokenizer_hash,
            ).require(source.space, "activations of the source")  # fmt: skip


def _fit(
    source: Activations, target: Activations, order: "NDArray[np.intp]", method: Method, seed: int, note: str
) -> ResidualMap:
    if method not in get_args(Method):
        raise ValueError(f"got method={method!r}, expected one of {', '.join(map(repr, get_args(Method)))}")
    layers = paired_layers(source.space, target.space)
    found: list[tuple[Matrix, Matrix, Matrix, float]] = []
    for layer, paired in enumerate(layers):
        x = source.values[:, paired].double().numpy()[order]
        y = target.values[:, layer].double().numpy()
        found.append((*_weights(x, y, method), _held_out_r2(x, y, method, seed)))
    weights, source_means, target_means, r2 = zip(*found, strict=True)
    provenance = Provenance(
        "map",
        prompts=target.provenance.prompts,
        prompts_hash=target.prompts_hash,
        note=f"{note}, {len(source)} texts",
        parents=(source.provenance, target.provenance),
    )
    stacked = [torch.from_numpy(np.stack(each)).float() for each in (weights, source_means, target_means)]
    return ResidualMap(
        weights=stacked[0],
        source_means=stacked[1],
        target_means=stacked[2],
        r2=torch.tensor(r2),
        source_layers=layers,
        method=method,
        n_texts=len(source),
        source_space=source.space,
        target_space=target.space,
        provenance=provenance,
    )


def _weights(x: Matrix, y: Matrix, method: Method) -> tuple[Matrix, Matrix, Matrix]:
    """W, and the means of both; zero where either side does not vary, as the embedding of one last token does not."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    if not _varies(x, mean_x) or not _varies(y, mean_y):
        return np.zeros((y.shape[1], x.shape[1])), mean_x, mean_y
    return (_ridge if method == "ridge" else _procrustes)(x, y), mean_x, mean_y


def _varies(centred: Matrix, mean: Matrix) -> bool:
    return bool(np.abs(centred).max() > 1e-6 * max(1e-30, np.abs(mean).max()))


def _ridge(x: Matrix, y: Matrix) -> Matrix:
    # Here, because importing scikit-learn takes a second that `import workbench` need not pay.
    from sklearn.linear_model import RidgeCV

    strengths = RIDGES * (x**2).sum() / x.shape[1]
    return np.asarray(RidgeCV(alphas=strengths, fit_intercept=False).fit(x, y).coef_, dtype=np.float64)


def _procrustes(x: Matrix, y: Matrix) -> Matrix:
    from scipy.linalg import orthogonal_procrustes

    # Zeros make both equally wide; what they are turned into is cut off again.
    width = max(x.shape[1], y.shape[1])
    padded = [np.pad(each, ((0, 0), (0, width - each.shape[1]))) for each in (x, y)]
    turn, _ = orthogonal_procrustes(*padded)
    turn = turn[: x.shape[1], : y.shape[1]]
    turned = x @ turn
    return np.asarray((turn * ((turned * y).sum() / (turned**2).sum())).T, dtype=np.float64)


def _held_out_r2(x: Matrix, y: Matrix, method: Method, seed: int) -> float:
    """1 − the squared error over the squared distance from the fitted texts' mean, summed over folds and directions."""
    if not _varies(y - y.mean(0), y.mean(0)):
        return float("nan")
    folds = np.random.default_rng(seed).permutation(len(x)) % FOLDS
    error = distance = 0.0
    for fold in range(FOLDS):
        held = folds == fold
        weights, mean_x, mean_y = _weights(x[~held], y[~held], method)
        error += float(((y[held] - mean_y - (x[held] - mean_x) @ weights.T) ** 2).sum())
        distance += float(((y[held] - mean_y) ** 2).sum())
    return 1 - error / distance
