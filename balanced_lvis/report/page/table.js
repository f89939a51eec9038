// The table of all categories.
const RUN_COLUMNS = SEVERAL
  ? []
  : [
      ["ap50", "AP50"],
      ["ap75", "AP75"],
      ["ar", "AR"],
      ["precision", "Precision"],
      ["recall", "Recall"],
    ];

function largestError(run, category) {
  const lost = results(run).lost[category];
  const best = lost.reduce((found, value, index) => (value !== null && value > (lost[found] ?? 0) ? index : found), -1);
  return best < 0 ? "" : DATA.error_types[best];
}

function tableRows() {
  return DATA.categories.map((category, index) => {
    const row = { ...category, index, error: largestError(DATA.runs.length - 1, index) };
    DATA.runs.forEach((_, run) => {
      row[`ap_${run}`] = column(run, "ap", index);
      if (run) row[`difference_${run}`] = difference(run, index);
    });
    for (const [name] of RUN_COLUMNS) row[name] = column(0, name, index);
    return row;
  });
}

function tableColumns() {
  const title = (cell) => element("span", {}, cell.getValue());
  const numeric = (field, text, format, bar) => ({
    title: text,
    field,
    titleFormatter: title,
    sorter: "number",
    sorterParams: { alignEmptyValues: "bottom" },
    headerSortStartingDir: "desc",
    hozAlign: "right",
    headerHozAlign: "right",
    formatter: (cell) => {
      const value = cell.getValue();
      const classes = bar && value ? (value > 0 ? "difference better" : "difference worse") : "";
      return element("span", { class: classes }, format(value));
    },
  });
  const whole = (value) => (value === null ? "–" : value.toLocaleString("en"));
  const narrow = matchMedia("(max-width: 700px)").matches;
  const name = {
    title: "Category",
    field: "name",
    titleFormatter: title,
    frozen: !narrow,
    minWidth: 110,
    width: narrow ? 140 : undefined,
    variableHeight: narrow,
    formatter: (cell) => categoryLink(cell.getRow().getData().index),
  };
  const facts = [
    { title: "Group", field: "group", titleFormatter: title, formatter: (cell) => element("span", {}, DATA.group_names[cell.getValue()]) },
    numeric("training", "Training images", whole),
    numeric("objects", "Objects", whole),
  ];
  const precision = DATA.runs.map((run, index) => numeric(`ap_${index}`, SEVERAL ? `AP ${run}` : "AP", number));
  const differences = DATA.runs
    .slice(1)
    .map((run, index) => numeric(`difference_${index + 1}`, DATA.runs.length > 2 ? `Difference ${run}` : "Difference", signed, true));
  const further = RUN_COLUMNS.map(([field, text]) => numeric(field, text, number));
  const error = {
    title: SEVERAL ? `Costliest error ${DATA.runs.at(-1)}` : "Costliest error",
    field: "error",
    titleFormatter: title,
    formatter: (cell) => element("span", {}, cell.getValue() || "–"),
  };
  return narrow
    ? [name, ...differences, ...precision, ...further, ...facts, error]
    : [name, ...facts, ...precision, ...differences, ...further, error];
}

function startTable() {
  const search = document.getElementById("category-search");
  const group = document.getElementById("category-group");
  const table = new Tabulator("#category-table", {
    data: tableRows(),
    columns: tableColumns(),
    index: "index",
    layout: "fitDataFill",
    pagination: true,
    paginationSize: 25,
    paginationSizeSelector: [25, 100, true],
    paginationButtonCount: 3,
    placeholder: "No category matches",
    initialSort: [{ column: SEVERAL ? "difference_1" : "ap_0", dir: "desc" }],
    columnHeaderSortMulti: false,
  });
  const filter = () => {
    const words = search.value.toLowerCase().trim();
    table.setFilter((row) => (!group.value || row.group === group.value) && row.name.toLowerCase().includes(words));
  };
  table.on("tableBuilt", () => {
    makeHeadersReachable();
    search.addEventListener("input", filter);
    group.addEventListener("change", filter);
    redraws.push(() => table.replaceData(tableRows()));
  });
  table.on("dataFiltered", (_, rows) => {
    document.getElementById("category-count").textContent = `${rows.length.toLocaleString("en")} of ${plural(DATA.categories.length, "category", "categories")}`;
  });
}

// Tabulator sorts by clicks only.
function makeHeadersReachable() {
  for (const header of document.querySelectorAll("#category-table .tabulator-col.tabulator-sortable")) {
    header.tabIndex = 0;
    header.addEventListener("keydown", (event) => {
      if (event.target === header && (event.key === "Enter" || event.key === " ")) {
        event.preventDefault();
        header.click();
      }
    });
  }
}
