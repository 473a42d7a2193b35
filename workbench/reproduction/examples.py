"""A file to begin with for each kind of reproduction: it runs as it is, on the embedded models.

The trap: what ships is small, and runs at once. The paper's own models and prompts stand below it as comments.
"""

from collections.abc import Mapping

from workbench.reproduction.config import Kind

_SAMPLED = """\
[prompts]
pairs  = "small-world"
sample = { harmful = 24, jailbroken = 24, harmless = 12, contrast = 12, domain = 12 }
search = { harmful = 12, jailbroken = 14, harmless = 8, contrast = 8, domain = 8 }
"""
"""A sample of the small world's prompts, which takes some minutes."""

_TABLE1 = """\
# The paper's table: workbench reproduce table1 this-file.toml. It may be stopped and started again at any time; what is
# done is kept. As it stands it runs on the embedded models, on a sample of their prompts, in some minutes.

aligned = "organism:aligned"     # whose vectors steer: organism:NAME, a folder or a hub id
judge   = "small-world"          # who says what a reply did; "phrases" for real models
max_new_tokens = 64              # the paper: 256
seed    = 0                      # of whatever is drawn
# conditions = ["none", "inferaligner", "guided"]    # without it: all that these models allow, but for "guided"
#                                # (decoding in which a reward reads every candidate: some twenty times as slow)

[prompts]
pairs  = "small-world"           # a contrast set that ships; or published ones, as below
sample = { harmful = 24, jailbroken = 24, harmless = 12, contrast = 12, domain = 12 }   # of the test; all without it
search = { harmful = 12, jailbroken = 14, harmless = 8, contrast = 8, domain = 8 }      # of what choices rest on

[targets.finance]
model        = "organism:finance"
safety_sft   = "organism:finance-safety-sft"   # companions, each a condition: leave out what you have not
dpo          = "organism:finance-dpo"
from_aligned = "organism:finance-chat"
utility      = "finance"                       # its own task: finance, medicine or maths of the small world
paper        = "finance"                       # whose numbers stand beside it

# The same for LLaMA2 7B, with the published prompt sets below a folder of yours:
#
# aligned = "meta-llama/Llama-2-7b-chat-hf"
# judge   = "phrases"            # or a table at the end: [judge] name = "hf:FOLDER", template = "FILE"
# max_new_tokens = 256
# dtype   = "bfloat16"
# device_map = "auto"            # spread over the GPUs; batch_size = 32 where memory is short
# template = "llama-2"           # for models that bring no chat template
#
# min_auroc = 0.95               # how well both models tell harmful from harmless where they are steered; the embedded
#                                # ones, which know the words of a small world alone, reach some 0.88 on AdvBench
#
# [prompts]
# harmful   = "advbench"         # workbench data list tells the names, and where each is published
# harmless  = "truthfulqa"
# templates = "gptfuzz"          # jailbreaks: a published set, a file, or "small-world"
# root      = "data"             # the folder that has them; or hub = true
# n_train   = 64                 # of each kind, to extract from; the others, 456 of AdvBench, are the test
# folds     = 8                  # choices are made by cross-fitting within these
# n_templates = 10
# n_jailbroken = 50              # 10 x 50 jailbroken requests
#
# [targets.finance]
# model       = "path/to/your/finance-model"
# utility     = "fiqa-sa=data"   # a published task and where it lies; or "mine=FILE.jsonl:FORM"
# paper       = "finance"
# paper_alpha = 4.0              # the paper's strength for LLaMA2 and Qwen; 8.0 for InternLM; without it chosen
"""

_SCALE = (
    """\
# Sizes of models: workbench reproduce scale this-file.toml. Each target has an aligned model of its own depth and
# width. The paper's: LLaMA2 13B beside 7B. As it stands it runs on the embedded models, two of different shape.

judge   = "small-world"
max_new_tokens = 64
seed    = 0

"""
    + _SAMPLED
    + """\

[targets.eight-layers]
model   = "organism:medicine"
aligned = "organism:aligned"
utility = "medicine"
paper   = "llama2-13b-medicine"    # whose numbers stand beside it: llama2-13b-, qwen-7b- or internlm-7b-DOMAIN

[targets.six-layers]
model   = "organism:qwen-medicine"
aligned = "organism:qwen-aligned"
utility = "medicine"
"""
)

_ADAPTABILITY = (
    """\
# Families of models: workbench reproduce adaptability this-file.toml. Each target is steered by the chat model of its
# own family. The paper's: Qwen-7B and InternLM-7B. As it stands it runs on the embedded Qwen2.

judge   = "small-world"
max_new_tokens = 64
seed    = 0

"""
    + _SAMPLED
    + """\

[targets.qwen]
model   = "organism:qwen-medicine"
aligned = "organism:qwen-aligned"
utility = "medicine"
paper   = "qwen-7b-medicine"       # or internlm-7b-medicine, with paper_alpha = 8.0
"""
)

_ABLATION = (
    """\
# Whose vectors: workbench reproduce ablation this-file.toml. The target's own vector and the aligned model's, each
# added and, on the embedded models alone, subtracted: that raises harm.

aligned = "organism:aligned"
judge   = "small-world"
max_new_tokens = 64
seed    = 0

"""
    + _SAMPLED
    + """\

[targets.finance]
model   = "organism:finance"
utility = "finance"
"""
)

_COST = """\
# What steering costs: workbench reproduce cost this-file.toml. Seconds per 1,000 tokens of every condition, which take
# turns on the same prompts. Run it on a machine that does nothing else; nothing of it is resumed.

aligned = "organism:aligned"
judge   = "small-world"            # of no use here: nothing is judged
max_new_tokens = 64
rounds  = 5                        # after one that is not counted
batch_size = 64
seed    = 0

[prompts]
pairs  = "small-world"
sample = { harmful = 32, harmless = 32 }

[targets.finance]
model   = "organism:finance"
# paper = "llava-1.5-7b"           # the paper's seconds are of LLaVA-1.5, 7B and 13B
"""

_MM = """\
# Harmful questions about pictures: workbench reproduce mm this-file.toml. The target sees, and is steered by vectors of
# a model that reads text alone; gate and strength are chosen on prompts in words. As it stands it runs on the embedded
# models, on a sample of requests whose harm is for the most part in words and picture together, in some minutes.

aligned = "organism:aligned"     # whose vectors steer; the target's text part has its depth and width
judge   = "small-world"          # "phrases" for real models; the paper's GPT-4V saw the pictures
max_new_tokens = 72              # the paper: 256
timed   = 8                      # questions that conditions take turns on, for their seconds; leave it out for none
rounds  = 3                      # after one that is not counted
seed    = 0

[prompts]
pairs  = "small-world"           # in words: what vectors are made of, and choices are made on
search = { harmful = 12, jailbroken = 14, harmless = 8, contrast = 8 }
bench  = "pictured"              # with pictures: what is asked in the end; or as below, or a file of prompts
sample = { harmful = 24, jailbroken = 24 }   # so many of its questions; all without it

[targets.llava]
model = "organism:llava"
# paper = "llava-1.5-7b"         # whose numbers would stand beside it

# The same for LLaVA-1.5 7B on MM-Harmful Bench. Fetch the bench (workbench data show mm-harmfulbench), AdvBench and
# TruthfulQA into one folder:
#
# aligned = "meta-llama/Llama-2-7b-chat-hf"
# judge   = "phrases"            # or a table at the end: [judge] name = "llm:MODEL"
# max_new_tokens = 256
# dtype   = "bfloat16"
# device_map = "auto"            # spread over the GPUs; batch_size = 16 where memory is short
# template = "vicuna"            # one chat format for both models, the one that LLaVA-1.5 was trained on
#
# [prompts]
# harmful  = "advbench"
# harmless = "truthfulqa"
# n_train  = 64                  # of each kind, to extract from; choices are made by cross-fitting within these
# folds    = 8
# bench    = "mm-harmfulbench"   # also "mm-safetybench"
# root     = "data"              # the folder that has them
#
# [targets.llava]
# model       = "llava-hf/llava-1.5-7b-hf"
# paper       = "llava-1.5-7b"   # or llava-1.5-13b
# paper_alpha = 4.0              # the paper's strength for LLaMA2; without it chosen
"""

EXAMPLES: Mapping[Kind, str] = {
    "table1": _TABLE1,
    "scale": _SCALE,
    "adaptability": _ADAPTABILITY,
    "ablation": _ABLATION,
    "cost": _COST,
    "mm": _MM,
}
