"""A LangChain chain whose preset is chosen per call, through the ordinary `config`."""

from langchain_core.prompts import ChatPromptTemplate

from steerplug import ChatSteerplug


def main() -> None:
    model = ChatSteerplug(model="smollm2", temperature=0, max_tokens=40)
    chain = ChatPromptTemplate.from_messages([("user", "Tell me about {topic}.")]) | model

    for steering in ("none", "weddings"):
        reply = chain.invoke({"topic": "trains"}, config={"configurable": {"steering": steering}})
        print(f"[{steering}]", reply.text.strip())
        print("  receipt:", reply.response_metadata["steering"], end="\n\n")

    print("[streamed, soothed]", end=" ")
    for chunk in chain.with_config(configurable={"steering": "-0.5*anger-calm"}).stream(
        {"topic": "exams"}
    ):
        print(chunk.text, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
