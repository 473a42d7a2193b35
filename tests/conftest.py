"""Tiny random checkpoints on disk, of four architectures, with a small tokenizer and a chat template.

They are built once per session from configs; nothing is downloaded. Weights are drawn large enough that
layers matter: with the default initialisation a random model barely moves its residual stream.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import jaxtyping
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from workbench.loading import DEFAULT_BACKEND, Model, load_model
from workbench.prompts import Prompt, PromptSet

huggingface_hub.constants.HF_HUB_OFFLINE = True

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} </s>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
WORDS = (
    "how do i steal hide break forge a the ring lock letter boat bake paint mend read with for my friend "
    "please tell me about plan sure no cannot help what is sentiment of and then it from to"
)
N_LAYERS, D_MODEL, CONTEXT = 4, 32, 64

# `make test-tl4` runs the contract where there are but two.
BACKENDS = ("hooked", "bridge", "plain") if DEFAULT_BACKEND == "hooked" else ("bridge", "plain")
LENSES = BACKENDS[:-1]  # the models that are TransformerLens' own
hooked_only = pytest.mark.skipif(
    "hooked" not in BACKENDS, reason="HookedTransformer is gone in TransformerLens 4"
)


def small_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of the few words above, with BOS written by the template only."""
    special = ["<s>", "</s>", "<system>", "<user>", "<assistant>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([WORDS] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=special[2:],
        model_max_length=CONTEXT,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def small_config(architecture: str) -> AutoConfig:
    vocab_size = len(small_tokenizer()) + 8
    shape = dict(vocab_size=vocab_size, bos_token_id=0, eos_token_id=1, max_position_embeddings=CONTEXT)
    if architecture == "gpt2":
        return GPT2Config(
            n_layer=N_LAYERS, n_embd=D_MODEL, n_head=4, n_positions=CONTEXT, vocab_size=vocab_size,
            bos_token_id=0, eos_token_id=1,
        )  # fmt: skip
    shape |= dict(
        num_hidden_layers=N_LAYERS, hidden_size=D_MODEL, num_attention_heads=4, intermediate_size=48
    )
    if architecture == "neox":
        return GPTNeoXConfig(**shape, use_parallel_residual=True)
    grouped = dict(num_key_value_heads=2, tie_word_embeddings=True)
    return {"llama": LlamaConfig, "qwen2": Qwen2Config}[architecture](**shape, **grouped)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny checkpoints by architecture: llama, qwen2, neox, gpt2.

    The paths contain "llama" and the like on purpose: TransformerLens guesses architectures from names.
    """
    root = tmp_path_factory.mktemp("checkpoints")
    folders = {}
    for seed, architecture in enumerate(("llama", "qwen2", "neox", "gpt2")):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(small_config(architecture))
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                torch.nn.init.normal_(
                    weight, std=0.6 / weight.shape[-1] ** 0.5 if "embed" not in name else 0.5
                )
        folders[architecture] = root / f"tiny-{architecture}"
        model.save_pretrained(folders[architecture])
        small_tokenizer().save_pretrained(folders[architecture])
    return folders


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(cache))
    return cache


def put_on_hub(cache: Path, name: str, folder: Path, ref: str = "main") -> Path:
    """The folder as a download of `name` at `ref` would lie in the cache; gives back its snapshot."""
    repository = cache / f"models--{name.replace('/', '--')}"
    commit = f"{len(list(repository.glob('refs/*'))) + 1:040x}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / ref).write_text(commit)
    return shutil.copytree(folder, repository / "snapshots" / commit)


@pytest.fixture(scope="session", params=[pytest.param("hooked", marks=hooked_only), "bridge", "plain"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each of the three backends."""
    return request.param


@pytest.fixture(scope="session")
def llamas(checkpoints: dict[str, Path]) -> dict[str, Model]:
    """The tiny Llama on every backend."""
    return {name: load_model(checkpoints["llama"], backend=name) for name in BACKENDS}


@pytest.fixture(scope="session")
def model(llamas: dict[str, Model], backend: str) -> Model:
    """The tiny Llama on each backend in turn."""
    return llamas[backend]


def eight_prompts() -> PromptSet:
    """Prompts of mixed lengths, half harmful and half harmless."""
    harmful = (
        "steal a ring",
        "how do i break the lock",
        "forge my letter please tell me about it",
        "hide the boat",
    )
    harmless = (
        "bake",
        "mend a boat for my friend",
        "how do i paint the ring",
        "read the letter and then tell me",
    )
    return PromptSet.from_texts("harmful", harmful, "harmful") + PromptSet.from_texts(
        "harmless", harmless, "harmless"
    )


@pytest.fixture(scope="session")
def prompts() -> PromptSet:
    """Eight prompts of mixed lengths, half harmful and half harmless."""
    return eight_prompts()


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the shape and type checks of the test run, which would come before an error of ours."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def one_prompt() -> Prompt:
    return Prompt.user("steal a ring", label="harmful", source="one")


@pytest.fixture(scope="session")
def babblers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """The babbling tiny Llama (see `parity.py`) on every backend."""
    from parity import save_babbler

    folder = save_babbler(tmp_path_factory.mktemp("babbler") / "babbler")
    return {name: load_model(folder, backend=name) for name in BACKENDS}


@pytest.fixture(scope="session")
def babbler(babblers: dict[str, Model], backend: str) -> Model:
    """The babbling tiny Llama on each backend in turn."""
    return babblers[backend]


@pytest.fixture(scope="session")
def plain(babblers: dict[str, Model]) -> Model:
    """The babbling tiny Llama as the transformers model itself."""
    return babblers["plain"]
