// Filters by target, budget and method, and sorts tables. Without it the page shows all that it has, in its own order.
"use strict";
(() => {
  const filters = document.getElementById("filters");
  const selects = [...filters.querySelectorAll("select")];
  const shown = document.getElementById("shown");
  const rows = [...document.querySelectorAll("#arms tbody tr")];

  // What names no target, budget or method belongs to all of them.
  const matches = (element, chosen) => Object.entries(chosen).every(([key, value]) =>
    value === "" || element.dataset[key] === undefined || element.dataset[key] === value);

  const filter = () => {
    const chosen = {};
    for (const select of selects) chosen[select.name] = select.value;
    for (const element of document.querySelectorAll("[data-target], [data-budget], [data-method]")) {
      if (element instanceof SVGElement) element.classList.toggle("dim", !matches(element, chosen));
      else element.hidden = !matches(element, chosen);
    }
    for (const group of document.querySelectorAll("div[data-target]")) {  // nothing left in it: not its heading either
      const parts = [...group.querySelectorAll("[data-budget], [data-method]")].filter((part) => part instanceof HTMLElement);
      if (parts.length && parts.every((part) => part.hidden)) group.hidden = true;
    }
    for (const none of document.querySelectorAll(".none")) {
      none.hidden = [...none.closest("section").querySelectorAll("[data-target]")].some((element) => !element.hidden);
    }
    const count = rows.filter((row) => !row.hidden).length;
    shown.textContent = `${count.toLocaleString("en")} of ${rows.length.toLocaleString("en")} ${rows.length === 1 ? "arm" : "arms"}`;
  };

  for (const select of selects) select.addEventListener("change", filter);
  document.getElementById("all").addEventListener("click", () => {
    for (const select of selects) select.value = "";
    filter();
  });

  // A cell without a value stays at the end, whichever way the others go.
  const order = (table, column, direction) => {
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => {
      const cell = row.cells[column];
      const value = cell.dataset.value;
      return { row, value: value === undefined ? cell.textContent.trim().toLowerCase() : value === "" ? null : Number(value) };
    });
    keyed.sort((a, b) => {
      if (a.value === null || b.value === null) return (a.value === null) - (b.value === null);
      return direction * (a.value < b.value ? -1 : a.value > b.value ? 1 : 0);
    });
    body.append(...keyed.map((one) => one.row));
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        order(table, column, up ? 1 : -1);
      });
    });
  }

  document.documentElement.classList.add("scripted");
  filters.hidden = false;
  filter();
})();
