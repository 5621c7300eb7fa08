"""How calls and servers stand failure and overload: policies, budgets, breakers, limits, shedding."""
