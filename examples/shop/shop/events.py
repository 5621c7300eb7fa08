"""What the services tell each other. Money is in cents."""

from __future__ import annotations

from msgspec import Struct


class Line(Struct, frozen=True):
    product_id: int
    quantity: int


class OrderPlaced(Struct, frozen=True):
    order_id: int
    user_id: int
    lines: list[Line]
    total_cents: int
    card: str


class StockReserved(Struct, frozen=True):
    order_id: int
    user_id: int
    total_cents: int
    card: str


class StockRejected(Struct, frozen=True):
    order_id: int
    reason: str


class PaymentTaken(Struct, frozen=True):
    order_id: int
    payment_id: int


class PaymentDeclined(Struct, frozen=True):
    order_id: int
    reason: str
