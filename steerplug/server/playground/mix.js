// A choice of presets in words: as a mix, and as a snippet to use elsewhere.

/** Return the mix of `[{name, strength, default}]`, such as `0.8*pirate + concise`, or `none`. */
export function formatMix(choices) {
  const [first, ...others] = choices.map((choice) => {
    const size = Math.abs(choice.strength);
    const name = formatName(choice.name);
    return {
      sign: choice.strength < 0 ? "-" : "+",
      text: choice.strength === choice.default ? name : `${size}*${name}`,
    };
  });
  if (!first) return "none";
  return (first.sign === "-" ? "-" : "") + first.text
    + others.map(({ sign, text }) => ` ${sign} ${text}`).join("");
}

/** Quote what a mix would read as a number or as `none`. */
function formatName(name) {
  const plain = /^[a-z][\w./-]*$/i.test(name) && !/^(none|nan|inf(inity)?)$/i.test(name);
  return plain ? name : `"${name.replaceAll('"', '""')}"`;
}

/** Return what clients that only know models call a mix of `model`. */
export const modelName = (model, steering) => (
  steering === "none" ? model : `${model}@${steering}`
);

/** What asks the same question elsewhere; each takes `{origin, model, steering, question, key}`. */
export const snippets = {
  address: ({ origin }) => `${origin}/v1`,

  name: ({ model, steering }) => modelName(model, steering),

  langchain: ({ model, steering, question }) => `\
from steerplug import ChatSteerplug

# model: an alias, or the path of the model's GGUF
model = ChatSteerplug(model=${JSON.stringify(model)}, steering=${JSON.stringify(steering)})
print(model.invoke(${JSON.stringify(question)}).text)
`,

  curl: ({ origin, model, steering, question, key }) => {
    const body = { model, steering, messages: [{ role: "user", content: question }] };
    return `\
curl ${origin}/v1/chat/completions \\
  -H 'Content-Type: application/json' \\
${key ? '  -H "Authorization: Bearer $STEERPLUG_API_KEY" \\\n' : ""}\
  -d ${quoteForShell(JSON.stringify(body, null, 2))}
`;
  },

  yaml: ({ model, steering }) => `\
# steerplug serve --config FILE
model: ${JSON.stringify(model)}  # an alias, or the path of the model's GGUF
steer: ${JSON.stringify(steering)}
`,
};

const quoteForShell = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;
