"""One model, one conversation, another preset for every call: steering belongs to the request."""

from steerplug import Sampling, Session
from steerplug.session import Settings

QUESTION = [{"role": "user", "content": "What should I do on a rainy Sunday?"}]


def main() -> None:
    session = Session("smollm2")
    settings = Settings(sampling=Sampling(temperature=0), max_tokens=40)
    for steering in ("none", "weddings", "0.5*weddings", "weddings + 0.5*anger-calm"):
        reply = session.chat(QUESTION, steering, settings)
        applied = ", ".join(f"{i.strength:g}*{i.name}" for i in reply.receipt.steering) or "nothing"
        print(f"[{steering}]  applied: {applied}; prompt: {reply.usage.prompt_tokens} tokens")
        print(reply.text.strip(), end="\n\n")
    session.close()


if __name__ == "__main__":
    main()
