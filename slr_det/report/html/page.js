"use strict";
(() => {
  const root = document.documentElement;
  const each = (selector, act, from = document) => from.querySelectorAll(selector).forEach(act);

  // Light, dark, or as the system has it. A page that was opened as a file may have no storage.
  const themes = ["auto", "light", "dark"];
  const button = document.getElementById("theme");
  const wear = (theme) => {
    if (theme === "auto") root.removeAttribute("data-theme");
    else root.dataset.theme = theme;
    button.textContent = "Theme: " + theme;
  };
  let theme = "auto";
  try { theme = localStorage.getItem("slr-det-theme") || "auto"; } catch { /* no storage */ }
  if (!themes.includes(theme)) theme = "auto";
  wear(theme);
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    wear(theme);
    try { localStorage.setItem("slr-det-theme", theme); } catch { /* no storage */ }
  });

  // Tables: numbers by their value, text by its words, what is missing always last.
  const worth = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    const text = cell.textContent.trim();
    return text === "" || text === "n/a" ? null : text;
  };
  const compare = (a, b, sign) => {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    return sign * String(a).localeCompare(String(b), undefined, { numeric: true });
  };
  each("table", (table) => each("thead .sort", (sorter) => sorter.addEventListener("click", () => {
    const title = sorter.closest("th");
    const number = title.classList.contains("number");
    const now = title.getAttribute("aria-sort");
    const next = now === "none" ? (number ? "descending" : "ascending") : now === "descending" ? "ascending" : "descending";
    each("thead th", (other) => other.setAttribute("aria-sort", other === title ? next : "none"), table);
    const sign = next === "ascending" ? 1 : -1;
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [row, worth(row, title.cellIndex)]);
    rows.sort((a, b) => compare(a[1], b[1], sign)).forEach(([row]) => body.append(row));
  }), table));

  // Curves: the cursor stands at the nearest point's x, by mouse, finger or arrow keys.
  const hidden = new Set();
  const said = document.getElementById("said");
  each(".chart", (figure) => {
    const svg = figure.querySelector("svg");
    const lines = JSON.parse(figure.querySelector("script").textContent);
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    figure.append(tip);
    let at = null;
    const shown = () => lines.filter((line) => !hidden.has(line.k));
    const stops = () => [...new Set(shown().flatMap((line) => (line.p || []).map((p) => p[0])))].sort((a, b) => a - b);
    const leave = () => {
      at = null;
      tip.hidden = true;
      svg.classList.remove("on");
    };
    const show = (x, aloud) => {
      at = x;
      const rows = [];
      let name = "";
      each(".here", (dot) => dot.classList.remove("set"), svg);
      for (const line of shown()) {
        if (!line.p) { rows.push([line, line.v, line.y]); continue; }
        const point = line.p.find((p) => p[0] === x);
        if (!point) continue;
        name = point[2];
        rows.push([line, point[3], point[1]]);
        const dot = svg.querySelector(`g.line[data-key="${line.k}"] .here`);
        dot.setAttribute("cx", point[0]);
        dot.setAttribute("cy", point[1]);
        dot.classList.add("set");
      }
      const cursor = svg.querySelector(".cursor");
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      svg.classList.add("on");
      rows.sort((a, b) => a[2] - b[2]);
      tip.replaceChildren();
      const head = document.createElement("strong");
      head.textContent = name;
      tip.append(head);
      for (const [line, value] of rows) {
        const row = document.createElement("div");
        const mark = document.createElement("span");
        mark.className = `mark c${line.k % 10} d${Math.floor(line.k / 10) % 4}`;
        const number = document.createElement("b");
        number.textContent = value;
        row.append(mark, line.l, number);
        tip.append(row);
      }
      tip.hidden = false;
      const box = svg.getBoundingClientRect();
      const frame = figure.getBoundingClientRect();
      const left = box.left - frame.left + (x / svg.viewBox.baseVal.width) * box.width;
      const flip = left > frame.width / 2;
      const place = flip ? left - tip.offsetWidth - 12 : left + 12;
      tip.style.left = Math.max(2, Math.min(place, frame.width - tip.offsetWidth - 2)) + "px";
      tip.style.top = box.top - frame.top + 8 + "px";
      if (aloud) said.textContent = name + ": " + rows.map(([line, value]) => `${line.l} ${value}`).join(", ");
    };
    const point = (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      const places = stops();
      if (!places.length) return leave();
      show(places.reduce((best, place) => (Math.abs(place - x) < Math.abs(best - x) ? place : best)), false);
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") leave(); });
    svg.addEventListener("blur", leave);
    svg.addEventListener("keydown", (event) => {
      const places = stops();
      if (event.key === "Escape") return leave();
      if (!places.length || !["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) return;
      event.preventDefault();
      const now = places.indexOf(at);
      const step = event.key === "ArrowRight" ? now + 1 : event.key === "ArrowLeft" ? (now < 0 ? places.length : now) - 1 : 0;
      const to = event.key === "Home" ? 0 : event.key === "End" ? places.length - 1 : step;
      show(places[Math.max(0, Math.min(to, places.length - 1))], true);
    });
    figure.addEventListener("forget", leave);
  });
  each(".legend button", (item) => item.addEventListener("click", () => {
    const key = Number(item.dataset.key);
    const hide = !hidden.has(key);
    if (hide) hidden.add(key);
    else hidden.delete(key);
    item.setAttribute("aria-pressed", String(!hide));
    each(`g.line[data-key="${key}"]`, (line) => line.classList.toggle("off", hide));
    each(".chart", (figure) => figure.dispatchEvent(new Event("forget")));
  }));

  // Pictures in full size; Escape and the button close them.
  const dialog = document.querySelector("dialog");
  each(".pictures button", (item) => item.addEventListener("click", () => {
    const small = item.querySelector("img");
    const large = dialog.querySelector("img");
    large.src = small.src;
    large.alt = small.alt;
    dialog.showModal();
  }));
  if (dialog) dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

  // Paper shows everything.
  addEventListener("beforeprint", () => each("details", (part) => { part.open = true; }));
})();
