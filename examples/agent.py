"""An agent whose steering follows its steps: planning bare, tool calls unsteered, answer styled."""

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware

from steerplug import ChatSteerplug
from steerplug.langchain.middleware import SteeringMiddleware, after_tool, by_step

STYLE = "no-assistant-fluff + formal"


def look_up_train(city: str) -> str:
    """Look up when the next train leaves for a city.

    Args:
        city: where the train goes, such as Paris.
    """
    return f"The next train to {city} leaves at 9:40 from platform 2."


class FirstCallATool(AgentMiddleware):
    """A model this small is told when to call a tool and when to answer."""

    def wrap_model_call(self, request, handler):
        """Force a call, and after its result forbid another."""
        choice = "none" if request.messages[-1].type == "tool" else "look_up_train"
        return handler(request.override(tool_choice=choice))


def main() -> None:
    agent = create_agent(
        ChatSteerplug(model="smollm2", temperature=0, max_tokens=48),
        [look_up_train],
        middleware=[
            FirstCallATool(),
            SteeringMiddleware(after_tool({"look_up_train": STYLE}), by_step("none")),
        ],
    )
    state = agent.invoke({"messages": [("user", "When does the next train to Oslo leave?")]})
    for message in state["messages"]:
        said = message.text or [f"{call['name']}({call['args']})" for call in message.tool_calls]
        print(f"[{message.type}]", said)
        if receipt := message.response_metadata.get("steering"):
            names = [f"{one['strength']:g}*{one['name']}" for one in receipt["steering"]]
            print("    steering:", " + ".join(names) or "none")
    print("chosen by step:", state["steering_steps"])


if __name__ == "__main__":
    main()
