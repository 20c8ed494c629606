// One strip per measure: every scan a point, accepted ranges shaded, outliers marked.
(() => {
  "use strict";
  const {columns, scans, state, make, text, judge, select, sortBy, onChange} = group;
  const WIDE = 240, HIGH = 54, MIDDLE = 19, BIN = 5;
  const FIRST = 10;       // strips at first
  const MANY = 300;       // more points are drawn as a histogram,
  const MOST = 60;        // with the furthest outliers at each end
  const draw = (tag, properties) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(properties)) element.setAttribute(key, value);
    return element;
  };
  const quantile = (points, share) => {
    const place = share * (points.length - 1), low = Math.floor(place), high = Math.min(low + 1, points.length - 1);
    return points[low].value + (place - low) * (points[high].value - points[low].value);
  };
  // Beyond three times the interquartile range (Tukey's outer fences); few values have no outliers.
  const fences = points => {
    if (points.length < 8) return [-Infinity, Infinity];
    const low = quantile(points, .25), high = quantile(points, .75), reach = 3 * (high - low);
    return reach > 0 ? [low - reach, high + reach] : [-Infinity, Infinity];
  };
  // The data, and those ends of the ranges that do not squeeze the data together.
  const domain = (low, high, column) => {
    const room = 2 * (high - low) || Math.abs(high) * .2 || 1;
    const ends = [column.low, column.high, column.usual_low, column.usual_high].filter(end => end !== null && end > low - room && end < high + room);
    const least = Math.min(low, ...ends), most = Math.max(high, ...ends), rim = .05 * (most - least) || room;
    return [least - rim, most + rim];
  };

  const measure = (column, number) => {
    const points = scans.map(scan => ({scan, value: scan.values[number]})).filter(point => point.value !== null);
    if (!points.length) return null;
    points.sort((a, b) => a.value - b.value);
    const [low, high] = fences(points);
    let outs = 0, fars = 0;
    for (const point of points) {
      point.kind = judge(point.value, column) === "bad" ? "out" : point.value < low || point.value > high ? "far" : "";
      if (point.kind === "out") outs++; else if (point.kind) fars++;
    }
    return {column, number, points, outs, fars};
  };

  const build = ({column, number, points, outs, fars}) => {
    const first = points[0].value, final = points[points.length - 1].value, [least, most] = domain(first, final, column);
    const across = value => WIDE * (value - least) / (most - least);
    const svg = draw("svg", {viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": "Distribution of " + column.label});
    const band = (from, to, kind) => {
      if (from === null && to === null) return;
      const start = Math.max(0, from === null ? 0 : across(from)), end = Math.min(WIDE, to === null ? WIDE : across(to));
      if (end > start) svg.append(draw("rect", {class: kind, x: start, width: end - start, y: 2, height: 2 * MIDDLE - 4, rx: 2}));
    };
    band(column.low, column.high, "accepted");
    band(column.usual_low, column.usual_high, "usual");

    const heap = new Array(Math.ceil(WIDE / BIN)).fill(0), crowd = points.length > MANY;
    const marks = [];
    points.forEach((point, place) => {
      const x = across(point.value), bin = Math.min(heap.length - 1, Math.floor(x / BIN)), before = heap[bin]++;
      if (crowd && (!point.kind || (place >= MOST && place < points.length - MOST))) return;
      const y = crowd ? MIDDLE : MIDDLE + (before % 2 ? 1 : -1) * Math.min(MIDDLE - 5, Math.ceil(before / 2) * 5);
      const mark = point.kind === "out" ? draw("path", {class: "out", d: `M${x} ${y - 5}l5 9h-10z`})
        : draw("circle", {class: point.kind, cx: x, cy: y, r: point.kind ? 4 : 3.2});
      const title = draw("title", {});
      title.textContent = `${point.scan.name}: ${text(point.value, column)} ${column.unit}`;
      mark.append(title);
      mark.addEventListener("click", () => select(point.scan));
      marks.push(mark);
    });
    if (crowd) {
      const tallest = Math.max(...heap), floor = 2 * MIDDLE - 2;
      const outline = heap.map((count, bin) => `L${bin * BIN} ${floor - 30 * count / tallest}h${BIN}`).join("");
      svg.append(draw("path", {class: "heap", d: `M0 ${floor}${outline}V${floor}z`}));
    }
    const now = draw("circle", {class: "now", r: 5, cy: MIDDLE, visibility: "hidden"});
    svg.append(...marks, now);
    // What is printed are the least and the greatest value, below their points; in one label where there is no room.
    const write = (x, anchor, words) => {
      const label = draw("text", {x, y: HIGH - 3, "text-anchor": anchor});
      label.textContent = words.trim();
      svg.append(label);
    };
    const left = across(first), right = across(final), end = `${text(final, column)} ${column.unit}`;
    if (right - left > 90) {
      write(left, "start", text(first, column));
      write(right, "end", end);
    } else {
      write(Math.min(Math.max((left + right) / 2, 55), WIDE - 55), "middle", first === final ? end : `${text(first, column)} to ${end}`);
    }
    const counts = [outs ? `▲ ${outs}` : "", fars ? `○ ${fars}` : ""].join(" ").trim();
    const head = make("button", {type: "button", title: column.label}, make("span", {}, column.short),
      make("span", {className: "count"}, counts));
    head.addEventListener("click", () => sortBy(column.name));
    const show = () => {
      const value = state.current ? state.current.values[number] : null;
      now.setAttribute("visibility", value === null ? "hidden" : "visible");
      if (value !== null) now.setAttribute("cx", across(value));
      head.setAttribute("aria-pressed", state.sort === column.name);
    };
    return {element: make("div", {className: "plot"}, head, svg), show};
  };

  // Key measures first, then those with outliers, so that the first rows of strips hold what matters.
  const found = columns.map(measure).filter(plot => plot);
  found.sort((a, b) => b.column.key - a.column.key || (b.outs + b.fars > 0) - (a.outs + a.fars > 0) || a.number - b.number);
  const box = document.querySelector("#plots"), more = document.querySelector("#more-plots");
  const drawn = [];
  const add = plots => plots.forEach(plot => {
    const made = build(plot);
    drawn.push(made);
    box.append(made.element);
    made.show();
  });
  add(found.slice(0, FIRST));
  more.hidden = found.length <= FIRST;
  more.textContent = `All ${found.length} measures`;
  more.addEventListener("click", () => { add(found.slice(FIRST)); more.hidden = true; });
  document.querySelector(".plots").hidden = !found.length;
  document.querySelector(".plots").open = innerWidth > 640;   // a phone shows the scans first
  onChange(() => drawn.forEach(plot => plot.show()));
})();
