// Sorts and filters the page's tables in place, and copies a text that is there to be used.
// Without it they are plain tables, and a text.
"use strict";

(() => {
  const FEW = 9; // rows up to which a table is taken in at a glance

  // What a cell is sorted by: its data-v if it has one, else its text. Empty: always last.
  const key = (row, column) => {
    const cell = row.cells[column];
    return (cell.dataset.v ?? cell.textContent).trim();
  };
  // Numbers as people write them: 12,480 and −0.25. NaN for a text.
  const number = (text) => (text === "" ? NaN : Number(text.replaceAll(",", "").replace("−", "-")));
  const compare = (a, b) => {
    const x = number(a), y = number(b);
    if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
    return a.localeCompare(b, "en", { numeric: true });
  };

  const sort = (table, column, sign) => {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [key(row, column), row]);
    rows.sort(([a], [b]) => (a === "") - (b === "") || (a === "" ? 0 : sign * compare(a, b)));
    body.append(...rows.map(([, row]) => row));
    for (const head of table.tHead.rows[0].cells) {
      head.setAttribute("aria-sort", "none");
    }
    const name = sign > 0 ? "ascending" : "descending";
    table.tHead.rows[0].cells[column].setAttribute("aria-sort", name);
  };

  const headings = (table) => {
    for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
      if (head.textContent.trim() === "") continue;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.title = "Sort by this column";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const state = head.getAttribute("aria-sort");
        // Numbers are asked for the largest first, names from A on.
        const keys = [...table.tBodies[0].rows].map((row) => key(row, column));
        const first = keys.some((k) => !Number.isNaN(number(k))) ? -1 : 1;
        const sign = state === "none" ? first : state === "ascending" ? -1 : 1;
        sort(table, column, sign);
      });
    }
  };

  const labelled = (text, control) => {
    const label = document.createElement("label");
    label.append(`${text} `, control);
    return label;
  };

  const filters = (table) => {
    const rows = [...table.tBodies[0].rows];
    if (rows.length < FEW) return;
    const name = table.dataset.sortable;
    const tools = document.createElement("div");
    tools.className = "tools";
    const words = document.createElement("input");
    words.type = "search";
    words.setAttribute("aria-label", `Filter: ${name}`);
    tools.append(labelled("Filter", words));
    const choices = [];
    for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
      if (!("choose" in head.dataset)) continue;
      const values = [...new Set(rows.map((row) => row.cells[column].textContent.trim()))];
      values.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
      if (values.length < 2) continue;
      const choice = document.createElement("select");
      choice.append(new Option("all", ""), ...values.filter(Boolean).map((v) => new Option(v)));
      choice.setAttribute("aria-label", `${head.textContent.trim()}: ${name}`);
      tools.append(labelled(head.textContent.trim() || "which", choice));
      choices.push([column, choice]);
    }
    const shown = document.createElement("output");
    shown.setAttribute("aria-live", "polite");
    tools.append(shown);
    const filter = () => {
      const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      let left = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        const kept = wanted.every((w) => text.includes(w)) && choices.every(
          ([column, choice]) => !choice.value || row.cells[column].textContent.trim() === choice.value,
        );
        row.hidden = !kept;
        left += kept;
      }
      shown.textContent = left === rows.length ? `${left} rows` : `${left} of ${rows.length} rows`;
    };
    words.addEventListener("input", filter);
    for (const [, choice] of choices) choice.addEventListener("change", filter);
    filter();
    table.closest(".scroll").before(tools);
  };

  // A button that copies a text. Where that is not allowed the text is marked, to be copied by hand.
  const copier = (block) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy ${block.dataset.copy}`);
    const mark = () => {
      getSelection().selectAllChildren(block);
      button.textContent = "Marked: copy it now";
    };
    button.addEventListener("click", () => {
      if (!navigator.clipboard) return mark();
      navigator.clipboard.writeText(block.textContent).then(
        () => { button.textContent = "Copied"; },
        mark,
      );
    });
    block.previousElementSibling.append(button);
  };

  for (const block of document.querySelectorAll("pre[data-copy]")) copier(block);
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    headings(table);
    filters(table);
  }
})();
