// The page of one category.
const overview = document.getElementById("overview");
const categoryPage = document.getElementById("category");
const titleOfReport = document.title;
const rankOfId = new Map(DATA.categories.map((category, index) => [String(category.id), index]));
let openCategory; // its index in DATA.categories
let scrollBefore = 0;

const CATEGORY_NUMBERS = [
  ["ap", "AP", 1],
  ["ap50", "AP50", 1],
  ["ap75", "AP75", 1],
  ["ar", "AR", 1],
  ["fixed", "AP-fixed", 1],
  ["boundary", "Boundary AP", 1],
  ["threshold", "Threshold of best F1", 3],
  ["precision", "Precision at it", 1],
  ["recall", "Recall at it", 1],
  ["f1", "F1 at it", 1],
  ["true", "True positives at it", 0],
  ["false", "False positives at it", 0],
  ["lrp", "LRP error", 1],
  ["laece", "LaECE", 1],
];

function showPage() {
  if (location.hash === "#content") return; // the link to skip the bar, of either page
  const match = location.hash.match(/^#category-(.+)$/);
  const wasOpen = openCategory !== undefined;
  openCategory = match ? rankOfId.get(match[1]) : undefined;
  if (openCategory === undefined) {
    if (!wasOpen) return;
    categoryPage.hidden = true;
    categoryPage.replaceChildren();
    overview.hidden = false;
    document.title = titleOfReport;
    dispatchEvent(new Event("resize")); // charts that were drawn while hidden
    const target = document.getElementById(location.hash.slice(1) || "top");
    if (location.hash === "#categories" || !target) scrollTo(0, scrollBefore);
    else target.scrollIntoView();
    return;
  }
  if (!wasOpen) scrollBefore = scrollY;
  overview.hidden = true;
  categoryPage.hidden = false;
  drawCategory(openCategory);
  document.title = `${DATA.categories[openCategory].name} – ${titleOfReport}`;
  scrollTo(0, 0);
  document.getElementById("category-title").focus({ preventScroll: true });
}

function drawCategory(index) {
  const category = DATA.categories[index];
  const neighbour = (step, text) => {
    const other = DATA.categories[index + step];
    return other ? element("a", { href: `#category-${other.id}`, rel: step > 0 ? "next" : "prev" }, text) : null;
  };
  const facts = [
    DATA.group_names[category.group],
    category.training === null ? null : plural(category.training, "training image"),
    `${plural(category.objects, "object")} in ${plural(category.images, "image")}`,
    `judged in ${plural(category.judged, "image")}`,
  ].filter((fact) => fact !== null);
  categoryPage.replaceChildren(
    element("nav", { class: "trail", "aria-label": "Category" }, element("a", { href: "#categories" }, "← All categories"), neighbour(-1, "Previous"), neighbour(1, "Next")),
    element("h1", { id: "category-title", tabindex: "-1" }, category.name),
    element("p", { class: "muted" }, facts.join(" · ")),
    ...categoryExamples(index),
    categoryNumbers(index),
    ...categoryConfusions(index),
  );
  showOverlays();
}

function categoryNumbers(index) {
  const rows = CATEGORY_NUMBERS.filter(([name]) => DATA.runs.some((_, run) => column(run, name, index) !== null)).map(
    ([name, text, digits]) => [text, ...DATA.runs.map((_, run) => number(column(run, name, index), digits))],
  );
  const errors = DATA.error_types.map((type, kind) => [
    type,
    ...DATA.runs.map((_, run) => `${number(results(run).lost[index][kind])} (${results(run).errors[index][kind]})`),
  ]);
  const scroll = (label, table) => element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table);
  const task = TASK_LABELS[state.task];
  const head = ["", ...(SEVERAL ? DATA.runs : ["Value"])];
  return element(
    "div",
    { class: "columns" },
    element("section", { "aria-label": "Numbers" }, element("h2", {}, `Numbers, ${task.toLowerCase()}`), scroll("Numbers", plainTable(`${task}: numbers of the category`, head, rows))),
    element("section", { "aria-label": "Errors" }, element("h2", {}, "Errors"), element("p", { class: "muted small" }, "AP50 of the category lost by each type (number of errors)"), scroll("Errors", plainTable(`${task}: errors of the category`, head, errors))),
  );
}

function categoryConfusions(index) {
  const list = (own, other) =>
    DATA.runs.flatMap((_, run) =>
      results(run)
        .confusion.filter((pair) => pair[own] === index)
        .slice(0, DATA.most_confusions)
        .map((pair) => element("li", {}, runDot(run), categoryLink(pair[other]), element("span", { class: "muted small" }, `${plural(pair[2], "detection")}, ${plural(pair[3], "opportunity", "opportunities")}`))),
    );
  const [as, of] = [list(1, 0), list(0, 1)];
  if (!as.length && !of.length) return [];
  const block = (title, items) => element("section", { "aria-label": title }, element("h2", {}, title), items.length ? element("ul", { class: "plain-list" }, ...items) : element("p", { class: "muted" }, "None."));
  return [element("div", { class: "columns" }, block(`Objects detected as (${DATA.most_confusions} most frequent)`, as), block(`Detections on objects of (${DATA.most_confusions} most frequent)`, of))];
}

function categoryExamples(index) {
  const [objects, wrong] = DATA.examples[index];
  if (!objects.length && !wrong.length) {
    return DATA.views.length ? [element("p", { class: "note" }, "No crops of this category are in this file.")] : [];
  }
  const kinds = [
    ["Found by some runs only", (count) => count > 0 && count < DATA.runs.length],
    [SEVERAL ? "Missed by all runs" : "Missed", (count) => count === 0],
    [SEVERAL ? "Found by all runs" : "Found", (count) => count === DATA.runs.length],
  ];
  const parts = [element("h2", { id: "examples-title" }, "Objects and detections"), element("div", { class: "controls" }, overlayControls())];
  for (const [title, fits] of kinds) {
    const own = objects.filter((view) => fits(DATA.views[view].runs.filter((fate) => fate.s !== undefined).length));
    if (own.length) parts.push(element("h3", {}, title), element("div", { class: "crops" }, ...own.map(objectFigure)));
  }
  if (wrong.length) parts.push(element("h3", {}, "False positives"), element("div", { class: "crops" }, ...wrong.map(falseFigure)));
  return [element("section", { "aria-labelledby": "examples-title" }, ...parts)];
}

function startCategoryPage() {
  addEventListener("hashchange", showPage);
  redraws.push(() => {
    if (openCategory !== undefined) drawCategory(openCategory);
  });
  showPage();
}
