"""Steering as values: fit one from your own texts, then scale, negate and mix it."""

from steerplug import Preset, Sampling, Session
from steerplug.session import Settings


def main() -> None:
    session = Session("smollm2")
    preset = Preset.from_mapping(
        {
            "schema": "steerplug/preset-v1",
            "name": "sea-mountain",
            "contrast": {
                "positive": ["The waves broke on the beach.", "We sailed out to sea."],
                "negative": ["The snow lay on the peak.", "We climbed the ridge."],
            },
            "fit": {"method": "mean", "layers": "auto"},
        }
    )
    sea = session.build(preset).steering
    print(f"{sea.name}: steers blocks {list(sea.layers)} of {sea.n_layer}")
    assert not sea + -sea
    assert 0.5 * sea + 0.5 * sea == 1 * sea

    settings = Settings(sampling=Sampling(temperature=0), max_tokens=30)
    for strength in (-1.0, 0.0, 1.0):
        reply = session.complete("On our holiday we", strength * sea, settings)
        print(f"{strength:+.0f}  On our holiday we{reply.text}")
    session.close()


if __name__ == "__main__":
    main()
