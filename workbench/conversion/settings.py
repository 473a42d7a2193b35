"""A config.json of which every setting is asked for, or known to say nothing of a forward pass.

The trap: a setting that is dropped in silence is a model that answers almost right. What nobody asked for is refused by
name.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_NEEDED = object()

# Of transformers' own base class and of generation: where a config came from, what a head for classification is called,
# and how a text is sampled. The workbench decodes greedily by itself.
INERT = frozenset(
    "_attn_implementation _attn_implementation_autoset _name_or_path architectures attn_implementation auto_map "
    "bad_words_ids begin_suppress_tokens decoder_start_token_id diversity_penalty do_sample dtype early_stopping "
    "encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task forced_bos_token_id "
    "forced_eos_token_id id2label label2id length_penalty max_length min_length model_type no_repeat_ngram_size "
    "num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states output_scores prefix "
    "problem_type remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id "
    "suppress_tokens task_specific_params temperature tf_legacy_loss tokenizer_class tokenizer_type top_k top_p "
    "torch_dtype torchscript transformers_version typical_p use_bfloat16".split()
)

# Of the base class too, and here as long as they are left alone.
UNTOUCHED: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "chunk_size_feed_forward": (0,),
    "cross_attention_hidden_size": (None,),
    "is_decoder": (False, True),
    "is_encoder_decoder": (False,),
    "pretraining_tp": (1, None),
    "pruned_heads": ({}, None),
    "tie_encoder_decoder": (False,),
}


class Settings:
    """The settings of a checkpoint's config.json, each to be asked for."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.resolve().name
        path = folder / "config.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"no config.json in {folder}: expected the folder of a checkpoint, downloaded whole"
            )
        try:
            self._given = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged ({error}): restore it from a copy, or download it again"
            ) from error
        if not isinstance(self._given, dict):
            raise ValueError(f"{path} holds no settings: restore it from a copy, or download it again")
        self._asked = set(INERT)

    @property
    def architecture(self) -> str:
        """The class of the model, as config.json names it."""
        named = self._given.get("architectures")
        return str(named[0]) if isinstance(named, list) and named else str(self._given.get("model_type"))

    @property
    def dtype(self) -> str | None:
        """What the weights are stored as, if config.json tells."""
        told = self._given.get("torch_dtype") or self._given.get("dtype")
        return None if told is None else str(told)

    def value(self, name: str, kind: type | tuple[type, ...], default: Any = _NEEDED) -> Any:
        """A setting, or the `default` that the checkpoint's own code takes where config.json is silent."""
        self._asked.add(name)
        found = self._given.get(name, default)
        if found is _NEEDED:
            raise self._refusal(f"has no {name}", "restore it from a copy, or download it again")
        # bool is an int to Python, and a width of True is none.
        if found is not default and (
            not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool)
        ):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            told = " or ".join(one.__name__ for one in kinds if one is not type(None))
            raise self._refusal(f"has {name} = {found!r}, expected {told}", "mend it there")
        return found

    def require(self, name: str, allowed: Sequence[Any], because: str) -> None:
        """Refuse a setting of any other value than those `allowed`; it may be missing."""
        self._asked.add(name)
        if name in self._given and self._given[name] not in allowed:
            raise self._refusal(
                f"has {name} = {self._given[name]!r}, expected {' or '.join(map(repr, allowed))}", because
            )

    def pass_over(self, *names: str) -> None:
        """Settings that are known, and change nothing that a forward pass computes."""
        self._asked.update(names)

    def refuse_the_rest(self) -> None:
        """Refuse, by name, every setting that has not been asked for."""
        for name, allowed in UNTOUCHED.items():
            self.require(name, allowed, "a conversion has no place for it")
        if unknown := sorted(set(self._given) - self._asked):
            raise self._refusal(
                f"has settings that the conversion does not know: {', '.join(unknown)}",
                "it could only drop them, so it stops; a checkpoint that is quantized, or of an older layout, has to "
                "be had in the published one",
            )

    def _refusal(self, found: str, remedy: str) -> ValueError:
        return ValueError(f"{self.name}: config.json {found}: {remedy}")
