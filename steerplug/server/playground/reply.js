// One reply on the page: its text as it streams, its tokens shaded, and its numbers.

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function makeLine(tag, text) {
  if (!text) return null;
  const line = document.createElement(tag);
  line.textContent = text;
  return line;
}

/** A reply shown in `section`; `saved` says which prompt tokens steering stands in for. */
export class Reply {
  constructor(section, saved = null) {
    this.section = section;
    this.place = section.querySelector(".text");
    this.saved = saved;
    this.text = "";
    this.top = 0; // the largest `moved` so far; the shading's scale
    this.held = 0; // `moved` of tokens whose text has not come yet (half a character)
    this.tokens = 0;
    this.began = null;
    section.classList.add("streaming");
  }

  /** Show one chunk of the stream. */
  add(chunk) {
    const choice = chunk.choices?.[0];
    const thought = choice?.delta?.reasoning_content;
    if (thought) this.#addThought(thought);
    else if (choice) this.#addToken(choice.delta?.content ?? "", choice.moved ?? 0);
    if (choice?.finish_reason) this.finish = choice.finish_reason;
    if (chunk.usage) this.usage = chunk.usage;
    if (chunk.steering) this.receipt = chunk.steering;
    this.#showFacts();
  }

  #count() {
    this.ended = performance.now();
    this.began ??= this.ended;
    this.tokens += 1;
  }

  /** What a model thinks stands above its answer, and is no part of it. */
  #addThought(text) {
    this.#count();
    if (!this.thought) {
      this.thought = makeLine("em", text);
      this.place.append(this.thought);
    } else this.thought.append(text);
  }

  #addToken(text, moved) {
    this.held = Math.max(this.held, moved);
    if (!text) return;
    this.#count();
    this.text += text;
    const word = text.trimStart(); // the space before a word stays plain
    if (this.held && word) this.place.append(text.slice(0, -word.length), this.#shade(word));
    else this.place.append(text);
    this.held = 0;
  }

  /** The style sheet divides by the scale, so that it may still grow while tokens come. */
  #shade(text) {
    const token = document.createElement("span");
    token.textContent = text;
    token.title = `moved by ${percent(this.held)}`;
    token.style.setProperty("--moved", this.held);
    if (this.held > this.top) {
      this.top = this.held;
      this.section.style.setProperty("--top", this.top);
      this.section.querySelector(".legend").hidden = false;
      this.section.querySelector(".legend .top").textContent = percent(this.top);
    }
    return token;
  }

  /** Say how it went, once nothing more will come; `problem` is a sentence or empty. */
  close(problem = "") {
    this.section.classList.remove("streaming");
    if (this.finish === "length") this.place.append(" …");
    this.#showFacts();
    if (!problem) return;
    this.section.append(makeLine("p", problem));
    this.section.lastChild.className = "problem";
  }

  #showFacts() {
    const spared = makeLine("strong", this.#spared());
    const others = [this.#speed(), this.#prompt(), this.#applied()];
    const lines = [spared, ...others.map((fact) => makeLine("span", fact))];
    this.section.querySelector(".facts").replaceChildren(...lines.filter(Boolean));
  }

  #speed() {
    const n = this.usage?.completion_tokens ?? this.tokens;
    const seconds = (this.ended - this.began) / 1000;
    return n > 1 && seconds > 0
      ? `${n} tokens, ${((n - 1) / seconds).toFixed(1)} tokens/s`
      : n && `${n} token${n === 1 ? "" : "s"}`;
  }

  #prompt() {
    if (!this.usage) return "";
    const cached = this.usage.prompt_tokens_details?.cached_tokens;
    return `prompt of ${this.usage.prompt_tokens} tokens${cached ? `, ${cached} from cache` : ""}`;
  }

  #spared() {
    if (!this.usage || !this.saved?.tokens) return "";
    const { tokens, atLeast } = this.saved;
    const sent = this.usage.prompt_tokens;
    const [least, orMore] = atLeast ? ["at least ", " or more"] : ["", ""];
    return `${least}${tokens} prompt tokens saved: ${sent} instead of ${sent + tokens}${orMore}`;
  }

  #applied() {
    const { tokens_steered: n, mean_moved: mean, prompt_tokens: cost } = this.receipt ?? {};
    const steered = n ? `${n} tokens steered, moved by ${percent(mean)} on average` : "";
    return [steered, cost ? `${cost} tokens of prompt` : ""].filter(Boolean).join("; ");
  }
}
