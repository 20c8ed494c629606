// Review by keyboard. Through `neuralprep review` decisions go to review.tsv; a page opened as a file keeps them in the
// browser and offers the table for download.
(() => {
  "use strict";
  const {data, scans, state, select, refresh, redraw, onChange} = group;
  if (!data.review) return;
  const find = selector => document.querySelector(selector);
  const memory = "neuralprep-review:" + location.pathname, note = find("#note"), said = find("#saved");
  let server = null;

  const tell = (words, bad = false) => { said.textContent = words; said.classList.toggle("bad", bad); };
  const now = () => new Date().toISOString().slice(0, 19) + "Z";
  const tidy = words => words.split(/\s+/).filter(Boolean).join(" ");
  const reviewed = scan => Boolean(scan.decision || scan.note);

  const show = () => {
    const scan = state.current;
    find("#who").textContent = scan ? scan.name : "No scan selected";
    find("#progress").textContent = `${scans.filter(item => item.decision).length} of ${scans.length} reviewed`;
    if (document.activeElement !== note) note.value = scan ? scan.note || "" : "";
    note.disabled = !scan;
    for (const [key, verdict] of [["a", "accept"], ["r", "reject"]]) {
      find(`[data-key=${key}]`).setAttribute("aria-pressed", Boolean(scan) && scan.decision === verdict);
    }
  };
  const keep = () => {
    const rows = scans.filter(scan => scan.time).map(({name, decision, note: words, time}) => [name, {decision, note: words, time}]);
    try {
      localStorage.setItem(memory, JSON.stringify(Object.fromEntries(rows)));
      tell("Kept in this browser only");
    } catch {
      tell("Not kept: download the table", true);
    }
  };
  const post = async body => {
    try {
      const answer = await fetch(".review/decision", {
        method: "POST", headers: {"Content-Type": "application/json", "X-Review-Token": server.token}, body,
      });
      if (!answer.ok) throw new Error(await answer.text());
      tell("Saved in review.tsv");
    } catch (error) {
      tell(`Not saved: ${error.message}`, true);
    }
  };
  let queue = Promise.resolve();   // one after the other: the last word on a scan must arrive last
  const save = scan => {
    scan.time = now();
    scan.stale = false;
    redraw(scan);
    show();
    if (!server) { keep(); return; }
    tell("Saving");
    const body = JSON.stringify({scan: scan.name, decision: scan.decision || "", note: scan.note || ""});
    queue = queue.then(() => post(body));
  };

  const step = by => {
    const place = state.shown.indexOf(state.current);
    const next = place < 0 ? 0 : Math.min(Math.max(place + by, 0), state.shown.length - 1);
    if (state.shown[next]) select(state.shown[next]);
  };
  const decide = verdict => {
    const scan = state.current;
    if (!scan) { step(1); return; }
    const next = state.shown[state.shown.indexOf(scan) + 1];
    scan.decision = verdict;
    save(scan);
    if (state.decided) refresh();
    if (verdict && next) select(next);
  };
  const open = address => { if (address) location.href = address; };
  const actions = {
    j: () => step(1), k: () => step(-1), a: () => decide("accept"), r: () => decide("reject"), u: () => decide(""),
    n: () => { if (!state.current) step(1); note.focus(); note.select(); },
    o: () => open(state.current?.page), v: () => open(state.current?.viewer),
    "/": () => find("input[type=search]").focus(), "?": () => find("#keys").showModal(),
  };
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, dialog")) {
      if (event.key === "Escape" && event.target !== note) event.target.blur();
      return;
    }
    const action = actions[event.key];
    if (action) { event.preventDefault(); action(); }
  });
  document.querySelectorAll("[data-key]").forEach(button => button.addEventListener("click", () => actions[button.dataset.key]()));
  const saveNote = () => {
    const scan = state.current, words = tidy(note.value);
    if (scan && words !== (scan.note || "")) { scan.note = words; save(scan); }
  };
  note.addEventListener("keydown", event => {
    if (event.key === "Enter") { saveNote(); note.blur(); }
    if (event.key === "Escape") { note.value = state.current?.note || ""; note.blur(); }
  });
  note.addEventListener("change", saveNote);

  find("#download").addEventListener("click", () => {
    const cell = words => tidy(words || "") || "n/a";
    const lines = scans.filter(reviewed).sort((a, b) => (a.name < b.name ? -1 : 1))
      .map(scan => [scan.name, scan.decision, scan.note, scan.time].map(cell).join("\t"));
    const blob = new Blob([["scan\tdecision\tnote\ttime", ...lines, ""].join("\n")], {type: "text/tab-separated-values"});
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "review.tsv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });

  const start = async () => {
    if (location.protocol.startsWith("http")) {
      try {
        const answer = await fetch(".review/state");
        if (answer.ok) server = await answer.json();
      } catch {
        server = null;   // served by something else: as from a file
      }
    }
    if (server) {
      find("#download").hidden = true;
      if (server.viewer) scans.forEach(scan => { if (scan.page) scan.viewer ||= ".review/viewer?scan=" + encodeURIComponent(scan.name); });
      tell("Decisions go to review.tsv");
    } else {
      let kept = {};
      try { kept = JSON.parse(localStorage.getItem(memory) || "{}"); } catch { kept = {}; }
      for (const scan of scans) {
        const mine = kept[scan.name];
        if (mine && mine.time > (scan.time || "")) Object.assign(scan, mine);
      }
      tell("Kept in this browser only");
      refresh();
    }
    if (!state.current && state.shown.length) select(state.shown[0], false);
    show();
  };
  onChange(show);
  start();
})();
