"""LLM_ZS, a baseline of AgentTTS (arXiv 2508.00890): a model proposes from the task's description alone, every time.

It sees neither scores nor what was tried; each batch is another draw of its answer.
"""

from __future__ import annotations

from agentopt.search.manner import Manner

LLM_ZERO_SHOT = Manner("llm_zero_shot")
