"""AgentHPO, a baseline of AgentTTS (arXiv 2508.00890): a model proposes from the trials so far, without insights.

It neither begins with the first trials of insight 1 nor writes itself guidelines.
"""

from __future__ import annotations

from agentopt.search.manner import Manner

AGENT_HPO = Manner("agent_hpo", history=True)
