"use strict";
const $ = id => document.getElementById(id);
let state = {scans: [], most_bytes: Infinity, endings: []}, uploads = [], sending = false, timer = 0, count = 0, cards = new Map();

function make(tag, classes, text) {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  if (text !== undefined) element.textContent = text;
  return element;
}
function button(text, work) {
  const element = make("button", "button", text);
  element.type = "button";
  element.onclick = work;
  return element;
}
function link(address, text, name) {
  const element = make("a", "button", text);
  element.href = address;
  if (name === undefined) { element.target = "_blank"; element.rel = "noopener"; } else element.download = name;
  return element;
}
const megabytes = bytes => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
const address = path => path.split("/").map(encodeURIComponent).join("/");
function complain(text) { $("fault").textContent = text; $("fault").hidden = !text; }

const PILLS = {ok: "ok", check: "check", failed: "failed", waiting: "waiting", running: "running", upload: "uploading"};
function frame(title, kind) {
  const card = make("article", "scan"), top = make("div", "top");
  top.append(make("h2", "", title), make("span", `pill ${kind in {ok: 1, check: 1, failed: 1} ? kind : "run"}`, PILLS[kind]));
  card.append(top);
  return [card, top];
}
function bar(card, share) {
  const element = make("progress");
  element.max = 1;
  if (share >= 0) element.value = share;
  card.append(element);
}
function coming(upload) {
  const [card, top] = frame(upload.file.name, "upload");
  top.append(button("Cancel", () => stop(upload)));
  card.append(make("p", "what", upload.request ? `${megabytes(upload.sent)} of ${megabytes(upload.file.size)}` : "waits for the upload before it"));
  bar(card, upload.file.size ? upload.sent / upload.file.size : 0);
  return card;
}
function here(scan) {
  const [card, top] = frame(scan.title, scan.state);
  card.dataset.key = scan.key;
  top.append(button("Remove", () => remove(scan.key)));
  if (scan.state === "waiting") card.append(make("p", "what", scan.ahead ? `${scan.ahead} before it` : "next"));
  if (scan.state === "running") {
    card.append(make("p", "what", `${scan.step} (step ${scan.done + 1} of ${scan.of})`));
    bar(card, scan.of > 1 ? scan.done / scan.of : -1);
  }
  if (scan.reasons.length) {
    const list = make("ul", scan.state === "failed" ? "failed-why" : "");
    list.append(...scan.reasons.map(text => make("li", "", text)));
    card.append(list);
  }
  if (!scan.report) return card;
  const base = `/scans/${encodeURIComponent(scan.key)}/`, picture = make("img");
  picture.src = base + address(scan.picture);
  picture.alt = `Slices of ${scan.title} with the outline of the brain mask`;
  picture.onerror = () => picture.remove();
  const numbers = make("div", "numbers"), links = make("div", "links");
  for (const row of scan.measures) {
    const item = make("span", "", `${row.label} `);
    item.append(make("b", row.state === "check" ? "bad" : "", row.value));
    numbers.append(item);
  }
  numbers.append(make("span", "", `${scan.seconds} s`));
  const archive = link(`/zip/${encodeURIComponent(scan.key)}`, "Download everything (zip)", scan.outputs);
  archive.classList.add("main");
  links.append(archive, link(base + address(scan.report), "Open the report"));
  card.append(picture, numbers, links);
  return card;
}
function draw() {
  const rows = [...uploads.map(u => [u, coming, JSON.stringify([u.id, u.sent, !!u.request])]),
    ...state.scans.slice().reverse().map(({for_s, ...scan}) => [scan, here, JSON.stringify(scan)])];
  const kept = cards;
  cards = new Map();
  for (const [item, work, text] of rows) cards.set(text, kept.get(text) || work(item));
  $("none").hidden = rows.length > 0;
  // cards that have not changed stay where they are: a click may be under way on one of them
  const old = new Set($("scans").children), now = [...cards.values()];
  for (const card of old) if (!now.includes(card)) card.remove();
  now.forEach((card, at) => { if ($("scans").children[at] !== card) $("scans").insertBefore(card, $("scans").children[at] || null); });
}
function take(answer) {
  state = answer;
  $("takes").textContent = `${state.endings.join("  ")}  \u2013  up to ${megabytes(state.most_bytes)} each`;
  $("keeps").textContent = `Scans are deleted after ${state.keep_hours} hours and when the server ends.`;
  draw();
}
async function refresh() {
  clearTimeout(timer);
  try {
    const answer = await fetch("/state");
    if (!answer.ok) throw new Error(await answer.text());
    take(await answer.json());
  } catch (error) {
    complain(error instanceof TypeError ? "The server does not answer: start it again and open the address that it prints." : error.message);
  }
  timer = setTimeout(refresh, state.scans.some(s => s.state === "running" || s.state === "waiting") ? 600 : 5000);
}
async function remove(key) {
  const answer = await fetch("/remove", {method: "POST", body: key, headers: {"X-Neuralprep-Token": state.token}});
  if (answer.ok) take(await answer.json()); else complain(await answer.text());
}
function stop(upload) {
  uploads = uploads.filter(other => other !== upload);
  if (upload.request) upload.request.abort();
  draw();
}
function add(files) {
  complain("");
  for (const id of ["lambda", "frame"]) if (!$(id).reportValidity()) return;
  for (const file of files) {
    if (!state.endings.some(ending => file.name.toLowerCase().endsWith(ending)))
      complain(`${file.name}: not an image that can be read. Give one of ${state.endings.join(", ")}; convert DICOM first.`);
    else if (file.size > state.most_bytes)
      complain(`${file.name}: has ${megabytes(file.size)}; the limit is ${megabytes(state.most_bytes)} (--max-mb).`);
    else uploads.push({id: ++count, file, sent: 0, request: null, choices: {boundary: $("boundary").value, lambda: $("lambda").value, frame: $("frame").value}});
  }
  draw();
  send();
}
function send() {
  const upload = uploads[0];
  if (sending || !upload) return;
  sending = true;
  const request = upload.request = new XMLHttpRequest(), query = new URLSearchParams({name: upload.file.name});
  for (const [name, value] of Object.entries(upload.choices)) if (value) query.set(name, value);
  request.open("POST", `/upload?${query}`);
  request.setRequestHeader("X-Neuralprep-Token", state.token);
  request.upload.onprogress = event => { upload.sent = event.loaded; draw(); };
  request.onloadend = () => {
    sending = false;
    uploads = uploads.filter(other => other !== upload);
    if (request.status !== 200 && request.readyState === 4 && (request.status || request.responseText)) complain(`${upload.file.name}: ${request.responseText}`);
    send();
    refresh();
  };
  request.onerror = () => complain(`${upload.file.name}: the upload was cut off. Is the server still running?`);
  request.send(upload.file);
}
$("file").onchange = event => { add(event.target.files); event.target.value = ""; };
for (const kind of ["dragenter", "dragover"]) addEventListener(kind, event => { event.preventDefault(); $("drop").classList.add("over"); });
addEventListener("dragleave", event => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
addEventListener("drop", event => { event.preventDefault(); $("drop").classList.remove("over"); add(event.dataTransfer.files); });
refresh();
