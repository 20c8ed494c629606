// Rows of the page: filter, sort, draw, select. The other scripts of the page use `group`.
const group = (() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const {columns, scans} = data;
  const find = selector => document.querySelector(selector), all = selector => [...document.querySelectorAll(selector)];
  const rank = {failed: 0, check: 1, ok: 2};
  const listeners = [];
  scans.forEach((scan, number) => { scan.number = number; });
  const state = {status: "", decided: "", words: "", sort: "status", down: false, view: "list", shown: [], current: null};

  const make = (tag, properties = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(properties)) {
      if (key in element) element[key] = value; else element.setAttribute(key, value);
    }
    element.append(...children.filter(child => child !== null && child !== undefined));
    return element;
  };
  const text = (value, column) => value === null ? "–"
    : column.digits === null ? String(Number(value.toPrecision(4))) : value.toFixed(column.digits);
  const outside = (value, low, high) => value !== null && ((low !== null && value < low) || (high !== null && value > high));
  const judge = (value, column) => outside(value, column.low, column.high) ? "bad"
    : outside(value, column.usual_low, column.usual_high) ? "odd" : "";

  const pill = scan => make("span", {className: "pill " + scan.status}, scan.status);
  const badges = scan => {
    const made = [];
    if (scan.decision) made.push(make("span", {className: "badge " + scan.decision}, scan.decision + "ed"));
    if (scan.stale && (scan.decision || scan.note)) {
      made.push(make("span", {className: "badge stale", title: "The scan was processed again after this review"}, "old review"));
    }
    return made;
  };
  const links = scan => [[scan.page, "Report"], [scan.viewer, "3-D viewer"], [scan.error, "Error"]]
    .filter(([address]) => address).map(([address, words]) => make("a", {className: "button", href: address}, words));
  const picture = (scan, lazy) => scan.picture
    ? make("img", {className: "picture", loading: lazy ? "lazy" : "eager", decoding: "async", src: scan.picture, alt: "Overview of " + scan.name})
    : make("div", {className: "picture blank"}, "no picture");

  // One line of measures: the key ones, then any that are out of range.
  const numbers = scan => columns.map((column, i) => [column, scan.values[i]])
    .filter(([column, value]) => value !== null && (column.key || judge(value, column) === "bad")).slice(0, 8)
    .map(([column, value]) => make("span", {title: column.label}, column.short + " ",
      make("b", {className: judge(value, column)}, `${text(value, column)} ${column.unit}`.trim())));

  const listRow = scan => {
    const why = make("div", {className: "why"});
    (scan.reasons || []).forEach(reason => why.append(make("div", {}, reason)));
    if (scan.note) why.append(make("div", {className: "soft"}, "Note: " + scan.note));
    const name = scan.page ? make("a", {className: "name", href: scan.page, tabIndex: -1}, scan.name)
      : make("span", {className: "name"}, scan.name);
    return make("div", {className: `row ${scan.status}-row`, role: "listitem", tabIndex: 0}, picture(scan, true), name,
      make("div", {className: "badges"}, ...badges(scan), pill(scan)), why,
      make("div", {className: "numbers"}, ...numbers(scan)));
  };
  const tableRow = scan => {
    const row = make("tr", {tabIndex: 0});
    row.append(make("td", {title: scan.name}, scan.page ? make("a", {href: scan.page, tabIndex: -1}, scan.name) : scan.name),
      make("td", {className: "text"}, pill(scan)));
    if (data.review) row.append(make("td", {className: "text"}, ...badges(scan)));
    scan.values.forEach((value, i) => row.append(make("td", {className: judge(value, columns[i])}, text(value, columns[i]))));
    row.append(make("td", {}, scan.seconds ? scan.seconds.toFixed(1) : "–"));
    return row;
  };

  const keys = [{name: "status", label: "Status"}, {name: "name", label: "Name"},
    ...columns.map(column => ({name: column.name, label: column.label, short: column.short})), {name: "seconds", label: "Seconds"}];
  const sortValue = (scan, key) => {
    if (key === "status") return rank[scan.status];
    if (key === "name") return scan.name;
    if (key === "seconds") return scan.seconds ?? null;
    return scan.values[columns.findIndex(column => column.name === key)] ?? null;
  };
  const compare = (a, b) => {
    const x = sortValue(a, state.sort), y = sortValue(b, state.sort);
    if (x === null || y === null) return (x === null) - (y === null);   // missing values stay last either way
    const c = typeof x === "string" ? x.localeCompare(y, undefined, {numeric: true}) : x - y;
    return (state.down ? -c : c) || a.number - b.number;
  };
  const matches = scan => {
    if (state.status && scan.status !== state.status) return false;
    if (state.decided === "none" && scan.decision) return false;
    if (state.decided === "note" && !scan.note) return false;
    if (["accept", "reject"].includes(state.decided) && scan.decision !== state.decided) return false;
    if (!state.words) return true;
    return [scan.name, scan.source, scan.note, ...(scan.reasons || [])].join(" ").toLowerCase().includes(state.words);
  };

  // Rows are drawn in portions, the next one when the end comes into view.
  let drawn = 0, body = null;
  const elements = new Map();
  const draw = upTo => {
    for (const portion = Math.min(upTo, state.shown.length); drawn < portion; drawn++) {
      const scan = state.shown[drawn], row = state.view === "list" ? listRow(scan) : tableRow(scan);
      row.setAttribute("aria-current", scan === state.current);
      row.addEventListener("click", event => { if (!event.target.closest("a")) select(scan, false); });
      row.addEventListener("keydown", event => { if (event.key === "Enter" && event.target === row) select(scan, false); });
      elements.set(scan, row);
      body.append(row);
    }
    const last = body.lastElementChild;
    watcher.disconnect();
    if (last && drawn < state.shown.length) watcher.observe(last);
  };
  const watcher = new IntersectionObserver(found => { if (found.some(item => item.isIntersecting)) draw(drawn + 60); },
    {rootMargin: "600px"});

  const heads = () => {
    const row = make("tr");
    const head = (key, words, title) => {
      const cell = make("th", {}, make("button", {type: "button", title}, words));
      if (state.sort === key) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      cell.firstChild.addEventListener("click", () => sortBy(key));
      return cell;
    };
    row.append(head("name", "Scan", "Name"), head("status", "Status", "Status"));
    if (data.review) row.append(make("th", {className: "text"}));
    columns.forEach(column => row.append(head(column.name, column.unit ? `${column.short}, ${column.unit}` : column.short, column.label)));
    row.append(head("seconds", "Seconds", "Seconds"));
    return make("thead", {}, row);
  };
  const refresh = () => {
    state.shown = scans.filter(matches).sort(compare);
    const list = find("#list"), table = find("#table"), isList = state.view === "list";
    list.hidden = !isList;
    table.hidden = isList || !state.shown.length;
    list.replaceChildren();
    table.replaceChildren();
    body = list;
    if (!isList) {
      body = make("tbody");
      table.append(make("table", {}, heads(), body));
    }
    document.body.classList.toggle("wide", !isList);
    elements.clear();
    drawn = 0;
    draw(isList ? 60 : 200);
    find(".empty").hidden = state.shown.length > 0;
    find("#sort").value = state.sort;
    const direction = find("#direction");
    direction.textContent = state.down ? "↓" : "↑";
    direction.title = state.down ? "Largest first" : "Smallest first";
    listeners.forEach(listener => listener("refresh"));
  };
  const sortBy = key => {
    state.down = state.sort === key ? !state.down : false;
    state.sort = key;
    refresh();
  };

  const detail = scan => {
    const aside = find("#detail");
    if (!scan) { aside.replaceChildren(make("p", {className: "empty soft"}, "Select a scan.")); return; }
    const table = make("table");
    columns.forEach((column, i) => {
      const value = scan.values[i];
      if (value === null) return;
      table.append(make("tr", {}, make("td", {}, column.label),
        make("td", {className: judge(value, column)}, `${text(value, column)} ${column.unit}`.trim())));
    });
    aside.replaceChildren(make("h2", {}, scan.name), make("p", {className: "soft mono wrap"}, scan.source || ""),
      ...(scan.picture ? [picture(scan, false)] : []), make("div", {className: "links"}, pill(scan), ...badges(scan), ...links(scan)),
      make("ul", {}, ...(scan.reasons || []).map(reason => make("li", {}, reason))), table);
  };
  const select = (scan, scroll = true) => {
    const before = elements.get(state.current);
    if (before) before.setAttribute("aria-current", "false");
    state.current = scan;
    detail(scan);
    if (scan) {
      const place = state.shown.indexOf(scan);
      if (place >= drawn) draw(place + 20);
      const row = elements.get(scan);
      if (row) {
        row.setAttribute("aria-current", "true");
        if (scroll) row.scrollIntoView({block: "nearest"});
      }
    }
    listeners.forEach(listener => listener("select"));
  };
  // A row again after its decision or note changed.
  const redraw = scan => {
    const old = elements.get(scan);
    if (scan === state.current) detail(scan);
    if (!old) return;
    old.querySelector(".badges, td.text + td.text")?.replaceChildren(...badges(scan), ...(state.view === "list" ? [pill(scan)] : []));
    if (state.view === "list") old.querySelector(".why").replaceWith(listRow(scan).querySelector(".why"));
  };

  all("[data-status]").forEach(button => button.addEventListener("click", () => {
    state.status = button.dataset.status;
    all("[data-status]").forEach(other => other.setAttribute("aria-pressed", other === button));
    refresh();
  }));
  all("[data-view]").forEach(button => button.addEventListener("click", () => {
    state.view = button.dataset.view;
    all("[data-view]").forEach(other => other.setAttribute("aria-pressed", other === button));
    refresh();
  }));
  find("input[type=search]").addEventListener("input", event => { state.words = event.target.value.trim().toLowerCase(); refresh(); });
  find("#decided")?.addEventListener("change", event => { state.decided = event.target.value; refresh(); });
  keys.forEach(key => find("#sort").append(make("option", {value: key.name}, key.label)));
  find("#sort").addEventListener("change", event => { state.sort = event.target.value; state.down = false; refresh(); });
  find("#direction").addEventListener("click", () => { state.down = !state.down; refresh(); });
  find("#detail").hidden = !scans.length;
  refresh();
  detail(null);
  return {data, scans, columns, state, make, text, judge, select, refresh, redraw, sortBy, onChange: listener => listeners.push(listener)};
})();
