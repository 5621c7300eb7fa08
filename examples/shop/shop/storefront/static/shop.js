import { drawing } from "./drawings.js";

const $ = (id) => document.getElementById(id);
const basket = new Map();
let products = new Map();
let currency = "EUR";

const money = (cents) => (cents / 100).toLocaleString("en", { style: "currency", currency });

async function ask(path, options = {}) {
  const reply = await fetch(path, { ...options, headers: { "content-type": "application/json", ...options.headers } });
  const body = await reply.json().catch(() => null);
  if (!reply.ok) throw new Error(typeof body?.detail === "string" ? body.detail : `the shop answered ${reply.status}`);
  return body;
}

function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

const stockOf = ({ stock }) => (!stock ? "sold out" : stock < 10 ? `only ${stock} left` : stock < 1000 ? `${stock} left` : "in stock");

function showCatalogue() {
  $("catalogue").replaceChildren(...[...products.values()].map((product) =>
    element("article", {},
      drawing(product.emblem),
      element("strong", { textContent: product.name }),
      element("div", { className: "line" },
        element("span", { className: "price", textContent: money(product.price_cents) }),
        element("span", { className: product.stock < 10 ? "stock few" : "stock", textContent: stockOf(product) })),
      element("button", { textContent: "Add to basket", disabled: !product.stock, onclick: () => add(product.id, 1) }))));
}

function showBasket() {
  const lines = [...basket].map(([id, quantity]) => {
    const product = products.get(id);
    return element("li", {},
      element("span", { textContent: `${quantity} × ${product.name}` }),
      element("span", {}, money(quantity * product.price_cents),
        element("button", { className: "small", textContent: "✕", title: "remove", onclick: () => add(id, -quantity) })));
  });
  if (!lines.length) lines.push(element("li", { className: "empty", textContent: "Nothing yet. Pick something." }));
  $("basket").replaceChildren(...lines);
  const total = [...basket].reduce((sum, [id, quantity]) => sum + quantity * products.get(id).price_cents, 0);
  $("order").disabled = !basket.size;
  $("order").textContent = basket.size ? `Place order, ${money(total)}` : "Place order";
}

function add(id, quantity) {
  const next = (basket.get(id) ?? 0) + quantity;
  if (next > 0) basket.set(id, next); else basket.delete(id);
  showBasket();
}

function showOrders(orders) {
  $("orders").replaceChildren(...orders.map((order) => {
    const left = element("span", { textContent: `#${order.id} · ${money(order.total_cents)}` });
    if (order.reason) left.append(element("div", { className: "reason", textContent: order.reason }));
    const line = element("li", {}, left, element("span", { className: `status ${order.status}`, textContent: order.status }));
    line.dataset.order = order.id;
    return line;
  }));
}

async function placeOrder() {
  const lines = [...basket].map(([product_id, quantity]) => ({ product_id, quantity }));
  // One key an attempt at this basket: a retry after a lost answer gives the same order.
  const key = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
  const body = JSON.stringify({ user_id: Number($("user").value), lines, card: $("card").value });
  $("order").disabled = true;
  for (let attempt = 1; ; attempt++) {
    try {
      const order = await ask("/api/orders", { method: "POST", body, headers: { "idempotency-key": key } });
      $("notice").textContent = `Order #${order.id} is placed.`;
      basket.clear();
      break;
    } catch (problem) {
      if (attempt < 3 && /50[234]|fetch/.test(problem.message)) continue;
      $("notice").textContent = `Not placed: ${problem.message}`;
      break;
    }
  }
  showBasket();
  refresh();
}

async function refresh() {
  try {
    const user = $("user").value;
    const [orders, listed] = await Promise.all([ask(`/api/orders?user_id=${user}&limit=8`), ask("/api/products")]);
    showOrders(orders);
    products = new Map(listed.map((product) => [product.id, product]));
    showCatalogue();
  } catch { /* the next round shows it again */ }
}

async function settings() {
  try {
    const checkout = await ask("/api/checkout");
    currency = checkout.currency;
    $("banner").textContent = checkout.banner;
  } catch { /* kept as it was */ }
}

const users = await ask("/api/users?limit=20");
$("user").replaceChildren(...users.map((user) => element("option", { value: user.id, textContent: user.name })));
$("user").onchange = refresh;
$("order").onclick = placeOrder;
await Promise.all([settings(), refresh()]);
showBasket();
setInterval(refresh, 1000);
setInterval(settings, 2000);
