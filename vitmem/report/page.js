"use strict";
// What all parts share. Text from data only ever becomes textContent, never markup.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

/** Return a new element with properties, attributes and children (elements or texts). */
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function bytes(base64) {
  const text = atob(base64);
  const found = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) found[i] = text.charCodeAt(i);
  return found;
}

/** Return numbers from base64 of little-endian ones; kind is a typed array. */
function unpack(base64, kind) {
  return new kind(bytes(base64).buffer);
}

function fillSelect(select, options) {
  select.replaceChildren(...options.map(([value, text]) => element("option", { value: String(value), textContent: text })));
}

const count = (n) => n.toLocaleString("en-US");
const share = ([k, n]) => (n ? (k / n).toFixed(3) : "-");
const ofAll = (name, [k, n]) => `${name} ${count(k)} of ${count(n)} (${share([k, n])})`;

// The glossary, on hover and on focus: one tooltip that stays while the pointer is on it, and goes with Escape.
(() => {
  const tip = byId("tooltip");
  let owner = null, leaving = 0;
  const hide = () => { tip.hidden = true; owner = null; };
  const show = (link) => {
    clearTimeout(leaving);
    owner = link;
    tip.textContent = byId(link.getAttribute("aria-describedby")).textContent;
    tip.hidden = false;
    const at = link.getBoundingClientRect();
    const left = Math.min(at.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    const above = at.bottom + tip.offsetHeight + 12 > window.innerHeight && at.top > tip.offsetHeight + 12;
    tip.style.left = `${Math.max(8, left) + window.scrollX}px`;
    tip.style.top = `${(above ? at.top - tip.offsetHeight - 6 : at.bottom + 6) + window.scrollY}px`;
  };
  const leave = () => { leaving = setTimeout(hide, 150); };
  for (const link of document.querySelectorAll(".term")) {
    link.addEventListener("mouseenter", () => show(link));
    link.addEventListener("focus", () => show(link));
    link.addEventListener("mouseleave", leave);
    link.addEventListener("blur", hide);
  }
  tip.addEventListener("mouseenter", () => clearTimeout(leaving));
  tip.addEventListener("mouseleave", leave);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && owner) hide(); });
})();
