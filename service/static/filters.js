/** Conditions on the columns of an index, a row each, which hold together. */

import { make } from "./dom.js";

const COMPARISONS = [
  ["=", "is"], ["!=", "is not"], ["<", "is below"], ["<=", "is at most"], [">", "is above"], [">=", "is at least"],
];
const EQUALITIES = ["=", "!="]; // which take several values, and of which alone truths have any
const TRUTHS = [["", "value"], ["true", "true"], ["false", "false"]];
const NUMBERS = ["int64", "double"];

/** Dispatches "change" when other conditions are asked for than before. */
export class Filters extends EventTarget {
  #rows = [];
  #asked = "";

  /** `list`: a list to put the rows into. `add`: the button that adds one. `columns`: of an index, as GET /info tells them. */
  constructor(list, add, columns) {
    super();
    Object.assign(this, { list, add, columns });
    add.hidden = columns.length === 0;
    add.addEventListener("click", () => this.#add());
  }

  /** As the query has them: COLUMN=VALUE. A row without a value is not one yet. */
  get conditions() {
    return this.#rows.map((row) => row.condition).filter(Boolean);
  }

  #add() {
    const row = new Row(this.columns, () => this.#changed(), () => this.#remove(row));
    this.#rows.push(row);
    this.list.append(row.element);
    row.focus();
  }

  #remove(row) {
    const index = this.#rows.indexOf(row);
    this.#rows.splice(index, 1);
    row.element.remove();
    (this.#rows[index] ?? this.#rows.at(-1) ?? this.add).focus();
    this.#changed();
  }

  #changed() {
    const asked = JSON.stringify(this.conditions);
    if (asked === this.#asked) return;
    this.#asked = asked;
    this.dispatchEvent(new Event("change"));
  }
}

/** One condition: column, comparison, value. */
class Row {
  constructor(columns, changed, remove) {
    this.types = new Map(columns.map(({ name, type }) => [name, type]));
    this.column = select("Column", columns.map(({ name }) => [name, name]));
    this.comparison = select("Comparison", COMPARISONS);
    this.text = make("input", { type: "text", autocomplete: "off", spellcheck: false });
    this.text.setAttribute("aria-label", "Value");
    this.truth = select("Value", TRUTHS);
    const button = make("button", { type: "button", className: "remove", textContent: "×" });
    button.setAttribute("aria-label", "Remove this filter");
    button.addEventListener("click", remove);
    this.element = make("li", {}, this.column, this.comparison, this.text, this.truth, button);
    this.column.addEventListener("change", () => this.#fit());
    this.comparison.addEventListener("change", () => this.#hint());
    this.element.addEventListener("change", changed);
    this.#fit();
  }

  get condition() {
    const value = this.#type === "bool" ? this.truth.value : this.text.value;
    return value === "" ? null : `${this.column.value}${this.comparison.value}${value}`;
  }

  focus() {
    this.column.focus();
  }

  get #type() {
    return this.types.get(this.column.value);
  }

  /** What the chosen column's type allows. */
  #fit() {
    const isTruth = this.#type === "bool";
    this.text.hidden = isTruth;
    this.truth.hidden = !isTruth;
    this.text.inputMode = NUMBERS.includes(this.#type) ? "decimal" : "text";
    for (const option of this.comparison.options) option.disabled = isTruth && !EQUALITIES.includes(option.value);
    if (this.comparison.selectedOptions[0].disabled) [this.comparison.value] = EQUALITIES;
    this.#hint();
  }

  #hint() {
    this.text.placeholder = EQUALITIES.includes(this.comparison.value) ? "value, or several: a,b" : "value";
  }
}

/** `choices`: [[value, text], ...]. */
function select(label, choices) {
  const element = make("select", {}, ...choices.map(([value, textContent]) => make("option", { value, textContent })));
  element.setAttribute("aria-label", label);
  return element;
}
