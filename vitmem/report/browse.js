// The training set in the order of a score.

if (data) {
  const at = (name) => byId(`browse-${name}`);
  let seed = data.seeds[0];
  const score = () => seed.scores.find((one) => one.name === at("score").value);
  const grid = new Grid("browse", (position) => {
    const { value, rank } = score();
    const kind = seed.isAsked[position] ? "memorized" : "";
    const made = tile(seed, position, line("rank", count(rank[position] + 1)), line("score", Number.isNaN(value[position]) ? "none" : value[position].toPrecision(3)));
    if (kind) made.append(element("div", { className: "answer memorized", textContent: "noisy" }));
    if (kind) made.classList.add(kind);
    return made;
  });

  function restart() {
    const kept = at("score").value;
    seed = data.seeds[Number(at("seed").value)];
    fillSelect(at("score"), seed.scores.map((one) => [one.name, one.name]));
    if (seed.scores.some((one) => one.name === kept)) at("score").value = kept;
    update();
  }

  function update() {
    const { rank, name, found } = score(), which = at("which").value, direction = Number(at("order").value);
    const items = [...data.index.keys()].filter((i) => which === "all" || (which === "noisy") === Boolean(seed.isAsked[i]));
    items.sort((a, b) => direction * (rank[a] - rank[b]));
    at("result").textContent = `${name}: of the ${count(seed.num_asked)} most suspect of ${count(data.total)}, ${count(found)} are noisy`;
    at("sample").textContent = sample(seed).all;
    grid.show(items);
  }

  fillSelect(at("seed"), seedOptions());
  for (const name of ["score", "order", "which"]) at(name).addEventListener("change", update);
  at("seed").addEventListener("change", restart);
  restart();
}
