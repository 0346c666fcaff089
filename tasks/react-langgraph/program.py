"""An ordinary ReAct agent in LangGraph with two tools. Nothing in it knows of agentopt: it calls `gpt-4o-mini`."""

from __future__ import annotations

from typing import Any

from langchain_core.tools import BaseTool, tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

llm = ChatOpenAI(model="gpt-4o-mini")


def tools_for(facts: list[str]) -> list[BaseTool]:
    """The agent's two tools, over the facts of one question."""

    @tool
    def find_town(person: str) -> str:
        """Return the sentence that tells in which town a person lives."""
        return _matching(facts, lambda fact: fact.lower().startswith(f"{person.strip().lower()} lives"))

    @tool
    def list_landmarks(town: str) -> str:
        """Return the sentences on the landmarks of a town."""
        return _matching(facts, lambda fact: fact.startswith("The ") and town.strip().lower() in fact.lower())

    return [find_town, list_landmarks]


def _matching(facts: list[str], matches: Any) -> str:
    return "\n".join(fact for fact in facts if matches(fact)) or "Nothing is known."


def agent_for(facts: list[str]) -> Any:
    """The agent: the model calls tools until it answers."""
    tools = tools_for(facts)
    model = llm.bind_tools(tools)

    def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_node("tools", ToolNode(tools))
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", tools_condition)
    graph.add_edge("tools", "think")
    return graph.compile()


def run(inputs: dict[str, Any]) -> str:
    """Return the name of the landmark in question."""
    question = ("user", f"{inputs['question']} Answer with its name only.")
    final = agent_for(inputs["facts"]).invoke({"messages": [question]}, {"recursion_limit": 12})
    return final["messages"][-1].text.strip(" .\n")
