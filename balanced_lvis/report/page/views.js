// Images and crops with outlines, which can be shown or hidden.
const OVERLAYS = [
  ["gt", "Ground truth"],
  ...DATA.runs.map((name, run) => [`run-${run}`, name]),
  ["masks", "Masks"],
  ["boxes", "Boxes"],
  ["labels", "Labels"],
].filter(([key]) => key !== "masks" || DATA.tasks[0] === "segm");
const hidden = new Set(DATA.tasks[0] === "segm" ? ["boxes", "labels"] : ["labels"]);

function showOverlays() {
  for (const [key] of OVERLAYS) document.body.classList.toggle(`hide-${key}`, hidden.has(key));
  for (const box of document.querySelectorAll("input[data-overlay]")) box.checked = !hidden.has(box.dataset.overlay);
}

function overlayControls() {
  const boxes = OVERLAYS.map(([key, text]) => {
    const box = element("input", {
      type: "checkbox",
      "data-overlay": key,
      onchange: () => {
        if (box.checked) hidden.delete(key);
        else hidden.add(key);
        showOverlays();
      },
    });
    box.checked = !hidden.has(key);
    const dot = key === "gt" || key.startsWith("run-") ? element("span", { class: `dot ${key}`, "aria-hidden": "true" }) : null;
    return element("label", {}, box, dot, element("span", {}, text));
  });
  return element("fieldset", { class: "overlays" }, element("legend", { class: "unseen" }, "Show in images"), ...boxes);
}

function markName(mark) {
  const name = DATA.categories[mark.c].name;
  return mark.r < 0 ? name : `${name} ${score(mark.s)}`;
}

function drawMark(mark, size) {
  const who = mark.r < 0 ? "gt" : `run-${mark.r}`;
  const group = svg("g", { class: `mark ${who}${mark.t === 0 ? " false" : ""}` });
  const [x, y, w, h] = mark.b;
  if (mark.p) group.append(svg("path", { d: mark.p, class: "mask", "fill-rule": "evenodd" }));
  group.append(svg("rect", { x, y, width: w, height: h, class: "box" }));
  const label = svg("text", { x: Math.max(x, 2), y: Math.max(y - 4, 0.032 * size[0]), class: "label", "font-size": 0.032 * size[0] });
  label.textContent = markName(mark);
  group.append(label);
  return group;
}

function drawing(view, alternative) {
  const [width, height] = view.size;
  return svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": alternative },
    svg("image", { href: view.src, width, height, preserveAspectRatio: "none" }),
    ...[...view.marks].reverse().map((mark) => drawMark(mark, view.size)),
  );
}

// A figure that opens enlarged. The caption is a list of nodes or strings.
function figure(index, alternative, caption) {
  const view = DATA.views[index];
  const open = element(
    "button",
    { type: "button", class: "view", "aria-label": `Enlarge: ${alternative}`, onclick: () => enlarge(view, alternative) },
    drawing(view, alternative),
  );
  return element("figure", {}, open, element("figcaption", {}, ...caption));
}

function enlarge(view, alternative) {
  const dialog = document.getElementById("enlarged");
  const marks = view.marks.map((mark) => {
    const who = mark.r < 0 ? "ground truth" : DATA.runs[mark.r];
    const kind = mark.r < 0 ? "" : mark.t ? ", true positive" : ", false positive";
    return element(
      "li",
      {},
      element("span", { class: `dot ${mark.r < 0 ? "gt" : `run-${mark.r}`}`, "aria-hidden": "true" }),
      `${markName(mark)} (${who}${kind})`,
    );
  });
  dialog.replaceChildren(
    element(
      "div",
      { class: "dialog-head" },
      element("h2", { id: "enlarged-title" }, alternative),
      element("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => dialog.close() }, "✕"),
    ),
    overlayControls(),
    element("div", { class: "large" }, drawing(view, alternative)),
    element("p", { class: "muted small" }, view.image),
    element("ul", { class: "marks" }, ...marks),
  );
  showOverlays();
  dialog.showModal();
}

// What became of an object in each run.
function fateLine(fate, run) {
  let text = "missed";
  if (fate.s !== undefined) text = `found, ${score(fate.s)}`;
  else if (fate.e !== undefined) {
    const kind = DATA.error_types[fate.e];
    text = kind === "classification" ? `missed: detected as ${DATA.categories[fate.c].name}` : `missed: ${kind}`;
  }
  return element("span", { class: "line" }, runDot(run), text);
}

function objectFigure(index) {
  const view = DATA.views[index];
  const name = DATA.categories[view.c].name;
  const found = view.runs.flatMap((fate, run) => (fate.s !== undefined ? [DATA.runs[run]] : []));
  const who = found.length ? `found by ${found.join(", ")}` : "missed";
  return figure(index, `${name}, ${SEVERAL || !found.length ? who : "found"}, ${view.image}`, view.runs.map(fateLine));
}

function falseFigure(index) {
  const view = DATA.views[index];
  const kind = DATA.error_types[view.e];
  const other = view.marks.find((mark) => mark.r < 0);
  const text = kind === "classification" && other ? `is ${DATA.categories[other.c].name}` : kind;
  const alternative = `False positive ${DATA.categories[view.c].name} of ${DATA.runs[view.run]}, ${kind}, ${view.image}`;
  return figure(index, alternative, [
    element("span", { class: "line" }, runDot(view.run), `${score(view.s)}, ${text}`),
  ]);
}
