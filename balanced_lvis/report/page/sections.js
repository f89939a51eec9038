// What changed between runs, and the galleries of images.
function startChanges() {
  const place = document.getElementById("changes-list");
  if (!place) return;
  for (const change of DATA.changes) {
    const name = DATA.runs[change.run];
    if (DATA.changes.length > 1) place.append(element("h3", {}, `${name} and ${DATA.runs[0]}`));
    place.append(
      element(
        "div",
        { class: "columns" },
        changeList(`${name} is better`, change.better, change.run),
        changeList(`${DATA.runs[0]} is better`, change.worse, change.run),
      ),
    );
  }
  if (DATA.views.length) place.before(element("div", { class: "controls" }, overlayControls()));
}

function changeList(title, categories, run) {
  const task = DATA.tasks[0];
  const items = categories.map(([index, views]) => {
    const category = DATA.categories[index];
    const [first, own] = [0, run].map((one) => DATA.results[task][one].columns.ap[index]);
    const change = own - first;
    return element(
      "li",
      {},
      element(
        "p",
        {},
        categoryLink(index),
        element("span", { class: `difference ${change > 0 ? "better" : "worse"}` }, signed(change)),
        element("span", { class: "muted small" }, `AP ${number(first)} → ${number(own)}, ${plural(category.objects, "object")}, ${DATA.group_names[category.group]}`),
      ),
      views.length ? element("div", { class: "crops" }, ...views.map(objectFigure)) : null,
    );
  });
  const empty = element("p", { class: "muted" }, "No category.");
  return element("section", { "aria-label": title }, element("h4", {}, title), items.length ? element("ul", { class: "changes" }, ...items) : empty);
}

function startImages() {
  const section = document.getElementById("images");
  if (!section) return;
  section.querySelector(".overlays").replaceWith(overlayControls());
  const select = document.getElementById("images-run");
  const draw = () => {
    const lists = DATA.images[Number(select?.value ?? 0)];
    for (const kind of ["worst", "best"]) {
      document.getElementById(`images-${kind}`).replaceChildren(...lists[kind].map(imageFigure));
    }
  };
  select?.addEventListener("change", draw);
  draw();
}

function imageFigure(index) {
  const view = DATA.views[index];
  const counts = view.runs.map(([right, wrong, missed]) => {
    const outlined = right + wrong > DATA.most_marks ? `; only the ${DATA.most_marks} detections with the highest scores are outlined` : "";
    return `${right} right, ${wrong} wrong, ${missed} missed${outlined}`;
  });
  const lines = counts.map((text, run) => element("span", { class: "line" }, runDot(run), text));
  const texts = counts.map((text, run) => `${DATA.runs[run]}: ${text}`);
  return figure(index, `${view.image}. ${texts.join("; ")}`, lines);
}
