// Two edits side by side: which images each flips, and the exact McNemar test.

/** Return p of the exact two-sided McNemar test: binomial over the pairs of which one side alone is right. */
function mcnemar(onlyFirst, onlySecond) {
  const n = onlyFirst + onlySecond;
  let log = -n * Math.LN2, sum = 0;
  for (let i = 0; i <= Math.min(onlyFirst, onlySecond); i++) {
    sum += Math.exp(log);
    log += Math.log((n - i) / (i + 1));
  }
  return Math.min(1, 2 * sum);
}

const probability = (p) => (p < 0.0001 ? p.toExponential(1) : p.toFixed(4));

if (data) {
  const at = (name) => byId(`compare-${name}`);
  let seed = data.seeds[0];
  const groups = { first: "only the first flips", second: "only the second flips", both: "both flip", neither: "neither flips" };
  fillSelect(at("seed"), seedOptions());
  fillSelect(at("group"), Object.entries(groups));
  const chosen = () => [at("first"), at("second")].map((select) => seed.byId.get(select.value));
  const grid = new Grid("compare", (number) => {
    const lines = chosen().map((model, side) => {
      const answer = model.answer[number];
      return line(side ? "2nd" : "1st", className(answer), `answer ${outcome(seed, number, answer)}`);
    });
    return tile(seed, seed.asked[number], ...lines);
  });

  function models() {
    const kept = [at("first").value, at("second").value];
    const options = seed.models.map((model) => [model.id, model.id]);
    const edits = options.map(([id]) => id).filter((id) => !["base", "clean", "retrain", "early_stop"].includes(id));
    const halves = data.families.map((family) => family.ids.filter((id) => seed.byId.has(id))).filter((ids) => ids.length);
    const preset = halves.map((ids) => ids[Math.floor(ids.length / 2)]);
    [at("first"), at("second")].forEach((select, side) => {
      fillSelect(select, options);
      const wanted = seed.byId.has(kept[side]) ? kept[side] : preset[side] ?? edits[side];
      if (wanted) select.value = wanted;
    });
  }

  /** Return the four cells over all asked images of the seed. */
  function cells() {
    const ids = seed.models.map((model) => model.id);
    const [i, j] = [at("first"), at("second")].map((select) => ids.indexOf(select.value));
    const shared = seed.shared[at("measure").value];
    const n = ids.length, both = shared[i * n + j], first = shared[i * n + i] - both, second = shared[j * n + j] - both;
    return { both, first, second, neither: seed.num_asked - both - first - second };
  }

  function update() {
    const found = cells(), [first, second] = chosen(), n = seed.num_asked;
    const head = (text, scope) => element("th", { textContent: text, scope });
    const row = (text, a, b) => element("tr", {}, head(text, "row"), ...[a, b, a + b].map((k) => element("td", { textContent: count(k) })));
    at("table").replaceChildren(element("div", { className: "scroll square", tabIndex: 0, role: "region", "aria-label": "Two by two table" }, element("table", {},
      element("thead", {}, element("tr", {}, element("td"), ...[`second (${second.id}) flips`, "second does not", "all"].map((text) => head(text, "col")))),
      element("tbody", {}, row(`first (${first.id}) flips`, found.both, found.first), row("first does not", found.second, found.neither)))));
    const difference = n ? (found.first - found.second) / n : 0;
    at("result").textContent = `only the first ${count(found.first)}, only the second ${count(found.second)}; difference ${difference.toFixed(3)} of ${count(n)} images, p = ${probability(mcnemar(found.first, found.second))}`;
    show();
  }

  function show() {
    const [first, second] = chosen(), measure = at("measure").value;
    const does = (model, number) => (measure === "truth" ? model.answer[number] === seed.true[seed.asked[number]] && model.answer[number] !== data.unknown : model.answer[number] !== seed.given[seed.asked[number]]);
    const items = [...seed.asked.keys()].filter((number) => {
      const a = does(first, number), b = does(second, number);
      return { first: a && !b, second: b && !a, both: a && b, neither: !a && !b }[at("group").value];
    });
    at("shown").textContent = `${count(items.length)} of the ${count(seed.asked.length)} images shown here.${sample(seed).noisy}`;
    grid.show(items);
  }

  at("seed").addEventListener("change", () => { seed = data.seeds[Number(at("seed").value)]; models(); update(); });
  for (const name of ["first", "second", "measure"]) at(name).addEventListener("change", update);
  at("group").addEventListener("change", show);
  models();
  update();
}
