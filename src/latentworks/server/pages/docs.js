"use strict";
// Lists the operations of openapi.json, with a form to try each one.

const make = (tag, text = "", className = "") =>
  Object.assign(document.createElement(tag), { textContent: text, className });

const EXAMPLES = {
  sample: { num: 4, seed: 0, images: "base64" },
  interpolate: { inputs: "LATENTS2", num: 6, images: "base64" },
  decode: { inputs: "LATENTS1" },
  log_density: { inputs: "LATENTS1" },
  invocations: { inputs: "LATENTS1", params: { verb: "decode" } },
};

function example(verb, version) {
  const [height, width] = version.image_shape;
  const point = (z) => Array(version.latent_dim).fill(z);
  const image = Array.from({ length: height }, (_, y) =>
    Array.from({ length: width }, (_, x) => (x + y) % 2 * 255));
  const known = EXAMPLES[verb] || { inputs: [image] };
  const text = JSON.stringify(known);
  return text.replace('"LATENTS1"', JSON.stringify([point(0)]))
    .replace('"LATENTS2"', JSON.stringify([point(0), point(1)]));
}

async function answered(answer) {
  const box = make("div", "", "answer");
  box.append(make("p", `${answer.status} ${answer.statusText} · ${answer.headers.get("X-Model-Version") || ""}`, "note"));
  if ((answer.headers.get("Content-Type") || "").startsWith("image/")) {
    const picture = make("img", "", "pixels");
    picture.src = URL.createObjectURL(await answer.blob());
    picture.alt = "the answer";
    box.append(picture);
  } else {
    const text = await answer.text();
    box.append(make("pre", text.length > 2000 ? `${text.slice(0, 2000)} …` : text));
  }
  return box;
}

function operation(path, method, about, version) {
  const details = make("details");
  const summary = make("summary");
  summary.append(make("code", `${method.toUpperCase()} ${path}`), ` ${about.summary}`);
  details.append(summary);
  const place = make("div");
  const ask = make("button", "Try it");
  let given;
  if (method === "post") {
    given = make("textarea");
    given.rows = 3;
    given.value = example(path.slice(1), version);
    given.setAttribute("aria-label", "the body");
    details.append(given);
  } else {
    const query = (about.parameters || []).map((each) => `${each.name}=${each.example}`).join("&");
    given = make("input");
    given.value = query ? `${path.slice(1)}?${query}` : path.slice(1);
    given.setAttribute("aria-label", "the address");
    details.append(given);
  }
  const sent = () => (method === "get" ? fetch(given.value) : fetch(path.slice(1), {
    method: "POST", body: given.value, headers: { "Content-Type": "application/json" },
  }));
  ask.addEventListener("click", async () => {
    place.replaceChildren(await sent().then(answered, () => make("p", "The server does not answer.", "note")));
  });
  const schema = about.requestBody && about.requestBody.content["application/json"].schema;
  details.append(ask, place);
  if (schema) {
    const more = make("details");
    more.append(make("summary", "Schema of the body"), make("pre", JSON.stringify(schema, null, 2)));
    details.append(more);
  }
  return details;
}

async function begin() {
  const answer = await fetch("version");
  const version = await answer.json();
  if (!answer.ok) throw new Error(version.error);
  const described = await (await fetch("openapi.json")).json();
  document.getElementById("about").textContent = `${described.info.title}, version ${described.info.version}. ${described.info.description}`;
  const sections = Object.entries(described.paths).map(([path, methods]) => {
    const section = make("section");
    section.append(...Object.entries(methods).map(([method, about]) => operation(path, method, about, version)));
    return section;
  });
  document.getElementById("operations").replaceChildren(...sections);
}

begin().catch((error) => { document.getElementById("about").textContent = error.message; });
