"""An ordinary LangGraph program with two nodes. It knows nothing of agentopt but the names of its two models."""

from __future__ import annotations

import os
from typing import Any, TypedDict

from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    facts: list[str]
    question: str
    link_question: str
    kind: str
    town: str
    name: str


finder = ChatOpenAI(model=os.environ.get("FINDER", "agentopt/find"))
answerer = ChatOpenAI(model=os.environ.get("ANSWERER", "agentopt/answer"))


def find_town(state: State) -> State:
    """Ask in which town the person lives."""
    people = [fact for fact in state["facts"] if not fact.startswith("The ")]
    reply = finder.invoke("\n".join([*people, state["link_question"]]))
    return {"town": reply.text}


def name_landmark(state: State) -> State:
    """Ask for the name of that town's landmark."""
    kind, town = state["kind"], state["town"]
    facts = [fact for fact in state["facts"] if town in fact and fact.startswith(f"The {kind}")]
    reply = answerer.invoke("\n".join([*facts, f"What is the name of the {kind}?"]))
    return {"name": reply.text}


graph = StateGraph(State)
graph.add_node("find", find_town)
graph.add_node("answer", name_landmark)
graph.add_edge(START, "find")
graph.add_edge("find", "answer")
graph.add_edge("answer", END)
app = graph.compile()


def run(inputs: dict[str, Any]) -> str:
    """Return the name of the landmark in question."""
    return app.invoke(inputs)["name"]
