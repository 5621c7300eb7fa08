"""What the shop is made of. Declarations only: importing this starts nothing.

An order travels as a saga, each step idempotent:

    orders --order-placed--> inventory --stock-reserved--> payments --payment-taken----> orders: confirmed
                                 |                            `--payment-declined--> orders: cancelled,
                                                                          inventory: stock released
                                 `--stock-rejected--> orders: cancelled
"""

from __future__ import annotations

from msgspec import Struct

from sampan import Application, Cache, Config, Database, Environment, Job, Scale, Secret, Service, Topic
from shop.events import OrderPlaced, PaymentDeclined, PaymentTaken, StockRejected, StockReserved


class CheckoutSettings(Struct):
    """Values that may change while the shop runs."""

    currency: str = "EUR"
    payment_limit_cents: int = 500_000
    banner: str = "Fair winds! Every order ships today."


users_db = Database("users", engine="mysql", migrations="shop/users/migrations")
orders_db = Database("orders", engine="mysql", migrations="shop/orders/migrations")
inventory_db = Database("inventory", engine="mysql", migrations="shop/inventory/migrations")
payments_db = Database("payments", engine="mysql", migrations="shop/payments/migrations")
catalogue = Cache("catalogue")
checkout = Config("checkout", CheckoutSettings)
acquirer = Secret("acquirer", keys=["api-key"])

order_placed = Topic("order-placed", OrderPlaced)
stock_reserved = Topic("stock-reserved", StockReserved)
stock_rejected = Topic("stock-rejected", StockRejected)
payment_taken = Topic("payment-taken", PaymentTaken)
payment_declined = Topic("payment-declined", PaymentDeclined)

users = Service(
    "users",
    asgi="shop.users.app:app",
    grpc="shop.users.rpc:add_services",
    uses=[users_db.read_write()],
    public="/api/users",
    scale=Scale(2, 4, cpu=70),
)
inventory = Service(
    "inventory",
    asgi="shop.inventory.app:app",
    uses=[
        inventory_db.read_write(),
        catalogue.read_write(),
        order_placed.subscribe("shop.inventory.saga:on_order_placed", group="inventory"),
        payment_declined.subscribe("shop.inventory.saga:on_payment_declined", group="inventory"),
        stock_reserved.publish(),
        stock_rejected.publish(),
    ],
    public="/api/products",
    scale=Scale(2, 5, cpu=70),
)
payments = Service(
    "payments",
    asgi="shop.payments.app:app",
    uses=[
        payments_db.read_write(),
        checkout,
        acquirer,
        stock_reserved.subscribe("shop.payments.saga:on_stock_reserved", group="payments"),
        payment_taken.publish(),
        payment_declined.publish(),
    ],
    scale=Scale(1, 3, cpu=70),
)
orders = Service(
    "orders",
    asgi="shop.orders.app:app",
    uses=[
        orders_db.read_write(),
        checkout,
        order_placed.publish(),
        payment_taken.subscribe("shop.orders.saga:on_payment_taken", group="orders"),
        payment_declined.subscribe("shop.orders.saga:on_payment_declined", group="orders"),
        stock_rejected.subscribe("shop.orders.saga:on_stock_rejected", group="orders"),
    ],
    calls=[users, inventory],
    public=["/api/orders", "/api/checkout"],
    scale=Scale(2, 5, cpu=70),
)
storefront = Service("storefront", asgi="shop.storefront.app:app", public="/")

report = Job("report", run="shop.orders.report:run", schedule="0 * * * *", uses=[orders_db.read()])

shop = Application(
    "shop",
    services=[users, inventory, payments, orders, storefront],
    jobs=[report],
    environments=[
        Environment("dev"),
        Environment("test"),
        Environment("prod", host="shop.example.com", values={checkout: {"banner": "Free shipping this week."}}),
    ],
)
