"""A file to begin with for each kind of reproduction: it runs as it is, on the embedded models."""

from collections.abc import Mapping

from workbench.reproduction.config import Kind

_TABLE1 = """\
# The paper's table: workbench reproduce table1 this-file.toml. It may be stopped and started again at any time; what is
# done is kept. As it stands it runs on the embedded models, on a sample of their prompts, in some minutes.

aligned = "organism:aligned"     # whose vectors steer: organism:NAME, a folder or a hub id
judge   = "small-world"          # who says what a reply did; "phrases" for real models
max_new_tokens = 64              # the paper: 256
seed    = 0                      # of whatever is drawn
# conditions = ["none", "inferaligner", "inferaligner_paper"]    # without it: all that these models allow

[prompts]
pairs  = "small-world"           # a contrast set that ships; or published ones, as below
sample = { harmful = 40, jailbroken = 40, harmless = 20, contrast = 20, domain = 20 }   # of the test; leave out for all
search = { harmful = 16, jailbroken = 16, harmless = 12, contrast = 12, domain = 8 }    # of what choices are made on

[targets.finance]
model        = "organism:finance"
safety_sft   = "organism:finance-safety-sft"   # companions, each a condition: leave out what you have not
from_aligned = "organism:finance-chat"
utility      = "finance"                       # its own task: finance, medicine or maths of the small world
paper        = "finance"                       # whose numbers stand beside it

# The same for LLaMA2 7B, with the published prompt sets below a folder of yours:
#
# aligned = "meta-llama/Llama-2-7b-chat-hf"
# judge   = "phrases"
# max_new_tokens = 256
# dtype   = "bfloat16"
# device_map = "auto"            # spread over the GPUs; batch_size = 32 where memory is short
# template = "llama-2"           # for models that bring no chat template
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
# paper       = "finance"
# paper_alpha = 4.0              # the paper's strength for LLaMA2 and Qwen; 8.0 for InternLM; without it chosen
"""

EXAMPLES: Mapping[Kind, str] = {"table1": _TABLE1}
