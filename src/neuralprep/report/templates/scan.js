(() => {
  "use strict";
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Lines that can be shown and hidden, each within its own section.
  for (const box of all("input[data-line]")) {
    const show = () => box.closest("section").classList.toggle("hide" + box.dataset.line, !box.checked);
    box.addEventListener("change", show);
    show();
  }

  // Before and after: one position in per cent serves all slices of a section.
  for (const section of all("[data-wipe]")) {
    const cover = document.querySelector("#" + section.dataset.wipe + " rect");
    const handles = all(".handle", section), slider = section.querySelector("input[type=range]");
    const flicker = section.querySelector(".flicker");
    let timer = 0;
    const place = () => {
      cover.setAttribute("x", slider.value / 100);
      for (const handle of handles) for (const end of ["x1", "x2"]) handle.setAttribute(end, slider.value + "%");
    };
    const stop = () => { clearInterval(timer); timer = 0; flicker.setAttribute("aria-pressed", "false"); };
    slider.addEventListener("input", () => { stop(); place(); });
    flicker.addEventListener("click", () => {
      if (timer) { stop(); return; }
      flicker.setAttribute("aria-pressed", "true");
      slider.value = 0;
      place();
      timer = setInterval(() => { slider.value = slider.value > 50 ? 0 : 100; place(); }, 700);
    });
    const drag = event => {
      if (event.type === "pointermove" && !event.buttons) return;
      const box = event.currentTarget.getBoundingClientRect();
      stop();
      slider.value = Math.round(100 * (event.clientX - box.left) / box.width);
      place();
    };
    for (const tile of all(".tile", section)) {
      tile.addEventListener("pointerdown", drag);
      tile.addEventListener("pointermove", drag);
    }
    const brain = section.querySelector("[data-brain]");
    if (brain) brain.addEventListener("change", () => {
      for (const part of all("[data-clip]", section)) {
        if (brain.checked) part.setAttribute("clip-path", part.dataset.clip);
        else part.removeAttribute("clip-path");
      }
    });
    place();
  }

  // One slice, enlarged; arrow keys go through the others.
  const dialog = document.querySelector("dialog"), tiles = all("button.tile");
  let shown = 0;
  const enlarge = number => {
    shown = (number + tiles.length) % tiles.length;
    dialog.className = tiles[shown].closest("section").className;
    const title = document.createElement("p"), slice = tiles[shown].querySelector("svg").cloneNode(true);
    title.textContent = slice.getAttribute("aria-label");
    dialog.replaceChildren(slice, title);
    if (!dialog.open) dialog.showModal();
  };
  tiles.forEach((tile, number) => tile.addEventListener("click", () => enlarge(number)));
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (step) { event.preventDefault(); enlarge(shown + step); }
  });

  // Copy: the clipboard where the browser allows it, else the old way through a selection.
  for (const button of all("[data-copy]")) button.addEventListener("click", async () => {
    const source = document.querySelector(button.dataset.copy), said = button.nextElementSibling;
    const items = all("li", source).map((item, number) => `${number + 1}. ${item.textContent.trim()}`);
    const text = [...all("p", source).map(part => part.textContent.trim()), items.join("\n")].join("\n\n");
    try {
      await navigator.clipboard.writeText(text);
      said.textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren(source);
      said.textContent = document.execCommand("copy") ? "Copied." : "Selected: press Ctrl+C to copy.";
    }
  });
})();
