const DATA = JSON.parse(document.getElementById("report-data").textContent);
const TASK_LABELS = DATA.task_names;
const SEVERAL = DATA.runs.length > 1;
const state = { task: DATA.tasks[0] };
const redraws = []; // called when the task or the theme changes

function redraw() {
  for (const draw of redraws) draw();
}

function results(run) {
  return DATA.results[state.task][run];
}

// The numbers of a category in one run.
function column(run, name, category) {
  return results(run).columns[name][category];
}

function difference(run, category) {
  const [own, first] = [column(run, "ap", category), column(0, "ap", category)];
  return own === null || first === null ? null : own - first;
}

function number(value, digits = 1) {
  return value === null || value === undefined ? "–" : value.toFixed(digits);
}

// A score: two digits that count, so that small scores are not 0.00.
function score(value) {
  return value >= 0.1 ? value.toFixed(2) : value >= 0.00005 ? String(Number(value.toPrecision(1))) : "0";
}

function signed(value, digits = 1) {
  if (value === null || value === undefined) return "–";
  const text = Math.abs(value).toFixed(digits);
  if (Number(text) === 0) return text;
  return (value > 0 ? "+" : "−") + text;
}

function plural(count, word, many = `${word}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? word : many}`;
}

// An element. Children that are strings become text, never HTML.
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function plainTable(caption, head, rows) {
  return element(
    "table",
    { class: "plain" },
    element("caption", { class: "unseen" }, caption),
    element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { scope: "col" }, text)))),
    element(
      "tbody",
      {},
      ...rows.map(([first, ...rest]) =>
        element("tr", {}, element("th", { scope: "row" }, first), ...rest.map((cell) => element("td", {}, cell))),
      ),
    ),
  );
}

function categoryLink(category) {
  return element("a", { href: `#category-${DATA.categories[category].id}` }, DATA.categories[category].name);
}

// The run of a line of text: a dot of its colour and shape, and its name for screen readers.
function runDot(run) {
  const made = document.createDocumentFragment();
  made.append(element("span", { class: `dot run-${run}`, "aria-hidden": "true" }));
  if (SEVERAL) made.append(element("span", { class: "unseen" }, `${DATA.runs[run]}: `));
  return made;
}

function choices(id, entries) {
  const select = document.getElementById(id);
  select.append(...entries.map(([value, text]) => element("option", { value }, text)));
  return select;
}

const POOLS = [
  ["all", "all categories"],
  ["r", "rare categories"],
  ["c", "common categories"],
  ["f", "frequent categories"],
];
const SIZES = [
  ["small", "small objects"],
  ["medium", "medium objects"],
  ["large", "large objects"],
];
