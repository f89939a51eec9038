const CHART_CONFIG = { responsive: true, displayModeBar: false, scrollZoom: false, doubleClick: "reset" };
const TOUCH = matchMedia("(pointer: coarse)").matches;
const SYMBOLS = ["circle", "diamond", "square", "triangle-up", "x", "star"];
const LOG_TICKS = [1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000, 300000];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];

function cssColor(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function runColor(run) {
  return cssColor(`--run-${run}`);
}

// Plotly reads tags such as <b> in texts.
function plotlyText(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function chartLayout(own) {
  const [text, grid] = [cssColor("--text"), cssColor("--line")];
  const axis = { gridcolor: grid, linecolor: grid, zerolinecolor: grid, automargin: true };
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: text },
    margin: { l: 48, r: 12, t: 12, b: 44 },
    hoverlabel: { bgcolor: cssColor("--surface"), bordercolor: grid, font: { color: text } },
    hovermode: "closest",
    dragmode: TOUCH ? false : "zoom",
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    showlegend: SEVERAL,
    ...own,
  };
  for (const key of Object.keys(own).filter((name) => /^[xy]axis/.test(name))) layout[key] = { ...axis, ...own[key] };
  return layout;
}

function drawChart(id, alternative, traces, layout) {
  const place = document.getElementById(id);
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", alternative);
  Plotly.react(place, traces, chartLayout(layout), CHART_CONFIG);
  return place;
}

function drawIntervals() {
  const names = ["AP", "APr", "APc", "APf"];
  const intervals = DATA.intervals[state.task];
  const traces = DATA.runs.map((name, run) => {
    const found = names.map((metric) => intervals[run][metric] || [null, null, null]);
    return {
      name: plotlyText(name),
      type: "scatter",
      mode: "markers",
      x: found.map(([value]) => value),
      y: names.map((_, index) => index + (run - (DATA.runs.length - 1) / 2) * 0.18),
      error_x: {
        type: "data",
        symmetric: false,
        array: found.map(([value, , high]) => high - value),
        arrayminus: found.map(([value, low]) => value - low),
        color: runColor(run),
        thickness: 2,
        width: 5,
      },
      customdata: found.map(([, low, high], index) => [names[index], number(low), number(high)]),
      hovertemplate: "%{customdata[0]} %{x:.1f} (%{customdata[1]} – %{customdata[2]})<extra>%{fullData.name}</extra>",
      marker: { color: runColor(run), size: 10, symbol: SYMBOLS[run] },
    };
  });
  const texts = DATA.runs.map((name, run) => `${name}: ${names.map((m) => `${m} ${number(intervals[run][m]?.[0])}`).join(", ")}`);
  drawChart("chart-intervals", `AP with intervals. ${texts.join("; ")}`, traces, {
    xaxis: { title: { text: `${DATA.singular[state.task]} AP` }, rangemode: "tozero" },
    yaxis: { tickvals: [0, 1, 2, 3], ticktext: ["AP", "AP<sub>r</sub>", "AP<sub>c</sub>", "AP<sub>f</sub>"], autorange: "reversed", zeroline: false },
  });
}

// Means of categories whose numbers of training images are within a factor of 2.
function trend(points) {
  const bins = new Map();
  for (const [x, y] of points) {
    const bin = Math.floor(Math.log2(x));
    bins.set(bin, [...(bins.get(bin) || []), [x, y]]);
  }
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  return [...bins.keys()]
    .sort((a, b) => a - b)
    .map((bin) => bins.get(bin))
    .map((members) => [2 ** mean(members.map(([x]) => Math.log2(x))), mean(members.map(([, y]) => y))]);
}

const frequencyValue = document.getElementById("frequency-value");

function drawFrequency() {
  const changed = frequencyValue?.value === "difference";
  const runs = DATA.runs.map((_, run) => run).slice(changed ? 1 : 0);
  const known = DATA.categories.map((_, index) => index).filter((index) => DATA.categories[index].training > 0);
  const value = (run, index) => (changed ? difference(run, index) : column(run, "ap", index));
  const drawn = known.filter((index) => runs.some((run) => value(run, index) !== null));
  const dots = [];
  const lines = [];
  for (const run of runs) {
    const own = drawn.map((index) => [DATA.categories[index].training, value(run, index), index]).filter(([, y]) => y !== null);
    const name = plotlyText(DATA.runs[run]);
    dots.push({
      name,
      type: "scatter",
      mode: "markers",
      legendgroup: run,
      x: own.map(([x]) => x),
      y: own.map(([, y]) => y),
      customdata: own.map(([x, , index]) => [plotlyText(DATA.categories[index].name), DATA.categories[index].objects, x, DATA.categories[index].id]),
      hovertemplate:
        `<b>%{customdata[0]}</b><br>${changed ? "difference %{y:+.1f}" : "AP %{y:.1f}"}` +
        "<br>%{customdata[2]:,} training images<br>%{customdata[1]:,} objects<extra>%{fullData.name}</extra>",
      marker: { color: runColor(run), size: drawn.length > 300 ? 6 : 9, symbol: SYMBOLS[run], opacity: 0.6 },
    });
    const means = trend(own);
    lines.push({
      name,
      type: "scatter",
      mode: "lines",
      legendgroup: run,
      showlegend: false,
      hoverinfo: "skip",
      x: means.map(([x]) => x),
      y: means.map(([, y]) => y),
      line: { color: runColor(run), width: 3, dash: DASHES[run] },
    });
  }
  const place = drawChart(
    "chart-frequency",
    `${changed ? "Difference of AP" : "AP"} of ${plural(drawn.length, "category", "categories")} against their training images`,
    [...dots, ...lines],
    {
      xaxis: { type: "log", title: { text: "training images (logarithmic)" }, tickvals: LOG_TICKS, tickformat: "," },
      yaxis: changed
        ? { title: { text: "difference of AP" }, zeroline: true, zerolinecolor: cssColor("--muted") }
        : { title: { text: `${DATA.singular[state.task]} AP` }, rangemode: "tozero" },
    },
  );
  const reasons = [
    [DATA.categories.length - known.length, "without a known number of training images above 0"],
    [known.length - drawn.length, "without objects, which have no AP"],
  ].filter(([count]) => count);
  const left = reasons.map(([count, reason]) => `${plural(count, "category", "categories")} ${reason}`);
  document.getElementById("frequency-note").textContent = left.length ? `Not shown: ${left.join("; ")}.` : "";
  place.removeAllListeners?.("plotly_click");
  place.on?.("plotly_click", (event) => {
    const id = event.points[0].customdata?.[3];
    if (id !== undefined) location.hash = `category-${id}`;
  });
}

const errorsPool = choices("errors-pool", [...POOLS, ...SIZES]);

function drawErrors() {
  const types = DATA.error_types;
  const pool = errorsPool.value;
  const traces = DATA.runs.map((name, run) => ({
    name: plotlyText(name),
    type: "bar",
    x: types,
    y: types.map((type) => results(run).lost_by[type][pool]),
    customdata: types.map((type) => results(run).counts_by[type][pool]),
    hovertemplate: "%{x}: %{y:.2f} AP50<br>%{customdata:,} errors<extra>%{fullData.name}</extra>",
    marker: { color: runColor(run), pattern: { shape: ["", "/", "x", ".", "\\", "-"][run], fillmode: "overlay", fgcolor: cssColor("--surface"), fgopacity: 0.5, size: 7 } },
  }));
  const costly = DATA.runs.map((name, run) => {
    const best = [...types].sort((a, b) => results(run).lost_by[b][pool] - results(run).lost_by[a][pool])[0];
    return `${name}: most by ${best}, ${number(results(run).lost_by[best][pool])}`;
  });
  drawChart("chart-errors", `AP50 lost by error type. ${costly.join("; ")}`, traces, {
    xaxis: { showgrid: false },
    yaxis: { title: { text: "AP50 lost" } },
    barmode: "group",
  });
  const head = ["Error type", ...DATA.runs.flatMap((name) => [`AP50 lost, ${name}`, `errors, ${name}`])];
  const rows = types.map((type) => [
    type,
    ...DATA.runs.flatMap((_, run) => [
      number(results(run).lost_by[type][pool], 2),
      results(run).counts_by[type][pool].toLocaleString("en"),
    ]),
  ]);
  document.getElementById("errors-table").replaceChildren(plainTable("Error types", head, rows));
}

const calibrationPool = choices("calibration-pool", POOLS);

function drawCalibration() {
  const pool = calibrationPool.value;
  const found = DATA.runs.map((_, run) => results(run).calibration[pool]);
  const diagonal = {
    type: "scatter",
    mode: "lines",
    x: [0, 1],
    y: [0, 1],
    hoverinfo: "skip",
    showlegend: false,
    line: { color: cssColor("--muted"), width: 1, dash: "dot" },
  };
  const traces = [diagonal];
  DATA.runs.forEach((name, run) => {
    const bins = found[run].bins.filter(([count]) => count > 0);
    const common = { name: plotlyText(`${name}, ECE ${number(found[run].ece, 2)}`), legendgroup: run };
    traces.push({
      ...common,
      type: "scatter",
      mode: "lines+markers",
      x: bins.map(([, score]) => score),
      y: bins.map(([, , precision]) => precision),
      customdata: bins.map(([count]) => count),
      hovertemplate: "mean score %{x:.3f}<br>true positives %{y:.1%}<br>%{customdata:,} detections<extra>%{fullData.name}</extra>",
      line: { color: runColor(run), width: 2, dash: DASHES[run] },
      marker: { color: runColor(run), size: 8, symbol: SYMBOLS[run] },
    });
    traces.push({
      ...common,
      type: "bar",
      showlegend: false,
      x: found[run].bins.map((_, index) => (index + 0.5) / found[run].bins.length),
      y: found[run].bins.map(([count]) => count || null),
      yaxis: "y2",
      hovertemplate: "%{y:,} detections<extra>%{fullData.name}</extra>",
      marker: { color: runColor(run), opacity: 0.7 },
    });
  });
  const texts = DATA.runs.map((name, run) => `${name}: expected calibration error ${number(found[run].ece, 2)}`);
  drawChart("chart-calibration", `Reliability diagram. ${texts.join("; ")}`, traces, {
    showlegend: true,
    xaxis: { title: { text: "score" }, range: [0, 1], anchor: "y2" },
    yaxis: { title: { text: "true positives" }, tickformat: ".0%", range: [0, 1.02], domain: [0.3, 1] },
    yaxis2: { type: "log", domain: [0, 0.22], dtick: 1, exponentformat: "SI", minexponent: 3 },
    barmode: "group",
  });
  const head = ["Scores", ...DATA.runs.flatMap((name) => [`share true, ${name}`, `detections, ${name}`])];
  const rows = found[0].bins.map((_, bin) => [
    `${(bin / found[0].bins.length).toFixed(1)} – ${((bin + 1) / found[0].bins.length).toFixed(1)}`,
    ...found.flatMap((own) => [
      own.bins[bin][2] === null ? "–" : `${number(100 * own.bins[bin][2])} %`,
      own.bins[bin][0].toLocaleString("en"),
    ]),
  ]);
  document.getElementById("calibration-table").replaceChildren(plainTable("Calibration", head, rows));
}

const curveNames = [...new Set(DATA.curves.flatMap((curves) => Object.keys(curves)))];
const trainingMetric = curveNames.length ? choices("training-metric", curveNames.map((name) => [name, name.replaceAll("_", " ")])) : null;

function drawTraining() {
  const metric = trainingMetric.value;
  const runs = DATA.runs.map((_, run) => run).filter((run) => DATA.curves[run][metric]);
  const traces = runs.map((run) => ({
    name: plotlyText(DATA.runs[run]),
    type: "scatter",
    mode: "lines",
    x: DATA.curves[run][metric].x,
    y: DATA.curves[run][metric].y,
    hovertemplate: "iteration %{x:,}: %{y:.4g}<extra>%{fullData.name}</extra>",
    line: { color: runColor(run), width: 2, dash: DASHES[run] },
  }));
  const texts = runs.map((run) => `${DATA.runs[run]}: ${DATA.curves[run][metric].y.at(-1)} at the end`);
  drawChart("chart-training", `${metric} during training. ${texts.join("; ")}`, traces, {
    xaxis: { title: { text: "iteration" } },
    yaxis: { title: { text: plotlyText(metric.replaceAll("_", " ")) } },
  });
}

function startCharts() {
  const drawers = [drawIntervals, drawFrequency, drawErrors, drawCalibration];
  if (trainingMetric) drawers.push(drawTraining);
  frequencyValue?.addEventListener("change", drawFrequency);
  errorsPool.addEventListener("change", drawErrors);
  calibrationPool.addEventListener("change", drawCalibration);
  trainingMetric?.addEventListener("change", drawTraining);
  redraws.push(...drawers);
  for (const draw of drawers) draw();
}
