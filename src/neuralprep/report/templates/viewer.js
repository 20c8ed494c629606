(async () => {
  "use strict";
  const find = selector => document.querySelector(selector), message = find("#message");
  const bytes = async text => {
    const packed = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  const fail = words => { message.hidden = false; message.textContent = words; document.body.dataset.state = "failed"; };
  if (!window.DecompressionStream) { fail("This browser is too old for the viewer: Chrome 80, Firefox 113 or Safari 16.4 are needed."); return; }
  if (!document.createElement("canvas").getContext("webgl2")) { fail("The viewer needs WebGL 2, which this browser does not offer."); return; }
  try {
    const address = URL.createObjectURL(new Blob([await bytes(find("#library").textContent)], {type: "text/javascript"}));
    const {Niivue, NVImage} = await import(address);
    URL.revokeObjectURL(address);
    const header = await bytes(find("#header").textContent);
    const volumes = await Promise.all([...document.querySelectorAll("script.volume")].map(async item =>
      ({name: item.dataset.name, kind: item.dataset.kind, data: await bytes(item.textContent)})));
    const images = volumes.filter(volume => volume.kind === "image"), masks = volumes.filter(volume => volume.kind === "mask");
    const view = new Niivue({backColor: [0, 0, 0, 1], show3Dcrosshair: true, crosshairColor: [1, .62, .11, .8], isColorbar: false,
      multiplanarShowRender: 1, multiplanarLayout: 2, crosshairWidth: .6, clipPlaneColor: [0, 0, 0, 0], loadingText: "", dragAndDropEnabled: false, logLevel: "error", isOrientCube: false});
    await view.attachToCanvas(find("#canvas"));
    view.setRadiologicalConvention(false);
    [[255, 159, 28], [46, 213, 235], [224, 105, 208]].forEach((colour, number) => view.addColormap("mask" + number, {
      R: [0, colour[0]], G: [0, colour[1]], B: [0, colour[2]], A: [0, 255], I: [0, 255]}));

    const state = {image: 0, brain: false, shown: new Set(), opacity: .45};
    const volume = async (name, data, options) => {
      const file = new Uint8Array(header.length + data.length);
      file.set(header);
      file.set(data, header.length);
      return NVImage.loadFromUrl({url: name + ".nii", name: name + ".nii", buffer: file.buffer, ...options});
    };
    const draw = async () => {
      let data = images[state.image].data;
      if (state.brain && masks.length) data = data.map((value, voxel) => masks[0].data[voxel] ? value : 0);
      const layers = [await volume("image", data, {colormap: "gray", cal_min: 0, cal_max: 254})];
      for (const number of state.shown) {
        layers.push(await volume("mask" + number, masks[number].data, {colormap: "mask" + number, opacity: state.opacity, cal_min: .5, cal_max: 1}));
      }
      while (view.volumes.length) view.removeVolume(view.volumes[view.volumes.length - 1]);
      layers.forEach(layer => view.addVolume(layer));
    };
    const press = (group, pressed) => [...group.children].forEach(button => button.setAttribute("aria-pressed", button === pressed));
    const button = (group, words, action, key) => {
      const made = document.createElement("button");
      made.type = "button";
      made.className = "button";
      if (key !== undefined) {
        const swatch = document.createElement("i");
        swatch.className = "key key" + key;
        made.append(swatch);
      }
      made.append(words);
      made.addEventListener("click", () => action(made));
      group.append(made);
      return made;
    };
    images.forEach((image, number) => button(find("#images"), image.name, made => {
      state.image = number;
      press(find("#images"), made);
      draw();
    }).setAttribute("aria-pressed", number === 0));
    masks.forEach((mask, number) => button(find("#masks"), mask.name, made => {
      if (state.shown.has(number)) state.shown.delete(number); else state.shown.add(number);
      made.setAttribute("aria-pressed", state.shown.has(number));
      draw();
    }, number).setAttribute("aria-pressed", "false"));
    find("#opacity").addEventListener("input", event => {
      state.opacity = event.target.value / 100;
      for (let layer = 1; layer < view.volumes.length; layer++) view.setOpacity(layer, state.opacity);
    });
    document.querySelectorAll("[data-view]").forEach(made => made.addEventListener("click", () => {
      view.setSliceType(made.dataset.view === "render" ? view.sliceTypeRender : view.sliceTypeMultiplanar);
      press(made.parentElement, made);
    }));
    find("#brain").addEventListener("change", event => { state.brain = event.target.checked; draw(); });
    find("#brain").parentElement.hidden = !masks.length;
    find("#opacity").parentElement.hidden = !masks.length;
    find("#cut").addEventListener("change", event => view.setClipPlane(event.target.checked ? [.05, 210, 20] : [2, 0, 0]));
    view.onLocationChange = place => {
      const [x, y, z] = place.mm;
      find("#place").textContent = `x ${x.toFixed(0)}, y ${y.toFixed(0)}, z ${z.toFixed(0)} mm`;
    };
    await draw();
    view.setSliceType(view.sliceTypeMultiplanar);
    message.hidden = true;
    document.body.dataset.state = "drawn";
  } catch (error) {
    fail(`The viewer could not start: ${error.message}`);
  }
})();
