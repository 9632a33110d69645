// The try-it page: a picture, a row or an array is sent to /predict, and what comes back is shown.
"use strict";

const words = JSON.parse(document.documentElement.dataset.words);
const [title, form, said, answer] = ["h1", "form", ".said", ".answer"].map((name) => document.querySelector(name));
const model = encodeURIComponent(new URLSearchParams(location.search).get("model") || "");
let token = "";

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(token && { authorization: `Bearer ${token}` }) };
  const response = await fetch(path, { ...options, headers });
  const content = await response.json();
  if (!response.ok) throw Object.assign(new Error([content.error, content.advice].filter(Boolean).join(" ")), { status: response.status });
  return content;
}

async function predict(body, kind) {
  said.textContent = words.waiting;
  answer.replaceChildren();
  try {
    const { predictions } = await ask(`/predict?top=10&model=${model}`, { method: "POST", body, headers: { "content-type": kind } });
    said.textContent = "";
    answer.append(...predictions.flatMap(rows));
  } catch (error) {
    said.textContent = error.status ? error.message : words.gone;
  }
}

function bar(share) {
  const inner = make("div");
  inner.style.width = `${100 * share}%`;
  return make("div", { className: "bar" }, inner);
}

function rows(prediction) {
  if (!prediction.probabilities) return [make("li", {}, make("span", { textContent: JSON.stringify(prediction.value) }))];
  return Object.entries(prediction.probabilities).map(([name, share]) =>
    make("li", {}, make("span", { textContent: name }), bar(share),
      make("span", { className: "share", textContent: `${(100 * share).toFixed(1)} %` })));
}

function pictureForm() {
  const file = make("input", { type: "file", accept: "image/*", hidden: true });
  const image = make("img", { alt: "", hidden: true });
  const box = make("label", { className: "drop", tabIndex: 0 }, image, make("span", { textContent: words.drop }), file);
  const send = (chosen) => {
    if (!chosen) return;
    const reader = new FileReader();  // as a data: address, which the page's policy allows
    reader.onload = () => Object.assign(image, { src: reader.result, hidden: false });
    reader.readAsDataURL(chosen);
    predict(chosen, "application/octet-stream");
  };
  file.onchange = () => send(file.files[0]);
  box.onkeydown = (event) => { if (event.key === "Enter") file.click(); };
  box.ondragover = (event) => { event.preventDefault(); box.classList.add("over"); };
  box.ondragleave = () => box.classList.remove("over");
  box.ondrop = (event) => { event.preventDefault(); box.classList.remove("over"); send(event.dataTransfer.files[0]); };
  return [box];
}

function rowForm(columns) {
  const fields = columns.map((column) => {
    const options = () => [make("option", { value: "", textContent: words.missing }), ...column.categories.map((value) => make("option", { value, textContent: value }))];
    const field = column.kind === "category" ? make("select", { name: column.name }, ...options())
      : column.kind === "text" ? make("textarea", { name: column.name }) : make("input", { name: column.name, inputMode: column.kind === "number" ? "decimal" : "text", placeholder: column.kind === "date" ? "2024-01-31" : "" });
    return make("label", {}, column.name, field);
  });
  form.onsubmit = (event) => {
    event.preventDefault();
    const row = Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, value.trim() || null]));
    predict(JSON.stringify([row]), "application/json");
  };
  return [make("p", { textContent: words.columns }), make("div", { className: "fields" }, ...fields), make("button", { textContent: words.send })];
}

function arrayForm(shape) {
  const zeros = shape.reduceRight((inner, side) => Array(side).fill(inner), 0);
  const field = make("textarea", { value: JSON.stringify(zeros).slice(0, 20000) });
  form.onsubmit = (event) => { event.preventDefault(); predict(field.value, "application/json"); };
  return [make("label", {}, words.array, field), make("button", { textContent: words.send })];
}

function tokenForm() {
  const field = make("input", { type: "password", autocomplete: "off" });
  form.onsubmit = (event) => { event.preventDefault(); token = field.value.trim(); start(); };
  return [make("label", {}, words.token, field), make("button", { textContent: words.send })];
}

async function start() {
  try {
    const { name, models, kind, shape, columns } = await ask(`/signature?model=${model}`);
    title.textContent = words.title.replace("NAME", name);
    const others = models.filter((each) => each !== name).map((each) => make("a", { href: `/?model=${encodeURIComponent(each)}`, textContent: each }));
    document.querySelector("nav").replaceChildren(...others);
    form.onsubmit = null;
    form.replaceChildren(...(kind === "image" ? pictureForm() : kind === "table" ? rowForm(columns) : kind ? arrayForm(shape) : [words.tensors]));
    said.textContent = "";
  } catch (error) {
    said.textContent = error.status ? error.message : words.gone;
    if (error.status === 401) form.replaceChildren(...tokenForm());
  }
}

start();
