"""A LangGraph graph whose nodes speak with different presets, chosen by config and by the node."""

from typing import TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph

from steerplug import ChatSteerplug

model = ChatSteerplug(model="smollm2", temperature=0, max_tokens=40)


class State(TypedDict):
    """What goes through the graph."""

    question: str
    draft: str
    answer: str


def draft(state: State) -> dict[str, str]:
    """Answer bare, whatever the run's config says: a call's own argument wins."""
    return {"draft": model.invoke(state["question"], steering="none").text}


def answer(state: State, config: RunnableConfig) -> dict[str, str]:
    """Answer as the run's config says; it reaches the model by itself."""
    reply = model.invoke(state["question"])
    assert len(reply.response_metadata["steering"]["steering"]) == 1
    return {"answer": f"[{config['configurable']['steering']}] {reply.text}"}


def main() -> None:
    graph = StateGraph(State)
    graph.add_node("draft", draft)
    graph.add_node("answer", answer)
    graph.add_edge(START, "draft")
    graph.add_edge("draft", "answer")
    graph.add_edge("answer", END)
    app = graph.compile()
    for preset in ("pirate", "formal"):
        config = RunnableConfig(configurable={"steering": preset})
        state = app.invoke({"question": "What is rain?", "draft": "", "answer": ""}, config)
        print("[none]", state["draft"].strip())
        print(state["answer"], end="\n\n")


if __name__ == "__main__":
    main()
