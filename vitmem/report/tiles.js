// Images of the sample, their labels, and grids of tiles with pages.

const CODES = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array };
const OUTCOMES = { memorized: "memorized", truth: "ground truth", other: "other" };
const PER_PAGE = 120;

/** Unpack what is known of the sample; answers are of the asked images in it, in their order. */
function unpackAll() {
  const kind = CODES[data.code_bytes];
  data.unknown = 2 ** (8 * data.code_bytes) - 1;
  data.index = unpack(data.index, Uint32Array);
  for (const seed of data.seeds) {
    seed.given = unpack(seed.given, kind);
    seed.true = unpack(seed.true, kind);
    const isAsked = unpack(seed.asked, Uint8Array);
    seed.isAsked = isAsked;
    seed.asked = [...data.index.keys()].filter((i) => i < data.drawn && isAsked[i]);
    for (const measure of Object.keys(seed.shared)) seed.shared[measure] = unpack(seed.shared[measure], Uint32Array);
    seed.byId = new Map();
    for (const model of seed.models) {
      model.answer = unpack(model.answer, kind);
      seed.byId.set(model.id, model);
    }
    for (const score of seed.scores) {
      score.value = unpack(score.value, Float32Array);
      score.rank = unpack(score.rank, Uint32Array);
    }
  }
}

const className = (code) => (code === data.unknown ? "unknown" : data.classes[code]);

/** Tell what the answer about an asked image is; number counts the asked images of the seed. */
function outcome(seed, number, answer) {
  const position = seed.asked[number];
  if (answer === seed.given[position]) return "memorized";
  return answer === seed.true[position] && answer !== data.unknown ? "truth" : "other";
}

const sheets = new Map();

function sheet(page) {
  if (!sheets.has(page)) {
    const [head, body] = data.thumbnails.pages[page].split(",", 2);
    const type = head.slice("data:".length, head.indexOf(";"));
    sheets.set(page, URL.createObjectURL(new Blob([bytes(body)], { type })));
  }
  return sheets.get(page);
}

function thumb(position) {
  const label = `training image ${data.index[position]}`;
  const made = element("span", { className: "thumb", role: "img", "aria-label": label });
  const info = data.thumbnails;
  if (!info) {
    made.classList.add("absent");
    return made;
  }
  const scale = 56 / Math.max(info.width, info.height);
  const place = position % info.per_page;
  const x = (place % info.columns) * info.cell_width, y = Math.floor(place / info.columns) * info.cell_height;
  made.style.width = `${info.width * scale}px`;
  made.style.height = `${info.height * scale}px`;
  made.style.backgroundImage = `url("${sheet(Math.floor(position / info.per_page))}")`;
  made.style.backgroundSize = `${info.columns * info.cell_width * scale}px auto`;
  made.style.backgroundPosition = `${-x * scale}px ${-y * scale}px`;
  made.classList.toggle("smooth", Math.max(info.width, info.height) > 32);
  return made;
}

const line = (what, text, kind = "") => element("div", { className: kind }, element("span", { className: "what", textContent: `${what} ` }), text);

/** Return a tile with an image, its labels and further lines. */
function tile(seed, position, ...lines) {
  const made = element("li", { className: "tile" }, thumb(position), line("given", className(seed.given[position])), line("true", className(seed.true[position])), ...lines);
  if (data.names.length) made.title = data.names[position];
  return made;
}

/** A grid that shows items, a page at a time; draw makes the tile of an item. */
class Grid {
  constructor(name, draw) {
    this.list = byId(`${name}-tiles`);
    this.pager = byId(`${name}-pager`);
    this.draw = draw;
    this.items = [];
    this.page = 0;
    const button = (text, step) => element("button", { type: "button", textContent: text, onclick: () => this.turn(step) });
    this.back = button("Previous", -1);
    this.forth = button("Next", 1);
    this.said = element("span", { role: "status" });
  }

  show(items, keepPage = false) {
    this.items = items;
    if (!keepPage) this.page = 0;
    this.turn(0);
  }

  turn(step) {
    const pages = Math.max(1, Math.ceil(this.items.length / PER_PAGE));
    this.page = Math.min(Math.max(0, this.page + step), pages - 1);
    const start = this.page * PER_PAGE;
    this.list.replaceChildren(...this.items.slice(start, start + PER_PAGE).map(this.draw));
    const focused = document.activeElement;
    if (pages > 1) {
      if (!this.back.isConnected) this.pager.append(this.back, this.said, this.forth);
      this.said.textContent = `page ${this.page + 1} of ${pages}`;
    } else this.pager.replaceChildren();
    this.back.disabled = this.page === 0;
    this.forth.disabled = this.page === pages - 1;
    if (focused === this.back && this.back.disabled) this.forth.focus();
    if (focused === this.forth && this.forth.disabled) this.back.focus();
  }
}

const seedOptions = () => data.seeds.map((seed, number) => [number, String(seed.seed)]);

/** Say which part of the training set is shown, where it is not all of it. */
function sample(seed) {
  const asked = seed.asked.length;
  const noisy = asked < seed.num_asked ? ` ${count(asked)} of the ${count(seed.num_asked)} are shown, drawn at random; the counts are of all.` : "";
  const all = data.shown < data.total ? ` ${count(data.shown)} of ${count(data.total)} are shown: noisy ones, the first of each order, and others at random; ranks are among all.` : "";
  return { noisy, all };
}

if (data) unpackAll();
