"""Checkpoints that come with code of their own, read into classes that transformers ships, without running it.

InternLM2, InternLM (v1) and Qwen (v1) are on the hub as remote code alone. Their layouts are published, and what they
compute is Llama, Llama with attention biases, and Qwen2: the same numbers under other names, some of them fused.
"""

from workbench.conversion.running import Conversion, convert_checkpoint

__all__ = ["Conversion", "convert_checkpoint"]
