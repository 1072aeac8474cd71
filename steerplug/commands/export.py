"""`steerplug export`: constant steering for llama.cpp or vLLM, or a teacher as a prompt."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerplug.commands.completion import mixes
from steerplug.commands.loading_options import with_loading
from steerplug.commands.open_model import compiled, opened
from steerplug.commands.options import MODEL, Json, Model
from steerplug.commands.output import print_fields, print_json, put, say
from steerplug.commands.show_reply import blocks
from steerplug.engine.loading import Loading
from steerplug.errors import SteeringError, nearest
from steerplug.preset.methods import listed

if TYPE_CHECKING:
    from steerplug.interchange.tokens import Bos
    from steerplug.session import Session
    from steerplug.session.receipt import AppliedPreset

_SLOTS = 16  # what hotwire has unless told

Mix = Annotated[
    str,
    typer.Argument(metavar="MIX", help="A preset, or a mix of them.", autocompletion=mixes),
]
To = Annotated[
    Path | None,
    typer.Option(
        "--to", metavar="FILE", show_default=False,
        help=".gguf: control vector for llama.cpp. .json: spec for EasySteer, its .gguf beside it. "
        ".pt: vectors for hotwire-vllm, a request's .json beside them. With --as: any name; "
        "default: the screen.",
    ),
]  # fmt: skip
As = Annotated[
    str | None,
    typer.Option(
        "--as", metavar="FORM", show_default=False,
        help="Instead of steering, the prompt that a preset replaces: modelfile (for Ollama) or "
        "card (a character card in JSON).",
    ),
]  # fmt: skip


@with_loading
def export(
    mix: Mix,
    to: To = None,
    form: As = None,
    model: Model = MODEL,
    as_json: Json = False,
    *,
    loading: Loading,
) -> None:
    """Write a constant preset for llama.cpp or vLLM, or any preset's prompt for others."""
    if form is not None:
        _export_prompt(mix, form, to, model, as_json)
    elif to is not None:
        _export_steering(mix, to, model, as_json, loading)
    else:
        raise SteeringError(
            "say where the steering goes, `--to FILE.gguf`, or that you want the prompt, "
            "`--as modelfile`."
        )


def _export_prompt(name: str, form: str, to: Path | None, model: str, as_json: bool) -> None:
    from steerplug.interchange.prompts.writing import FORMS, lost
    from steerplug.interchange.writing import new_file
    from steerplug.library.presets import load_preset

    if form not in FORMS:
        cure = nearest(form, FORMS) or f"; use {listed(tuple(FORMS))}."
        raise SteeringError(f"`{form}` is no form of a prompt{cure}")
    preset = load_preset(name)
    text, without = FORMS[form](preset, model), lost(preset, form)
    if to is not None:
        with new_file(to) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    if as_json:
        print_json({"preset": name, "form": form, "path": to and str(to), "text": text,
                    "lost": without})  # fmt: skip
    elif to is None:
        print(text, end="")
        say(f"{without}.")
    else:
        use = f"ollama create {preset.name} -f {to}" if form == "modelfile" else "import it there"
        put(f"{to} says what {name} replaces.\n")
        print_fields(lost=without, use=use)


def _export_steering(mix: str, to: Path, model: str, as_json: bool, loading: Loading) -> None:
    from steerplug.interchange import tokens, writing
    from steerplug.library.recipe import Recipe

    suffix, beside = to.suffix.lower(), None
    if suffix not in writing.SUFFIXES:
        raise SteeringError(
            f"{to} ends in `{suffix}`; write .gguf for llama.cpp, .json for EasySteer or .pt for "
            "hotwire-vllm."
        )
    for ingredient, file in Recipe.read(mix).parts:
        if file.preset is not None:
            writing.check_method(ingredient.reference, file.preset.fit.method)
    with opened(model, loading) as session:
        resolved = compiled(session, mix, model)
        steered, applied = resolved.mix, resolved.ingredients
        vectors, scope = writing.constant_of(steered)
        architecture, bos = session.model.architecture, _bos(session)
        if suffix == ".json":
            form, differs = "easysteer", tokens.easysteer_differs
            beside = writing.write_easysteer(to, steered, mix, architecture, bos)
            there = "" if to.parent == Path() else f"cd {to.parent} && "  # its vectors' too
            use = f"{there}vllm serve MODEL --steering-config {to.name}"
        elif suffix == ".pt":
            form, differs = "hotwire", tokens.hotwire_differs
            beside = writing.write_hotwire(to, steered, session.model.n_layer)
            slots = max(_SLOTS, len(vectors))  # what finds none free is left unsteered, unsaid
            serve = f"HOTWIRE_VECTORS={to} HOTWIRE_SLOTS={slots} vllm serve MODEL"
            use = f"{serve}; what {beside} says belongs into the body of a request"
        else:
            form, differs = "llama.cpp", tokens.llama_cpp_differs
            writing.write_control_vector(to, steered, mix, architecture)
            use = f"llama-server -m MODEL.gguf --control-vector {to}"
    lost = "; ".join(filter(None, [differs(scope, bos), _stays(applied)]))
    if as_json:
        print_json({
            "steering": mix, "model": model, "format": form, "layers": list(vectors),
            "scope": scope, "scale": 1.0, "path": str(to),
            "vectors": str(beside if form == "easysteer" else to),
            "request": str(beside) if form == "hotwire" else None, "lost": lost,
        })  # fmt: skip
        return
    put(f"{to} adds what {mix} adds; its scale 1.0 is the mix as asked for.\n")
    print_fields(steers=blocks(list(vectors)), lost=lost, use=use)


def _bos(session: "Session") -> "Bos":
    from steerplug.interchange.tokens import Bos

    vocab, texts = session.model.vocab, session.model.vocab.adds_bos
    chats = texts
    if session.model.chat_template:
        chats = session.template.prompt([{"role": "user", "content": "Hi"}]).has_bos
    piece = vocab.text([vocab.bos], special=True) if vocab.bos >= 0 else ""
    return Bos(piece, chats, texts)


def _stays(applied: "tuple[AppliedPreset, ...]") -> str:
    """Say what no file of vectors holds."""
    kept = ["the range of strengths", "the checks"]
    if any(ingredient.format for ingredient in applied):
        kept.append("the form of replies")
    if any(ingredient.unsteered or ingredient.steered for ingredient in applied):
        kept.append("what is left unsteered")
    return f"{', '.join(kept[:-1])} and {kept[-1]} stay in the preset"
