"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (name) => document.getElementById(name);
  const body = document.querySelector("#table tbody");
  const on = new Set(data.groups.map((_, i) => i));

  // the table: sorted by a click on a heading, numbers as numbers, what is not there last either way

  const heads = [...document.querySelectorAll("#table th.sorts")];
  const order = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  };
  const sort = (number) => {
    const rising = heads[number].getAttribute("aria-sort") !== "ascending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[number].setAttribute("aria-sort", rising ? "ascending" : "descending");
    const value = (row) => data.values[Number(row.dataset.group)][number];
    const rows = [...body.rows].sort((a, b) => {
      const x = value(a), y = value(b);
      if (x === null || y === null) return (x === null) - (y === null);
      return rising ? order(x, y) : order(y, x);
    });
    body.append(...rows);
  };
  heads.forEach((head, number) => head.firstElementChild.addEventListener("click", () => sort(number)));

  if (!window.Plotly) return; // the page has pictures instead

  const [axis, metric, scale, bands] = ["axis", "metric", "scale", "bands"].map(byId);
  const several = data.groups.length > 12;
  const clear = (colour, share) => {
    const parts = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    return `rgba(${parts.join(",")},${share})`;
  };
  const number = (value) => (value === null ? "-" : Number(value).toPrecision(4));

  // what a logarithmic scale can show: points beyond 0, and bands from the smallest mean on
  const seen = (curve) => {
    const there = curve.x.map((_, k) => k).filter((k) =>
      (curve.x[k] > 0 || !byId("scale_x").checked) && (curve.mean[k] > 0 || !scale.checked));
    const found = Object.fromEntries(Object.entries(curve).map(([name, all]) => [name, there.map((k) => all[k])]));
    const least = Math.min(...found.mean);
    if (scale.checked) found.low = found.low.map((low) => Math.max(low, least));
    return found;
  };
  const traces = () => {
    const found = [];
    data.groups.forEach((group, i) => {
      const whole = on.has(i) && group.curves[metric.value][axis.value];
      if (!whole) return;
      const curve = seen(whole);
      if (bands.checked && curve.n.some((n) => n > 1)) {
        found.push({
          x: [...curve.x, ...[...curve.x].reverse()], y: [...curve.high, ...[...curve.low].reverse()],
          type: "scatter", mode: "lines", fill: "toself", fillcolor: clear(group.colour, 0.15), line: { width: 0 },
          hoverinfo: "skip", showlegend: false,
        });
      }
      const points = curve.x.length;
      found.push({
        x: curve.x, y: curve.mean, type: "scatter", mode: points > 60 ? "lines" : "lines+markers", name: group.name,
        line: { color: group.colour, dash: group.dash, width: several ? 1.4 : 2 },
        marker: { color: group.colour, symbol: group.symbol, size: several ? 5 : 6 },
        showlegend: !several,
        text: curve.mean.map((mean, k) => `${group.name}<br>${metric.selectedOptions[0].text} ${number(mean)}` +
          (curve.n[k] > 1 ? ` \u00b1 ${number(curve.high[k] - mean)}` : "") +
          `<br>${axis.selectedOptions[0].text} ${Number(curve.x[k]).toPrecision(5)}` +
          `<br>${curve.n[k]} run${curve.n[k] === 1 ? "" : "s"}`),
        hovertemplate: "%{text}<extra></extra>",
      });
      (group.diverged[metric.value][axis.value] || []).forEach(([x, y]) => found.push({
        x: [x], y: [y], type: "scatter", mode: "markers", marker: { color: group.colour, symbol: "x", size: 11 },
        name: `${group.name}: a run diverges`, text: [`${group.name}<br>a run diverges here`],
        hovertemplate: "%{text}<extra></extra>", showlegend: false,
      }));
    });
    return found;
  };

  const draw = () => {
    const target = data.target !== null && metric.value === data.metric;
    return Plotly.react("plot", traces(), {
      margin: { l: 70, r: 20, t: 20, b: 60 }, hovermode: "closest", uirevision: `${axis.value} ${metric.value}`,
      xaxis: { title: { text: axis.selectedOptions[0].text }, gridcolor: "#e4e7ea", zeroline: false,
        type: byId("scale_x").checked ? "log" : "linear" },
      yaxis: { title: { text: metric.selectedOptions[0].text }, gridcolor: "#e4e7ea", zeroline: false, type: scale.checked ? "log" : "linear" },
      legend: { orientation: "h", y: -0.16 }, paper_bgcolor: "#fff", plot_bgcolor: "#fff",
      shapes: [
        ...(target ? [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: data.target, y1: data.target,
          line: { color: "#7f7f7f", dash: "dash", width: 1.5 } }] : []),
        ...(data.budgets[axis.value] || []).map((most) => ({ type: "line", yref: "paper", y0: 0, y1: 1, x0: most, x1: most,
          line: { color: "#7f7f7f", dash: "dot", width: 1.5 } })),
      ],
      annotations: target ? [{ xref: "paper", x: 1, y: scale.checked ? Math.log10(data.target) : data.target,
        text: `target ${data.target}`, showarrow: false, xanchor: "right", yanchor: "bottom" }] : [],
    }, { responsive: true, displaylogo: false });
  };
  const choose = () => {
    scale.checked = data.logarithmic[metric.value];
    draw();
  };

  const show = (i, there) => {
    on[there ? "add" : "delete"](i);
    const row = body.querySelector(`tr[data-group="${i}"]`);
    row.classList.toggle("off", !there);
    row.querySelector("input").checked = there;
  };
  body.addEventListener("change", (event) => {
    show(Number(event.target.closest("tr").dataset.group), event.target.checked);
    draw();
  });
  byId("all").addEventListener("change", (event) => {
    data.groups.forEach((_, i) => show(i, event.target.checked));
    draw();
  });
  axis.addEventListener("change", draw);
  metric.addEventListener("change", choose);
  [scale, bands, byId("scale_x")].forEach((one) => one.addEventListener("change", draw));
  bands.checked = !several;
  choose();
})();
