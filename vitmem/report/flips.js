// The flip explorer: noisy images, and what an edit of growing strength makes of their answers.

/** Draw the frontier of a seed into a box; choose is called with the number of a strength. */
class Frontier {
  constructor(box, choose) {
    this.box = box;
    this.choose = choose;
    this.points = [];
  }

  static node(tag, attributes, text = "") {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    return made;
  }

  /** Draw all families thinly, and the strengths of one of them as points. */
  draw(seed, steps, metric) {
    const node = Frontier.node;
    const at = (model) => ({ x: model.count.memorized[0] / model.count.memorized[1], y: model.count[metric][0] / model.count[metric][1] });
    const known = (model) => model && model.count.memorized[1] && model.count[metric][1];
    const models = seed.models.filter(known);
    const ys = models.map((model) => at(model).y);
    const low = Math.floor(Math.min(...ys, 1) * 10) / 10, high = Math.max(Math.ceil(Math.max(...ys, 0) * 10) / 10, low + 0.1);
    const X = (x) => 52 + 350 * x, Y = (y) => 262 - 240 * (y - low) / (high - low);
    const svg = node("svg", { viewBox: "0 0 420 305", role: "group", "aria-label": `Frontier: ${metric === "truth" ? "ground truth" : "validation"} against memorized` });
    for (let i = 0; i <= 4; i++) {
      const x = i / 4, y = low + ((high - low) * i) / 4;
      svg.append(node("line", { class: "grid", x1: X(x), x2: X(x), y1: Y(low), y2: Y(high) }), node("line", { class: "grid", x1: X(0), x2: X(1), y1: Y(y), y2: Y(y) }));
      svg.append(node("text", { class: "soft", x: X(x), y: 280, "text-anchor": "middle" }, x.toFixed(2)), node("text", { class: "soft", x: 45, y: Y(y) + 4, "text-anchor": "end" }, y.toFixed(2)));
    }
    svg.append(node("text", { x: X(0.5), y: 300, "text-anchor": "middle" }, "memorized (left: more forgotten)"));
    const path = (ids) => ids.map((id) => seed.byId.get(id)).filter(known).map((model) => `${X(at(model).x)},${Y(at(model).y)}`).join(" ");
    for (const family of data.families) svg.append(node("polyline", { class: "thin", points: path(family.ids) }));
    svg.append(node("polyline", { class: "thick", points: path(steps) }));
    const retrain = seed.byId.get("retrain");
    if (known(retrain)) {
      const { x, y } = at(retrain);
      svg.append(node("rect", { class: "mark", x: X(x) - 5, y: Y(y) - 5, width: 10, height: 10 }), node("text", { x: X(x) + 10, y: Y(y) + (Y(y) > 250 ? -8 : 14) }, "retrain"));
    }
    this.points = steps.map((id, number) => {
      const model = seed.byId.get(id);
      if (!known(model)) return null;
      const { x, y } = at(model);
      const label = `${id}: memorized ${x.toFixed(3)}, ${metric === "truth" ? "ground truth" : "validation"} ${y.toFixed(3)}`;
      const group = node("g", { class: "point", role: "button", "aria-label": label });
      const circle = (kind, r) => node("circle", { class: kind, cx: X(x), cy: Y(y), r });
      group.append(node("title", {}, label), circle("hit", 13), circle("dot", 5), circle("ring", 9));
      group.addEventListener("click", () => this.choose(number));
      group.addEventListener("keydown", (event) => this.key(event, number));
      svg.append(group);
      return group;
    });
    this.box.replaceChildren(svg);
  }

  key(event, number) {
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, Enter: 0, " ": 0 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    let next = number + step;
    while (this.points[next] === null) next += step;
    if (!this.points[next]) return;
    this.choose(next);
    this.points[next].focus();
  }

  mark(chosen) {
    this.points.forEach((point, number) => {
      point?.setAttribute("aria-pressed", String(number === chosen));
      point?.setAttribute("tabindex", number === chosen ? "0" : "-1");
    });
    const point = this.points[chosen];
    if (point && document.activeElement !== point && !point.contains(document.activeElement)) point.parentNode.append(point);
  }
}

if (data) {
  const at = (name) => byId(`flips-${name}`);
  const slider = at("strength");
  const state = { seed: data.seeds[0], steps: ["base"], family: null };
  const any = [["", "any"]];
  const classes = data.classes.map((name, code) => [code, name]);
  fillSelect(at("family"), data.families.map((family, number) => [number, family.label]));
  fillSelect(at("seed"), seedOptions());
  fillSelect(at("given"), [...any, ...classes]);
  fillSelect(at("true"), [...any, ...classes]);
  fillSelect(at("outcome"), [...any, ...Object.entries(OUTCOMES), ["changed", "changed by the edit"]]);

  const model = () => state.seed.byId.get(state.steps[Number(slider.value)]);
  const base = () => state.seed.byId.get("base");
  const grid = new Grid("flips", (number) => {
    const answer = model().answer[number];
    const what = outcome(state.seed, number, answer);
    const made = tile(state.seed, state.seed.asked[number], line("says", className(answer), `answer ${what}`));
    made.classList.add(what);
    return made;
  });
  const frontier = new Frontier(at("plot"), (number) => {
    slider.value = String(number);
    update();
  });

  /** Say and show the answers at the strength that is chosen. */
  function update() {
    const { seed, steps, family } = state, chosen = model(), number = Number(slider.value);
    const value = family && number > 0 ? family.values[family.ids.indexOf(chosen.id)] : null;
    const setting = number === 0 ? "no edit" : family.option ? `${family.option} ${value} (${chosen.id})` : chosen.id;
    const said = [ofAll("memorized", chosen.count.memorized), ofAll("ground truth", chosen.count.truth), ofAll("other", chosen.count.other)];
    const [right, n] = chosen.count.validation;
    const validation = n ? `; validation ${share([right, n])} of ${count(n)}` : "";
    const status = chosen.status && chosen.status !== "ok" ? `; ${chosen.status}` : "";
    at("setting").textContent = setting;
    slider.setAttribute("aria-valuetext", setting);
    at("counts").textContent = `${said.join(", ")}${validation}${status}`;
    for (const name of Object.keys(OUTCOMES)) {
      const [k] = chosen.count[name], total = chosen.count.memorized[1];
      at("bar").querySelector(`.${name}`).style.width = `${total ? (100 * k) / total : 0}%`;
    }
    frontier.mark(number);
    filter(true);
  }

  function filter(keepPage = false) {
    const { seed } = state, chosen = model(), plain = base();
    const given = at("given").value, truth = at("true").value, wanted = at("outcome").value;
    const counts = { memorized: 0, truth: 0, other: 0 };
    const items = [];
    seed.asked.forEach((position, number) => {
      const what = outcome(seed, number, chosen.answer[number]);
      if (given !== "" && seed.given[position] !== Number(given)) return;
      if (truth !== "" && seed.true[position] !== Number(truth)) return;
      if (wanted === "changed" ? chosen.answer[number] === plain.answer[number] : wanted && what !== wanted) return;
      counts[what] += 1;
      items.push(number);
    });
    const filtered = given !== "" || truth !== "" || wanted !== "";
    const parts = Object.entries(OUTCOMES).map(([name, title]) => `${title} ${count(counts[name])}`).join(", ");
    at("shown").textContent = filtered ? `${count(items.length)} of the ${count(seed.asked.length)} images shown here match the filters (${parts}); the counts above are of all ${count(seed.num_asked)}.` : "";
    grid.show(items, keepPage);
  }

  /** Take another edit, seed or metric; keep the strength where it is if that is possible. */
  function restart() {
    state.seed = data.seeds[Number(at("seed").value)];
    state.family = data.families[Number(at("family").value)] ?? null;
    state.steps = ["base", ...(state.family?.ids ?? []).filter((id) => state.seed.byId.has(id))];
    slider.max = String(state.steps.length - 1);
    slider.disabled = state.steps.length < 2;
    at("sample").textContent = sample(state.seed).noisy;
    frontier.draw(state.seed, state.steps, at("metric").value);
    update();
  }

  for (const name of ["family", "seed", "metric"]) at(name).addEventListener("change", restart);
  for (const name of ["given", "true", "outcome"]) at(name).addEventListener("change", () => filter());
  slider.addEventListener("input", update);
  let playing = 0;
  at("play").addEventListener("click", () => {
    const stop = () => { clearInterval(playing); playing = 0; at("play").setAttribute("aria-pressed", "false"); };
    if (playing) return stop();
    at("play").setAttribute("aria-pressed", "true");
    if (slider.value === slider.max) slider.value = "0";
    playing = setInterval(() => {
      slider.value = String(Number(slider.value) + 1);
      update();
      if (slider.value === slider.max) stop();
    }, 900);
  });
  restart();
}
