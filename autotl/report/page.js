// Draws the figures, whose data are in the page. Their colours are names of variables of the style
// sheet. They are resolved when a figure is drawn, and drawn again when the theme changes or the
// page is printed.
(() => {
  "use strict";
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures");
  const hover = read("hover"); // the hover text of each trial, by its number
  const phone = matchMedia("(max-width: 40rem)");
  const touch = matchMedia("(pointer: coarse)");
  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const resolveColours = (value, key = "") => {
    if (typeof value === "string") {
      return /color(scale)?$/.test(key) && value.startsWith("--") ? variable(value) : value;
    }
    if (Array.isArray(value)) return value.map((item) => resolveColours(item, key));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, resolveColours(v, k)]));
  };

  const addHoverText = (trace) => {
    if (trace.hoverinfo === "text") return { ...trace, text: trace.customdata.map((n) => hover[n]) };
    return trace.meta === undefined ? trace : { ...trace, meta: hover[trace.meta] };
  };

  const axis = (own) => ({
    automargin: true, gridcolor: variable("--line"), linecolor: variable("--line"),
    zeroline: false, ticks: "", fixedrange: touch.matches, ...resolveColours(own),
    title: { standoff: 12, font: { color: variable("--soft"), size: 12 }, ...own.title },
  });

  const layout = (view, height) => ({
    height, width: undefined, autosize: true,
    margin: { l: 8, r: 8, t: 8, b: 8 },
    paper_bgcolor: "transparent", plot_bgcolor: "transparent",
    font: { family: variable("--font"), size: 12, color: variable("--ink") },
    legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", itemsizing: "constant" },
    hoverlabel: {
      align: "left", bgcolor: variable("--card"), bordercolor: variable("--line"),
      font: { family: variable("--font"), size: 12, color: variable("--ink") },
    },
    dragmode: touch.matches ? false : "zoom",
    ...view.layout,
    xaxis: axis(view.layout.xaxis), yaxis: axis(view.layout.yaxis),
  });

  const draw = (box) => {
    const figure = figures[box.dataset.figure];
    const view = figure.views[Number(box.dataset.view || 0)];
    const height = phone.matches ? Math.min(figure.height, 340) : figure.height;
    return Plotly.react(
      box,
      resolveColours(view.data).map(addHoverText),
      layout(view, height),
      { displayModeBar: false, responsive: true },
    );
  };

  const boxes = [...document.querySelectorAll("[data-figure]")];
  const drawAll = () => boxes.forEach(draw);
  for (const button of document.querySelectorAll("button[data-target]")) {
    button.addEventListener("click", () => {
      const box = document.getElementById(button.dataset.target);
      box.dataset.view = button.dataset.view;
      for (const other of button.parentElement.children) {
        other.setAttribute("aria-pressed", String(other === button));
      }
      draw(box);
    });
  }
  for (const query of ["(prefers-color-scheme: dark)", "print"]) {
    matchMedia(query).addEventListener("change", drawAll);
  }
  drawAll();
})();
