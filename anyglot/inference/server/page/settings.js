// How replies are written. What is left empty is left to the server.

const NUMBERS = ["temperature", "top_p", "guidance", "max_tokens", "seed"];

export class Settings {
  /** @param {HTMLFormElement} form with a field of each name in NUMBERS and the boxes `tokens`. */
  constructor(form) {
    this.form = form;
    const kept = JSON.parse(localStorage.getItem("settings") ?? "{}");
    for (const name of NUMBERS) form.elements[name].value = kept[name] ?? "";
    form.elements.tokens.checked = kept.tokens ?? false;
    form.addEventListener("input", () => this.keep());
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => this.keep())); // after the fields are empty
  }

  keep() {
    const fields = this.form.elements;
    const kept = Object.fromEntries(NUMBERS.map((name) => [name, fields[name].value]));
    localStorage.setItem("settings", JSON.stringify({ ...kept, tokens: fields.tokens.checked }));
  }

  /** Whether all fields hold what they may; if not, the browser says what is wrong. */
  valid() {
    return this.form.checkValidity();
  }

  /** The fields of a request. A seed is always named, so that a reply can be had again. */
  request(to) {
    const fields = this.form.elements;
    const number = (name) => (fields[name].value === "" ? undefined : Number(fields[name].value));
    return {
      temperature: number("temperature"),
      top_p: number("top_p"),
      max_tokens: number("max_tokens"),
      seed: number("seed") ?? Math.floor(Math.random() * 1_000_000),
      anyglot: { to: to || undefined, guidance: number("guidance"), tokens: fields.tokens.checked },
    };
  }
}
