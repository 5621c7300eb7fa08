// The products, drawn: emblem -> the inside of an SVG of 64 by 64. Lines take the ink's colour, `.tint` the product's.
const DRAWINGS = {
  sextant: `<path class="tint" d="M32 12 54 46A30 30 0 0 1 10 46Z"/><path d="M32 12 54 46A30 30 0 0 1 10 46Z"/>
    <path d="M32 12 38 52M20 31h24M15 41l3-2m4 9 2-4m8 7v-5m10 2-2-4m9-3-3-2"/><circle cx="32" cy="12" r="3"/><path d="M42 16 54 9"/>`,
  sail: `<path class="tint" d="M34 8Q52 24 52 44H34Z"/><path d="M34 8Q52 24 52 44H34ZM29 14Q22 32 12 44H29Z"/>
    <path d="M31.5 6V50M8 50H56L50 58H14Z"/><path d="M34 20h9M34 32h15"/>`,
  rope: `<path class="tint" d="M32 14a18 18 0 1 0 .1 0ZM32 24a8 8 0 1 1-.1 0Z"/><circle cx="32" cy="32" r="18"/><circle cx="32" cy="32" r="8"/>
    <path d="M32 14q4 5 0 10M45 19q-1 6-7 8M50 32q-5 4-10 0M45 45q-6-1-8-7M32 50q-4-5 0-10M19 45q1-6 7-8M14 32q5-4 10 0M19 19q6 1 8 7"/>
    <path d="M44 46q6 4 12 3"/>`,
  lantern: `<path class="tint" d="M22 24H42L45 48H19Z"/><path d="M22 24H42L45 48H19ZM24 24V18H40V24M27 18V14H37V18M17 48H47V54H17Z"/>
    <path d="M26 14a6 6 0 0 1 12 0"/><path d="M32 30q6 7 0 13q-6-6 0-13"/>`,
  bell: `<path class="tint" d="M32 14C22 14 22 26 20 36L14 46H50L44 36C42 26 42 14 32 14Z"/>
    <path d="M32 14C22 14 22 26 20 36L14 46H50L44 36C42 26 42 14 32 14ZM28 14a4 4 0 1 1 8 0"/><path d="M28 46a4 5 0 0 0 8 0M21 34H43"/>`,
  coat: `<path class="tint" d="M24 12 14 18 8 42 16 44 19 32V56H45V32L48 44 56 42 50 18 40 12 32 20Z"/>
    <path d="M24 12 14 18 8 42 16 44 19 32V56H45V32L48 44 56 42 50 18 40 12 32 20ZM24 12H40M32 20V56"/><path d="M36 28h.1M36 36h.1M36 44h.1M23 42h5"/>`,
  chart: `<path class="tint" d="M10 16 24 11 40 17 54 12V48L40 53 24 47 10 52Z"/>
    <path d="M10 16 24 11 40 17 54 12V48L40 53 24 47 10 52ZM24 11V47M40 17V53"/><path stroke-dasharray="3 3" d="M15 42q6-8 14-6t18-14"/><path d="m44 19 6 6m0-6-6 6"/>`,
  anchor: `<circle class="tint" cx="32" cy="13" r="5"/><circle cx="32" cy="13" r="5"/><path d="M32 18V54M22 26H42"/>
    <path d="M10 36Q12 54 32 54 52 54 54 36M10 36 6 43M10 36 17 41M54 36 47 41M54 36 58 43"/>`,
  crate: `<path class="tint" d="M10 20H54V52H10Z"/><path d="M10 20H54V52H10ZM10 20 18 12H46L54 20M10 36H54M26 20V52M38 20V52"/>`,
};
const COLOURS = { sextant: "#e8c77a", sail: "#bcd6e4", rope: "#dcc6a0", lantern: "#f2b56b", bell: "#e5c15c", coat: "#f0d04f", chart: "#cfe0c4", anchor: "#b5c1cc" };

/** The drawing of a product as an element; a crate for what nobody has drawn. */
export function drawing(emblem) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 64 64");
  svg.setAttribute("class", "emblem");
  svg.setAttribute("aria-hidden", "true");
  svg.style.setProperty("--tint", COLOURS[emblem] ?? "#ddd");
  svg.innerHTML = DRAWINGS[emblem] ?? DRAWINGS.crate;
  return svg;
}
